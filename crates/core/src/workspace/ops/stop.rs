//! Ends the guest of a workspace, cleanly.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LONG, Operation};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::view::Status;
use crate::workspace::wire::Call;

/// End the guest: its processes end, its disk is written; disk and history stay.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stop {}

impl Call for Stop {
    const NAME: &'static str = "stop";
    type Answer = Status;
}

impl Operation for Stop {
    const PATIENCE: Duration = LONG;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Status, WorkspaceError> {
        keeper.stop("it was told to").await
    }
}
