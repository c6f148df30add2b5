//! Puts a snapshot in place of what a running workspace is now.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LONG, Operation};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::view::Status;
use crate::workspace::wire::Call;

/// Put a snapshot in place: its disk, and the processes too if its memory was kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reset {
    /// Name of the snapshot.
    pub snapshot: String,
}

impl Call for Reset {
    const NAME: &'static str = "reset";
    type Answer = Status;
}

impl Operation for Reset {
    const PATIENCE: Duration = LONG;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Status, WorkspaceError> {
        keeper.reset(self.snapshot).await
    }
}
