//! Directory that holds one machine's named files.
//!
//! ```text
//!   <run_dir>/<name of the binary>/<id>/          0700; locked by this process for as long as the machine lives
//!                                      root/      the VMM's working directory, and its whole root in a jail
//!                                           kernel, base.ext4, ...   files, as links or mount points
//!                                           api.sock, v.sock, log    sockets and pipe of the VMM
//! ```
//!
//! QEMU, which needs no names, has a directory for the lock and the id alone. The layout is the jailer's, also where
//! no jailer runs. The lock tells a living machine from one whose owner was killed: the kernel releases it when the
//! owner ends, and whoever gets it may remove the directory.

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};

/// Names that are tried before [`MachineDir::make`] gives up.
const NAME_TRIES: u32 = 100;

/// Attempts, a millisecond apart, to remove a cgroup: the kernel may count a process for a moment after its end.
const CGROUP_TRIES: u32 = 20;

/// A machine's directory, removed when this is dropped, so it must outlive the machine's processes.
#[derive(Debug)]
pub(crate) struct MachineDir {
    dir: PathBuf,
    id: String,
    root: Arc<OwnedFd>,
    /// Cgroup directories that are removed together with this one.
    cgroups: Vec<PathBuf>,
    _lock: File,
}

impl MachineDir {
    /// Makes and locks a directory below `parent` under a free name out of those that `choose` gives.
    pub(crate) fn make(parent: &Path, mut choose: impl FnMut() -> String) -> io::Result<MachineDir> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        for _ in 0..NAME_TRIES {
            let id = choose();
            let dir = parent.join(&id);
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // A concurrent sweep may have locked or removed the directory before it was locked here.
            let Ok(lock) = lock(&dir) else { continue };
            if !is_same_directory(&dir, &lock) {
                continue;
            }
            // From here on an error removes the directory.
            let unfinished = UnfinishedDir(&dir);
            let root = dir.join("root");
            DirBuilder::new().mode(0o700).create(&root)?;
            let root = Arc::new(OwnedFd::from(File::open(&root)?));
            std::mem::forget(unfinished);
            return Ok(MachineDir { dir, id, root, cgroups: Vec::new(), _lock: lock });
        }
        Err(io::Error::other("every name that was tried is taken"))
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Descriptor of the VMM's working directory.
    pub(crate) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Path of the VMM's working directory.
    pub(crate) fn root_path(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Makes `cgroups` be removed together with this directory.
    pub(crate) fn set_cgroups(&mut self, cgroups: Vec<PathBuf>) {
        self.cgroups = cgroups;
    }

    /// Makes a link `name` to `/proc/self/fd/N` of `file`, for a child that inherits the descriptor under that
    /// number.
    pub(crate) fn link(&self, name: &str, file: &OwnedFd) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(crate::proc_path(file), self.root.as_fd(), name)?)
    }

    /// Makes an empty file to mount on.
    pub(crate) fn placeholder(&self, name: &str) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(self.root.as_fd(), name, flags, Mode::empty())?;
        Ok(())
    }

    /// Links `file` under a second name that the VMM does not see, and opens it there. Fails across file systems.
    pub(crate) fn second_name(&self, name: &str, file: &OwnedFd) -> io::Result<OwnedFd> {
        let path = self.dir.join(name);
        rustix::fs::linkat(
            rustix::fs::CWD,
            crate::proc_path(file),
            rustix::fs::CWD,
            &path,
            AtFlags::SYMLINK_FOLLOW,
        )?;
        Ok(rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Makes a named pipe for the VMM's log. The end given back is also open for writing, so it never reads
    /// end-of-file.
    pub(crate) fn pipe(&self, name: &str) -> io::Result<OwnedFd> {
        rustix::fs::mknodat(self.root.as_fd(), name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.root.as_fd(), name, flags, Mode::empty())?)
    }
}

impl Drop for MachineDir {
    fn drop(&mut self) {
        remove(&self.dir, &self.cgroups);
    }
}

/// Guard that removes a directory whose making fails half way.
struct UnfinishedDir<'a>(&'a Path);

impl Drop for UnfinishedDir<'_> {
    fn drop(&mut self) {
        remove(self.0, &[]);
    }
}

