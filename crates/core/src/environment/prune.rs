//! Removing what nobody needs: old versions, leftovers of interrupted work, environments the catalog has no more.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::catalog::{catalog, dir_name};
use super::install::CURRENT;
use super::manifest::is_version;
use super::{EnvironmentError, Store};
use crate::hostfs::{lock, publish};

/// Directories that a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Paths of the directories.
    pub deleted_environment_dirs: Vec<String>,
    /// Number of the directories.
    pub count: usize,
}

impl Store {
    /// Removes versions that are neither current nor `in_use` (their version ids), what interrupted pulls left, and
    /// all of environments that the catalog does not have. What another process is working on is left alone, and so
    /// is anything in the cache that is not ours.
    ///
    /// # Errors
    /// When the cache cannot be read or written; what was removed until then is.
    pub fn prune(&self, in_use: &[String]) -> Result<Pruned, EnvironmentError> {
        let mut pruned = Pruned::default();
        let entries = match fs::read_dir(self.root()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pruned),
            Err(error) => return Err(EnvironmentError::cache(self.root(), "read", error)),
        };
        let known: Vec<_> = catalog().iter().map(|entry| dir_name(entry.name)).collect();
        let mut dirs: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            // Every directory of ours has a lock.
            .filter(|dir| dir.join(".lock").is_file())
            .collect();
        dirs.sort();
        for dir in dirs {
            let Some(held) = lock::try_acquire(&dir.join(".lock"))? else { continue };
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for swept in publish::sweep(&dir) {
                pruned.add(&swept);
            }
            if dir == self.disks_dir() {
                self.prune_disks(&dir, &mut pruned)?;
            } else {
                prune_versions(&dir, known.contains(&name), in_use, &mut pruned)?;
            }
            drop(held);
        }
        // Stamps of files that are gone cannot be told from the others; losing a stamp only costs a rehash.
        self.stamps().clear().map_err(|e| EnvironmentError::cache(self.root(), "written", e))?;
        Ok(pruned)
    }

    fn prune_disks(&self, disks: &Path, pruned: &mut Pruned) -> Result<(), EnvironmentError> {
        let current = self.blank_dir();
        for path in subdirectories(disks)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path != current && name.strip_prefix("blank-").is_some_and(is_version) {
                pruned.discard(&path)?;
            }
        }
        Ok(())
    }
}

fn prune_versions(
    dir: &Path,
    known: bool,
    in_use: &[String],
    pruned: &mut Pruned,
) -> Result<(), EnvironmentError> {
    let current = fs::read_link(dir.join(CURRENT)).ok();
    let mut left = 0;
    for path in subdirectories(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_current = known && current.as_deref() == Some(Path::new(&name));
        if is_version(&name) && !is_current && !in_use.contains(&name) {
            pruned.discard(&path)?;
        } else {
            left += 1;
        }
    }
    if !known && left == 0 {
        let failed = |e| EnvironmentError::cache(dir, "removed", e);
        match fs::remove_file(dir.join(CURRENT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::remove_file(dir.join(".lock")).map_err(failed)?;
        // With anything else in it, it is not only ours.
        if fs::remove_dir(dir).is_ok() {
            pruned.add(dir);
        }
    }
    Ok(())
}

fn subdirectories(dir: &Path) -> Result<Vec<std::path::PathBuf>, EnvironmentError> {
    let entries = fs::read_dir(dir).map_err(|e| EnvironmentError::cache(dir, "read", e))?;
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut dirs: Vec<_> = entries.flatten().filter(is_dir).map(|entry| entry.path()).collect();
    dirs.sort();
    Ok(dirs)
}

impl Pruned {
    fn add(&mut self, dir: &Path) {
        self.deleted_environment_dirs.push(dir.display().to_string());
        self.count += 1;
    }

    fn discard(&mut self, dir: &Path) -> Result<(), EnvironmentError> {
        publish::discard(dir).map_err(|e| EnvironmentError::cache(dir, "removed", e))?;
        self.add(dir);
        Ok(())
    }
}
