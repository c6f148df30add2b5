//! `pyro workspace diff`.

use std::io::{self, IsTerminal as _};

use pyro_core::workspace::{Diff, DiffEntry};

use super::show;
use crate::error::{CliError, print_json, printed};
use crate::output::{self, errln};

/// Most entries without text that are named.
const SHOWN: usize = 40;

/// Show what differs from the workspace's beginning, as a patch that `git apply` takes
#[derive(clap::Args)]
#[command(
    after_help = "The patch goes to standard output; what no text can tell, such as binary files, is named on standard \
                  error. The guest says which files to look at, and root in it can hide some: --verified compares the \
                  disk itself with the beginning, for what is to be landed unseen.\n\nExample:\n  pyro workspace diff repro > repro.patch && git apply repro.patch"
)]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// Read every byte of the workspace's disk on the host and believe nothing that its guest says, running or stopped
    #[arg(long)]
    verified: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        let diff = match self.verified {
            true => workspaces.diff_verified(&self.workspace_id).await?,
            false => workspaces.diff(&self.workspace_id).await?,
        };
        if self.json {
            print_json(&serde_json::to_value(&diff).unwrap_or_default());
            return Ok(0);
        }
        let text = if io::stdout().is_terminal() { coloured(&diff.patch) } else { diff.patch.clone() };
        output::print(text.as_bytes());
        printed()?;
        talk(&diff);
        Ok(0)
    }
}

/// A patch for a person's terminal: in colours, and without what the guest's files may do to it.
fn coloured(patch: &str) -> String {
    let mut text = String::new();
    for line in patch.lines() {
        let colour = match line.as_bytes() {
            [b'd', b'i', b'f', b'f', ..] | [b'+', b'+', b'+', b' ', ..] | [b'-', b'-', b'-', b' ', ..] => {
                "\x1b[1m"
            }
            [b'@', b'@', ..] => "\x1b[36m",
            [b'+', ..] => "\x1b[32m",
            [b'-', ..] => "\x1b[31m",
            _ => "",
        };
        let end = if colour.is_empty() { "" } else { "\x1b[0m" };
        text.push_str(colour);
        text.extend(line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }));
        text.push_str(end);
        text.push('\n');
    }
    text
}

fn talk(diff: &Diff) {
    let sum = &diff.summary;
    let gits = |path: &str| path.split('/').any(|name| name == ".git");
    let untold = |entry: &&DiffEntry| {
        entry.text_patch.is_empty()
            && (entry.left_out.is_some() || entry.artifact_type != "directory" && !gits(&entry.path))
    };
    for entry in diff.entries.iter().filter(untold).take(SHOWN) {
        let why = match &entry.left_out {
            Some(why) => format!(" (left out: {})", show::printable(why)),
            None if entry.binary => " (binary)".to_owned(),
            None => String::new(),
        };
        let path = show::printable(&entry.path);
        errln!("[diff] {} {} {path}{why}", entry.status, entry.artifact_type);
    }
    let more = diff.entries.iter().filter(untold).skip(SHOWN).count();
    if more > 0 {
        errln!("[diff] and {more} more that no text can tell; --json names all");
    }
    if diff.redacted {
        errln!(
            "[diff] a secret is in what differs, shown as [REDACTED]: the patch is not what the files have"
        );
    }
    if diff.entries_truncated {
        errln!("[diff] not complete: more paths differ than are listed");
    }
    if diff.patch_truncated {
        errln!("[diff] the patch is not complete: there is more text than it may have");
    }
    if diff.verified {
        errln!("[diff] verified: the host read every byte of the disk");
    }
    errln!(
        "[diff] total={} added={} modified={} deleted={} type_changed={} text_patched={} non_text={}",
        sum.total,
        sum.added,
        sum.modified,
        sum.deleted,
        sum.type_changed,
        sum.text_patched,
        sum.non_text
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_cannot_write_to_a_terminal_what_it_likes() {
        let shown = coloured("@@ -1 +1 @@\n-a\tb\n+\x1b]0;x\x07\n c\n");
        assert_eq!(
            shown,
            "\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-a\tb\x1b[0m\n\x1b[32m+\u{fffd}]0;x\u{fffd}\x1b[0m\n c\n"
        );
    }
}
