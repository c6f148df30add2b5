//! Sends a signal to what runs in the foreground of a shell.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper, SHELL_PATIENCE};
use crate::workspace::store::jobs_view::Shell;
use crate::workspace::wire::Call;

/// Send a signal to what runs in the foreground of a shell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignalShell {
    /// Id of the shell, 12 hexadecimal digits.
    pub shell_id: String,
    /// Linux's number of the signal.
    pub number: i32,
}

impl Call for SignalShell {
    const NAME: &'static str = "signal_shell";
    type Answer = Shell;
}

impl Operation for SignalShell {
    const PATIENCE: Duration = SHELL_PATIENCE;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Shell, WorkspaceError> {
        let _using = keeper.use_guest().await?;
        keeper.signal_shell(&self.shell_id, self.number).await
    }
}
