//! Types into a shell.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper, SHELL_PATIENCE};
use crate::workspace::store::jobs_view::Shell;
use crate::workspace::wire::Call;

/// Type something into a shell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteShell {
    /// Id of the shell, 12 hexadecimal digits.
    pub shell_id: String,
    /// Text to type, the line's end included.
    pub input: String,
}

impl Call for WriteShell {
    const NAME: &'static str = "write_shell";
    type Answer = Shell;
}

impl Operation for WriteShell {
    const PATIENCE: Duration = SHELL_PATIENCE;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Shell, WorkspaceError> {
        let _using = keeper.use_guest().await?;
        keeper.write_shell(&self.shell_id, &self.input).await
    }
}
