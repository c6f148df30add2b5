//! Snapshots from a front end's side.

use super::Workspaces;
use crate::workspace::error::WorkspaceError;
use crate::workspace::ops;
use crate::workspace::store::view::{EXECUTION_MODE, SnapshotCreated, SnapshotDeleted, SnapshotList};

impl Workspaces {
    /// Keeps a copy of the disk, running or stopped, and with `memory` of all that runs.
    ///
    /// # Errors
    /// When the name is taken, the guest does not answer, or the disk cannot be copied.
    pub async fn create_snapshot(
        &self,
        given: &str,
        name: &str,
        memory: bool,
    ) -> Result<SnapshotCreated, WorkspaceError> {
        let made = self.perform(given, ops::CreateSnapshot { name: name.to_owned(), memory }).await?;
        Ok(SnapshotCreated {
            workspace_id: made.snapshot.workspace_id.clone(),
            snapshot: made.snapshot,
            paused_ms: made.paused_ms,
            execution_mode: EXECUTION_MODE,
        })
    }

    /// The snapshots, the oldest first.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn snapshots(&self, given: &str) -> Result<SnapshotList, WorkspaceError> {
        super::read(&self.find(given).await?, |state| {
            let snapshots = state.snapshots()?;
            Ok(SnapshotList { workspace_id: state.record()?.id, count: snapshots.len(), snapshots })
        })
        .await
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// When there is none of that name, or it is the baseline.
    pub async fn delete_snapshot(&self, given: &str, name: &str) -> Result<SnapshotDeleted, WorkspaceError> {
        self.perform(given, ops::DeleteSnapshot { name: name.to_owned() }).await
    }
}
