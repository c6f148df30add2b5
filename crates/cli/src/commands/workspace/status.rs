//! `pyro workspace status`.

use super::show;
use crate::error::{CliError, print_json};

/// Show everything about one workspace
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace status repro")]
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
        let status = super::workspaces(None)?.status(&self.workspace_id).await?;
        if self.json {
            print_json(&serde_json::to_value(&status).unwrap_or_default());
        } else {
            show::status(&status);
        }
        Ok(0)
    }
}
