//! Workspaces: one VM each that stays, with its disk, its history and its snapshots.
//!
//! ```text
//!   client ---> ops ---> keeper         what front ends call; operations; the process that owns a running workspace
//!      \          |        /
//!       +---> wire, tree_pipe           what front end and keeper say to each other; trees on their way
//!                 |
//!               store                   a workspace on disk
//!                 |
//!     life, frames, fault, error           what may be done when; frames of the socket; failures
//! ```

mod client;
mod error;
mod fault;
mod frames;
mod keeper;
mod life;
pub mod ops;
mod secret_error;
mod store;
mod tree_pipe;
mod wire;

pub use client::{AttachEnd, Attached, Remarks, ShellReadRequest, Workspaces};
pub use error::WorkspaceError;
pub use fault::Fault;
pub use frames::ProtocolError;
pub use keeper::Log;
pub use life::{KEPT_SECONDS, Phase, Refusal};
pub use secret_error::SecretError;
pub use store::files_view::{
    ContentEncoding, Diff, DiffEntry, DiffSummary, DiskExported, DiskList, DiskRead, Exported, FileEntry,
    FileList, FileRead, FileWritten, PatchEntry, PatchSummary, Patched, Pushed, Synced,
};
pub use store::history::{Bounds, LogReader};
pub use store::jobs::{JobState, ShellSize};
pub use store::jobs_view::{
    Service, ServiceList, ServiceLogs, Shell, ShellClosed, ShellList, ShellRead, ShellSignalled, ShellWritten,
};
pub use store::record::{
    Command, Record, SecretInfo, Seed, WORKSPACE_PATH, WorkspaceChanges, WorkspaceSpec, is_id,
};
pub use store::secrets::{Secret, SecretEnv};
pub use store::service_spec::{ReadinessProbe, ReadyWait, ServiceSpec};
pub use store::state::BASELINE;
pub use store::view::{
    Deleted, ExecReport, LastCommand, List, Listed, LogEntry, Logs, LogsHead, Reset, ResetTo,
    SnapshotCreated, SnapshotDeleted, SnapshotInfo, SnapshotKind, SnapshotList, Status, Unreadable,
    WorkspaceState,
};
pub use tree_pipe::{Moved, OnMoved};
pub use wire::start::{KeeperExpiry, KeeperReport, KeeperRequest, KeeperTask};

use std::path::Path;

/// The versions of environments that workspaces in `root` are made on top of. One whose database cannot be read is left
/// out: its disk cannot be started either. Blocks.
pub fn versions_in_use(root: &Path) -> Vec<String> {
    use store::layout;
    let ids = layout::ids(root).unwrap_or_default();
    let version =
        |id: String| Some(layout::Home::of(root, &id).read().ok()?.record().ok()?.environment_version);
    ids.into_iter().filter_map(version).collect()
}
