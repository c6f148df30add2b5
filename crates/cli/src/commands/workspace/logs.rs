//! `pyro workspace logs`.

use std::io::Write as _;

use crate::error::{CliError, print_json};

/// Show every command that was run, with its output; a reset does not touch it
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace logs repro")]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// Does it.
    pub async fn execute(self) -> Result<u8, CliError> {
        let logs = super::workspaces(None)?.logs(&self.workspace_id).await?;
        if self.json {
            print_json(&serde_json::to_value(&logs).unwrap_or_default());
            return Ok(0);
        }
        let mut out = std::io::stdout().lock();
        for entry in logs.entries {
            let why = entry.interrupted.map(|why| format!(" interrupted={why:?}")).unwrap_or_default();
            let head = format!(
                "#{} exit_code={} duration_ms={}{why}\n$ {}\n",
                entry.sequence, entry.exit_code, entry.duration_ms, entry.command
            );
            let end = |text: &str| if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let errors =
                if entry.stderr.is_empty() { String::new() } else { format!("--- stderr\n{}", entry.stderr) };
            let text = format!("{head}{}{}{errors}{}\n", entry.stdout, end(&entry.stdout), end(&errors));
            if out.write_all(text.as_bytes()).is_err() {
                return Err(CliError::OutputClosed);
            }
        }
        Ok(0)
    }
}
