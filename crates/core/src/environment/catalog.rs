//! The environments there are, and what surfaces show of them.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::{EnvironmentError, Installed};
use crate::hostfs::stamp;

/// Raised with any change of what an environment is made of.
const CATALOG_VERSION: &str = "1.0.0";
/// The versions of pyro that this catalog is for.
const COMPATIBILITY: &str = ">=0.1.0,<1.0.0";
/// Raised when the way an image is made changes while its packages do not.
const RECIPE: u32 = 1;

/// An environment of the catalog.
#[derive(Clone, Copy, Debug)]
pub struct CatalogEntry {
    /// Name, such as `debian:12`.
    pub name: &'static str,
    /// The version of its definition; what is installed has a version of its own.
    pub version: &'static str,
    /// Description in one line, for people.
    pub description: &'static str,
    /// Debian packages beside those that every Debian has.
    pub default_packages: &'static [&'static str],
    /// Bytes of disk that building it takes at its peak: the tree, the image, and the packages. Measured, and rounded
    /// up by a quarter.
    pub build_bytes: u64,
}

// The shell, coreutils, util-linux, findutils, grep, sed, tar, gzip and apt come with any Debian.
// ca-certificates: nothing speaks TLS without it; openssl comes along. procps: ps, kill, free. less: what pagers call.
// netbase: names of services and protocols, which getaddrinfo and Python look up. xz-utils: half of all archives.
macro_rules! base {
    ($($more:literal),*) => {
        &["ca-certificates", "less", "netbase", "procps", "xz-utils" $(, $more)*]
    };
}
// git is the floor; curl, patch, unzip and file are what agents reach for first; python3 for their scripts.
macro_rules! common {
    ($($more:literal),*) => {
        base!("curl", "file", "git", "openssl", "patch", "python3", "unzip" $(, $more)*)
    };
}

const MIB: u64 = 1 << 20;

const CATALOG: &[CatalogEntry] = &[
    CatalogEntry {
        name: "debian:12",
        version: CATALOG_VERSION,
        description: "Debian 12 with Git, for common agent work",
        default_packages: common!(),
        build_bytes: 560 * MIB,
    },
    CatalogEntry {
        name: "debian:12-base",
        version: CATALOG_VERSION,
        description: "Minimal Debian 12: shell and core Unix tools",
        default_packages: base!(),
        build_bytes: 330 * MIB,
    },
    CatalogEntry {
        name: "debian:12-build",
        version: CATALOG_VERSION,
        description: "Debian 12 with Git and the common build tools",
        // pip and venv come from Debian, so that a project's own Python packages can be built.
        default_packages: common!("build-essential", "cmake", "pkg-config", "python3-dev", "python3-venv"),
        build_bytes: 1460 * MIB,
    },
];

/// The environments, the default one first.
pub fn catalog() -> &'static [CatalogEntry] {
    CATALOG
}

/// The version of the catalog as a whole.
pub fn catalog_version() -> &'static str {
    CATALOG_VERSION
}

impl CatalogEntry {
    /// Looks a name up.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`] with the names there are, the most similar first.
    pub fn find(name: &str) -> Result<&'static Self, EnvironmentError> {
        CATALOG.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let mut nearest: Vec<_> = CATALOG.iter().map(|entry| entry.name.to_owned()).collect();
            let distance = |known: &str| (strsim::jaro_winkler(name, known) * -1000.0) as i64;
            nearest.sort_by_key(|known| distance(known));
            EnvironmentError::Unknown { name: name.into(), nearest }
        })
    }

    /// Digest of this environment's definition: an installed one with another recipe is out of date.
    pub(super) fn recipe(&self) -> String {
        let text = format!("{RECIPE} {} {}", self.name, self.default_packages.join(" "));
        stamp::digest_bytes(text.as_bytes())
    }
}

/// The directory of an environment within a cache: its name without what needs quoting.
pub(super) fn dir_name(name: &str) -> String {
    name.replace(':', "-")
}

/// An environment as the surfaces show it. Fields that are absent while it is not installed are left out.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EnvironmentStatus {
    /// Such as `debian:12`.
    pub name: String,
    /// The version of its definition in the catalog.
    pub version: String,
    /// Description in one line, for people.
    pub description: String,
    /// Debian packages beside those that every Debian has.
    pub default_packages: Vec<String>,
    /// Distribution's name, always `debian`.
    pub distribution: String,
    /// Distribution's version, always `12`.
    pub distribution_version: String,
    /// Platform, always `linux-x86_64`.
    pub platform: String,
    /// Empty: it is in no registry.
    pub oci_registry: String,
    /// Empty, for the same reason.
    pub oci_repository: String,
    /// Empty, for the same reason.
    pub oci_reference: String,
    /// A digest over the exact packages of what is installed; empty when nothing is.
    pub source_digest: String,
    /// The versions of pyro that it is for.
    pub compatibility: String,
    /// The version of the catalog.
    pub catalog_version: String,
    /// Whether it is installed.
    pub installed: bool,
    /// Directory of the cache.
    pub cache_dir: String,
    /// Where it is, or its versions will be.
    pub install_dir: String,
    /// The version that is installed: 12 digits of its image's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed_version: Option<String>,
    /// The manifest of what is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_manifest: Option<String>,
    /// Path of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_image: Option<String>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl EnvironmentStatus {
    pub(super) fn new(entry: &CatalogEntry, cache: &Path, installed: Option<&Installed>) -> Self {
        let text = |path: &Path| path.display().to_string();
        let manifest = installed.map(Installed::manifest);
        Self {
            name: entry.name.into(),
            version: entry.version.into(),
            description: entry.description.into(),
            default_packages: entry.default_packages.iter().map(|p| (*p).into()).collect(),
            distribution: "debian".into(),
            distribution_version: "12".into(),
            platform: crate::runtime::PLATFORM.into(),
            oci_registry: String::new(),
            oci_repository: String::new(),
            oci_reference: String::new(),
            source_digest: manifest.map(|m| m.source_digest.clone()).unwrap_or_default(),
            compatibility: COMPATIBILITY.into(),
            catalog_version: CATALOG_VERSION.into(),
            installed: installed.is_some(),
            cache_dir: text(cache),
            install_dir: installed.map_or_else(|| text(&cache.join(dir_name(entry.name))), |i| text(i.dir())),
            installed_version: manifest.map(|m| m.version.clone()),
            install_manifest: installed.map(|i| text(&i.manifest_path())),
            rootfs_image: installed.map(|i| text(&i.base_path())),
            source: manifest.map(|m| m.source.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_gets_the_nearest_first() {
        for (wrong, nearest) in [
            ("debian:12-bulid", "debian:12-build"),
            ("debian12", "debian:12"),
            ("debian:12-bas", "debian:12-base"),
        ] {
            match CatalogEntry::find(wrong) {
                Err(EnvironmentError::Unknown { nearest: names, .. }) => {
                    assert_eq!(names[0], nearest, "{wrong}")
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(CatalogEntry::find("").is_err());
    }

    #[test]
    fn environments_have_directories_and_recipes_of_their_own() {
        let unique = |words: Vec<String>| words.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(unique(CATALOG.iter().map(|e| dir_name(e.name)).collect()), CATALOG.len());
        assert_eq!(unique(CATALOG.iter().map(CatalogEntry::recipe).collect()), CATALOG.len());
    }
}
