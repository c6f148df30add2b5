//! Payloads about shells and services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::jobs::{JobState, ServiceRecord, ShellRecord};
use super::service_spec::ReadinessProbe;
use super::view::EXECUTION_MODE;

/// A terminal session that stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Shell {
    /// Id of the workspace.
    pub workspace_id: String,
    /// 12 hexadecimal digits.
    pub shell_id: String,
    /// Directory that the shell began in.
    pub cwd: String,
    /// Characters in a line of its terminal.
    pub cols: u16,
    /// Lines of its terminal.
    pub rows: u16,
    /// `running` or `stopped`.
    pub state: JobState,
    /// Start, Unix seconds.
    pub started_at: f64,
    /// End, Unix seconds.
    pub ended_at: Option<f64>,
    /// Exit code; 128 and more when a signal ended it.
    pub exit_code: Option<i32>,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: String,
    /// Reason of an end from outside.
    pub stop_reason: Option<String>,
}

impl Shell {
    /// Shows a shell of the workspace `workspace_id`.
    pub(crate) fn new(workspace_id: String, record: ShellRecord) -> Self {
        let ShellRecord { shell_id, cwd, size, life } = record;
        Self {
            workspace_id,
            shell_id,
            cwd,
            cols: size.cols,
            rows: size.rows,
            state: life.state,
            started_at: life.started_at,
            ended_at: life.ended_at,
            exit_code: life.exit_code,
            execution_mode: EXECUTION_MODE.into(),
            stop_reason: life.stop_reason,
        }
    }
}

/// A process that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Name, unique in its workspace.
    pub service_name: String,
    /// State of the service.
    pub state: JobState,
    /// The command: a shell line, or a vector joined with shell quoting.
    pub command: String,
    /// Directory that the service began in.
    pub cwd: String,
    /// Start, Unix seconds.
    pub started_at: f64,
    /// End, Unix seconds.
    pub ended_at: Option<f64>,
    /// Exit code; 128 and more when a signal ended it.
    pub exit_code: Option<i32>,
    /// Process id in the guest.
    pub pid: Option<u32>,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: String,
    /// Probe that told whether the service is ready.
    pub readiness: Option<ReadinessProbe>,
    /// Time it became ready, Unix seconds.
    pub ready_at: Option<f64>,
    /// Reason of an end from outside.
    pub stop_reason: Option<String>,
    /// Ports published on this host.
    pub published_ports: Vec<u16>,
}

impl Service {
    /// Shows a service of the workspace `workspace_id`.
    pub(crate) fn new(workspace_id: String, record: ServiceRecord) -> Self {
        let ServiceRecord { service_name, command, cwd, pid, readiness, ready_at, life } = record;
        Self {
            workspace_id,
            service_name,
            state: life.state,
            command,
            cwd,
            started_at: life.started_at,
            ended_at: life.ended_at,
            exit_code: life.exit_code,
            pid,
            execution_mode: EXECUTION_MODE.into(),
            readiness,
            ready_at,
            stop_reason: life.stop_reason,
            published_ports: Vec::new(),
        }
    }
}

/// Payload of `workspace shell write`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellWritten {
    /// Shell that got the input.
    #[serde(flatten)]
    pub shell: Shell,
    /// Characters of the input, the line's end not counted.
    pub input_length: usize,
    /// Whether the line was ended.
    pub append_newline: bool,
}

/// Payload of `workspace shell read`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellRead {
    /// Shell that was read.
    #[serde(flatten)]
    pub shell: Shell,
    /// From which byte on was asked for.
    pub cursor: u64,
    /// From which byte on to ask next.
    pub next_cursor: u64,
    /// The output; bytes that are not UTF-8 are replaced.
    pub output: String,
    /// Whether this is not all there is: more follows, or some is lost.
    pub truncated: bool,
    /// Bytes from `cursor` on that are not kept any more.
    pub lost_bytes: u64,
    /// Whether terminal control was taken out.
    pub plain: bool,
    /// Silence that was waited for, milliseconds.
    pub wait_for_idle_ms: Option<u64>,
}

/// Payload of `workspace shell signal`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellSignalled {
    /// Shell that got the signal.
    #[serde(flatten)]
    pub shell: Shell,
    /// The signal, such as `INT`.
    pub signal: String,
}

/// Payload of `workspace shell close`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellClosed {
    /// Shell as it was last.
    #[serde(flatten)]
    pub shell: Shell,
    /// Always true: the shell is gone, with its output.
    pub closed: bool,
}

/// Payload of `workspace shell list`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellList {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Number of shells.
    pub count: usize,
    /// Number of running shells.
    pub running_count: usize,
    /// The oldest first.
    pub shells: Vec<Shell>,
}

/// Payload of `workspace service list`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ServiceList {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Number of services.
    pub count: usize,
    /// Number of running services.
    pub running_count: usize,
    /// The oldest first.
    pub services: Vec<Service>,
}

/// Payload of `workspace service logs`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ServiceLogs {
    /// Service that wrote the output.
    #[serde(flatten)]
    pub service: Service,
    /// The end of standard output, as text.
    pub stdout: String,
    /// The end of standard error.
    pub stderr: String,
    /// How many lines of each were asked for; absent for all.
    pub tail_lines: Option<u64>,
    /// Whether there was more.
    pub truncated: bool,
}
