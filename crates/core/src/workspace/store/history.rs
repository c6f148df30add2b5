//! The history: every command with what was kept of its output, the newest of them.
//!
//! ```text
//!   a command ends --> its output's files --> its row, and the oldest rows go, in one transaction --> their files go
//! ```
//!
//! So a row always has its files, but while it is read by somebody whose reading began before it went; files without a row
//! are swept at the next start.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rusqlite::{Connection, Row, params};

use crate::workspace::error::WorkspaceError;
use crate::workspace::store::layout::{self, Home};
use crate::workspace::store::record::Command;
use crate::workspace::store::state::State;
use crate::workspace::store::view::{EXECUTION_MODE, LogEntry, LogsHead};

/// SQL that adds bounds to a history without them.
pub(super) const BOUNDS: &str = "
    ALTER TABLE command ADD COLUMN kept_bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE command SET kept_bytes =
        length(CAST(command AS BLOB)) + min(stdout_bytes, 2097408) + min(stderr_bytes, 2097408);
    CREATE TABLE history (
        one INTEGER PRIMARY KEY CHECK (one = 1), commands INTEGER NOT NULL, bytes INTEGER NOT NULL,
        dropped INTEGER NOT NULL
    ) STRICT;
    INSERT INTO history SELECT 1, count(*), coalesce(sum(kept_bytes), 0), 0 FROM command;
";
/// The version of the database that has them.
const BOUNDED: i32 = 2;
const COMMAND: &str = "SELECT sequence, command, cwd, exit_code, duration_ms, recorded_at, stdout_bytes, stderr_bytes, \
                       stdout_truncated, stderr_truncated, interrupted FROM command";
/// Longest kept stream: the first and the last MiB, and a line between them.
const KEPT: u64 = (2 * crate::capture::KEPT as u64) + 256;

/// How much is kept of a history; the newest command always is.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Commands, at most.
    pub commands: u64,
    /// Bytes of command lines and output together, at most.
    pub bytes: u64,
}

impl Bounds {
    /// Bounds of every workspace.
    pub const ALL: Self = Self { commands: 10_000, bytes: 256 << 20 };
}

/// How much there is of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Commands that are kept.
    pub commands: u64,
    /// Older ones that are not any more.
    pub dropped: u64,
}

impl State {
    /// Adds to the history a command whose output, so many bytes of it, is kept; gives the numbers of those that went
    /// for it, whose output is to go now.
    pub fn add_command(
        &self,
        command: &Command,
        output_bytes: u64,
        bounds: Bounds,
    ) -> Result<Vec<u64>, WorkspaceError> {
        self.change(|connection| {
            let bytes = output_bytes + command.command.len() as u64;
            let insert = "INSERT INTO command VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            connection.prepare_cached(insert)?.execute(params![
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
                bytes,
            ])?;
            // By its key, or SQLite keeps what it would take to undo this alone.
            let grow = "UPDATE history SET commands = commands + 1, bytes = bytes + ? WHERE one = 1";
            connection.prepare_cached(grow)?.execute([bytes])?;
            drop_oldest(connection, bounds)
        })
    }

    /// How much there is of the history.
    pub fn extent(&self) -> Result<Extent, WorkspaceError> {
        let extent = |row: &Row<'_>| Ok(Extent { commands: row.get(0)?, dropped: row.get(1)? });
        let query = match self.version() {
            BOUNDED.. => "SELECT commands, dropped FROM history",
            _ => "SELECT count(*), 0 FROM command",
        };
        self.row(query, [], extent).map(|found| found.unwrap_or(Extent { commands: 0, dropped: 0 }))
    }

    /// How many commands were run, those that are not kept any more included.
    pub fn command_count(&self) -> Result<u64, WorkspaceError> {
        self.extent().map(|Extent { commands, dropped }| commands + dropped)
    }

    /// Reads the last command of the history.
    pub fn last_command(&self) -> Result<Option<Command>, WorkspaceError> {
        self.row(&format!("{COMMAND} ORDER BY sequence DESC LIMIT 1"), [], command)
    }

    /// Reads the first command after number `after`, which may be any.
    pub fn next_command(&self, after: u64) -> Result<Option<Command>, WorkspaceError> {
        // Larger numbers than the database can hold are given to no command.
        let Ok(after) = i64::try_from(after) else { return Ok(None) };
        self.row(&format!("{COMMAND} WHERE sequence > ? ORDER BY sequence LIMIT 1"), [after], command)
    }

    /// The number of the one before the last `count`; 0 where there are not more.
    fn before_last(&self, count: u64) -> Result<u64, WorkspaceError> {
        let query = "SELECT sequence FROM command ORDER BY sequence DESC LIMIT 1 OFFSET ?";
        self.row(query, [count], |row| row.get(0)).map(Option::unwrap_or_default)
    }
}

