//! Looks at a shell, after its output has paused.

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

/// Look at a shell once it has written nothing for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LookAtShell {
    /// Id of the shell, 12 hexadecimal digits.
    pub shell_id: String,
    /// How long the pause must be, ms; absent for looking at once.
    pub idle_ms: Option<u64>,
}

impl Call for LookAtShell {
    const NAME: &'static str = "look_at_shell";
    type Answer = Shell;
}

impl Operation for LookAtShell {
    const PATIENCE: Duration = SHELL_PATIENCE;

    async fn in_keeper(self, keeper: &Arc<Keeper>, caller: &mut Caller) -> Result<Shell, WorkspaceError> {
        let _using = keeper.use_guest().await?;
        keeper.look_at_shell(&self.shell_id, self.idle_ms.map(Duration::from_millis), caller).await
    }

    fn at_rest(self, rest: &AtRest) -> Result<Shell, WorkspaceError> {
        let shell = jobs::find_shell(rest.state.jobs()?, &self.shell_id)?;
        Ok(Shell::new(rest.home.id(), shell.without_guest(unix_now())))
    }
}
