//! `pyro workspace sync`.

use std::path::PathBuf;

use clap::Subcommand;
use indicatif::HumanBytes;

use crate::error::{CliError, print_json};
use crate::output::{errln, outln};
use crate::progress::{Transfer, entries};

/// Copy from the host into a running workspace
#[derive(Subcommand)]
pub enum Sync {
    /// Copy a directory, a .tar, .tar.gz or .tgz into the workspace: all of it, or nothing
    #[command(after_help = "Example:\n  pyro workspace sync push repro ./changes --dest src")]
    Push {
        /// The workspace's id or name
        workspace_id: String,
        /// The directory or archive on this host
        source_path: PathBuf,
        /// Where to: /workspace, or a directory below it, which is made if it does not exist
        #[arg(long, value_name = "PATH", default_value = "/workspace")]
        dest: PathBuf,
        #[command(flatten)]
        links: super::LinksArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Sync {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let Self::Push { workspace_id, source_path, dest, links, json } = self;
        let workspaces = super::workspaces(None)?;
        let bar = Transfer::new("push");
        let pushed =
            workspaces.push(&workspace_id, &source_path, &dest, links.wanted(), bar.listener()).await;
        drop(bar);
        let pushed = pushed?;
        let sync = &pushed.workspace_sync;
        super::say_skipped("sync", &sync.skipped_links, sync.skipped_link_count);
        if json {
            print_json(&serde_json::to_value(&pushed).unwrap_or_default());
        } else {
            outln!(
                "{} with {} went to {}",
                entries(sync.entry_count),
                HumanBytes(sync.bytes_written),
                sync.destination
            );
            if sync.skipped_count > 0 {
                errln!("[sync] {} sockets and fifos were left out", sync.skipped_count);
            }
        }
        Ok(0)
    }
}
