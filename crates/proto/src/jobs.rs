//! Jobs: commands that go on while nobody listens, and probes of their readiness.
//!
//! A job belongs to the guest, not to a stream: a session may end, or be cut off by a snapshot, and the next one finds
//! the job again by the id that the host chose.

use serde::{Deserialize, Serialize};

use crate::message::{Bytes, CommandExit, ExecRequest};

/// Most jobs at once, including those that have ended and are not forgotten.
pub const MAX_JOBS: usize = 64;
/// Bytes of a job's output that the guest keeps.
pub const JOB_KEPT: usize = 1024 * 1024;
/// Most bytes in one [`crate::message::Request::JobInput`].
pub const JOB_INPUT: usize = 64 * 1024;
/// Longest time that a probe may take, milliseconds.
pub const PROBE_MS: u64 = 2000;

/// Id of a job: chosen by the host, never used twice in a guest's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(pub [u8; 6]);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Request to start a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStart {
    /// Id of the new job.
    pub id: JobId,
    /// The command. With `ExecStdio::Terminal` it leads a session on a terminal of its own and takes input;
    /// otherwise its input is empty. `ExecStdio::Piped` is refused.
    pub exec: ExecRequest,
}

/// Description of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Id of the job.
    pub id: JobId,
    /// Process id of its first process.
    pub pid: u32,
    /// Whether the job has a terminal.
    pub terminal: bool,
    /// End of the job; absent while it runs.
    pub exit: Option<CommandExit>,
    /// First byte of its output that is still kept.
    pub kept_from: u64,
    /// Bytes written so far.
    pub written: u64,
}

/// Probe of a service's readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceProbe {
    /// Ready when a program listens on this port of the guest's loopback.
    Tcp {
        /// Port, 1 to 65,535.
        port: u16,
    },
    /// Ready when this `http://` address on the guest's loopback answers with a status from 200 to 399.
    Http {
        /// Address, at most 2,048 bytes.
        url: String,
    },
    /// Ready when this file exists: below the workspace, or anywhere in the guest if the path begins with `/`.
    File {
        /// Path of the file.
        path: Bytes,
    },
}

/// Answer to a [`ServiceProbe`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// The service is ready.
    Ready,
    /// The service is not ready, for this reason.
    NotReady(String),
}
