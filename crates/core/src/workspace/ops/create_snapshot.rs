//! Keeps a copy of a workspace's disk under a name.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AtRest, LONG, Operation};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::disk;
use crate::workspace::wire::{Call, SnapshotMade};

/// Keep a copy of the disk, running or stopped, and with `memory` of all that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateSnapshot {
    /// Name of the copy.
    pub name: String,
    /// Whether the guest's memory is kept too.
    pub memory: bool,
}

impl Call for CreateSnapshot {
    const NAME: &'static str = "create_snapshot";
    type Answer = SnapshotMade;
}

impl Operation for CreateSnapshot {
    const PATIENCE: Duration = LONG;

    async fn in_keeper(
        self,
        keeper: &Arc<Keeper>,
        caller: &mut Caller,
    ) -> Result<SnapshotMade, WorkspaceError> {
        keeper.snapshot(self.name, self.memory, caller).await
    }

    fn at_rest(self, rest: &AtRest) -> Result<SnapshotMade, WorkspaceError> {
        if self.memory {
            return Err(WorkspaceError::Stopped);
        }
        disk::check_new(&rest.state, &self.name)?;
        let snapshot = disk::copy_stopped(&rest.home, &self.name)?;
        rest.state.add_snapshot(&snapshot)?;
        rest.state.journal().sync()?;
        Ok(SnapshotMade { snapshot, paused_ms: None })
    }
}
