//! A path of the host: what it is called, and where it is opened. They are the same but for a front end that must not
//! be led astray. That one resolves a path, looks at what it opened, and hands on what is open: looked up a second time,
//! a path may lead elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A path of the host, and what keeps it from being swapped where that matters.
///
/// What is held open has a path below `/proc/PID/fd`, which a keeper can open too: it is another process of the same user.
/// It stays open for as long as the last clone of this lives in the process that made it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostPath {
    shown: PathBuf,
    path: PathBuf,
    /// Device and inode. In another process the number of a descriptor may have come to mean something else.
    inode: Option<(u64, u64)>,
    #[serde(skip)]
    _held: Option<Arc<OwnedFd>>,
}

impl HostPath {
    /// The file or directory `opened` (for which `O_PATH` is enough), called `shown`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn held(opened: OwnedFd, shown: PathBuf) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&opened)?;
        let path = proc_path(&opened);
        Ok(Self { shown, path, inode: Some((stat.st_dev, stat.st_ino)), _held: Some(Arc::new(opened)) })
    }

    /// Path of `name` in the directory `opened`, called `shown`, whether or not it exists yet. `name` must be one
    /// name.
    pub fn held_in(opened: OwnedFd, name: &OsStr, shown: PathBuf) -> Self {
        let path = proc_path(&opened).join(name);
        Self { shown, path, inode: None, _held: Some(Arc::new(opened)) }
    }

    /// Path for payloads and messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// Path by which the file is opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes both paths absolute, for a process with another working directory.
    pub fn absolute(self) -> io::Result<Self> {
        Ok(Self { shown: std::path::absolute(&self.shown)?, path: std::path::absolute(&self.path)?, ..self })
    }

    /// Refuses a file that was opened by this path and is not the one that was held open for it.
    pub fn confirm(&self, file: &File) -> io::Result<()> {
        let meta = file.metadata()?;
        match self.inode {
            Some(inode) if inode != (meta.dev(), meta.ino()) => {
                Err(io::Error::other("it is not what was looked at before"))
            }
            _ => Ok(()),
        }
    }
}

/// Path of a descriptor of this process by its number, for others to open.
fn proc_path(opened: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), opened.as_fd().as_raw_fd()))
}

impl From<PathBuf> for HostPath {
    fn from(path: PathBuf) -> Self {
        Self { shown: path.clone(), path, inode: None, _held: None }
    }
}

impl From<&Path> for HostPath {
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl From<&PathBuf> for HostPath {
    fn from(path: &PathBuf) -> Self {
        path.clone().into()
    }
}

impl From<&HostPath> for HostPath {
    fn from(path: &HostPath) -> Self {
        path.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ArchiveError, Limits, Sink, Source};

    #[test]
    fn what_is_held_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, away) = (dir.path().join("tree"), dir.path().join("away"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("mine"), "x").unwrap();
        let held = HostPath::held(File::open(&tree).unwrap().into(), tree.clone()).unwrap();
        std::fs::rename(&tree, &away).unwrap();
        std::fs::create_dir(&tree).unwrap();
        let source = Source::open(&held, Limits::default()).unwrap();
        assert_eq!(source.count().unwrap().unwrap().entries, 1);
        // As a keeper gets it.
        let sent: HostPath = serde_json::from_slice(&serde_json::to_vec(&held).unwrap()).unwrap();
        assert_eq!(sent.shown(), tree);
        Source::open(&sent, Limits::default()).unwrap();
        let other = HostPath { inode: Some((0, 0)), ..sent };
        let error = Source::open(other, Limits::default()).unwrap_err();
        assert!(matches!(error, ArchiveError::File { .. }), "{error}");
        assert!(!error.to_string().contains("/proc/"), "{error}");
    }

    #[test]
    fn errors_say_what_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let opened = || OwnedFd::from(File::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("there"), "x").unwrap();
        let shown = dir.path().join("there");
        let there = HostPath::held_in(opened(), "there".as_ref(), shown.clone());
        let error = Sink::new(&there, None, Limits::default()).unwrap_err();
        assert!(matches!(error, ArchiveError::Exists { path } if path == shown));
        let file = HostPath::held(File::open(dir.path().join("there")).unwrap().into(), shown.clone());
        let error = Source::open(file.unwrap(), Limits::default()).unwrap_err();
        assert!(matches!(error, ArchiveError::NotAnArchive { path, .. } if path == shown));
    }
}
