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
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags};

use super::catalog::{CatalogEntry, catalog_version};
use super::event::{Events, Phase, Unit};
use super::manifest::{self, EnvironmentManifest, Rootfs, Source};
use super::process::{self, Jail};
use super::{CancelToken, EnvironmentError, debian, image, lock, packages};
use crate::stamp::{self, Content, Stamps};

/// What starts the names of directories that a build works in, or that are about to be removed.
const BUILDING: &str = ".building-";
const TRASH: &str = ".trash-";
/// What starts the name of the next `current` link.
const NEXT: &str = ".current-";
/// The link to the version that is used.
pub(super) const CURRENT: &str = "current";

/// What fills the tree of a build.
#[derive(Clone, Debug)]
pub(super) enum Filler {
    /// `mmdebstrap`, with the environment's packages.
    Debian,
    /// A shell script with the tree as `$1` and a directory for package lists as `$2`, in the same jail: so that a
    /// test of everything else need not install Debian.
    #[cfg(test)]
    Script(String),
}

/// A directory to build in, for its owner alone; removed with this.
pub(crate) struct Building(PathBuf);

impl Building {
    pub(crate) fn new(parent: &Path) -> Result<Self, EnvironmentError> {
        let dir = tempfile::Builder::new()
            .prefix(BUILDING)
            .tempdir_in(parent)
            .map_err(|e| EnvironmentError::cache(parent, "written", e))?;
        Ok(Self(dir.keep()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next pull.
        let _ = process::remove_tree(&self.0);
    }
}

/// Removes what interrupted work left in `dir`. The caller holds its lock. Returns what was removed.
pub(crate) fn sweep(dir: &Path) -> Vec<PathBuf> {
    leftovers(dir).into_iter().filter(|path| remove_any(path).is_ok()).collect()
}

/// As [`sweep`], for a caller that has no other business with the lock and may not even write: a pull that was killed
/// when all but its own cleaning up was done.
pub(crate) fn sweep_if_idle(dir: &Path) {
    if !leftovers(dir).is_empty()
        && let Ok(Some(_held)) = lock::try_acquire(&dir.join(".lock"))
    {
        sweep(dir);
    }
}

fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let is_left = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        [BUILDING, TRASH, NEXT].iter().any(|prefix| name.starts_with(prefix))
    };
    entries.flatten().filter(is_left).map(|entry| entry.path()).collect()
}

fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { process::remove_tree(path) } else { fs::remove_file(path) }
}

/// Takes a published directory out of sight in one step, then removes it.
pub(crate) fn discard(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let trash = tempfile::Builder::new().prefix(TRASH).tempdir_in(parent)?.keep();
    fs::rename(dir, &trash).inspect_err(|_| drop(fs::remove_dir(&trash)))?;
    process::remove_tree(&trash)
}

/// Puts the directory `out` at `target`, whatever is there, with this mode, once all of it is on disk.
pub(crate) fn move_in(out: &Path, target: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(out, fs::Permissions::from_mode(mode))?;
    File::open(out)?.sync_all()?;
    match rustix::fs::renameat_with(CWD, out, CWD, target, RenameFlags::NOREPLACE) {
        // What was there goes with the directory that `out` was in.
        Err(rustix::io::Errno::EXIST) => {
            rustix::fs::renameat_with(CWD, out, CWD, target, RenameFlags::EXCHANGE)?
        }
        other => other?,
    }
    sync_parent(target)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Points `current` of an environment's directory at a version.
fn point(dir: &Path, version: &str) -> io::Result<()> {
    let next = dir.join(format!("{NEXT}{version}"));
    if fs::symlink_metadata(&next).is_ok() {
        fs::remove_file(&next)?;
    }
    std::os::unix::fs::symlink(version, &next)?;
    fs::rename(&next, dir.join(CURRENT))?;
    File::open(dir)?.sync_all()
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
    let jail = Jail::for_building(cancel)?;
    let began = unix_now();
    let built = match filler {
        Filler::Debian => debian::build(name, entry.default_packages, building.path(), jail, events, cancel)?,
        #[cfg(test)]
        Filler::Script(script) => super::tests::fill(name, script, building.path(), jail, events, cancel)?,
    };

    events.phase(Phase::Image);
    let out = building.path().join("out");
    let written = |e| EnvironmentError::cache(dir, "written", e);
    fs::create_dir(&out).map_err(written)?;
    let base = out.join(manifest::BASE);
    image::make(&image::Order { name, tree: &tree, image: &base, began }, jail, cancel)?;
    // The disk may be nearly full, and nobody needs the tree any more.
    process::remove_tree(&tree).map_err(written)?;
    // Before it is hashed: this is the last that changes the file, and what the stamp then holds.
    fs::set_permissions(&base, fs::Permissions::from_mode(0o644)).map_err(written)?;
    let file = File::open(&base).map_err(written)?;
    file.sync_all().map_err(written)?;

    events.phase(Phase::Verify);
    let size = file.metadata().map_err(written)?.len();
    let mut progress = |done| {
        events.progress(Phase::Verify, done, size, Unit::Bytes, None);
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
        created_at: unix_now(),
    };
    let publish = || -> io::Result<()> {
        let path = out.join(manifest::FILE);
        fs::write(&path, stamp::seal(&manifest)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        File::open(&path)?.sync_all()?;
        move_in(&out, &dir.join(&version), 0o755)?;
        point(dir, &version)
    };
    publish().map_err(written)
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
