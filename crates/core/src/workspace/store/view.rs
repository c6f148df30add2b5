//! Payloads about a workspace: the contract's fields, and ours added.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::workspace::error::WorkspaceError;
use crate::workspace::life::{Phase, expires_at};
use crate::workspace::store::record::{Command, Record, SecretInfo, Seed, WORKSPACE_PATH};
use crate::workspace::store::state::{BASELINE, State};

/// How commands of a workspace run: in a guest, or not at all.
pub const EXECUTION_MODE: &str = "guest_vsock";

/// State of a workspace as payloads have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceState {
    /// Guest is coming up.
    Starting,
    /// Guest answers calls.
    Started,
    /// Disk is being put back, the guest started anew.
    Resetting,
    /// Guest is being ended.
    Stopping,
    /// Nothing runs; its disk and history stay.
    Stopped,
    /// Workspace is about to be gone.
    Deleting,
    /// Guest does not answer, or its keeper does not and whether a guest runs is not known.
    Unresponsive,
}

impl From<Phase> for WorkspaceState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Starting => Self::Starting,
            Phase::Running => Self::Started,
            Phase::Resetting => Self::Resetting,
            Phase::Stopping => Self::Stopping,
            Phase::Stopped => Self::Stopped,
            Phase::Deleting => Self::Deleting,
        }
    }
}

/// As payloads name the state.
impl std::fmt::Display for WorkspaceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => Phase::Starting.name(),
            Self::Started => Phase::Running.name(),
            Self::Resetting => Phase::Resetting.name(),
            Self::Stopping => Phase::Stopping.name(),
            Self::Stopped => Phase::Stopped.name(),
            Self::Deleting => Phase::Deleting.name(),
            Self::Unresponsive => "unresponsive",
        })
    }
}

/// The last command of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastCommand {
    /// Number in the history, 1 for the first.
    pub sequence: u64,
    /// Command line as it was given.
    pub command: String,
    /// Directory that the command ran in.
    pub cwd: String,
    /// Exit code of the command.
    pub exit_code: i32,
    /// Duration of the command, milliseconds.
    pub duration_ms: u64,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: String,
}

impl From<&Command> for LastCommand {
    fn from(command: &Command) -> Self {
        Self {
            sequence: command.sequence,
            command: command.command.clone(),
            cwd: command.cwd.clone(),
            exit_code: command.exit_code,
            duration_ms: command.duration_ms,
            execution_mode: EXECUTION_MODE.into(),
        }
    }
}

/// Everything about one workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// 12 hexadecimal digits.
    pub workspace_id: String,
    /// Name that people call it by.
    pub name: Option<String>,
    /// Labels that people gave it.
    pub labels: BTreeMap<String, String>,
    /// The environment's name.
    pub environment: String,
    /// The environment's version.
    pub environment_version: Option<String>,
    /// Virtual CPUs of the guest.
    pub vcpu_count: u32,
    /// Memory of the guest, MiB.
    pub mem_mib: u32,
    /// Time to live, seconds; 0 for none.
    pub ttl_seconds: u64,
    /// Creation, Unix seconds.
    pub created_at: f64,
    /// Last activity, Unix seconds.
    pub last_activity_at: f64,
    /// When it is stopped if nothing happens, Unix seconds. Absent without a time to live.
    pub expires_at: Option<f64>,
    /// State of the workspace.
    pub state: WorkspaceState,
    /// Always `off`: no network.
    pub network_policy: String,
    /// Whether it has outbound access.
    pub network_enabled: bool,
    /// Accepted and never needed.
    pub allow_host_compat: bool,
    /// Always absent: a guest has no address of its own.
    pub guest_ip: Option<String>,
    /// Always absent: a guest has no network interface on the host.
    pub tap_name: Option<String>,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: String,
    /// VMM that runs the guest, or ran it last.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Path in the guest, always `/workspace`.
    pub workspace_path: String,
    /// Content of `/workspace` at the beginning.
    pub workspace_seed: Seed,
    /// Secrets, without their values.
    pub secrets: Vec<SecretInfo>,
    /// How many commands were run.
    pub command_count: u64,
    /// Last command of the history.
    pub last_command: Option<LastCommand>,
    /// How often it was reset.
    pub reset_count: u64,
    /// Last reset, Unix seconds.
    pub last_reset_at: Option<f64>,
    /// How many services it has.
    pub service_count: u64,
    /// Number of running services.
    pub running_service_count: u64,
    /// Remarks about the start and the end of the guest.
    pub metadata: BTreeMap<String, String>,
    /// Process id of the keeper, while one lives.
    pub keeper_pid: Option<u32>,
}

