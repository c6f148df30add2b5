//! A workspace's database: its record and its snapshots, and where others keep the history and the jobs. Written by whoever holds the workspace's lock; read by
//! anybody, whether its keeper lives or not.
//!
//! In WAL mode, so that readers and the keeper never wait for each other, and without a sync for each command: what is
//! lost with the host's power is the end of a history. What a disk depends on is synced.
//!
//! Its layout has a number. Whoever opens an older one to write to it brings it forward first, in one transaction; whoever
//! reads takes it as it is, since a keeper of that version may live. A newer one is left alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use crate::workspace::error::WorkspaceError;
use crate::workspace::store::disk::sync_dir;
use crate::workspace::store::history;
use crate::workspace::store::record::Record;
use crate::workspace::store::view::{SnapshotInfo, SnapshotKind};

/// SQL that makes each version of the layout from the one before it, from an empty file on. Released steps stay.
const STEPS: [&str; 2] = [TABLES, history::BOUNDS];
/// The version of the layout.
const VERSION: i32 = STEPS.len() as i32;
/// How long a reader waits for a writer that recovers the database after a crash.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE workspace (one INTEGER PRIMARY KEY CHECK (one = 1), record TEXT NOT NULL) STRICT;
    CREATE TABLE command (
        sequence INTEGER PRIMARY KEY, command TEXT NOT NULL, cwd TEXT NOT NULL, exit_code INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL, recorded_at REAL NOT NULL, stdout_bytes INTEGER NOT NULL,
        stderr_bytes INTEGER NOT NULL, stdout_truncated INTEGER NOT NULL, stderr_truncated INTEGER NOT NULL,
        interrupted TEXT
    ) STRICT;
    CREATE TABLE snapshot (
        name TEXT PRIMARY KEY, kind TEXT NOT NULL, created_at REAL NOT NULL, entry_count INTEGER NOT NULL,
        bytes_written INTEGER NOT NULL, memory INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE job (
        kind TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (kind, name)
    ) STRICT;
";
const SNAPSHOT: &str = "SELECT name, created_at, entry_count, bytes_written, memory FROM snapshot";

/// An open database.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    connection: Connection,
    version: i32,
}

/// Several changes: all, or none if it is dropped before their end. As rusqlite's transaction, with statements that are
/// not read anew each time: one is made for every command.
struct Transaction<'a>(Option<&'a Connection>);

impl<'a> Transaction<'a> {
    fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self(Some(connection)))
    }

    fn commit(mut self) -> rusqlite::Result<()> {
        if let Some(connection) = self.0 {
            connection.prepare_cached("COMMIT")?.execute([])?;
            self.0 = None;
        }
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            // A transaction that failed may have ended already.
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
}

/// The file that has what was written last, until that is moved into the database.
pub struct Journal(PathBuf);

impl Journal {
    /// Brings the journal to storage. Blocks.
    pub fn sync(&self) -> Result<(), WorkspaceError> {
        let synced = File::open(&self.0).and_then(|file| file.sync_all()).and_then(|()| sync_dir(&self.0));
        synced.map_err(|e| WorkspaceError::file(&self.0, "brought to storage", e))
    }
}

