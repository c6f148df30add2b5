//! The requested configuration, and whether the kernel's own tool granted it.
//!
//! `allnoconfig` drops an option whose parent is missing without a word. So every requested line is looked for in the
//! result, and what is not there is reported with the parents that its `depends on` lines name and that are not set.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use super::KernelError;
use crate::error::{TaskError, at};

/// `guest.config`: lines `CONFIG_NAME=value`, and comments.
#[derive(Debug)]
pub struct Fragment {
    wanted: BTreeMap<String, String>,
}

impl Fragment {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or a line is neither an option nor a comment, or an option comes twice.
    pub fn parse(path: &Path) -> Result<Self, TaskError> {
        let text = fs::read_to_string(path).map_err(at(path, "read"))?;
        Self::from_text(&text).map_err(|why| TaskError::Unfit { path: path.to_owned(), why })
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let mut wanted = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let option =
                line.split_once('=').filter(|(name, value)| name.starts_with("CONFIG_") && !value.is_empty());
            let Some((name, value)) = option else {
                return Err(format!("has a line {number} that is neither CONFIG_NAME=value nor a comment"));
            };
            if wanted.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(format!("has {name} twice"));
            }
        }
        Ok(Self { wanted })
    }

    /// The options alone: comments change no kernel.
    pub fn text(&self) -> String {
        self.wanted.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// The options that `config` does not have as requested.
    fn unmet(&self, config: &str) -> Vec<(&str, &str)> {
        let got = options(config);
        let met = |name: &str, value: &str| match value {
            "n" => !got.contains_key(name),
            value => got.get(name).is_some_and(|got| *got == value),
        };
        self.wanted
            .iter()
            .filter(|(name, value)| !met(name, value))
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect()
    }
}

/// The options that a `.config` sets.
fn options(config: &str) -> BTreeMap<&str, &str> {
    config.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

/// A requested option that the result does not have.
#[derive(Debug, PartialEq, Eq)]
pub struct Unmet {
    line: String,
    missing: Vec<String>,
    exists: bool,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)?;
        if !self.exists {
            return f.write_str(": this kernel has no such option");
        }
        if self.line.ends_with("=n") {
            return f.write_str(": something else selects it");
        }
        if self.missing.is_empty() {
            Ok(())
        } else {
            write!(f, ": not set, and it depends on: {}", self.missing.join(", "))
        }
    }
}

/// Compares the fragment with the `.config` in `tree`.
pub(super) fn check(fragment: &Fragment, tree: &Path) -> Result<(), TaskError> {
    let path = tree.join(".config");
    let config = fs::read_to_string(&path).map_err(at(&path, "read"))?;
    let unmet = fragment.unmet(&config);
    if unmet.is_empty() {
        return Ok(());
    }
    let names = unmet.iter().map(|(name, _)| name.trim_start_matches("CONFIG_")).collect();
    let mut parents = BTreeMap::new();
    find_parents(tree, &names, &mut parents);
    let set = options(&config);
    let unmet = unmet.into_iter().map(|(name, value)| {
        let parents = parents.get(name.trim_start_matches("CONFIG_"));
        let missing = parents
            .into_iter()
            .flatten()
            .filter(|parent| !set.contains_key(format!("CONFIG_{parent}").as_str()));
        Unmet {
            line: format!("{name}={value}"),
            missing: missing.cloned().collect(),
            exists: parents.is_some(),
        }
    });
    Err(KernelError::Config(unmet.collect()).into())
}

/// Collects, for each of `names`, what its definitions in the Kconfig files under `dir` depend on. Best effort: a file
/// that cannot be read explains nothing.
fn find_parents(dir: &Path, names: &BTreeSet<&str>, parents: &mut BTreeMap<String, BTreeSet<String>>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            // Other architectures define options of the same names.
            let arch = dir.ends_with("arch") && entry.file_name() != "x86";
            if !arch {
                find_parents(&entry.path(), names, parents);
            }
        } else if kind.is_file()
            && entry.file_name().to_string_lossy().starts_with("Kconfig")
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            parents_in(&text, names, parents);
        }
    }
}

fn parents_in(kconfig: &str, names: &BTreeSet<&str>, parents: &mut BTreeMap<String, BTreeSet<String>>) {
    let mut current: Option<&str> = None;
    for line in kconfig.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("config ").or_else(|| line.strip_prefix("menuconfig ")) {
            current = Some(name.trim()).filter(|name| names.contains(name));
            if let Some(name) = current {
                parents.entry(name.to_owned()).or_default();
            }
        } else if let (Some(name), Some(condition)) = (current, line.strip_prefix("depends on ")) {
            let symbols = condition.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let symbols = symbols.filter(|word| {
                word.len() > 1 && word.starts_with(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit())
            });
            parents.entry(name.to_owned()).or_default().extend(symbols.map(str::to_owned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_option_is_named_with_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kernel/bpf")).unwrap();
        fs::create_dir_all(dir.path().join("arch/arm")).unwrap();
        fs::write(dir.path().join("kernel/bpf/Kconfig"), "config BPF_JIT\n\tbool \"x\"\n\tdepends on BPF\n\tdepends on MODULES && (NET || HAVE_JIT)\n\nconfig OTHER\n\tdepends on NOTHING\n").unwrap();
        fs::write(dir.path().join("arch/arm/Kconfig"), "config BPF_JIT\n\tdepends on ARM\n").unwrap();
        fs::write(
            dir.path().join(".config"),
            "# CONFIG_BPF_JIT is not set\nCONFIG_BPF=y\nCONFIG_NET=y\nCONFIG_KEPT=y\nCONFIG_HZ=250\n",
        )
        .unwrap();
        let fragment =
            "# why\nCONFIG_BPF=y\nCONFIG_BPF_JIT=y\nCONFIG_KEPT=n\nCONFIG_HZ=100\nCONFIG_ABSENT=n\n";
        let error = check(&Fragment::from_text(fragment).unwrap(), dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("CONFIG_BPF_JIT=y: not set, and it depends on: HAVE_JIT, MODULES\n"),
            "{error}"
        );
        assert!(error.contains("CONFIG_KEPT=n"), "{error}");
        assert!(error.contains("CONFIG_HZ=100: this kernel has no such option"), "{error}");
        assert!(!error.contains("CONFIG_BPF=y") && !error.contains("ABSENT"), "{error}");
    }

    #[test]
    fn a_configuration_that_holds_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".config"), "CONFIG_LSM=\"landlock\"\nCONFIG_A=y\n# CONFIG_B is not set\n")
            .unwrap();
        let fragment =
            Fragment::from_text("CONFIG_LSM=\"landlock\"\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=n\n").unwrap();
        check(&fragment, dir.path()).unwrap();
    }

    #[test]
    fn comments_and_order_change_no_kernel() {
        let one = Fragment::from_text("# x\nCONFIG_B=y\nCONFIG_A=y\n").unwrap();
        let two = Fragment::from_text("CONFIG_A=y\n\nCONFIG_B=y\n").unwrap();
        assert_eq!(one.text(), two.text());
        assert!(Fragment::from_text("CONFIG_A=y\nCONFIG_A=n\n").is_err());
        assert!(Fragment::from_text("A=y\n").is_err());
        assert!(Fragment::from_text("CONFIG_A\n").is_err());
    }
}