impl Status {
    pub(crate) fn new(record: Record, phase: Phase, commands: u64, last: Option<&Command>) -> Self {
        Self {
            expires_at: expires_at(record.last_activity_at, record.ttl_seconds as f64),
            workspace_id: record.id,
            name: record.name,
            labels: record.labels,
            environment: record.environment,
            environment_version: Some(record.environment_version),
            vcpu_count: record.vcpu_count,
            mem_mib: record.mem_mib,
            ttl_seconds: record.ttl_seconds,
            created_at: record.created_at,
            last_activity_at: record.last_activity_at,
            state: phase.into(),
            network_policy: "off".into(),
            network_enabled: false,
            allow_host_compat: record.allow_host_compat,
            guest_ip: None,
            tap_name: None,
            execution_mode: EXECUTION_MODE.into(),
            backend: record.backend,
            accelerator: record.accelerator,
            workspace_path: WORKSPACE_PATH.into(),
            workspace_seed: record.seed,
            secrets: record.secrets,
            command_count: commands,
            last_command: last.map(LastCommand::from),
            reset_count: record.reset_count,
            last_reset_at: record.last_reset_at,
            service_count: 0,
            running_service_count: 0,
            metadata: record.metadata,
            keeper_pid: None,
        }
    }

    /// Says that a guest runs and does not answer, and why.
    pub(crate) fn guest_is_unresponsive(&mut self, why: String) {
        if self.state == WorkspaceState::Started {
            self.state = WorkspaceState::Unresponsive;
            self.metadata.insert("guest".into(), why);
        }
    }

    /// Everything about a workspace that no keeper has.
    pub(crate) fn stopped(state: &State) -> Result<Self, WorkspaceError> {
        let (record, count, last) = (state.record()?, state.command_count()?, state.last_command()?);
        let mut status = Self::new(record, Phase::Stopped, count, last.as_ref());
        status.count_services(state)?;
        Ok(status)
    }
}

/// Workspace in a list.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Listed {
    /// 12 hexadecimal digits.
    pub workspace_id: String,
    /// Name that people call it by.
    pub name: Option<String>,
    /// Labels that people gave it.
    pub labels: BTreeMap<String, String>,
    /// The environment's name.
    pub environment: String,
    /// State of the workspace.
    pub state: WorkspaceState,
    /// Creation, Unix seconds.
    pub created_at: f64,
    /// Last activity, Unix seconds.
    pub last_activity_at: f64,
    /// Time of the stop if nothing happens, Unix seconds.
    pub expires_at: Option<f64>,
    /// How many commands were run.
    pub command_count: u64,
    /// How many services it has.
    pub service_count: u64,
    /// Number of running services.
    pub running_service_count: u64,
}

impl From<Status> for Listed {
    fn from(status: Status) -> Self {
        Self {
            workspace_id: status.workspace_id,
            name: status.name,
            labels: status.labels,
            environment: status.environment,
            state: status.state,
            created_at: status.created_at,
            last_activity_at: status.last_activity_at,
            expires_at: status.expires_at,
            command_count: status.command_count,
            service_count: status.service_count,
            running_service_count: status.running_service_count,
        }
    }
}

/// Payload of `workspace list`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct List {
    /// Number of readable workspaces.
    pub count: usize,
    /// Readable workspaces, the last used first.
    pub workspaces: Vec<Listed>,
    /// Workspaces whose state cannot be read, such as one that a newer pyro made.
    pub unreadable: Vec<Unreadable>,
}

/// A workspace that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Unreadable {
    /// 12 hexadecimal digits.
    pub workspace_id: String,
    /// Cause of the failure.
    pub error: String,
}

/// Origin of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// Disk as it was when the workspace was made.
    Baseline,
    /// Copy that somebody asked for and named.
    Named,
}

impl SnapshotKind {
    /// Kind of the snapshot called `name`.
    pub(crate) fn of(name: &str) -> Self {
        if name == BASELINE { Self::Baseline } else { Self::Named }
    }
}

impl std::fmt::Display for SnapshotKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Baseline => BASELINE,
            Self::Named => "named",
        })
    }
}

/// Snapshot: a copy of a workspace's disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotInfo {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Name of the snapshot.
    pub snapshot_name: String,
    /// Origin of the snapshot.
    pub kind: SnapshotKind,
    /// Creation, Unix seconds.
    pub created_at: f64,
    /// How many files and directories the disk held beyond those of a blank one.
    pub entry_count: u64,
    /// Bytes of the host's disk that it takes; less where files share blocks.
    pub bytes_written: u64,
    /// Whether it can be deleted.
    pub deletable: bool,
    /// Whether the guest's memory is kept with it: its processes come back.
    #[serde(default)]
    pub memory: bool,
    /// Whether it may hold what is secret: all that the guest's memory held.
    #[serde(default)]
    pub contains_secrets: bool,
}