/// Forgets the oldest commands until the history is within its bounds; gives their numbers.
fn drop_oldest(connection: &Connection, bounds: Bounds) -> rusqlite::Result<Vec<u64>> {
    let extent = "SELECT commands, bytes FROM history";
    let (mut commands, mut bytes): (u64, u64) =
        connection.prepare_cached(extent)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut dropped = Vec::new();
    let oldest = "SELECT sequence, kept_bytes FROM command \
                  WHERE sequence < (SELECT max(sequence) FROM command) ORDER BY sequence";
    let mut oldest = connection.prepare_cached(oldest)?;
    let mut rows = oldest.query([])?;
    while commands > bounds.commands || bytes > bounds.bytes {
        let Some(row) = rows.next()? else { break };
        dropped.push(row.get(0)?);
        commands -= 1;
        bytes = bytes.saturating_sub(row.get(1)?);
    }
    drop(rows);
    if let Some(last) = dropped.last() {
        connection.prepare_cached("DELETE FROM command WHERE sequence <= ?")?.execute([last])?;
        let shrink = "UPDATE history SET commands = ?, bytes = ?, dropped = dropped + ? WHERE one = 1";
        connection.prepare_cached(shrink)?.execute([commands, bytes, dropped.len() as u64])?;
    }
    Ok(dropped)
}

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

impl Home {
    /// Removes what was kept of the output of these commands, which are in the history no more. Blocks.
    pub(crate) fn forget_output(&self, sequences: &[u64]) -> Result<(), WorkspaceError> {
        for sequence in sequences {
            for stream in ["stdout", "stderr"] {
                layout::remove_if_there(&self.output(*sequence, stream))?;
            }
        }
        Ok(())
    }
}

/// A history as it was at one moment, read command by command.
pub struct LogReader {
    home: Home,
    state: State,
    head: LogsHead,
    at: u64,
}

impl LogReader {
    pub(crate) fn new(home: Home, tail: Option<u64>) -> Result<Self, WorkspaceError> {
        let state = home.read()?;
        // Commands that are dropped meanwhile are still seen, so that the count is right; their output may be gone.
        state.begin_reading()?;
        let Extent { commands, dropped } = state.extent()?;
        let count = tail.map_or(commands, |tail| tail.min(commands));
        let at = if count < commands { state.before_last(count)? } else { 0 };
        let head = LogsHead {
            workspace_id: home.id(),
            count,
            command_count: commands + dropped,
            omitted_count: commands - count,
            dropped_count: dropped,
        };
        Ok(Self { home, state, head, at })
    }

    /// Counts of the history's commands, without its entries.
    pub fn head(&self) -> &LogsHead {
        &self.head
    }

    /// Leaves out what came before a command.
    pub fn skip_to(&mut self, sequence: u64) {
        self.at = self.at.max(sequence.saturating_sub(1));
    }

    /// The next entry, the oldest first.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry>, WorkspaceError> {
        if self.head.count == 0 {
            return Ok(None);
        }
        let Some(command) = self.state.next_command(self.at)? else { return Ok(None) };
        self.at = command.sequence;
        let stream = |name| {
            let path = self.home.output(command.sequence, name);
            (read_text(&path), path.display().to_string())
        };
        let ((stdout, stdout_file), (stderr, stderr_file)) = (stream("stdout"), stream("stderr"));
        let gone = |text: &str, bytes: u64| text.is_empty() && bytes > 0;
        Ok(Some(LogEntry {
            sequence: command.sequence,
            cwd: command.cwd,
            exit_code: command.exit_code,
            duration_ms: command.duration_ms,
            execution_mode: EXECUTION_MODE,
            stdout_file,
            stderr_file,
            recorded_at: command.recorded_at,
            stdout_truncated: command.stdout_truncated || gone(&stdout, command.stdout_bytes),
            stderr_truncated: command.stderr_truncated || gone(&stderr, command.stderr_bytes),
            stdout,
            stderr,
            command: command.command,
            stdout_bytes: command.stdout_bytes,
            stderr_bytes: command.stderr_bytes,
            interrupted: command.interrupted,
        }))
    }
}

