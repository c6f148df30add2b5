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
//!       expiry           when the workspace was first found to be over, if it was
//!       edit.lock        held while files of the guest are read to be written back changed
//!       lock             held by the keeper for its life, who says in it who it is, or by who works on a stopped
//!                        workspace
//!       state.sqlite     record, history, snapshots
//!       disk.ext4        the guest's writable disk
//!       secrets/NAME     their values, mode 0600
//!       snapshots/NAME.ext4, with memory also NAME.memory, NAME.ram, NAME.key, NAME.jobs
//!       logs/N.stdout, logs/N.stderr
//!       shells/ID/out.*    what a shell wrote: `spool`
//!       services/NAME/stdout.*, stderr.*
//!       keeper.sock, keeper.log
//! ```
//!
//! One rename gives a whole workspace its id, and one takes it away: what has an id can be started.

use std::fs::{DirBuilder, File};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use crate::hostfs::CancelToken;
use crate::hostfs::lock::{self, Lock};
use crate::workspace::error::WorkspaceError;
use crate::workspace::store::record::is_id;
use crate::workspace::store::state::State;

/// Beginning of the file that tells the layout's version.
const LAYOUT: &str = "pyro-workspace ";
const VERSION: u32 = 1;
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
    /// Workspace directory at `path`. Touches nothing.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The workspace `id` in `root`.
    pub fn of(root: &Path, id: &str) -> Self {
        Self { path: root.join(id) }
    }

    /// Path of the workspace's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Workspace's id: the last name of its directory.
    pub fn id(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The directory of all workspaces.
    pub fn root(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Path of the database.
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

    /// Directory of the secrets, which is there if the workspace has any.
    pub fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// Directory of the snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// The disk of a snapshot, whose name was checked.
    pub fn snapshot(&self, name: &str) -> PathBuf {
        self.snapshots().join(format!("{name}.ext4"))
    }

    /// Device state of a snapshot with memory, and the memory itself unless that is in [`Self::ram`].
    pub fn memory(&self, name: &str) -> PathBuf {
        self.snapshots().join(format!("{name}.memory"))
    }

    /// Shells and services of the guest at a snapshot with memory.
    pub fn memory_jobs(&self, name: &str) -> PathBuf {
        self.snapshots().join(format!("{name}.jobs"))
    }

    /// Memory of a snapshot, where it is apart from the device state: guests that go on from it share the file.
    pub fn ram(&self, name: &str) -> PathBuf {
        self.snapshots().join(format!("{name}.ram"))
    }

    /// Facts that must hold to restore a snapshot's memory.
    pub fn memory_key(&self, name: &str) -> PathBuf {
        self.snapshots().join(format!("{name}.key"))
    }

    /// Notice that the workspace was over at an earlier reading of the clocks.
    pub fn expiry_notice(&self) -> PathBuf {
        self.path.join("expiry")
    }

    /// Whether the directory has a layout, so that a workspace is there.
    pub fn exists(&self) -> bool {
        self.path.join("layout").exists()
    }

    /// Opens the database to read it.
    pub fn read(&self) -> Result<State, WorkspaceError> {
        self.check()?;
        State::open_to_read(&self.state_path())
    }

    /// Refuses a directory of another version.
    pub fn check(&self) -> Result<(), WorkspaceError> {
        let mut text = String::new();
        let path = self.path.join("layout");
        let read = File::open(&path).and_then(|file| file.take(64).read_to_string(&mut text));
        let version = text.strip_prefix(LAYOUT).and_then(|text| text.trim_end().parse::<u32>().ok());
        match read {
            Ok(_) if version == Some(VERSION) => Ok(()),
            Ok(_) if version > Some(VERSION) => Err(WorkspaceError::Newer { path: self.path.clone() }),
            Ok(_) => Err(WorkspaceError::Layout { path: self.path.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(WorkspaceError::Layout { path: self.path.clone() })
            }
            Err(error) => Err(WorkspaceError::file(&path, "read", error)),
        }
    }

    /// The file of its lock, in which its keeper says who it is.
    pub(crate) fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Takes its lock if nobody has it.
    pub(crate) fn try_lock(&self) -> Result<Option<Lock>, WorkspaceError> {
        lock::try_acquire(&self.lock_path()).map_err(WorkspaceError::from)
    }

    /// Takes its lock, which somebody may hold for a moment. Blocks.
    pub(crate) fn lock(&self) -> Result<Lock, WorkspaceError> {
        acquire(&self.lock_path())
    }

    /// Held by who reads files of the guest to write them back changed. Blocks.
    pub(crate) fn lock_edits(&self) -> Result<Lock, WorkspaceError> {
        acquire(&self.path.join("edit.lock"))
    }

    /// The part of its address that fits into a socket's: through a descriptor of the directory where the path is too
    /// long. The file must live as long as the address is used.
    pub fn socket(&self) -> Result<(PathBuf, Option<File>), WorkspaceError> {
        /// Bytes that `sun_path` holds, the NUL at its end aside.
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
        fs::write(&path, format!("{LAYOUT}{VERSION}\n"))
            .map_err(|e| WorkspaceError::file(&path, "written", e))?;
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
        remove_all(&gone).map_err(|e| WorkspaceError::file(&gone, "removed", e))
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
        // The timer ends with the wait: the channel closes then.
        let _ = std::thread::Builder::new().name("lock-deadline".into()).spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                timer.cancel();
            }
        });
    });
    drop(over);
    acquired.map_err(WorkspaceError::from)
}

