//! A workspace's database: its record, its history, its snapshots. Written by whoever holds the workspace's lock; read by
//! anybody, whether its keeper lives or not.
//!
//! In WAL mode, so that readers and the keeper never wait for each other, and without a sync for each command: what is
//! lost with the host's power is the end of a history. What a disk depends on is synced.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::WorkspaceError;
use super::record::{Command, Record};
use super::view::SnapshotInfo;

/// The version of what is below.
const VERSION: i32 = 1;
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
const COMMAND: &str = "SELECT sequence, command, cwd, exit_code, duration_ms, recorded_at, stdout_bytes, stderr_bytes, \
                       stdout_truncated, stderr_truncated, interrupted FROM command";
const SNAPSHOT: &str = "SELECT name, kind, created_at, entry_count, bytes_written, memory FROM snapshot";

/// An open database.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    connection: Connection,
}

impl State {
    /// Makes one.
    pub fn create(path: &Path, record: &Record) -> Result<Self, WorkspaceError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let state = Self::connect(path, flags)?;
        let make = || {
            state.connection.pragma_update(None, "journal_mode", "WAL")?;
            state.connection.execute_batch(TABLES)?;
            state.connection.pragma_update(None, "user_version", VERSION)
        };
        make().map_err(|source| state.error(source))?;
        state.save(record)?;
        Ok(state)
    }

    /// Opens one to write to it. The caller holds the workspace's lock.
    pub fn open(path: &Path) -> Result<Self, WorkspaceError> {
        let state = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let version: i32 = state
            .connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|source| state.error(source))?;
        if version != VERSION {
            return Err(WorkspaceError::Layout { path: path.to_owned() });
        }
        Ok(state)
    }

    /// Opens one to read it. Not read-only for the file system's part: the first to come after a crash recovers it.
    pub fn open_to_read(path: &Path) -> Result<Self, WorkspaceError> {
        let state = Self::open(path)?;
        state.connection.pragma_update(None, "query_only", true).map_err(|source| state.error(source))?;
        Ok(state)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, WorkspaceError> {
        let error = |source| WorkspaceError::State { path: path.to_owned(), source };
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(error)?;
        connection.busy_timeout(BUSY).map_err(error)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(error)?;
        Ok(Self { path: path.to_owned(), connection })
    }

    pub(super) fn error(&self, source: rusqlite::Error) -> WorkspaceError {
        WorkspaceError::State { path: self.path.clone(), source }
    }

    /// What is written down.
    pub fn record(&self) -> Result<Record, WorkspaceError> {
        let text: String = self
            .connection
            .query_row("SELECT record FROM workspace", [], |row| row.get(0))
            .map_err(|source| self.error(source))?;
        serde_json::from_str(&text).map_err(|_| WorkspaceError::Layout { path: self.path.clone() })
    }

    /// Writes it down.
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

    /// Adds to the history.
    pub fn add_command(&self, command: &Command) -> Result<(), WorkspaceError> {
        self.execute(
            "INSERT INTO command VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                command.sequence,
                command.command,
                command.cwd,
                command.exit_code,
                command.duration_ms,
                command.recorded_at,
                command.stdout_bytes,
                command.stderr_bytes,
                command.stdout_truncated,
                command.stderr_truncated,
                command.interrupted,
            ],
        )
    }

    /// The history, the oldest first.
    pub fn commands(&self) -> Result<Vec<Command>, WorkspaceError> {
        self.rows(&format!("{COMMAND} ORDER BY sequence"), command)
    }

    /// The last of the history.
    pub fn last_command(&self) -> Result<Option<Command>, WorkspaceError> {
        let last =
            self.connection.query_row(&format!("{COMMAND} ORDER BY sequence DESC LIMIT 1"), [], command);
        last.optional().map_err(|source| self.error(source))
    }

    /// How many commands the history has.
    pub fn command_count(&self) -> Result<u64, WorkspaceError> {
        let count = self.connection.query_row("SELECT count(*) FROM command", [], |row| row.get(0));
        count.map_err(|source| self.error(source))
    }

    /// Adds a snapshot, whose file has its name, or replaces one.
    pub fn add_snapshot(&self, snapshot: &SnapshotInfo) -> Result<(), WorkspaceError> {
        self.execute(
            "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?, ?)",
            params![
                snapshot.snapshot_name,
                snapshot.kind,
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
            let (kind, memory): (String, bool) = (row.get(1)?, row.get(5)?);
            Ok(SnapshotInfo {
                workspace_id: id.clone(),
                snapshot_name: row.get(0)?,
                created_at: row.get(2)?,
                entry_count: row.get(3)?,
                bytes_written: row.get(4)?,
                deletable: kind != BASELINE,
                memory,
                contains_secrets: memory,
                kind,
            })
        })
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

fn command(row: &Row<'_>) -> rusqlite::Result<Command> {
    Ok(Command {
        sequence: row.get(0)?,
        command: row.get(1)?,
        cwd: row.get(2)?,
        exit_code: row.get(3)?,
        duration_ms: row.get(4)?,
        recorded_at: row.get(5)?,
        stdout_bytes: row.get(6)?,
        stderr_bytes: row.get(7)?,
        stdout_truncated: row.get(8)?,
        stderr_truncated: row.get(9)?,
        interrupted: row.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Wish;

    fn entry(sequence: u64) -> Command {
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

    #[test]
    fn what_is_written_is_read_by_another_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let mut record = Wish::new("debian:12").record("0123456789ab", "cafe", 1.0);
        let writer = State::create(&path, &record).unwrap();
        let reader = State::open_to_read(&path).unwrap();
        assert_eq!(reader.record().unwrap(), record);
        record.reset_count = 7;
        writer.save(&record).unwrap();
        writer.add_command(&entry(1)).unwrap();
        writer.add_command(&entry(2)).unwrap();
        assert_eq!(reader.record().unwrap(), record);
        assert_eq!(reader.commands().unwrap(), [entry(1), entry(2)]);
        assert_eq!(reader.last_command().unwrap(), Some(entry(2)));
        assert_eq!(reader.command_count().unwrap(), 2);
        assert!(reader.save(&record).is_err(), "a reader wrote");
    }

    #[test]
    fn a_database_whose_writer_was_killed_is_recovered_by_the_next_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let record = Wish::new("debian:12").record("0123456789ab", "cafe", 1.0);
        let writer = State::create(&path, &record).unwrap();
        writer.add_command(&entry(1)).unwrap();
        // As SIGKILL leaves it: the log beside the database, never checkpointed.
        let copy = dir.path().join("copy.sqlite");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(dir.path().join("state.sqlite-wal"), dir.path().join("copy.sqlite-wal")).unwrap();
        assert_eq!(State::open_to_read(&copy).unwrap().commands().unwrap(), [entry(1)]);
    }
}
