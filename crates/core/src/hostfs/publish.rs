//! Directories that get their name whole: made beside it, brought to disk, moved there by one rename.
//!
//! ```text
//!   DIR/.lock                 held by whoever makes or removes
//!   DIR/.building-XXXXXX/     made here, then ...
//!   DIR/NAME                  ... renamed to this
//!   DIR/.trash-XXXXXX/        no longer of use: out of sight first, removed then
//!   DIR/.current-VERSION      a link on its way to be DIR/current
//! ```
//!
//! A crash between any two steps leaves a directory that the next holder of the lock sweeps.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::process::remove_tree;
use super::{HostFsError, lock};

/// Beginning of the names of directories that a build works in.
const BUILDING: &str = ".building-";
/// Beginning of the names of directories that are about to be removed.
const TRASH: &str = ".trash-";
/// Beginning of the name of the next link.
const NEXT: &str = ".current-";

/// A directory to build in, for its owner alone; removed with this.
pub(crate) struct Building(PathBuf);

impl Building {
    pub(crate) fn new(parent: &Path) -> Result<Self, HostFsError> {
        let dir = tempfile::Builder::new()
            .prefix(BUILDING)
            .tempdir_in(parent)
            .map_err(|e| HostFsError::file(parent, "written", e))?;
        Ok(Self(dir.keep()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // A directory that cannot be removed now is swept by the next pull.
        let _ = remove_tree(&self.0);
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
    if fs::symlink_metadata(path)?.is_dir() { remove_tree(path) } else { fs::remove_file(path) }
}

/// Takes a published directory out of sight in one step, then removes it.
pub(crate) fn discard(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let trash = tempfile::Builder::new().prefix(TRASH).tempdir_in(parent)?.keep();
    fs::rename(dir, &trash).inspect_err(|_| drop(fs::remove_dir(&trash)))?;
    remove_tree(&trash)
}

/// Puts the directory `out` at `target`, whatever is there, with this mode, once all of it is on disk.
pub(crate) fn move_in(out: &Path, target: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(out, fs::Permissions::from_mode(mode))?;
    File::open(out)?.sync_all()?;
    match rustix::fs::renameat_with(CWD, out, CWD, target, RenameFlags::NOREPLACE) {
        // The old content goes with the directory that `out` was in.
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

/// Points the link `name` in `dir` at `target`, whatever it pointed at before.
pub(crate) fn point(dir: &Path, name: &str, target: &str) -> io::Result<()> {
    let next = dir.join(format!("{NEXT}{target}"));
    if fs::symlink_metadata(&next).is_ok() {
        fs::remove_file(&next)?;
    }
    std::os::unix::fs::symlink(target, &next)?;
    fs::rename(&next, dir.join(name))?;
    File::open(dir)?.sync_all()
}