/// Held while names are given and taken. Blocks.
pub(crate) fn lock_names(root: &Path) -> Result<Lock, WorkspaceError> {
    make_dir(&root.join("names"))?;
    acquire(&root.join(".names.lock"))
}

fn link(root: &Path, name: &str) -> PathBuf {
    root.join("names").join(name)
}

/// Id of the workspace that has `name`, whose form was checked.
pub fn named(root: &Path, name: &str) -> Option<String> {
    let target = fs::read_link(link(root, name)).ok()?;
    let id = target.file_name()?.to_str()?.to_owned();
    is_id(&id).then_some(id)
}

/// Gives `name` to `id`, under the names' lock. A name whose workspace is gone, or calls itself otherwise, is free.
pub fn take_name(root: &Path, name: &str, id: &str) -> Result<(), WorkspaceError> {
    let path = link(root, name);
    if let Some(other) = named(root, name) {
        if other == id {
            return Ok(());
        }
        let record = Home::of(root, &other).read().and_then(|state| state.record());
        let drafted = root.join(format!("{NEW}{other}")).exists();
        if drafted || record.is_ok_and(|record| record.name.as_deref() == Some(name)) {
            return Err(WorkspaceError::NameTaken { name: name.to_owned(), id: other });
        }
    }
    // No name begins with a dot.
    let draft = link(root, &format!(".{id}"));
    let take = || {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(format!("../{id}"), &draft)?;
        fs::rename(&draft, &path)
    };
    take().map_err(|e| WorkspaceError::file(&path, "written", e))
}

/// Takes `name` from `id`, under the names' lock, if it has it.
pub fn free_name(root: &Path, name: &str, id: &str) {
    if named(root, name).as_deref() == Some(id) {
        // A link that stays is free all the same: its workspace is gone or has another name.
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

/// All names, and what was to become one and begins with a dot.
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
        let age = || SystemTime::now().duration_since(entry.metadata().ok()?.modified().ok()?).ok();
        let old = age().is_some_and(|age| age > ABANDONED);
        let locked = home.path.join("lock").exists();
        let free = || matches!(home.try_lock(), Ok(Some(_)));
        // A directory being removed may lose its lock or layout before the rest; one being made may not have them yet.
        let abandoned = if name.starts_with(GONE) {
            !locked || free()
        } else {
            (old || locked && home.path.join("layout").exists()) && free()
        };
        if abandoned {
            let _ = remove_all(&home.path);
        }
    }
    // A name that leads nowhere: its workspace went, or was never finished; or one that was not given.
    for name in names(root) {
        if name.starts_with('.') {
            if let Ok(_held) = lock_names(root) {
                let _ = fs::remove_file(link(root, &name));
            }
            continue;
        }
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

/// Removes a directory that somebody else may be removing too.
fn remove_all(path: &Path) -> io::Result<()> {
    loop {
        match fs::remove_dir_all(path) {
            // A sweeper may have looked for the directory's lock, and so made it, meanwhile.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                if !path.exists() {
                    return Ok(());
                }
            }
            other => return other,
        }
    }
}

/// A new file of a workspace, for its owner alone.
pub fn new_file(path: &Path) -> Result<File, WorkspaceError> {
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| WorkspaceError::file(path, "created", e))
}

