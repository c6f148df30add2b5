//! Changes a workspace's name and labels.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::naming;
use crate::workspace::store::record::WorkspaceChanges;
use crate::workspace::store::view::Status;
use crate::workspace::wire::Call;
use super::{AtRest, Operation, PROMPT};

/// Change name and labels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Update {
    /// Changes of name and labels.
    pub changes: WorkspaceChanges,
}

impl Call for Update {
    const NAME: &'static str = "update";
    type Answer = Status;
}

impl Operation for Update {
    const PATIENCE: Duration = PROMPT;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Status, WorkspaceError> {
        keeper.update(self.changes).await
    }

    fn at_rest(self, rest: &AtRest) -> Result<Status, WorkspaceError> {
        let mut record = rest.state.record()?;
        naming::describe(rest.home.root(), &rest.state, &mut record, &self.changes)?;
        Status::stopped(&rest.state)
    }
}
