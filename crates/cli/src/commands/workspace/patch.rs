//! `pyro workspace patch`.

use std::path::PathBuf;

use clap::Subcommand;
use tokio::io::AsyncReadExt as _;

use super::show;
use crate::error::{CliError, print_json};
use crate::output::{errln, outln};

/// Longest patch that is read; one that is longer is refused by its length.
const MOST: u64 = pyro_core::patch::MAX_PATCH as u64 + 1;

/// Words about what a patch may look like.
const FORMATS: &str = "\
Files are named by their path below /workspace, relative or absolute.

A unified diff has --- and +++ lines, @@ lines and lines that begin with a space, - or +.

A patch between *** Begin Patch and *** End Patch has any number of these:
  *** Add File: PATH       lines that begin with + follow
  *** Update File: PATH    hunks follow; first, if it moves, *** Move to: PATH
  *** Delete File: PATH
A hunk is an @@ line and lines that begin with a space, - or +. @@ alone says nothing; @@ and a line of the file says
that the hunk is the next place after that line. *** End of File after a hunk says that it is the file's end.

A hunk that fits in several places, or in none, is refused with the reason.

Example:
  git diff | pyro workspace patch apply repro --patch-file -";

/// Change files of a running workspace by a patch
#[derive(Subcommand)]
pub enum Patch {
    /// Apply a unified diff, as `git diff` writes it, or a `*** Begin Patch`: all of it, or nothing
    #[command(after_help = FORMATS)]
    Apply {
        /// The workspace's id or name
        workspace_id: String,
        /// The patch itself
        #[arg(
            long,
            value_name = "TEXT",
            allow_hyphen_values = true,
            required_unless_present = "patch_file",
            conflicts_with = "patch_file"
        )]
        patch: Option<String>,
        /// The file of this host that has it; - for standard input
        #[arg(long, value_name = "PATH")]
        patch_file: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Patch {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let Self::Apply { workspace_id, patch, patch_file, json } = self;
        let mut text = Vec::new();
        let source = super::file::source(patch, patch_file).await?;
        let read = source.take(MOST).read_to_end(&mut text).await;
        read.map_err(|error| CliError::new(format!("the patch cannot be read: {error}"), None))?;
        let patched = super::workspaces(None)?.apply_patch(&workspace_id, &text).await?;
        if json {
            print_json(&serde_json::to_value(&patched).unwrap_or_default());
            return Ok(0);
        }
        for entry in &patched.entries {
            outln!("{:8}  {}", entry.status, show::printable(&entry.path));
        }
        if !patched.changed {
            errln!("[patch] nothing to change: everything is as the patch has it");
        }
        Ok(0)
    }
}
