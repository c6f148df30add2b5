//! `pyro workspace start`.

use super::show;
use crate::error::{CliError, print_json};

/// Start a stopped workspace
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace start repro")]
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
        let status = super::workspaces(None)?.start(&self.workspace_id, &mut super::remark).await?;
        if self.json {
            print_json(&serde_json::to_value(&status).unwrap_or_default());
        } else {
            show::status(&status);
        }
        Ok(0)
    }
}
