//! Shells and services as they are written down and shown.

use std::path::PathBuf;

use rusqlite::params;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::workspace::error::{WorkspaceError, check_bound};
use crate::workspace::store::layout::Home;
use crate::workspace::store::naming::nearest;
use crate::workspace::store::service_spec::ReadinessProbe;
use crate::workspace::store::spool;
use crate::workspace::store::state::State;
use crate::workspace::store::view::{Status, WorkspaceState};

/// Columns and lines of a terminal.
const SIZES: std::ops::RangeInclusive<u16> = 1..=1000;
/// Name of a shell's output, and names of a service's.
pub(crate) const OUT: &str = "out";
pub(crate) const STREAMS: [&str; 2] = ["stdout", "stderr"];
/// Why a job that is written down as running does not: nobody lived to write down its end.
const LOST: &str = "workspace_ended";

/// State of a shell or a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The process runs.
    Running,
    /// The process ended by itself.
    Exited,
    /// The process was ended from outside, or its guest was; a shell is stopped however it ended.
    Stopped,
    /// The service did not become ready.
    Failed,
}

/// As payloads name the state.
impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

/// Begin, state and end of a job, as they are written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobLife {
    pub(crate) state: JobState,
    /// Start, Unix seconds.
    pub(crate) started_at: f64,
    /// End, Unix seconds.
    pub(crate) ended_at: Option<f64>,
    /// Exit code; 128 and more when a signal ended it.
    pub(crate) exit_code: Option<i32>,
    /// Reason of an end from outside.
    #[serde(default)]
    pub(crate) stop_reason: Option<String>,
}

impl JobLife {
    /// A job that began at `now`, Unix seconds.
    pub(crate) fn begun(now: f64) -> Self {
        Self { state: JobState::Running, started_at: now, ended_at: None, exit_code: None, stop_reason: None }
    }
}

/// A shell as it is written down: in the database, and beside the memory of a checkpoint that it ran in. Front ends get a
/// [`Shell`](super::jobs_view::Shell).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShellRecord {
    /// 12 hexadecimal digits.
    pub(crate) shell_id: String,
    /// Directory that the shell began in.
    pub(crate) cwd: String,
    #[serde(flatten)]
    pub(crate) size: ShellSize,
    #[serde(flatten)]
    pub(crate) life: JobLife,
}

/// A service as it is written down: in the database, and beside the memory of a checkpoint that it ran in. Front ends get
/// a [`Service`](super::jobs_view::Service).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    /// Name, unique in its workspace.
    pub(crate) service_name: String,
    /// The command, redacted: a shell line, or a vector joined with shell quoting.
    pub(crate) command: String,
    /// Directory that the service began in.
    pub(crate) cwd: String,
    /// Process id in the guest.
    pub(crate) pid: Option<u32>,
    /// Probe that tells whether the service is ready.
    pub(crate) readiness: Option<ReadinessProbe>,
    /// Time it became ready, Unix seconds.
    pub(crate) ready_at: Option<f64>,
    #[serde(flatten)]
    pub(crate) life: JobLife,
}

/// Something that runs in a guest until it ends.
pub(crate) trait Job: Serialize + DeserializeOwned + Clone {
    /// How the database calls its kind.
    const KIND: &'static str;
    /// State of a job of this kind that ended by itself.
    const ENDED_BY_ITSELF: JobState;

    fn name(&self) -> &str;

    fn life(&self) -> &JobLife;

    fn life_mut(&mut self) -> &mut JobLife;

    fn is_running(&self) -> bool {
        self.life().state == JobState::Running
    }

    /// Records the end of the job, with `state` as its last.
    fn end(&mut self, state: JobState, now: f64, exit_code: Option<i32>, stop_reason: Option<String>) {
        let life = self.life_mut();
        *life = JobLife { state, started_at: life.started_at, ended_at: Some(now), exit_code, stop_reason };
    }

    /// Returns the job as it is where no guest runs: stopped.
    fn without_guest(mut self, now: f64) -> Self {
        if self.is_running() {
            self.end(JobState::Stopped, now, None, Some(LOST.into()));
        }
        self
    }
}

