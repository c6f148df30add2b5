//! What payloads show of shells and services.

use schemars::JsonSchema;
use serde::Serialize;

use super::jobs::{Service, Shell};

/// What `workspace shell write` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellWritten {
    /// What it is written to.
    #[serde(flatten)]
    pub shell: Shell,
    /// Characters of the input, the line's end not counted.
    pub input_length: usize,
    /// Whether the line was ended.
    pub append_newline: bool,
}

/// What `workspace shell read` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellRead {
    /// What was read.
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
    /// What was waited for.
    pub wait_for_idle_ms: Option<u64>,
}

/// What `workspace shell signal` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellSignalled {
    /// What got it.
    #[serde(flatten)]
    pub shell: Shell,
    /// The signal, such as `INT`.
    pub signal: String,
}

/// What `workspace shell close` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellClosed {
    /// What it was.
    #[serde(flatten)]
    pub shell: Shell,
    /// That it is gone, with its output.
    pub closed: bool,
}

/// What `workspace shell list` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ShellList {
    /// Whose.
    pub workspace_id: String,
    /// How many.
    pub count: usize,
    /// How many of them run.
    pub running_count: usize,
    /// The oldest first.
    pub shells: Vec<Shell>,
}

/// What `workspace service list` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ServiceList {
    /// Whose.
    pub workspace_id: String,
    /// How many.
    pub count: usize,
    /// How many of them run.
    pub running_count: usize,
    /// The oldest first.
    pub services: Vec<Service>,
}

/// What `workspace service logs` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ServiceLogs {
    /// Whose.
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
