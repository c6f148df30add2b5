//! `pyro workspace delete`.

use crate::error::{CliError, print_json};
use crate::output::outln;

/// End everything of a workspace and remove it
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace delete repro")]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let deleted = super::workspaces(None)?.delete(&self.workspace_id).await?;
        if self.json {
            print_json(&serde_json::to_value(&deleted).unwrap_or_default());
        } else {
            outln!("{} is deleted", deleted.workspace_id);
        }
        Ok(0)
    }
}
