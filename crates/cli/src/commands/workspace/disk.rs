//! `pyro workspace disk`.

use std::path::PathBuf;

use clap::Subcommand;

use super::file::{Listing, Reading};
use super::show;
use crate::content::in_base64;
use crate::error::{CliError, print_json};
use crate::output::outln;

/// Look into the disk of a stopped workspace, without running it
#[derive(Subcommand)]
pub enum Disk {
    /// List a directory of a stopped workspace, as its guest would see it
    #[command(after_help = "Example:\n  pyro workspace disk list repro /etc --recursive")]
    List(Listing),
    /// Read a text file of a stopped workspace
    #[command(after_help = "Example:\n  pyro workspace disk read repro /etc/passwd --content-only")]
    Read(Reading),
    /// Write the disk of a stopped workspace to one raw ext4 image
    #[command(after_help = "Example:\n  pyro workspace disk export repro --output repro.ext4")]
    Export {
        /// The workspace's id or name
        workspace_id: String,
        /// Where to: a path that does not exist
        #[arg(long, value_name = "PATH")]
        output: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Disk {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        match self {
            Self::List(Listing { workspace_id, path, recursive, json }) => {
                let list = workspaces.list_disk(&workspace_id, &path, recursive).await?;
                if json {
                    print_json(&serde_json::to_value(&list).unwrap_or_default());
                } else {
                    show::files(&list.entries, list.truncated);
                }
            }
            Self::Read(Reading { workspace_id, path, max_bytes, content_only, base64, json }) => {
                let (mut read, content) = workspaces.read_disk(&workspace_id, &path, max_bytes).await?;
                if base64 {
                    (read.content, read.encoding) = in_base64(&content);
                }
                if json {
                    print_json(&serde_json::to_value(&read).unwrap_or_default());
                } else {
                    show::content(&content, (!content_only).then_some(&read.path))?;
                    show::cut(read.redacted, read.truncated, max_bytes, read.size_bytes);
                }
            }
            Self::Export { workspace_id, output, json } => {
                let exported = workspaces.export_disk(&workspace_id, &output).await?;
                if json {
                    print_json(&serde_json::to_value(&exported).unwrap_or_default());
                } else {
                    let mib = exported.allocated_bytes.div_ceil(1 << 20);
                    outln!("the disk is in {} ({}, {mib} MiB)", exported.output_path, exported.disk_format);
                }
            }
        }
        Ok(0)
    }
}
