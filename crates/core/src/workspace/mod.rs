//! Workspaces: one VM each that stays, with its disk, its history and its snapshots.
//!
//! ```text
//!   client    what front ends call: asks a keeper, or does it itself under the lock where none lives
//!   start     brings a keeper up, detached, and hears from it whether it is ready
//!   layout    directories, locks, names            disk     disks and their copies
//!   keepalive connections that can be asked again
//!   holder    who holds a lock, to end one that hangs
//!   shells, services, jobs    what goes on in a guest     spool     what that wrote, in files
//!   state     the database                         record   what is in it; view: what payloads show
//!   history   of commands, as much as is kept      secrets  what may be one, where they are kept
//!   files     the guest's files, one at a time     transfer whole trees, through the threads of pipe
//!   patching  patches, applied to them             diff     how they differ from the baseline; fresh: new trees
//!   offline   the disk of a stopped workspace
//! ```
//!
//! What a keeper does is in [`crate::keeper`].
//!
//! Invariant: whether a workspace runs is never read from a file. A keeper that answers says so; where none does, it is
//! stopped.

mod client;
mod command;
mod diff;
pub(crate) mod disk;
mod error;
mod files;
mod files_view;
mod forks;
mod fresh;
pub(crate) mod history;
pub(crate) mod holder;
pub(crate) mod jobs;
mod keepalive;
pub(crate) mod layout;
mod offline;
mod patching;
mod pipe;
mod record;
pub(crate) mod secrets;
mod services;
mod shells;
pub(crate) mod spool;
mod start;
pub(crate) mod state;
mod transfer;
mod view;

pub use client::Workspaces;
pub use error::WorkspaceError;
pub use files_view::{
    Diff, DiffEntry, DiffSummary, DiskExported, DiskList, DiskRead, Exported, FileEntry, FileList, FileRead,
    FileWritten, PatchEntry, PatchSummary, Patched, Pushed, Synced,
};
pub use history::{Bounds, LogReader};
pub use jobs::{
    Readiness, Service, ServiceList, ServiceLogs, Shell, ShellClosed, ShellList, ShellRead, ShellSignalled,
    ShellWritten,
};
pub(crate) use pipe::Packed;
pub use pipe::{Moved, OnMoved};
pub use record::{Changes, Command, Record, SecretInfo, Seed, WORKSPACE_PATH, Wish, is_id};
pub use secrets::{Secret, SecretEnv, SecretError};
pub use services::{ReadyWait, ServiceWish};
pub(crate) use services::{find_service, last_lines};
pub use shells::{AttachEnd, Attached, ReadWish, ShellSize};
pub(crate) use shells::{find_shell, forget_shell};
pub use start::Remarks;
pub use state::BASELINE;
pub(crate) use transfer::mode as source_mode;
pub(crate) use view::EXECUTION_MODE;
pub use view::{
    Deleted, ExecReport, LastCommand, List, Listed, LogEntry, Logs, LogsHead, Reset, ResetTo,
    SnapshotCreated, SnapshotDeleted, SnapshotInfo, SnapshotList, Status, UNRESPONSIVE, Unreadable,
};

use std::path::Path;

use crate::bug;

/// Runs `work`, which blocks, on a thread of its own; a panic in it is a bug with its words.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    bug::blocking(work).await
}

/// Whether a snapshot can be called this.
pub(crate) fn check_snapshot_name(name: &str) -> Result<(), WorkspaceError> {
    record::check_name("a snapshot", name)
}

/// Those of `known` that look like `given`, the most similar first, at most `most`.
fn nearest(given: &str, known: impl Iterator<Item = String>, most: usize) -> Vec<String> {
    let mut known: Vec<(f64, String)> = known
        .map(|name| (strsim::jaro_winkler(given, &name), name))
        .filter(|(likeness, _)| *likeness > 0.6)
        .collect();
    known.sort_by(|a, b| b.0.total_cmp(&a.0));
    known.into_iter().take(most).map(|(_, name)| name).collect()
}

/// The versions of environments that workspaces in `root` are made on top of. One whose database cannot be read is left
/// out: its disk cannot be started either.
pub fn versions_in_use(root: &Path) -> Vec<String> {
    let ids = layout::ids(root).unwrap_or_default();
    let version =
        |id: String| Some(layout::Home::of(root, &id).read().ok()?.record().ok()?.environment_version);
    ids.into_iter().filter_map(version).collect()
}
