//! Leaves the disk of a stopped workspace alone while a front end reads it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Operation, PROMPT};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::wire::Call;

/// Leave the disk of a stopped workspace alone until this connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldDisk {}

impl Call for HoldDisk {
    const NAME: &'static str = "hold_disk";
    type Answer = ();
}

impl Operation for HoldDisk {
    const PATIENCE: Duration = PROMPT;

    async fn in_keeper(self, keeper: &Arc<Keeper>, caller: &mut Caller) -> Result<(), WorkspaceError> {
        caller.lease(keeper.hold_disk()?);
        Ok(())
    }
}
