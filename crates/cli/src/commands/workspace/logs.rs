//! `pyro workspace logs`.

use pyro_core::workspace::{Bounds, LogEntry, LogReader, LogsHead};
use serde_json::Value;

use crate::error::{CliError, printed};
use crate::output::{self, errln};

/// Show every command that was run, with its output; a reset does not touch it
#[derive(clap::Args)]
#[command(
    after_help = "A workspace keeps its last 10000 commands, and 256 MiB of what they were and wrote.\n\nExample:\n  pyro \
                  workspace logs repro --tail 3"
)]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// Only the last so many commands
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let mut logs = super::workspaces(None)?.read_logs(&self.workspace_id, self.tail).await?;
        if self.json {
            print_json(&mut logs)?;
        } else {
            let head = logs.head().clone();
            while let Some(entry) = logs.next_entry()? {
                write(&text(entry))?;
            }
            talk(&head);
        }
        Ok(0)
    }
}

/// Prints a part of what may be long: nobody reads on for a reader that went away.
fn write(text: &str) -> Result<(), CliError> {
    output::print(text.as_bytes());
    printed()
}

/// Words an entry of the log for people.
fn text(entry: LogEntry) -> String {
    let why = entry.interrupted.map(|why| format!(" interrupted={why:?}")).unwrap_or_default();
    let head = format!(
        "#{} exit_code={} duration_ms={}{why}\n$ {}\n",
        entry.sequence, entry.exit_code, entry.duration_ms, entry.command
    );
    let end = |text: &str| if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let errors =
        if entry.stderr.is_empty() { String::new() } else { format!("--- stderr\n{}", entry.stderr) };
    format!("{head}{}{}{errors}{}\n", entry.stdout, end(&entry.stdout), end(&errors))
}

/// Says what is not shown.
fn talk(head: &LogsHead) {
    if head.omitted_count > 0 {
        let s = if head.omitted_count == 1 { " is" } else { "s are" };
        errln!("[logs] {} earlier command{s} not shown", head.omitted_count);
    }
    if head.dropped_count > 0 {
        errln!(
            "[logs] of the first {} commands nothing is kept any more: a workspace keeps its last {}, and {} MiB of what \
             they were and wrote",
            head.dropped_count,
            Bounds::ALL.commands,
            Bounds::ALL.bytes >> 20
        );
    }
}

/// The JSON object as it is printed everywhere, entry by entry: all of them need not fit into memory.
fn print_json(logs: &mut LogReader) -> Result<(), CliError> {
    const ENTRIES: &str = "entries";
    let Value::Object(mut head) = serde_json::to_value(logs.head()).unwrap_or_default() else {
        return Ok(());
    };
    head.insert(ENTRIES.into(), Value::Null);
    let mut separator = "{\n";
    for (key, value) in head {
        write(&format!("{separator}  {}: ", Value::String(key.clone())))?;
        separator = ",\n";
        if key != ENTRIES {
            write(&value.to_string())?;
            continue;
        }
        let mut begin = "[\n";
        while let Some(entry) = logs.next_entry()? {
            let entry = serde_json::to_value(entry).unwrap_or_default();
            // A line feed within a text is escaped: each line that there is can be indented.
            write(&format!("{begin}    {}", format!("{entry:#}").replace('\n', "\n    ")))?;
            begin = ",\n";
        }
        write(if begin == "[\n" { "[]" } else { "\n  ]" })?;
    }
    write("\n}\n")
}
