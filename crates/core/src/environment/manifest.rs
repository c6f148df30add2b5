//! `manifest.json` of one installed version: what it is, what it was built from, and its image's digest.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Package;
use crate::hostfs::stamp;

/// The layout of these manifests.
pub(super) const SCHEMA: u32 = 1;
/// Most bytes of one: a few hundred packages take 60 KiB.
const MAX_BYTES: u64 = 8 << 20;
/// The manifest's file name.
pub(super) const FILE: &str = "manifest.json";
/// The image's file name.
pub(super) const BASE: &str = "base.ext4";
/// Digits of the image's digest that name a version.
pub(super) const ID_DIGITS: usize = 12;

/// Facts of an installed environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentManifest {
    /// The layout of this manifest.
    pub schema: u32,
    /// The environment, such as `debian:12`.
    pub name: String,
    /// Version: the first 12 digits of the image's SHA-256.
    pub version: String,
    /// A digest of the definition it was built from.
    pub recipe: String,
    /// The catalog that had this definition.
    pub catalog_version: String,
    /// Where it came from.
    pub source: Source,
    /// A digest over the exact packages.
    pub source_digest: String,
    /// The suites that packages were taken from. Mirrors are nobody's business but the machine's.
    pub suites: Vec<String>,
    /// Every package in it.
    pub packages: Vec<Package>,
    /// File of the image.
    pub rootfs: Rootfs,
    /// Time of the installation, Unix seconds.
    pub created_at: u64,
}

/// The disk image of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// File name beside the manifest.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// Where an environment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Source {
    /// Built on this machine from Debian's packages.
    LocalBuild,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LocalBuild => "local-build",
        })
    }
}

/// Whether `text` can be the name of a version.
pub(super) fn is_version(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl EnvironmentManifest {
    /// Reads the manifest of version `version` of `name`. `Err(InvalidData)` when it is none that can be believed.
    pub(super) fn read(path: &Path, name: &str, version: &str) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Self::parse(&bytes, name, version).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    fn parse(bytes: &[u8], name: &str, version: &str) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err("its manifest is too large".into());
        }
        let mut value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| format!("its manifest is no JSON ({e})"))?;
        let schema = value.get("schema").and_then(serde_json::Value::as_u64);
        if schema != Some(u64::from(SCHEMA)) {
            return Err("its manifest is of another version of pyro".into());
        }
        if !stamp::unseal(&mut value) {
            return Err("its manifest was changed".into());
        }
        let manifest: Self =
            serde_json::from_value(value).map_err(|e| format!("its manifest is none ({e})"))?;
        let is_right = manifest.name == name
            && manifest.version == version
            && is_version(version)
            && stamp::is_digest(&manifest.rootfs.sha256)
            && manifest.rootfs.sha256.starts_with(version)
            && manifest.rootfs.path == BASE;
        if is_right { Ok(manifest) } else { Err("its manifest is that of something else".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> EnvironmentManifest {
        EnvironmentManifest {
            schema: SCHEMA,
            name: "debian:12".into(),
            version: "0123456789ab".into(),
            recipe: "r".into(),
            catalog_version: "1".into(),
            source: Source::LocalBuild,
            source_digest: "sha256:x".into(),
            suites: vec!["bookworm".into()],
            packages: Vec::new(),
            rootfs: Rootfs { path: BASE.into(), size: 1, sha256: format!("0123456789ab{}", "0".repeat(52)) },
            created_at: 1,
        }
    }

    #[test]
    fn what_was_written_is_read_and_for_its_own_place_only() {
        let bytes = stamp::seal(&example()).unwrap();
        let read = |name, version| EnvironmentManifest::parse(&bytes, name, version);
        assert_eq!(read("debian:12", "0123456789ab").unwrap(), example());
        assert!(read("debian:12-base", "0123456789ab").is_err());
        assert!(read("debian:12", "0123456789ac").is_err());
        let mut other = example();
        other.rootfs.path = "../../etc/passwd".into();
        assert!(
            EnvironmentManifest::parse(&stamp::seal(&other).unwrap(), "debian:12", "0123456789ab").is_err()
        );
        other = example();
        other.schema = 2;
        assert!(
            EnvironmentManifest::parse(&stamp::seal(&other).unwrap(), "debian:12", "0123456789ab").is_err()
        );
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes: Vec<u8>) {
            prop_assert!(EnvironmentManifest::parse(&bytes, "debian:12", "0123456789ab").is_err());
        }

        #[test]
        fn a_changed_byte_is_an_error(at in 0_usize..600, by in 1_u8..255) {
            let mut bytes = stamp::seal(&example()).unwrap();
            let at = at % bytes.len();
            bytes[at] = bytes[at].wrapping_add(by);
            if let Ok(read) = EnvironmentManifest::parse(&bytes, "debian:12", "0123456789ab") {
                prop_assert_eq!(read, example());
            }
        }
    }
}
