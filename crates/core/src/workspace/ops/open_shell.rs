//! Opens a shell in a workspace.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper, SHELL_PATIENCE};
use crate::workspace::store::jobs::ShellSize;
use crate::workspace::store::jobs_view::Shell;
use crate::workspace::store::secrets::SecretEnv;
use crate::workspace::wire::Call;

/// Open a shell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenShell {
    /// Directory that it begins in, absolute.
    pub cwd: String,
    /// Size of its terminal.
    pub size: ShellSize,
    /// Secrets that it gets as variables.
    #[serde(default)]
    pub secret_env: Vec<SecretEnv>,
}

impl Call for OpenShell {
    const NAME: &'static str = "open_shell";
    type Answer = Shell;
}

impl Operation for OpenShell {
    const PATIENCE: Duration = SHELL_PATIENCE;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Shell, WorkspaceError> {
        let _using = keeper.use_guest().await?;
        keeper.open_shell(self.cwd, self.size, &self.secret_env).await
    }
}
