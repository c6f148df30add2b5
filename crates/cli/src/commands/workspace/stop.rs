//! `pyro workspace stop`.

use super::show;
use crate::error::{CliError, print_json};

/// End the guest: its processes end, its disk is written; disk and history stay
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace stop repro")]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// Ask neither the guest nor its keeper: as if their power went, also when they hang
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        let status = match self.force {
            true => workspaces.force_stop(&self.workspace_id).await?,
            false => workspaces.stop(&self.workspace_id).await?,
        };
        if self.json {
            print_json(&serde_json::to_value(&status).unwrap_or_default());
        } else {
            show::status(&status);
        }
        Ok(0)
    }
}