impl State {
    /// Creates a database with `record`.
    pub fn create(path: &Path, record: &Record) -> Result<Self, WorkspaceError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut state = Self::connect(path, flags)?;
        let wal = state.connection.pragma_update(None, "journal_mode", "WAL");
        wal.map_err(|source| state.error(source))?;
        state.bring_forward()?;
        state.save(record)?;
        Ok(state)
    }

    /// Opens a database to write to it, and brings an older layout forward. The caller holds the workspace's lock.
    pub fn open(path: &Path) -> Result<Self, WorkspaceError> {
        let mut state = Self::there(path)?;
        state.bring_forward()?;
        Ok(state)
    }

    /// Opens a database to read it. Writes of SQLite's own stay possible: the first to come after a crash recovers it.
    pub fn open_to_read(path: &Path) -> Result<Self, WorkspaceError> {
        let state = Self::there(path)?;
        state.connection.pragma_update(None, "query_only", true).map_err(|source| state.error(source))?;
        Ok(state)
    }

    /// Opens a database that some version of pyro made.
    fn there(path: &Path) -> Result<Self, WorkspaceError> {
        let state = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        match state.version {
            1..=VERSION => Ok(state),
            ..1 => Err(WorkspaceError::Layout { path: path.to_owned() }),
            _ => Err(WorkspaceError::Newer { path: path.to_owned() }),
        }
    }

    /// Makes the present layout of an older one: wholly, or not at all.
    fn bring_forward(&mut self) -> Result<(), WorkspaceError> {
        let from = usize::try_from(self.version).unwrap_or_default();
        if from < STEPS.len() {
            self.change(|connection| {
                STEPS[from..].iter().try_for_each(|step| connection.execute_batch(step))?;
                connection.pragma_update(None, "user_version", VERSION)
            })?;
            self.version = VERSION;
        }
        Ok(())
    }

    /// Changes several things at once.
    pub(super) fn change<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, WorkspaceError> {
        let change = || {
            let all = Transaction::begin(&self.connection)?;
            let done = work(&self.connection)?;
            all.commit().map(|()| done)
        };
        change().map_err(|source| self.error(source))
    }

    /// Journal that has to be on storage for all writes until now to be; whoever syncs it need not hold the database.
    pub fn journal(&self) -> Journal {
        Journal(PathBuf::from(format!("{}-wal", self.path.display())))
    }

    /// Reads from now on what is there now, whatever is written meanwhile.
    pub(super) fn begin_reading(&self) -> Result<(), WorkspaceError> {
        self.connection.execute_batch("BEGIN").map_err(|source| self.error(source))
    }

    /// The version of its layout.
    pub(super) fn version(&self) -> i32 {
        self.version
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, WorkspaceError> {
        let error = |source| WorkspaceError::State { path: path.to_owned(), source };
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(error)?;
        connection.busy_timeout(BUSY).map_err(error)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(error)?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(error)?;
        Ok(Self { path: path.to_owned(), connection, version })
    }

    pub(super) fn error(&self, source: rusqlite::Error) -> WorkspaceError {
        WorkspaceError::State { path: self.path.clone(), source }
    }

    /// Record of the workspace.
    pub fn record(&self) -> Result<Record, WorkspaceError> {
        let text: String = self
            .connection
            .query_row("SELECT record FROM workspace", [], |row| row.get(0))
            .map_err(|source| self.error(source))?;
        serde_json::from_str(&text).map_err(|_| WorkspaceError::Layout { path: self.path.clone() })
    }

    /// Writes the record down.
    pub fn save(&self, record: &Record) -> Result<(), WorkspaceError> {
        let text = serde_json::to_string(record)
            .map_err(|error| self.error(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        self.execute("INSERT OR REPLACE INTO workspace VALUES (1, ?)", [text])
    }

    /// Brings all that was written to the host's storage.
    pub fn sync(&self) -> Result<(), WorkspaceError> {
        let done = self.connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()));
        done.map_err(|source| self.error(source))
    }

    /// Adds a snapshot, whose file has its name, or replaces one.
    pub fn add_snapshot(&self, snapshot: &SnapshotInfo) -> Result<(), WorkspaceError> {
        self.execute(
            "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?, ?)",
            params![
                snapshot.snapshot_name,
                snapshot.kind.to_string(),
                snapshot.created_at,
                snapshot.entry_count,
                snapshot.bytes_written,
                snapshot.memory
            ],
        )
    }

    /// Forgets a snapshot, whose file is removed next.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), WorkspaceError> {
        self.execute("DELETE FROM snapshot WHERE name = ?", [name])
    }

    /// The snapshots, the oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, WorkspaceError> {
        let id = self.record()?.id;
        self.rows(&format!("{SNAPSHOT} ORDER BY created_at, rowid"), |row| {
            let (name, memory): (String, bool) = (row.get(0)?, row.get(4)?);
            let kind = SnapshotKind::of(&name);
            Ok(SnapshotInfo {
                workspace_id: id.clone(),
                snapshot_name: name,
                created_at: row.get(1)?,
                entry_count: row.get(2)?,
                bytes_written: row.get(3)?,
                deletable: kind != SnapshotKind::Baseline,
                memory,
                contains_secrets: memory,
                kind,
            })
        })
    }

    /// First row of a query, if there is one.
    pub(super) fn row<T>(
        &self,
        query: &str,
        values: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, WorkspaceError> {
        let one = || self.connection.prepare_cached(query)?.query_row(values, read).optional();
        one().map_err(|source| self.error(source))
    }

    pub(super) fn rows<T>(
        &self,
        query: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, WorkspaceError> {
        let all = || {
            self.connection.prepare_cached(query)?.query_map([], read)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        all().map_err(|source| self.error(source))
    }

    pub(super) fn execute(
        &self,
        statement: &str,
        values: impl rusqlite::Params,
    ) -> Result<(), WorkspaceError> {
        let run = || self.connection.prepare_cached(statement)?.execute(values);
        run().map(|_| ()).map_err(|source| self.error(source))
    }
}

/// The snapshot that every workspace has from its beginning.
pub const BASELINE: &str = "baseline";

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::workspace::store::history::Bounds;
    use crate::workspace::store::history::Extent;
    use crate::workspace::store::record::Command;
    use crate::workspace::store::record::WorkspaceSpec;

    pub(in crate::workspace) fn entry(sequence: u64) -> Command {
        Command {
            sequence,
            command: "true".into(),
            cwd: "/workspace".into(),
            exit_code: 0,
            duration_ms: 3,
            recorded_at: 1.5,
            stdout_bytes: 0,
            stderr_bytes: 9,
            stdout_truncated: false,
            stderr_truncated: true,
            interrupted: None,
        }
    }

    fn add(state: &State, sequence: u64) {
        assert_eq!(state.add_command(&entry(sequence), 9, Bounds::ALL).unwrap(), [0; 0]);
    }

    #[test]
    fn what_is_written_is_read_by_another_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let mut record = WorkspaceSpec::new("debian:12").record("0123456789ab", "cafe", 1.0);
        let writer = State::create(&path, &record).unwrap();
        let reader = State::open_to_read(&path).unwrap();
        assert_eq!(reader.record().unwrap(), record);
        record.reset_count = 7;
        writer.save(&record).unwrap();
        add(&writer, 1);
        add(&writer, 2);
        assert_eq!(reader.record().unwrap(), record);
        assert_eq!(reader.next_command(0).unwrap(), Some(entry(1)));
        assert_eq!(reader.last_command().unwrap(), Some(entry(2)));
        assert_eq!(reader.command_count().unwrap(), 2);
        assert!(reader.save(&record).is_err(), "a reader wrote");
    }

    #[test]
    fn a_database_whose_writer_was_killed_is_recovered_by_the_next_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let record = WorkspaceSpec::new("debian:12").record("0123456789ab", "cafe", 1.0);
        let writer = State::create(&path, &record).unwrap();
        add(&writer, 1);
        // As SIGKILL leaves it: the log beside the database, never checkpointed.
        let copy = dir.path().join("copy.sqlite");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(dir.path().join("state.sqlite-wal"), dir.path().join("copy.sqlite-wal")).unwrap();
        assert_eq!(State::open_to_read(&copy).unwrap().last_command().unwrap(), Some(entry(1)));
    }

    /// A store as the first version made it: what it wrote, word for word.
    fn of_the_first_version(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(include_str!("state_1.sql")).unwrap();
        connection
    }

    #[test]
    fn a_store_of_the_first_version_is_read_as_it_is_and_brought_forward() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let old = of_the_first_version(&path);
        let version = || old.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0)).unwrap();
        let look = |state: &State| {
            let record = state.record().unwrap();
            assert_eq!((record.id.as_str(), record.name.as_deref()), ("0123456789ab", Some("old")));
            assert_eq!(state.extent().unwrap(), Extent { commands: 2, dropped: 0 });
            assert_eq!(state.last_command().unwrap().unwrap().interrupted.as_deref(), Some("timeout"));
            assert_eq!(state.snapshots().unwrap()[0].snapshot_name, BASELINE);
            assert_eq!(
                state.jobs::<crate::workspace::store::jobs::ShellRecord>().unwrap()[0].shell_id,
                "ab12"
            );
        };
        look(&State::open_to_read(&path).unwrap());
        assert_eq!(version(), 1, "a reader changed it");
        let state = State::open(&path).unwrap();
        look(&state);
        assert_eq!(version(), VERSION);
        // The bytes of what there was already count.
        let bounds = Bounds { commands: 10, bytes: 120 };
        assert_eq!(state.add_command(&entry(4), 9, bounds).unwrap(), [1]);
        drop(state);
        look_again(&path);
    }

    fn look_again(path: &Path) {
        let state = State::open(path).unwrap();
        assert_eq!(state.extent().unwrap(), Extent { commands: 2, dropped: 1 });
    }

    #[test]
    fn a_step_forward_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let old = of_the_first_version(&path);
        // In the way of its last statement but one.
        old.execute_batch("CREATE TABLE history (one INTEGER) STRICT").unwrap();
        assert!(matches!(State::open(&path), Err(WorkspaceError::State { .. })));
        let columns = "SELECT count(*) FROM pragma_table_info('command')";
        assert_eq!(old.query_row(columns, [], |row| row.get::<_, u32>(0)).unwrap(), 11);
        old.execute_batch("DROP TABLE history").unwrap();
        State::open(&path).unwrap();
    }

    #[test]
    fn a_newer_store_is_left_alone_and_what_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let newer = of_the_first_version(&path);
        newer.pragma_update(None, "user_version", VERSION + 1).unwrap();
        let refused = State::open(&path).map(drop).unwrap_err();
        assert!(matches!(refused, WorkspaceError::Newer { .. }) && refused.hint().is_some());
        assert!(matches!(State::open_to_read(&path), Err(WorkspaceError::Newer { .. })));
        newer.pragma_update(None, "user_version", 0).unwrap();
        assert!(matches!(State::open(&path), Err(WorkspaceError::Layout { .. })));
    }
}
