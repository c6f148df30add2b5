//! A workspace on disk: a directory of its own, mode 0700, and how one comes to be and ceases.
//!
//! ```text
//!   workspaces/
//!     .names.lock        held while names change
//!     names/NAME         a symbolic link to ../ID
//!     .new-ID/           one that is being made: swept when nobody holds its lock
//!     .gone-ID/          one that is being removed: likewise
//!     ID/
//!       layout           the version of all this
//!       edit.lock        held while files of the guest are read to be written back changed
//!       lock             held by the keeper for its life, or by who works on a stopped workspace
//!       state.sqlite     record, history, snapshots
//!       disk.ext4        the guest's writable disk
//!       snapshots/NAME.ext4, logs/N.stdout, logs/N.stderr
//!       keeper.sock, keeper.log
//! ```
//!
//! One rename gives a whole workspace its id, and one takes it away: what has an id can be started.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::WorkspaceError;
use super::record::is_id;
use super::state::State;
use crate::environment::CancelToken;
use crate::environment::lock::{self, Lock};

const VERSION: &str = "pyro-workspace 1\n";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
/// How old a directory without a lock must be before it counts as left behind.
const ABANDONED: Duration = Duration::from_secs(60);
/// How long a lock is waited for that a short piece of work holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directory of one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

impl Home {
    /// The one at `path`. Touches nothing.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The workspace `id` in `root`.
    pub fn of(root: &Path, id: &str) -> Self {
        Self { path: root.join(id) }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of all workspaces.
    pub fn root(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Its database.
    pub fn state_path(&self) -> PathBuf {
        self.path.join("state.sqlite")
    }

    /// The guest's disk.
    pub fn disk(&self) -> PathBuf {
        self.path.join("disk.ext4")
    }

    /// A kept stream, `stdout` or `stderr`, of the command with this number.
    pub fn output(&self, sequence: u64, stream: &str) -> PathBuf {
        self.path.join("logs").join(format!("{sequence}.{stream}"))
    }

    /// Its snapshots' directory.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// The disk of a snapshot, whose name was checked.
    pub fn snapshot(&self, name: &str) -> PathBuf {
        self.snapshots().join(format!("{name}.ext4"))
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.join("layout").exists()
    }

    /// Its database, to be read.
    pub fn read(&self) -> Result<State, WorkspaceError> {
        self.check()?;
        State::open_to_read(&self.state_path())
    }

    /// Refuses a directory of another version.
    pub fn check(&self) -> Result<(), WorkspaceError> {
        let mut text = String::new();
        let path = self.path.join("layout");
        let read = File::open(&path).and_then(|file| file.take(64).read_to_string(&mut text));
        match read {
            Ok(_) if text == VERSION => Ok(()),
            Ok(_) => Err(WorkspaceError::Layout { path: self.path.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(WorkspaceError::Layout { path: self.path.clone() })
            }
            Err(error) => Err(WorkspaceError::file(&path, "read", error)),
        }
    }

    /// Takes its lock if nobody has it.
    pub(crate) fn try_lock(&self) -> Result<Option<Lock>, WorkspaceError> {
        lock::try_acquire(&self.path.join("lock")).map_err(WorkspaceError::of_lock)
    }

    /// Takes its lock, which somebody may hold for a moment. Blocks.
    pub(crate) fn lock(&self) -> Result<Lock, WorkspaceError> {
        acquire(&self.path.join("lock"))
    }

    /// Held by who reads files of the guest to write them back changed. Blocks.
    pub(crate) fn lock_edits(&self) -> Result<Lock, WorkspaceError> {
        acquire(&self.path.join("edit.lock"))
    }

    /// The part of its address that fits into a socket's: through a descriptor of the directory where the path is too
    /// long. The file must live as long as the address is used.
    pub fn socket(&self) -> Result<(PathBuf, Option<File>), WorkspaceError> {
        /// What `sun_path` holds, with the NUL at its end.
        const LONGEST: usize = 107;
        let path = self.path.join("keeper.sock");
        if path.as_os_str().len() <= LONGEST {
            return Ok((path, None));
        }
        let dir = File::open(&self.path).map_err(|e| WorkspaceError::file(&self.path, "opened", e))?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&dir);
        Ok((PathBuf::from(format!("/proc/self/fd/{number}/keeper.sock")), Some(dir)))
    }

    /// A new one, locked, that nobody finds yet.
    pub(crate) fn draft(root: &Path, id: &str) -> Result<(Self, Lock), WorkspaceError> {
        make_dir(root)?;
        let home = Self { path: root.join(format!("{NEW}{id}")) };
        DirBuilder::new()
            .mode(0o700)
            .create(&home.path)
            .map_err(|e| WorkspaceError::file(&home.path, "created", e))?;
        let held = home.try_lock()?.ok_or(WorkspaceError::Locked)?;
        for dir in ["snapshots", "logs"] {
            make_dir(&home.path.join(dir))?;
        }
        let path = home.path.join("layout");
        fs::write(&path, VERSION).map_err(|e| WorkspaceError::file(&path, "written", e))?;
        Ok((home, held))
    }

    /// Gives a whole draft its id.
    pub fn publish(self, id: &str) -> Result<Self, WorkspaceError> {
        let home = Self::of(self.root(), id);
        let sync = |path: &Path| File::open(path).and_then(|dir| dir.sync_all());
        sync(&self.path)
            .and_then(|()| {
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &self.path,
                    rustix::fs::CWD,
                    &home.path,
                    rustix::fs::RenameFlags::NOREPLACE,
                )
                .map_err(Into::into)
            })
            .and_then(|()| sync(home.root()))
            .map_err(|e| WorkspaceError::file(&home.path, "written", e))?;
        Ok(home)
    }

    /// Takes its id away and removes it. The caller holds its lock, and has ended what uses it.
    pub fn remove(&self) -> Result<(), WorkspaceError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gone = self.root().join(format!("{GONE}{}", name.trim_start_matches(NEW)));
        fs::rename(&self.path, &gone).map_err(|e| WorkspaceError::file(&self.path, "removed", e))?;
        fs::remove_dir_all(&gone).map_err(|e| WorkspaceError::file(&gone, "removed", e))
    }
}

