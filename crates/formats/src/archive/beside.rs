//! The directory beside a destination in which a tree is unpacked.
//!
//! Its owner holds a lock on it. One that is killed leaves the directory behind, unlocked, and the next tree that is
//! unpacked beside it takes it away.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use tempfile::TempDir;

const PREFIX: &str = ".pyro-export-";

/// Directory in which a tree is unpacked. Removed when this is dropped, also when directories in it may not be
/// written any more.
pub(super) struct Beside {
    dir: Option<TempDir>,
    /// The same directory, open and locked.
    fd: File,
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn lock(dir: &File) -> io::Result<()> {
    Ok(flock(dir, FlockOperation::NonBlockingLockExclusive)?)
}

impl Beside {
    /// A new one in `parent`, which only its owner may enter.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        loop {
            let own = Permissions::from_mode(0o700);
            let dir = tempfile::Builder::new().prefix(PREFIX).permissions(own).tempdir_in(parent)?;
            let fd = open(dir.path())?;
            match lock(&fd) {
                // Where nothing can be locked, nothing is swept either.
                Ok(()) | Err(_) if same(dir.path(), &fd) => return Ok(Self { dir: Some(dir), fd }),
                // Another one has swept it before it was locked.
                _ => {}
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.as_ref().map_or(Path::new(""), TempDir::path)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take() {
            open_up(dir.path());
        }
    }
}

/// Whether `path` is what is open.
fn same(path: &Path, open: &File) -> bool {
    let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    matches!((path.symlink_metadata(), open.metadata()), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

/// Removes what those left in `parent` who were killed: ours, locked by nobody.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_one = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|meta| {
                meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0
            });
        let path = entry.path();
        if is_one
            && let Ok(fd) = open(&path)
            && lock(&fd).is_ok()
            && same(&path, &fd)
        {
            open_up(&path);
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Lets its owner remove what is in a directory. No link is followed, and nobody else can enter it.
fn open_up(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            let _ = fs::set_permissions(&path, Permissions::from_mode(0o700));
            open_up(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let held = Beside::new(dir.path()).unwrap();
        assert_eq!(held.fd.metadata().unwrap().mode() & 0o7777, 0o700);
        let left = dir.path().join(".pyro-export-left");
        fs::create_dir_all(left.join("tree/sub")).unwrap();
        fs::write(left.join("tree/sub/file"), "x").unwrap();
        for path in ["tree/sub", "tree", "."] {
            fs::set_permissions(
                left.join(path),
                Permissions::from_mode(if path == "." { 0o700 } else { 0o500 }),
            )
            .unwrap();
        }
        // Somebody else's, by its permissions, and what is no directory.
        let other = dir.path().join(".pyro-export-other");
        fs::create_dir(&other).unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o755)).unwrap();
        let file = dir.path().join(".pyro-export-file");
        fs::write(&file, "").unwrap();
        let path = Beside::new(dir.path()).unwrap().path().to_owned();
        assert!(!left.exists() && !path.exists());
        assert!(held.path().exists() && other.exists() && file.exists());
    }
}
