//! `pyro workspace reset`.

use pyro_core::workspace::BASELINE;

use super::show;
use crate::error::{CliError, print_json};
use crate::output::outln;

/// Go back to the baseline or a snapshot: the whole sandbox, not only /workspace
#[derive(clap::Args)]
#[command(
    after_help = "The history of commands stays.\n\nExample:\n  pyro workspace reset repro --snapshot before-upgrade"
)]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// The snapshot to go back to
    #[arg(long, value_name = "NAME", default_value = BASELINE)]
    snapshot: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        let reset = workspaces.reset(&self.workspace_id, &self.snapshot, &mut super::remark).await?;
        if self.json {
            print_json(&serde_json::to_value(&reset).unwrap_or_default());
        } else {
            outln!("{} is as it was at {}", reset.status.workspace_id, reset.workspace_reset.snapshot_name);
            show::status(&reset.status);
        }
        Ok(0)
    }
}