impl Job for ShellRecord {
    const KIND: &'static str = "shell";
    const ENDED_BY_ITSELF: JobState = JobState::Stopped;

    fn name(&self) -> &str {
        &self.shell_id
    }

    fn life(&self) -> &JobLife {
        &self.life
    }

    fn life_mut(&mut self) -> &mut JobLife {
        &mut self.life
    }
}

impl Job for ServiceRecord {
    const KIND: &'static str = "service";
    const ENDED_BY_ITSELF: JobState = JobState::Exited;

    fn name(&self) -> &str {
        &self.service_name
    }

    fn life(&self) -> &JobLife {
        &self.life
    }

    fn life_mut(&mut self) -> &mut JobLife {
        &mut self.life
    }
}

impl State {
    /// Writes a shell or a service down.
    pub(crate) fn save_job<J: Job>(&self, job: &J) -> Result<(), WorkspaceError> {
        let text = serde_json::to_string(job)
            .map_err(|error| self.error(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        self.execute(
            "INSERT INTO job VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
            params![J::KIND, job.name(), text],
        )
    }

    /// Forgets a job.
    pub(crate) fn remove_job<J: Job>(&self, name: &str) -> Result<(), WorkspaceError> {
        self.execute("DELETE FROM job WHERE kind = ? AND name = ?", params![J::KIND, name])
    }

    /// Reads all jobs of a kind, the oldest first. A record that cannot be read is left out.
    pub(crate) fn jobs<J: Job>(&self) -> Result<Vec<J>, WorkspaceError> {
        let query = format!("SELECT record FROM job WHERE kind = '{}' ORDER BY rowid", J::KIND);
        let texts = self.rows(&query, |row| row.get::<_, String>(0))?;
        Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }

    /// Finds a job by name.
    pub(crate) fn job<J: Job>(&self, name: &str) -> Result<Option<J>, WorkspaceError> {
        Ok(self.jobs::<J>()?.into_iter().find(|job| job.name() == name))
    }

    /// Marks as stopped, because of `reason`, every job that is written down as running.
    pub(crate) fn end_jobs<J: Job>(&self, now: f64, reason: &str) -> Result<(), WorkspaceError> {
        for mut job in self.jobs::<J>()? {
            if job.is_running() {
                job.end(JobState::Stopped, now, None, Some(reason.to_owned()));
                self.save_job(&job)?;
            }
        }
        Ok(())
    }
}

impl Home {
    /// Where a shell's output is kept.
    pub(crate) fn shell(&self, id: &str) -> PathBuf {
        self.path().join("shells").join(id)
    }

    /// Where a service's output is kept; its name was checked.
    pub(crate) fn service(&self, name: &str) -> PathBuf {
        self.path().join("services").join(name)
    }
}

/// Puts in order what an earlier keeper left: nothing runs any more, and output that belongs to nothing goes. The caller
/// holds the workspace's lock. Blocks.
pub(crate) fn sweep(home: &Home, state: &State, now: f64) -> Result<(), WorkspaceError> {
    state.end_jobs::<ShellRecord>(now, LOST)?;
    state.end_jobs::<ServiceRecord>(now, LOST)?;
    let shells: Vec<PathBuf> =
        state.jobs::<ShellRecord>()?.iter().map(|each| home.shell(&each.shell_id)).collect();
    let services = state.jobs::<ServiceRecord>()?;
    let services: Vec<PathBuf> = services.iter().map(|each| home.service(&each.service_name)).collect();
    for (dir, known) in [(home.shell(""), shells), (home.service(""), services)] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !known.contains(&entry.path()) {
                // A directory that cannot be removed now may be the next time.
                let _ = crate::workspace::store::spool::remove(&entry.path());
            }
        }
    }
    Ok(())
}

impl Status {
    /// Counts its services.
    pub(crate) fn count_services(&mut self, state: &State) -> Result<(), WorkspaceError> {
        self.count(&state.jobs::<ServiceRecord>()?);
        Ok(())
    }

