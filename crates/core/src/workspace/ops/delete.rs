//! Ends everything of a workspace and removes it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AtRest, LONG, Operation};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::naming;
use crate::workspace::wire::Call;

/// End everything of the workspace and remove it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Delete {}

impl Call for Delete {
    const NAME: &'static str = "delete";
    type Answer = ();
}

impl Operation for Delete {
    const PATIENCE: Duration = LONG;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<(), WorkspaceError> {
        keeper.delete().await
    }

    fn at_rest(self, rest: &AtRest) -> Result<(), WorkspaceError> {
        let record = rest.state.record()?;
        naming::remove(&rest.home, record.name.as_deref(), &record.id)
    }
}
