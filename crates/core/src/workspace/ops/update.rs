//! Changes a workspace's name and labels.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AtRest, Operation, PROMPT};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::layout::Home;
use crate::workspace::store::naming;
use crate::workspace::store::record::{Record, WorkspaceChanges};
use crate::workspace::store::state::State;
use crate::workspace::store::view::Status;
use crate::workspace::wire::Call;

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
        keeper.change_record(move |home, state, record| self.describe(home, state, record)).await
    }

    fn at_rest(self, rest: &AtRest) -> Result<Status, WorkspaceError> {
        rest.change_record(|home, state, record| self.describe(home, state, record))
    }
}

impl Update {
    fn describe(&self, home: &Home, state: &State, record: &mut Record) -> Result<(), WorkspaceError> {
        naming::describe(home.root(), state, record, &self.changes)
    }
}
