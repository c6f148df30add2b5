//! From a build to an installed version: a directory of its own to work in, and one rename to publish.
//!
//! ```text
//!   debian-12/.lock                     held by whoever builds or removes
//!   debian-12/.building-XXXXXX/tree     mmdebstrap's
//!   debian-12/.building-XXXXXX/out      base.ext4, manifest.json: on disk before ...
//!   debian-12/0123456789ab/             ... it is renamed to this, and then ...
//!   debian-12/current -> 0123456789ab   ... this link is swapped
//! ```
//!
//! A crash between any two of these leaves what the next holder of the lock sweeps, or a version nothing points to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::catalog::{CatalogEntry, catalog_version};
use super::event::{Events, PullPhase, Unit};
use super::manifest::{self, EnvironmentManifest, Rootfs, Source};
use super::{EnvironmentError, debian, image, packages, process};
use crate::hostfs::CancelToken;
use crate::hostfs::process::remove_tree;
use crate::hostfs::publish::{self, Building};
use crate::hostfs::stamp::{self, Content, Stamps};
use crate::identity;

/// The link to the version that is used.
pub(super) const CURRENT: &str = "current";

/// Source of a build's tree.
#[derive(Clone, Debug)]
pub(super) enum Filler {
    /// `mmdebstrap`, with the environment's packages.
    Debian,
    /// A shell script with the tree as `$1` and a directory for package lists as `$2`, in the same jail: so that a
    /// test of everything else need not install Debian.
    #[cfg(test)]
    Script(String),
}

/// Builds the environment and makes it current. The caller holds the lock of `dir`, the environment's directory.
pub(super) fn build(
    entry: &CatalogEntry,
    filler: &Filler,
    dir: &Path,
    stamps: &Stamps,
    events: &mut Events<'_>,
    cancel: &CancelToken,
) -> Result<(), EnvironmentError> {
    let name = entry.name;
    let building = Building::new(dir)?;
    let tree = building.path().join("tree");
    let jail = process::building_jail(cancel)?;
    let began = identity::unix_seconds();
    let built = match filler {
        Filler::Debian => debian::build(name, entry.default_packages, building.path(), jail, events, cancel)?,
        #[cfg(test)]
        Filler::Script(script) => super::tests::fill(name, script, building.path(), jail, events, cancel)?,
    };

    events.phase(PullPhase::Image);
    let out = building.path().join("out");
    let written = |e| EnvironmentError::cache(dir, "written", e);
    fs::create_dir(&out).map_err(written)?;
    let base = out.join(manifest::BASE);
    image::make(&image::ImageRequest { name, tree: &tree, image: &base, began }, jail, cancel)?;
    // The disk may be nearly full, and nobody needs the tree any more.
    remove_tree(&tree).map_err(written)?;
    // Before it is hashed: this is the last that changes the file, and what the stamp then holds.
    fs::set_permissions(&base, fs::Permissions::from_mode(0o644)).map_err(written)?;
    let file = File::open(&base).map_err(written)?;
    file.sync_all().map_err(written)?;

    events.phase(PullPhase::Verify);
    let size = file.metadata().map_err(written)?.len();
    let mut progress = |done| {
        events.progress(PullPhase::Verify, done, size, Unit::Bytes, None);
        !cancel.is_cancelled()
    };
    let sha256 = match stamps.digest_with(&file, Content::Whole, &mut progress) {
        Ok(sha256) => sha256,
        Err(_) if cancel.is_cancelled() => return Err(EnvironmentError::Cancelled),
        Err(error) => return Err(written(error)),
    };
    let version = sha256[..manifest::ID_DIGITS].to_owned();
    let source_digest = packages::set_digest(&built.packages);
    let manifest = EnvironmentManifest {
        schema: manifest::SCHEMA,
        name: name.into(),
        version: version.clone(),
        recipe: entry.recipe(),
        catalog_version: catalog_version().into(),
        source: Source::LocalBuild,
        source_digest,
        suites: built.suites,
        packages: built.packages,
        rootfs: Rootfs { path: manifest::BASE.into(), size, sha256 },
        created_at: identity::unix_seconds(),
    };
    let publish = || -> io::Result<()> {
        let path = out.join(manifest::FILE);
        fs::write(&path, stamp::seal(&manifest)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        File::open(&path)?.sync_all()?;
        publish::move_in(&out, &dir.join(&version), 0o755)?;
        publish::point(dir, CURRENT, &version)
    };
    publish().map_err(written)
}
