//! Jobs: commands that go on while nobody listens, and the question whether one of them is ready.
//!
//! A job belongs to the guest, not to a stream: a session may end, or be cut off by a snapshot, and the next one finds
//! it again by the id that the host chose.

use serde::{Deserialize, Serialize};

use crate::message::{Bytes, CommandExit, ExecRequest};

/// Most jobs at once, those that have ended and are not forgotten included.
pub const MAX_JOBS: usize = 64;
/// Bytes of a job's output that the guest keeps.
pub const JOB_KEPT: usize = 1024 * 1024;
/// Most bytes in one [`crate::message::Request::JobInput`].
pub const JOB_INPUT: usize = 64 * 1024;
/// Longest time that a probe may take, milliseconds.
pub const PROBE_MS: u64 = 2000;

/// A job's name: chosen by the host, never used twice in a guest's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(pub [u8; 6]);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What to start as a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStart {
    /// Its name.
    pub id: JobId,
    /// The command. With `ExecStdio::Terminal` it is the leader of a session on a terminal of its own and takes input;
    /// otherwise its input is empty. `ExecStdio::Piped` is refused.
    pub exec: ExecRequest,
}

/// What is known of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its name.
    pub id: JobId,
    /// The process id of its first process.
    pub pid: u32,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// How it ended, once it has.
    pub exit: Option<CommandExit>,
    /// The first byte of its output that is still kept.
    pub kept_from: u64,
    /// Bytes that it has written so far.
    pub written: u64,
}

/// How to ask whether a service is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceProbe {
    /// Something listens on this port of the guest's loopback.
    Tcp {
        /// 1 to 65,535.
        port: u16,
    },
    /// This `http://` address on the guest's loopback answers with a status from 200 to 399.
    Http {
        /// At most 2,048 bytes.
        url: String,
    },
    /// This file exists: below the workspace, or anywhere in the guest if it begins with `/`.
    File {
        /// Its path.
        path: Bytes,
    },
}

/// The answer to a [`ServiceProbe`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// It is ready.
    Ready,
    /// It is not, for this reason.
    NotReady(String),
}
