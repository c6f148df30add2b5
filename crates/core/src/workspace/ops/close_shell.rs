//! Ends a shell and forgets it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AtRest, Operation};
use crate::identity::unix_now;
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper, SHELL_PATIENCE};
use crate::workspace::store::jobs::{self, Job as _};
use crate::workspace::store::jobs_view::Shell;
use crate::workspace::wire::Call;

/// End a shell and all that runs in it, and forget it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloseShell {
    /// Id of the shell, 12 hexadecimal digits.
    pub shell_id: String,
}

impl Call for CloseShell {
    const NAME: &'static str = "close_shell";
    type Answer = Shell;
}

impl Operation for CloseShell {
    const PATIENCE: Duration = SHELL_PATIENCE;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Shell, WorkspaceError> {
        keeper.close_shell(&self.shell_id).await
    }

    fn at_rest(self, rest: &AtRest) -> Result<Shell, WorkspaceError> {
        let shell = jobs::find_shell(rest.state.jobs()?, &self.shell_id)?.without_guest(unix_now());
        jobs::forget_shell(&rest.home, &rest.state, &self.shell_id)?;
        Ok(Shell::new(rest.home.id(), shell))
    }
}
