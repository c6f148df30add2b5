//! Removes a snapshot.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AtRest, Operation, PROMPT};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::disk;
use crate::workspace::store::view::SnapshotDeleted;
use crate::workspace::wire::Call;

/// Remove a snapshot; the baseline stays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteSnapshot {
    /// Name of the snapshot.
    pub name: String,
}

impl Call for DeleteSnapshot {
    const NAME: &'static str = "delete_snapshot";
    type Answer = SnapshotDeleted;
}

impl Operation for DeleteSnapshot {
    const PATIENCE: Duration = PROMPT;

    async fn in_keeper(
        self,
        keeper: &Arc<Keeper>,
        _: &mut Caller,
    ) -> Result<SnapshotDeleted, WorkspaceError> {
        keeper.delete_snapshot(self.name).await
    }

    fn at_rest(self, rest: &AtRest) -> Result<SnapshotDeleted, WorkspaceError> {
        disk::delete(&rest.home, &rest.state, &self.name)?;
        Ok(SnapshotDeleted { workspace_id: rest.state.record()?.id, snapshot_name: self.name, deleted: true })
    }
}
