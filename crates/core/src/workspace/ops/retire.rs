//! Makes the keeper of a stopped workspace exit, so that another can start it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AtRest, Operation, PROMPT};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::wire::Call;

/// Exit, so that another keeper can start the stopped workspace.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Retire {}

impl Call for Retire {
    const NAME: &'static str = "retire";
    type Answer = ();
}

impl Operation for Retire {
    const PATIENCE: Duration = PROMPT;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<(), WorkspaceError> {
        keeper.retire()
    }

    fn at_rest(self, _: &AtRest) -> Result<(), WorkspaceError> {
        Ok(())
    }
}
