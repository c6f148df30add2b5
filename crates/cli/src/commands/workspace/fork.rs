//! `pyro workspace fork`.

use serde_json::json;

use crate::error::{CliError, print_json};
use crate::output::outln;

/// Make new workspaces from one as it is now, or from one of its snapshots
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace fork repro --count 3 --snapshot before-upgrade")]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// How many, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u32,
    /// Start from this snapshot instead of the disk as it is now
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "id_only")]
    json: bool,
    /// Print only their ids, one a line
    #[arg(long)]
    id_only: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        let snapshot = self.snapshot.as_deref();
        let forks = workspaces.fork(&self.workspace_id, self.count, snapshot, &mut super::remark).await?;
        if self.json {
            print_json(&json!({
                "count": forks.len(),
                "forked_from": forks.first().and_then(|fork| fork.metadata.get("forked_from")),
                "snapshot_name": self.snapshot,
                "workspaces": forks,
            }));
        } else {
            for fork in forks {
                let what = if self.id_only { "" } else { " is started" };
                outln!("{}{what}", fork.workspace_id);
            }
        }
        Ok(0)
    }
}
