//! The manifest as read, and what makes one believable before any artifact is looked at.
//!
//! A [`Manifest`] cannot be made, copied or changed outside `runtime`: its last field is private and only references
//! to it are handed out. One in hand was read from a bundle and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{PLATFORM, RuntimeError, SCHEMA};
use crate::hostfs::stamp;

/// Most bytes of a manifest: a hundred times what is needed.
pub(super) const MAX_MANIFEST: u64 = 256 * 1024;
/// Most artifacts in one.
const MAX_ARTIFACTS: usize = 64;

/// Contents of `manifest.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The layout of the manifest.
    pub schema: u32,
    /// The version of the bundle as a whole.
    pub bundle_version: String,
    /// Such as `linux-x86_64`.
    pub platform: String,
    /// Versions of what the bundle was made from, by name.
    pub component_versions: BTreeMap<String, String>,
    /// The files, by what they are: `kernel`, `initramfs`, `agent`, `floor`.
    pub artifacts: BTreeMap<String, Artifact>,
    /// Capabilities that a measurement showed.
    pub capabilities: Capabilities,
    /// The measurement, where a capability is claimed.
    pub(super) evidence: Option<Record>,
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// File name in the bundle.
    pub path: String,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// Version of the program in the file.
    pub version: String,
    /// Whether it is the thing itself.
    pub kind: ArtifactKind,
}

/// Whether an artifact is the thing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// A real artifact.
    Real,
    /// Something that stands in its place and does part of its work.
    Shim,
    /// Something that only holds its place.
    Placeholder,
}

/// Abilities that this runtime was seen to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Whether a guest was seen to boot.
    pub vm_boot: bool,
    /// Whether a command was seen to run in it.
    pub guest_exec: bool,
    /// Whether it was seen to reach the network.
    pub guest_network: bool,
    /// Why something is false.
    pub reason: Option<String>,
}

/// Evidence at rest: what was probed, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Digests of the artifacts that were running.
    pub(super) artifacts: BTreeMap<String, String>,
    pub(super) backend: String,
    pub(super) accelerator: String,
    /// Version by the agent's own word.
    pub(super) agent_version: String,
    /// Output of a command in the guest.
    pub(super) exec_stdout: Option<String>,
}

impl Manifest {
    /// Reads a manifest and checks everything that needs no artifact. `path` is for errors.
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, RuntimeError> {
        let bad = |why: String| RuntimeError::Manifest { path: path.to_owned(), why };
        let mut value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(found) if found == u64::from(SCHEMA) => {}
            Some(found) => return Err(RuntimeError::Schema { path: path.to_owned(), found }),
            None => return Err(bad("it has no schema number".into())),
        }
        if !stamp::unseal(&mut value) {
            return Err(bad("its checksum does not match, so it was edited or damaged".into()));
        }
        let manifest: Self = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        if manifest.platform != PLATFORM {
            return Err(bad(format!("it is for {}, not {PLATFORM}", manifest.platform)));
        }
        if manifest.artifacts.len() > MAX_ARTIFACTS {
            return Err(bad("it lists too many artifacts".into()));
        }
        let mut paths = BTreeSet::new();
        for (name, artifact) in &manifest.artifacts {
            if !is_plain_name(&artifact.path) || artifact.path == super::MANIFEST {
                return Err(bad(format!(
                    "the path of {name}, {:?}, is not a plain file name",
                    artifact.path
                )));
            }
            if !stamp::is_digest(&artifact.sha256) {
                return Err(bad(format!("the SHA-256 of {name} is not one")));
            }
            if !paths.insert(&artifact.path) {
                return Err(bad(format!("two artifacts are both {:?}", artifact.path)));
            }
        }
        manifest.check_claims(path)?;
        Ok(manifest)
    }

    /// The safety rule, as far as declarations and records go; contents are [`super::Bundle::open`]'s part.
    pub(super) fn check_claims(&self, path: &Path) -> Result<(), RuntimeError> {
        let Some(claim) = self.capabilities.any() else { return Ok(()) };
        let unearned = |claim, why: String| Err(RuntimeError::Unearned { path: path.to_owned(), claim, why });
        if let Some((name, artifact)) = self.artifacts.iter().find(|(_, a)| a.kind != ArtifactKind::Real) {
            return unearned(claim, format!("cannot be while {name} is declared a {}", artifact.kind.word()));
        }
        for name in [super::KERNEL, super::INITRAMFS, super::AGENT] {
            if !self.artifacts.contains_key(name) {
                return unearned(claim, format!("cannot be without a {name}"));
            }
        }
        if self.capabilities.guest_network {
            return unearned("guest_network", "nothing in this version of pyro measures".into());
        }
        let Some(record) = &self.evidence else {
            return unearned(claim, "no recorded measurement supports".into());
        };
        let digests: BTreeMap<_, _> =
            self.artifacts.iter().map(|(name, artifact)| (name.clone(), artifact.sha256.clone())).collect();
        if record.artifacts != digests {
            return unearned(claim, "was measured with other artifacts".into());
        }
        if self.capabilities.guest_exec && !(self.capabilities.vm_boot && record.exec_stdout.is_some()) {
            return unearned("guest_exec", "no command that ran in a booted guest supports".into());
        }
        Ok(())
    }
}

impl ArtifactKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Real => "real artifact",
            Self::Shim => "shim",
            Self::Placeholder => "placeholder",
        }
    }
}

impl Capabilities {
    /// The first capability that is claimed.
    pub(super) fn any(&self) -> Option<&'static str> {
        [("vm_boot", self.vm_boot), ("guest_exec", self.guest_exec), ("guest_network", self.guest_network)]
            .into_iter()
            .find_map(|(name, claimed)| claimed.then_some(name))
    }
}

/// Whether `name` names a file in this very directory on every system.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        for name in ["", ".", "..", "/etc/passwd", "a/b", "../a", ".hidden", "a\0b", "a\nb", "ä"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
        assert!(is_plain_name("vmlinux-6.1_x.bin"));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes: Vec<u8>, text in "\\{.{0,60}\\}") {
            prop_assert!(Manifest::parse(&bytes, Path::new("m")).is_err());
            prop_assert!(Manifest::parse(text.as_bytes(), Path::new("m")).is_err());
        }
    }
}