/// Removes a file that an earlier try may have left.
pub fn remove_if_there(path: &Path) -> Result<(), WorkspaceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(WorkspaceError::file(path, "removed", error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::store::record::WorkspaceChanges;
    use crate::workspace::store::record::WorkspaceSpec;
    use crate::workspace::versions_in_use;

    const ID: &str = "0123456789ab";

    fn draft(root: &Path, id: &str, name: &str) -> (Home, Lock, State) {
        let wish = WorkspaceSpec { name: Some(name.into()), ..WorkspaceSpec::new("debian:12") };
        let (home, held) = Home::draft(root, id).unwrap();
        let state = State::create(&home.state_path(), &wish.record(id, "cafecafecafe", 1.0)).unwrap();
        (home, held, state)
    }

    fn workspace(root: &Path, id: &str, name: &str) -> (Home, Lock) {
        let (home, held, state) = draft(root, id, name);
        drop(state);
        let _names = lock_names(root).unwrap();
        take_name(root, name, id).unwrap();
        (home.publish(id).unwrap(), held)
    }

    #[test]
    fn one_that_is_being_made_is_nobodys_and_stays_until_its_maker_dies() {
        let dir = tempfile::tempdir().unwrap();
        let (home, held, state) = draft(dir.path(), ID, "a");
        drop(lock_names(dir.path()).unwrap());
        take_name(dir.path(), "a", ID).unwrap();
        sweep(dir.path());
        assert!(home.exists() && ids(dir.path()).unwrap().is_empty());
        assert_eq!(named(dir.path(), "a").as_deref(), Some(ID), "its name is kept for it");
        assert!(take_name(dir.path(), "a", "ffffffffffff").is_err());
        drop((held, state));
        sweep(dir.path());
        assert!(!home.path().exists());
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn one_that_is_gone_leaves_nothing_although_its_remover_died() {
        let dir = tempfile::tempdir().unwrap();
        let (home, held) = workspace(dir.path(), ID, "a");
        fs::rename(home.path(), dir.path().join(".gone-0123456789ab")).unwrap();
        sweep(dir.path());
        assert!(dir.path().join(".gone-0123456789ab").exists(), "its remover lives");
        drop(held);
        sweep(dir.path());
        assert!(!dir.path().join(".gone-0123456789ab").exists());
        // However far it had come.
        fs::create_dir(dir.path().join(".gone-aaaaaaaaaaaa")).unwrap();
        fs::create_dir(dir.path().join(".gone-bbbbbbbbbbbb")).unwrap();
        fs::write(dir.path().join(".gone-bbbbbbbbbbbb/lock"), "").unwrap();
        sweep(dir.path());
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "names" || name == ".names.lock"), "{left:?}");
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_name_is_one_workspaces_until_it_calls_itself_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (home, _held) = workspace(root, ID, "a");
        let (other, _other_held) = workspace(root, "aaaaaaaaaaaa", "b");
        let rename = |home: &Home, name: &str| {
            let state = State::open(&home.state_path()).unwrap();
            let mut record = state.record().unwrap();
            let changes = WorkspaceChanges { name: Some(name.into()), ..WorkspaceChanges::default() };
            crate::workspace::store::naming::describe(root, &state, &mut record, &changes)
        };
        assert!(matches!(rename(&other, "a"), Err(WorkspaceError::NameTaken { id, .. }) if id == ID));
        rename(&home, "c").unwrap();
        rename(&other, "a").unwrap();
        let mut left = names(root);
        left.sort();
        assert_eq!(left, ["a", "c"]);
        assert_eq!(named(root, "a").as_deref(), Some("aaaaaaaaaaaa"));
        // A workspace's own link stays in place: nobody looks for it in vain meanwhile.
        let inode = |name: &str| {
            std::os::unix::fs::MetadataExt::ino(&fs::symlink_metadata(link(root, name)).unwrap())
        };
        let before = inode("a");
        rename(&other, "a").unwrap();
        assert_eq!(inode("a"), before);
        // A process was killed while it gave a name.
        std::os::unix::fs::symlink("../aaaaaaaaaaaa", link(root, ".aaaaaaaaaaaa")).unwrap();
        sweep(root);
        assert_eq!(names(root).len(), 2);
        // A rename that was interrupted before it was written down: the name is free.
        take_name(root, "d", ID).unwrap();
        rename(&other, "d").unwrap();
        assert_eq!(versions_in_use(root), ["cafecafecafe", "cafecafecafe"]);
    }

    #[test]
    fn a_name_that_cannot_be_written_down_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (home, _held) = workspace(root, ID, "a");
        // As where the host's disk is full.
        let state = State::open_to_read(&home.state_path()).unwrap();
        let rename = |changes: WorkspaceChanges| {
            let mut record = state.record().unwrap();
            crate::workspace::store::naming::describe(root, &state, &mut record, &changes)
        };
        let to = |name: &str| WorkspaceChanges { name: Some(name.into()), ..WorkspaceChanges::default() };
        for changes in
            [to("b"), to("a"), WorkspaceChanges { clear_name: true, ..WorkspaceChanges::default() }]
        {
            assert!(matches!(rename(changes), Err(WorkspaceError::State { .. })));
            assert_eq!(names(root), ["a"]);
            assert_eq!(named(root, "a").as_deref(), Some(ID));
        }
    }

    #[test]
    fn another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (home, _held) = workspace(dir.path(), ID, "a");
        fs::write(home.path().join("layout"), "pyro-workspace 2\n").unwrap();
        assert!(matches!(home.read(), Err(WorkspaceError::Newer { .. })));
        for odd in ["pyro-workspace 0\n", "pyro-workspace\n", "2\n", ""] {
            fs::write(home.path().join("layout"), odd).unwrap();
            assert!(matches!(home.read(), Err(WorkspaceError::Layout { .. })), "{odd}");
        }
    }
}
