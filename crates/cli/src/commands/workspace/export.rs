//! `pyro workspace export`.

use std::path::PathBuf;

use indicatif::HumanBytes;

use crate::error::{CliError, print_json};
use crate::output::{errln, outln};
use crate::progress::{Transfer, entries};

/// Copy a file or directory of a running workspace to this host
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace export repro build/report --output ./report")]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// The file or directory, below /workspace
    path: PathBuf,
    /// Where to: a path that does not exist
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    links: super::LinksArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        let bar = Transfer::new("export");
        let links = self.links.wanted();
        let exported =
            workspaces.export(&self.workspace_id, &self.path, &self.output, links, bar.listener()).await;
        drop(bar);
        let exported = exported?;
        super::say_skipped("export", &exported.skipped_links, exported.skipped_link_count);
        if self.json {
            print_json(&serde_json::to_value(&exported).unwrap_or_default());
        } else {
            outln!(
                "{} is in {} ({} with {})",
                exported.workspace_path,
                exported.output_path,
                entries(exported.entry_count),
                HumanBytes(exported.bytes_written)
            );
            if exported.skipped_count > 0 {
                errln!("[export] {} sockets, fifos and devices were left out", exported.skipped_count);
            }
        }
        Ok(0)
    }
}
