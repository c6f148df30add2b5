//! `pyro workspace update`.

use pyro_core::workspace::WorkspaceChanges;

use super::show;
use crate::error::{CliError, print_json};

/// Change a workspace's name and labels
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace update 0123456789ab --name repro --label issue=42")]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// Call it this
    #[arg(long)]
    name: Option<String>,
    /// Take its name away
    #[arg(long, conflicts_with = "name")]
    clear_name: bool,
    /// Set a label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::label)]
    labels: Vec<(String, String)>,
    /// Take a label away; may be repeated
    #[arg(long = "clear-label", value_name = "KEY")]
    clear_labels: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let changes = WorkspaceChanges {
            name: self.name,
            clear_name: self.clear_name,
            labels: self.labels.into_iter().collect(),
            clear_labels: self.clear_labels,
        };
        if changes.is_empty() {
            return Err(CliError::Usage(
                "there is nothing to change: give --name, --clear-name, --label or --clear-label".into(),
            ));
        }
        let status = super::workspaces(None)?.update(&self.workspace_id, changes).await?;
        if self.json {
            print_json(&serde_json::to_value(&status).unwrap_or_default());
        } else {
            show::status(&status);
        }
        Ok(0)
    }
}
