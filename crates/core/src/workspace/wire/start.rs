//! Messages of a keeper's start: the order it gets, and its reports until it is ready; lines of JSON on its standard
//! input and output.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::workspace::fault::Fault;
use crate::workspace::store::record::WorkspaceSpec;
use crate::workspace::store::view::Status;
use crate::workspace::tree_pipe::Moved;

/// Input of a keeper at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeeperRequest {
    /// Where things are, as its starter sees it.
    pub config: Config,
    /// `auto`, `firecracker` or `qemu`.
    pub backend: String,
    /// Task before it serves.
    pub task: KeeperTask,
    /// Other times than the workspace's own, for tests.
    pub expiry: Option<KeeperExpiry>,
}

/// Task of a keeper before it serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum KeeperTask {
    /// Make the workspace.
    Create {
        /// Properties of the new workspace.
        wish: Box<WorkspaceSpec>,
        /// The environment's version.
        environment_version: String,
        /// The blank disk, or a snapshot of another workspace; it is copied.
        disk: PathBuf,
        /// Origin of a fork, for its metadata.
        forked_from: Option<String>,
        /// Where the origin's snapshot is whose memory it goes on from: the origin's directory and the snapshot's name.
        #[serde(default)]
        memory: Option<(PathBuf, String)>,
        /// Name of a baseline that is already on the disk.
        #[serde(default)]
        manifest: Option<String>,
    },
    /// Start a stopped workspace.
    Start,
    /// Put the disk of a snapshot in place and start.
    Reset {
        /// Name of the snapshot.
        snapshot: String,
    },
}

/// Times to live, seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct KeeperExpiry {
    /// Idle so long, the workspace is stopped.
    pub ttl_seconds: f64,
    /// So long after that it is deleted.
    pub kept_seconds: f64,
}

/// Report of a keeper about its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum KeeperReport {
    /// Why the start is no plain restore.
    Remark {
        /// As one line of key and value.
        text: String,
    },
    /// How far it is with what fills the workspace.
    Progress {
        /// Entries and bytes so far.
        moved: Moved,
    },
    /// Keeper serves. Nothing follows.
    Ready {
        /// Status of the workspace.
        status: Box<Status>,
    },
    /// Keeper gave up. Nothing follows, and nothing is left.
    Failed {
        /// Failure that ended the start.
        fault: Fault,
    },
}
