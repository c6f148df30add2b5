//! The directory in which one machine's files have their names.
//!
//! ```text
//!   <run_dir>/<name of the binary>/<id>/          0700; locked by this process for as long as the machine lives
//!                                      root/      the VMM's working directory, and all it sees in a jail
//!                                           kernel, base.ext4, ...   its files, by whatever way it reaches them
//!                                           api.sock, v.sock, log    what it makes or is given to talk
//! ```
//!
//! QEMU, which needs no names, has one for the lock and the id alone.
//! The layout is the jailer's, and is kept without it. The lock is what tells a living machine from one whose owner was
//! killed: the kernel lets go of it when the owner ends, and whoever gets it may remove the directory.

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};

/// How often a name is chosen before it is given up.
const TRIES: u32 = 100;

/// How often, a millisecond apart, a cgroup is tried to be removed: the kernel may count a process that ended for a
/// moment longer.
const CGROUP_TRIES: u32 = 20;

/// A machine's directory. Dropping it removes it, so it must outlive the machine's processes.
#[derive(Debug)]
pub(crate) struct MachineDir {
    dir: PathBuf,
    id: String,
    root: Arc<OwnedFd>,
    /// Removed with it.
    cgroups: Vec<PathBuf>,
    _lock: File,
}

impl MachineDir {
    /// Makes a directory below `parent` whose name `choose` gives; a name that is taken is not used.
    pub(crate) fn make(parent: &Path, mut choose: impl FnMut() -> String) -> io::Result<MachineDir> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        for _ in 0..TRIES {
            let id = choose();
            let dir = parent.join(&id);
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // Somebody who sweeps may have taken it for a left one meanwhile.
            let Ok(lock) = lock(&dir) else { continue };
            if !is_same_directory(&dir, &lock) {
                continue;
            }
            // From here on dropping it cleans up.
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

    /// The VMM's working directory, as a descriptor.
    pub(crate) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Its path.
    pub(crate) fn root_path(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Cgroups to remove with it.
    pub(crate) fn owns_cgroups(&mut self, cgroups: Vec<PathBuf>) {
        self.cgroups = cgroups;
    }

    /// Gives `name` to what this process has open under the number of `file`, for a child that inherits it.
    pub(crate) fn link(&self, name: &str, file: &OwnedFd) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(crate::proc_path(file), self.root.as_fd(), name)?)
    }

    /// Makes an empty file that something is mounted on.
    pub(crate) fn placeholder(&self, name: &str) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(self.root.as_fd(), name, flags, Mode::empty())?;
        Ok(())
    }

    /// Gives the file a second name, outside of what the VMM sees, if it can have one; the file under that name.
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

    /// Makes a pipe with a name for the VMM's log; our end, which never sees an end of file.
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

/// Removes the directory when its making fails half way.
struct UnfinishedDir<'a>(&'a Path);

impl Drop for UnfinishedDir<'_> {
    fn drop(&mut self) {
        remove(self.0, &[]);
    }
}

/// Removes the directories below `parent` whose owners are gone, and the cgroups that go by their names. What cannot be
/// removed stays for the next time.
pub(crate) fn sweep(parent: &Path, cgroups_of: impl Fn(&str) -> Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let (dir, id) = (entry.path(), entry.file_name());
        if let (Ok(_lock), Some(id)) = (lock(&dir), id.to_str()) {
            remove(&dir, &cgroups_of(id));
        }
    }
}

/// A name that nobody uses by accident.
pub(crate) fn random_name() -> String {
    format!("{:08x}", random_number() & 0xffff_ffff)
}

/// A number that differs from call to call and process to process.
pub(crate) fn random_number() -> u64 {
    RandomState::new().hash_one(())
}

/// Takes the lock if nobody has it.
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
    // First, because only the directory's name tells of them.
    let mut all_gone = true;
    for cgroup in cgroups {
        all_gone &= remove_cgroup(cgroup);
    }
    if all_gone {
        // The files themselves are elsewhere: these are links, sockets, empty places.
        let _left_for_the_next_sweep = fs::remove_dir_all(dir);
    }
}

/// Whether it is gone. It stays while a process is in it: a large VMM that was killed takes its time to end.
fn remove_cgroup(cgroup: &Path) -> bool {
    for _ in 0..CGROUP_TRIES {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => break,
        }
    }
    // Where cgroups cannot be written the error says nothing about this one, which mostly never was.
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

    /// An ordinary directory with something in it stands for one with a process in it: neither can be removed.
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
