//! `pyro workspace snapshot`.

use clap::Subcommand;

use super::show;
use crate::error::{CliError, print_json};
use crate::output::outln;

/// Keep, list and remove copies of a workspace's disk
#[derive(Subcommand)]
pub enum Snapshot {
    /// Keep a copy of the whole sandbox as it is now; it goes on meanwhile
    #[command(after_help = "Example:\n  pyro workspace snapshot create repro before-upgrade")]
    Create {
        /// What it is to be called
        #[command(flatten)]
        named: Named,
        /// Keep the memory of the guest too: a reset or fork brings its processes back. It holds whatever they held,
        /// secrets included
        #[arg(long)]
        memory: bool,
    },
    /// List the snapshots
    #[command(after_help = "Example:\n  pyro workspace snapshot list repro")]
    List {
        /// The workspace's id or name
        workspace_id: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove a snapshot
    #[command(after_help = "Example:\n  pyro workspace snapshot delete repro before-upgrade")]
    Delete(Named),
}

/// One snapshot.
#[derive(clap::Args)]
pub struct Named {
    /// The workspace's id or name
    workspace_id: String,
    /// The snapshot's name
    snapshot_name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        match self {
            Self::Create { named: Named { workspace_id, snapshot_name, json }, memory } => {
                let created = workspaces.create_snapshot(&workspace_id, &snapshot_name, memory).await?;
                if json {
                    print_json(&serde_json::to_value(&created).unwrap_or_default());
                } else {
                    let mib = created.snapshot.bytes_written.div_ceil(1 << 20);
                    let paused = created.paused_ms.map(|ms| format!(", its guest paused for {ms:.0} ms"));
                    outln!("{snapshot_name} is kept ({mib} MiB{})", paused.unwrap_or_default());
                }
            }
            Self::List { workspace_id, json } => {
                let list = workspaces.snapshots(&workspace_id).await?;
                if json {
                    print_json(&serde_json::to_value(&list).unwrap_or_default());
                } else {
                    show::snapshots(&list);
                }
            }
            Self::Delete(Named { workspace_id, snapshot_name, json }) => {
                let deleted = workspaces.delete_snapshot(&workspace_id, &snapshot_name).await?;
                if json {
                    print_json(&serde_json::to_value(&deleted).unwrap_or_default());
                } else {
                    outln!("{snapshot_name} is deleted");
                }
            }
        }
        Ok(0)
    }
}