    /// Counts its services, which were read already.
    pub(crate) fn count(&mut self, services: &[ServiceRecord]) {
        self.service_count = services.len() as u64;
        let runs = self.state == WorkspaceState::Started;
        self.running_service_count = services.iter().filter(|each| runs && each.is_running()).count() as u64;
    }
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellSize {
    /// Characters in a line.
    pub cols: u16,
    /// Lines of the terminal.
    pub rows: u16,
}

impl ShellSize {
    /// Returns the size unchanged, or refuses one out of bounds.
    pub(crate) fn checked(self) -> Result<Self, WorkspaceError> {
        check_bound("cols", u64::from(self.cols), &(1..=u64::from(*SIZES.end())))?;
        check_bound("rows", u64::from(self.rows), &(1..=u64::from(*SIZES.end())))?;
        Ok(self)
    }

    /// The nearest size that can be.
    pub(crate) fn nearest(self) -> Self {
        let within = |n: u16| n.clamp(*SIZES.start(), *SIZES.end());
        Self { cols: within(self.cols), rows: within(self.rows) }
    }
}

/// The shell of this id.
pub(crate) fn find_shell(mut shells: Vec<ShellRecord>, id: &str) -> Result<ShellRecord, WorkspaceError> {
    match shells.iter().position(|shell| shell.shell_id == id) {
        Some(at) => Ok(shells.swap_remove(at)),
        None => Err(WorkspaceError::ShellUnknown {
            id: id.to_owned(),
            there: shells.into_iter().map(|shell| shell.shell_id).collect(),
        }),
    }
}

/// Forgets a job that has ended, and its output. The caller holds the workspace's lock. Blocks.
pub(crate) fn forget_shell(home: &Home, state: &State, id: &str) -> Result<(), WorkspaceError> {
    // The row first: what has one has its output.
    state.remove_job::<ShellRecord>(id)?;
    let dir = home.shell(id);
    spool::remove(&dir).map_err(|error| WorkspaceError::file(&dir, "removed", error))
}

/// The service of this name.
pub(crate) fn find_service(
    mut services: Vec<ServiceRecord>,
    name: &str,
) -> Result<ServiceRecord, WorkspaceError> {
    match services.iter().position(|service| service.service_name == name) {
        Some(at) => Ok(services.swap_remove(at)),
        None => {
            let near = nearest(name, services.into_iter().map(|service| service.service_name), 3);
            Err(WorkspaceError::ServiceUnknown { name: name.to_owned(), near })
        }
    }
}

/// The last `most` lines, and whether there are more. Where something `before` them is gone, a line that lacks its
/// beginning is left out.
pub(crate) fn last_lines(bytes: &[u8], most: usize, before: bool) -> (String, bool) {
    let whole = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if before => &bytes[end + 1..],
        _ => bytes,
    };
    let body = whole.strip_suffix(b"\n").unwrap_or(whole);
    if most == 0 {
        return (String::new(), !whole.is_empty());
    }
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let from = ends.map(|(at, _)| at + 1).nth(most - 1).unwrap_or(0);
    (String::from_utf8_lossy(&whole[from..]).into_owned(), from > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::store::record::WorkspaceSpec;

    fn shell(id: &str, now: f64) -> ShellRecord {
        ShellRecord {
            shell_id: id.into(),
            cwd: "/workspace".into(),
            size: ShellSize { cols: 80, rows: 24 },
            life: JobLife::begun(now),
        }
    }

    /// Rows that builds before wrote were the payloads themselves.
    #[test]
    fn rows_of_earlier_builds_are_read() {
        let row = r#"{"workspace_id":"0123456789ab","shell_id":"ab12","cwd":"/","cols":80,"rows":24,"state":"running",
            "started_at":1.0,"ended_at":null,"exit_code":null,"execution_mode":"guest_vsock"}"#;
        let read: ShellRecord = serde_json::from_str(row).unwrap();
        assert_eq!(read, ShellRecord { shell_id: "ab12".into(), cwd: "/".into(), ..shell("", 1.0) });
        let row = r#"{"workspace_id":"0123456789ab","service_name":"web","state":"failed","command":"true","cwd":"/",
            "started_at":1.0,"ended_at":2.0,"exit_code":143,"pid":7,"execution_mode":"guest_vsock",
            "readiness":{"type":"tcp","address":"80"},"ready_at":null,"stop_reason":"late","published_ports":[]}"#;
        let read: ServiceRecord = serde_json::from_str(row).unwrap();
        assert_eq!((read.life.state, read.life.exit_code, read.pid), (JobState::Failed, Some(143), Some(7)));
        assert_eq!(read.life.stop_reason.as_deref(), Some("late"));
    }

    #[test]
    fn jobs_are_written_down_in_order_and_nothing_runs_without_a_guest() {
        let dir = tempfile::tempdir().unwrap();
        let record = WorkspaceSpec::new("debian:12").record("0123456789ab", "cafe", 1.0);
        let state = State::create(&dir.path().join("state.sqlite"), &record).unwrap();
        let shell = |id: &str| shell(id, 1.0);
        for id in ["b", "a", "c"] {
            state.save_job(&shell(id)).unwrap();
        }
        let mut first = shell("b");
        first.end(JobState::Stopped, 2.0, Some(129), None);
        state.save_job(&first).unwrap();
        let ids = || state.jobs::<ShellRecord>().unwrap().into_iter().map(|s| s.shell_id).collect::<Vec<_>>();
        assert_eq!(ids(), ["b", "a", "c"]);
        assert_eq!(state.jobs::<ServiceRecord>().unwrap(), []);
        state.remove_job::<ServiceRecord>("a").unwrap();
        state.remove_job::<ShellRecord>("c").unwrap();
        assert_eq!(ids(), ["b", "a"]);
        assert_eq!(first.clone().without_guest(9.0), first);
        assert_eq!(shell("a").without_guest(9.0).life.state, JobState::Stopped);
        state.end_jobs::<ShellRecord>(3.0, "workspace_reset").unwrap();
        let ended = state.job::<ShellRecord>("a").unwrap().unwrap();
        assert_eq!(
            (ended.life.ended_at, ended.life.stop_reason.as_deref()),
            (Some(3.0), Some("workspace_reset"))
        );
        assert_eq!(state.job::<ShellRecord>("b").unwrap().unwrap(), first);
    }

    #[test]
    fn output_without_an_owner_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("0123456789ab"));
        std::fs::create_dir(home.path()).unwrap();
        let record = WorkspaceSpec::new("debian:12").record("0123456789ab", "cafe", 1.0);
        let state = State::create(&home.state_path(), &record).unwrap();
        sweep(&home, &state, 1.0).unwrap();
        for id in ["kept", "gone"] {
            std::fs::create_dir_all(home.shell(id)).unwrap();
            std::fs::create_dir_all(home.service(id)).unwrap();
        }
        state.save_job(&shell("kept", 1.0)).unwrap();
        sweep(&home, &state, 2.0).unwrap();
        assert!(home.shell("kept").exists() && !home.shell("gone").exists());
        assert!(!home.service("kept").exists());
        let kept = state.job::<ShellRecord>("kept").unwrap().unwrap();
        assert_eq!((kept.life.state, kept.life.ended_at), (JobState::Stopped, Some(2.0)));
    }

    #[test]
    fn the_last_lines_are_the_last_lines() {
        let lines = |bytes: &str, most| last_lines(bytes.as_bytes(), most, false);
        assert_eq!(lines("a\nb\nc\n", 2), ("b\nc\n".into(), true));
        assert_eq!(lines("a\nb\nc", 2), ("b\nc".into(), true));
        assert_eq!(lines("a\nb\n", 2), ("a\nb\n".into(), false));
        assert_eq!(lines("a\n\n\n", 2), ("\n\n".into(), true));
        assert_eq!(lines("", 2), (String::new(), false));
        assert_eq!(lines("a\n", 0), (String::new(), true));
        assert_eq!(lines("a\nb\n", usize::MAX), ("a\nb\n".into(), false));
        assert_eq!(last_lines(b"half\nwhole\n", 9, true), ("whole\n".into(), false));
    }
}