/// A kept stream as text. One without a file was empty.
fn read_text(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(KEPT).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::store::record::WorkspaceSpec;
    use crate::workspace::store::state::tests::entry;

    const SMALL: Bounds = Bounds { commands: 3, bytes: 100 };

    fn new() -> (tempfile::TempDir, Home, State) {
        let dir = tempfile::tempdir().unwrap();
        let (home, _held) = Home::draft(dir.path(), "0123456789ab").unwrap();
        let record = WorkspaceSpec::new("debian:12").record("0123456789ab", "cafe", 1.0);
        let state = State::create(&home.state_path(), &record).unwrap();
        (dir, home, state)
    }

    fn sequences(home: &Home, tail: Option<u64>) -> (LogsHead, Vec<u64>) {
        let mut reader = LogReader::new(home.clone(), tail).unwrap();
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            found.push(entry.sequence);
        }
        (reader.head, found)
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let (_dir, home, state) = new();
        assert_eq!(sequences(&home, None).1, [0; 0]);
        for (sequence, bytes, dropped) in [
            (1, 10, vec![]),
            (2, 10, vec![]),
            (3, 10, vec![]),
            (4, 10, vec![1]),
            // Numbers may be missing: of what was being run when a keeper was killed.
            (7, 10, vec![2]),
            // The bytes of command lines count too.
            (8, 70, vec![3, 4]),
            // The command alone is too much, and is kept all the same.
            (9, 1000, vec![7, 8]),
            (10, 0, vec![9]),
            // The command began long ago and ends now.
            (5, 5000, vec![5]),
        ] {
            assert_eq!(state.add_command(&entry(sequence), bytes, SMALL).unwrap(), dropped, "{sequence}");
        }
        assert_eq!(state.extent().unwrap(), Extent { commands: 1, dropped: 8 });
        assert_eq!(state.last_command().unwrap(), Some(entry(10)));
        assert_eq!((state.command_count().unwrap(), sequences(&home, None).1), (9, vec![10]));
    }

    #[test]
    fn a_number_that_no_command_has_finds_none() {
        let (_dir, home, state) = new();
        state.add_command(&entry(1), 0, SMALL).unwrap();
        for number in [2, 1 << 62, i64::MAX as u64, i64::MAX as u64 + 1, i64::MAX as u64 + 2, u64::MAX] {
            let mut reader = LogReader::new(home.clone(), None).unwrap();
            reader.skip_to(number);
            assert!(reader.next_entry().unwrap().is_none(), "{number}");
            assert_eq!(sequences(&home, Some(number)).1, [1], "{number}");
        }
    }

    #[test]
    fn the_last_are_read_alone_and_a_reading_is_of_one_moment() {
        let (_dir, home, state) = new();
        for sequence in [1, 2, 4] {
            state.add_command(&entry(sequence), 0, SMALL).unwrap();
            std::fs::write(home.output(sequence, "stderr"), "nine byte").unwrap();
        }
        for (tail, wanted) in [(0, &[][..]), (1, &[4]), (2, &[2, 4]), (3, &[1, 2, 4]), (9, &[1, 2, 4])] {
            let (head, found) = sequences(&home, Some(tail));
            assert_eq!((head.count, head.omitted_count), (wanted.len() as u64, 3 - head.count));
            assert_eq!(found, wanted, "{tail}");
        }
        let mut reader = LogReader::new(home.clone(), None).unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().stderr, "nine byte");
        let dropped = state.add_command(&entry(5), 90, SMALL).unwrap();
        home.forget_output(&dropped).unwrap();
        let rest: Vec<_> = std::iter::from_fn(|| reader.next_entry().unwrap()).collect();
        assert_eq!(rest.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [2, 4]);
        // A command whose output went meanwhile does not look as if it had been silent.
        assert!(rest[0].stderr.is_empty() && rest[0].stderr_truncated);
        assert_eq!((reader.head().count, reader.head().dropped_count), (3, 0));
        assert_eq!(sequences(&home, None).0.dropped_count, 2);
    }
}
