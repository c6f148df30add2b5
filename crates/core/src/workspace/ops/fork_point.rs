//! Copies a workspace for forks of this moment.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LONG, Operation};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::wire::{Call, SnapshotMade};

/// Copy the workspace for forks, under a name that nobody is shown; removed when this connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkPoint {
    /// Name of the copy.
    pub name: String,
    /// Whether the guest's memory is kept too.
    pub memory: bool,
}

impl Call for ForkPoint {
    const NAME: &'static str = "fork_point";
    type Answer = SnapshotMade;
}

impl Operation for ForkPoint {
    const PATIENCE: Duration = LONG;

    async fn in_keeper(
        self,
        keeper: &Arc<Keeper>,
        caller: &mut Caller,
    ) -> Result<SnapshotMade, WorkspaceError> {
        let (made, copy) = keeper.fork_point(self.name, self.memory).await?;
        caller.lease(copy);
        Ok(made)
    }
}