/// Removes the directories below `parent` whose owners are gone, and the cgroups of the same ids. Anything that
/// cannot be removed stays for the next sweep.
pub(crate) fn sweep(parent: &Path, cgroups_of: impl Fn(&str) -> Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let (dir, id) = (entry.path(), entry.file_name());
        if let (Ok(_lock), Some(id)) = (lock(&dir), id.to_str()) {
            remove(&dir, &cgroups_of(id));
        }
    }
}

/// Random name of eight hexadecimal digits.
pub(crate) fn random_name() -> String {
    format!("{:08x}", random_number() & 0xffff_ffff)
}

/// Random number, different in each call and each process; not for secrets.
pub(crate) fn random_number() -> u64 {
    RandomState::new().hash_one(())
}

/// Takes the lock on `dir` without waiting; fails when another process has it.
fn lock(dir: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
    Ok(dir.into())
}

fn is_same_directory(dir: &Path, lock: &File) -> bool {
    let (Ok(named), Ok(held)) = (fs::symlink_metadata(dir), lock.metadata()) else { return false };
    (named.dev(), named.ino()) == (held.dev(), held.ino())
}

fn remove(dir: &Path, cgroups: &[PathBuf]) {
    // Cgroups go first, because only the directory's name leads to them.
    let mut all_gone = true;
    for cgroup in cgroups {
        all_gone &= remove_cgroup(cgroup);
    }
    if all_gone {
        // Only links, sockets and empty mount points are in here; the files themselves are elsewhere.
        let _left_for_the_next_sweep = fs::remove_dir_all(dir);
    }
}

/// Removes `cgroup`; whether it is gone. The kernel refuses while a process is in it, which a large VMM may be for
/// some time after SIGKILL.
fn remove_cgroup(cgroup: &Path) -> bool {
    for _ in 0..CGROUP_TRIES {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => break,
        }
    }
    // Where cgroups are read-only, removal fails also for a cgroup that never existed.
    !cgroup.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lives_as_long_as_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let parent = base.path().join("firecracker");
        let machine_dir = MachineDir::make(&parent, || "one".into()).unwrap();
        machine_dir.placeholder("kernel").unwrap();
        assert_eq!(fs::metadata(parent.join("one")).unwrap().mode() & 0o777, 0o700);
        sweep(&parent, |_| Vec::new());
        assert!(parent.join("one/root/kernel").exists(), "a living machine is not swept");
        assert!(MachineDir::make(&parent, || "one".into()).is_err(), "a name is used once");
        drop(machine_dir);
        assert!(!parent.join("one").exists());
    }

    #[test]
    fn what_a_killed_owner_left_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let parent = base.path().join("firecracker");
        fs::create_dir_all(parent.join("left/root/deep")).unwrap();
        fs::write(parent.join("left/root/deep/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", parent.join("link")).unwrap();
        let cgroup = base.path().join("cgroup-of-left");
        fs::create_dir(&cgroup).unwrap();
        let machine_dir = MachineDir::make(&parent, random_name).unwrap();
        sweep(&parent, |id| vec![base.path().join(format!("cgroup-of-{id}"))]);
        assert!(!parent.join("left").exists() && !cgroup.exists());
        assert!(parent.join("link").exists(), "a link is no machine's directory");
        assert!(machine_dir.root_path().exists());
    }

    /// A directory that is not empty stands for a cgroup with a process in it: neither can be removed.
    #[test]
    fn a_cgroup_that_is_in_use_is_found_again() {
        let base = tempfile::tempdir().unwrap();
        let parent = base.path().join("qemu");
        fs::create_dir_all(parent.join("left/root")).unwrap();
        let cgroup = base.path().join("cgroup");
        fs::create_dir_all(cgroup.join("process")).unwrap();
        sweep(&parent, |_| vec![cgroup.clone()]);
        assert!(parent.join("left").exists(), "its name is all that tells of the cgroup");
        fs::remove_dir(cgroup.join("process")).unwrap();
        sweep(&parent, |_| vec![cgroup.clone(), base.path().join("never-was")]);
        assert!(!parent.join("left").exists() && !cgroup.exists());
    }

    #[test]
    fn names_differ() {
        assert_ne!(random_name(), random_name());
        assert_eq!(random_name().len(), 8);
    }
}