/// Payload of `workspace snapshot create`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SnapshotCreated {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Snapshot that was made.
    pub snapshot: SnapshotInfo,
    /// How long the guest stood still for its memory to be kept, ms; null where only its disk was, which it does not
    /// stand still for.
    pub paused_ms: Option<f64>,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
}

/// Payload of `workspace snapshot list`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SnapshotList {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Number of snapshots.
    pub count: usize,
    /// Snapshots, the oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// Payload of `workspace snapshot delete`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotDeleted {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Name of the snapshot.
    pub snapshot_name: String,
    /// Always true: the snapshot is gone.
    pub deleted: bool,
}

/// Payload of `workspace reset`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Reset {
    /// Status of the workspace after the reset.
    #[serde(flatten)]
    pub status: Status,
    /// Snapshot that the disk was taken from.
    pub workspace_reset: ResetTo,
}

/// Snapshot that a workspace was reset to.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ResetTo {
    /// Name of the snapshot.
    pub snapshot_name: String,
    /// Origin of the snapshot.
    pub kind: SnapshotKind,
    /// `/workspace`; all of the guest is reset with it.
    pub destination: &'static str,
    /// Files and directories that the snapshot held.
    pub entry_count: u64,
    /// Bytes that the snapshot takes on the host's disk.
    pub bytes_written: u64,
}

/// Payload of `workspace delete`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Deleted {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Always true: nothing of the workspace is left.
    pub deleted: bool,
    /// Reason of the deletion.
    pub reason: &'static str,
}

/// Payload of `workspace exec`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExecReport {
    /// Id of the workspace.
    pub workspace_id: String,
    /// The environment's name.
    pub environment: String,
    /// The environment's version.
    pub environment_version: Option<String>,
    /// The command: a shell line, or a vector joined with shell quoting.
    pub command: String,
    /// Directory that the command ran in.
    pub cwd: String,
    /// Number in the history, 1 for the first.
    pub sequence: u64,
    /// Kept part of standard output, as text; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Bytes of standard output, all of them.
    pub stdout_bytes: u64,
    /// Whether only the first and the last MiB were kept.
    pub stdout_truncated: bool,
    /// Kept part of standard error, as text.
    pub stderr: String,
    /// Bytes of standard error, all of them.
    pub stderr_bytes: u64,
    /// Whether only the first and the last MiB were kept.
    pub stderr_truncated: bool,
    /// Exit code; 124 when its time was up, 128 and more when a signal killed it.
    pub exit_code: i32,
    /// Whether the command was killed because its time was up.
    pub timed_out: bool,
    /// Duration of the command, milliseconds.
    pub duration_ms: u64,
    /// Duration, as exactly as the guest tells it.
    #[serde(skip)]
    pub duration: Duration,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: String,
    /// `qemu` or `firecracker`.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Why the history lacks the command or its output, as when this host's disk is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<String>,
}

/// History of a workspace's commands.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Logs {
    /// Numbers of shown, omitted and dropped commands.
    #[serde(flatten)]
    pub head: LogsHead,
    /// Commands, the oldest first.
    pub entries: Vec<LogEntry>,
}

/// How much of a history is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LogsHead {
    /// Id of the workspace.
    pub workspace_id: String,
    /// How many commands are shown.
    pub count: u64,
    /// Number of commands that were run.
    pub command_count: u64,
    /// Number of older commands that are kept and were not asked for.
    pub omitted_count: u64,
    /// Number of still older commands that are not kept any more.
    pub dropped_count: u64,
}

/// Command of the history.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LogEntry {
    /// 1 for the first.
    pub sequence: u64,
    /// Command line as it was given.
    pub command: String,
    /// Directory that the command ran in.
    pub cwd: String,
    /// Exit code of the command.
    pub exit_code: i32,
    /// Duration of the command, milliseconds.
    pub duration_ms: u64,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
    /// The file with what was kept of standard output, byte for byte.
    pub stdout_file: String,
    /// The file with what was kept of standard error.
    pub stderr_file: String,
    /// End, Unix seconds.
    pub recorded_at: f64,
    /// Kept part of standard output, as text.
    pub stdout: String,
    /// Kept part of standard error, as text.
    pub stderr: String,
    /// Bytes of standard output, all of them.
    pub stdout_bytes: u64,
    /// Bytes of standard error, all of them.
    pub stderr_bytes: u64,
    /// Whether only the first and the last MiB of standard output were kept.
    pub stdout_truncated: bool,
    /// Whether only the first and the last MiB of standard error were kept.
    pub stderr_truncated: bool,
    /// Cause of a command's early end: `timeout`, `cancelled`, or what ended the guest.
    pub interrupted: Option<String>,
}
