//! `pyro workspace list`.

use super::show;
use crate::error::{CliError, print_json};

/// List all workspaces, the one that was used last first
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace list")]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let list = super::workspaces(None)?.list().await?;
        if self.json {
            print_json(&serde_json::to_value(&list).unwrap_or_default());
        } else {
            show::list(&list);
        }
        Ok(0)
    }
}
