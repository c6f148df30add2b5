//! Exact packages of an image: joined from what dpkg installed and what the signed index says of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sources::stanzas;
use crate::hostfs::stamp;

/// A Debian package in an environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name of the package.
    pub name: String,
    /// Exact version, as Debian writes it.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the `.deb` it came from, which APT checked against the signed index.
    pub sha256: String,
}

/// Joins `installed`, lines of `name TAB version TAB architecture`, with `index`, stanzas as of `apt-cache show`.
/// Sorted by name. `Err` says what does not fit: a package without a digest is none that we can vouch for.
pub(super) fn join(installed: &str, index: &str) -> Result<Vec<Package>, String> {
    let mut digests = BTreeMap::new();
    for fields in stanzas(index) {
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if let (Some(name), Some(version), Some(architecture), Some(sha256)) =
            (field("Package"), field("Version"), field("Architecture"), field("SHA256"))
        {
            digests
                .entry((name.to_owned(), version.to_owned(), architecture.to_owned()))
                .or_insert(sha256.to_owned());
        }
    }
    let mut packages = Vec::new();
    for line in installed.lines().filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split('\t').collect();
        let [name, version, architecture] = words[..] else {
            return Err(format!("dpkg's list holds the line {line:?}"));
        };
        let key = (name.to_owned(), version.to_owned(), architecture.to_owned());
        let sha256 = digests.get(&key).filter(|sum| stamp::is_digest(sum));
        let Some(sha256) = sha256 else {
            return Err(format!("the package index has no digest for {name} {version} {architecture}"));
        };
        let (name, version, architecture) = key;
        packages.push(Package { name, version, architecture, sha256: sha256.clone() });
    }
    if packages.is_empty() {
        return Err("no package was installed".into());
    }
    packages.sort();
    Ok(packages)
}

/// A digest over the exact set of packages, however it was ordered.
pub(super) fn set_digest(packages: &[Package]) -> String {
    let mut lines: Vec<_> = packages
        .iter()
        .map(|p| format!("{} {} {} {}\n", p.name, p.version, p.architecture, p.sha256))
        .collect();
    lines.sort();
    format!("sha256:{}", stamp::digest_bytes(lines.concat().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(name: &str, version: &str, architecture: &str, sum: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nDescription: one\n two\n .\n three\n\
             SHA256: {sum}\n\n"
        )
    }

    #[test]
    fn a_version_the_index_does_not_have_is_an_error() {
        let sum = "a".repeat(64);
        let text = index("git", "1:2.39", "amd64", &sum);
        assert_eq!(join("git\t1:2.39\tamd64\n", &text).unwrap()[0].sha256, sum);
        for installed in ["git\t1:2.40\tamd64\n", "git\t1:2.39\ti386\n", "git 1:2.39\n", ""] {
            assert!(join(installed, &text).is_err(), "{installed:?}");
        }
        assert!(join("git\t1:2.39\tamd64\n", &index("git", "1:2.39", "amd64", "short")).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_vouched_for(installed: String, text: String) {
            if let Ok(packages) = join(&installed, &text) {
                prop_assert!(packages.iter().all(|p| stamp::is_digest(&p.sha256)));
            }
        }

        #[test]
        fn every_package_of_the_index_is_found(names in proptest::collection::btree_set("[a-z][a-z0-9+.-]{1,12}", 1..20)) {
            let sum = "0123456789abcdef".repeat(4);
            let text: String = names.iter().map(|n| index(n, "1.0-1", "all", &sum)).collect();
            let installed: String = names.iter().rev().map(|n| format!("{n}\t1.0-1\tall\n")).collect();
            let packages = join(&installed, &text).unwrap();
            prop_assert_eq!(packages.len(), names.len());
            prop_assert!(packages.is_sorted());
        }
    }
}