fn make_dir(path: &Path) -> Result<(), WorkspaceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| WorkspaceError::file(path, "created", e))
}

/// Takes a lock that somebody may hold for a moment. Blocks, for [`PATIENCE`] at most.
fn acquire(path: &Path) -> Result<Lock, WorkspaceError> {
    let cancel = CancelToken::new();
    let (over, waits) = std::sync::mpsc::channel::<()>();
    let (mut waits, timer) = (Some(waits), cancel.clone());
    let acquired = lock::acquire(path, &cancel, &mut || {
        let (Some(waits), timer) = (waits.take(), timer.clone()) else { return };
        // It ends with the wait: the channel closes then.
        let _ = std::thread::Builder::new().name("lock-deadline".into()).spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                timer.cancel();
            }
        });
    });
    drop(over);
    acquired.map_err(WorkspaceError::of_lock)
}

/// Held while names are given and taken. Blocks.
pub(crate) fn lock_names(root: &Path) -> Result<Lock, WorkspaceError> {
    make_dir(&root.join("names"))?;
    acquire(&root.join(".names.lock"))
}

fn link(root: &Path, name: &str) -> PathBuf {
    root.join("names").join(name)
}

/// Who has `name`, whose form was checked.
pub fn named(root: &Path, name: &str) -> Option<String> {
    let target = fs::read_link(link(root, name)).ok()?;
    let id = target.file_name()?.to_str()?.to_owned();
    is_id(&id).then_some(id)
}

/// Gives `name` to `id`, under the names' lock. A name whose workspace is gone, or calls itself otherwise, is free.
pub fn take_name(root: &Path, name: &str, id: &str) -> Result<(), WorkspaceError> {
    let path = link(root, name);
    if let Some(other) = named(root, name) {
        let record = Home::of(root, &other).read().and_then(|state| state.record());
        let drafted = root.join(format!("{NEW}{other}")).exists();
        if other != id && (drafted || record.is_ok_and(|record| record.name.as_deref() == Some(name))) {
            return Err(WorkspaceError::NameTaken { name: name.to_owned(), id: other });
        }
    }
    let _ = fs::remove_file(&path);
    std::os::unix::fs::symlink(format!("../{id}"), &path)
        .map_err(|e| WorkspaceError::file(&path, "written", e))
}

/// Takes `name` from `id`, under the names' lock, if it has it.
pub fn free_name(root: &Path, name: &str, id: &str) {
    if named(root, name).as_deref() == Some(id) {
        // What stays is free all the same: its workspace is gone or has another name.
        let _ = fs::remove_file(link(root, name));
    }
}

/// All ids, in no order.
pub fn ids(root: &Path) -> Result<Vec<String>, WorkspaceError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(WorkspaceError::file(root, "read", error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| is_id(name) && Home::of(root, name).exists()).collect())
}

/// All names.
pub fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("names")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes what interrupted work left. What cannot be removed now may be at the next time.
pub fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !(name.starts_with(NEW) || name.starts_with(GONE)) {
            continue;
        }
        let home = Home::at(entry.path());
        let old = entry
            .metadata()
            .and_then(|stat| stat.modified())
            .is_ok_and(|then| SystemTime::now().duration_since(then).is_ok_and(|since| since > ABANDONED));
        let locked = home.path.join("lock").exists();
        let abandoned = if locked { home.path.join("layout").exists() || old } else { old };
        if abandoned && let Ok(Some(_held)) = home.try_lock() {
            let _ = fs::remove_dir_all(&home.path);
        }
    }
    // A name that leads nowhere: its workspace went, or was never finished.
    for name in names(root) {
        let Some(id) = named(root, &name) else { continue };
        let there = || Home::of(root, &id).exists() || root.join(format!("{NEW}{id}")).exists();
        if !there()
            && let Ok(_held) = lock_names(root)
            && !there()
        {
            free_name(root, &name, &id);
        }
    }
}

/// A new file of a workspace, for its owner alone.
pub fn new_file(path: &Path) -> Result<File, WorkspaceError> {
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| WorkspaceError::file(path, "created", e))
}

/// What is left of an earlier try goes.
pub fn remove_if_there(path: &Path) -> Result<(), WorkspaceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(WorkspaceError::file(path, "removed", error))
        }
        _ => Ok(()),
    }
}
