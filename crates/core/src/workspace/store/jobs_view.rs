//! Payloads about shells and services.

use schemars::JsonSchema;
use serde::Serialize;

use super::jobs::{Service, Shell};

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
