//! Terminal sessions that stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyro_core::workspace::{
    Shell, ShellClosed, ShellRead, ShellReadRequest, ShellSignalled, ShellSize, ShellWritten,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::workspace::secret_env;
use super::workspace_path;
use crate::mcp::call::Call;
use crate::mcp::failure::Failure;
use crate::mcp::host::Host;
use crate::mcp::order::Place;
use crate::mcp::tool::{Effect, Tool};

pub fn tools() -> Vec<Tool> {
    use Effect::{Adds, Destroys, Reads};
    use Place::{After, Change};
    vec![
        Tool::new(
            "shell_open",
            "Open a terminal session that stays, for programs that ask questions or keep state.",
            Adds,
            Some(After),
            open,
        ),
        Tool::new(
            "shell_read",
            "Read what a shell wrote, from a cursor on; plain and wait_for_idle_ms=300 suit most readers.",
            Reads,
            Some(After),
            read,
        ),
        Tool::new(
            "shell_write",
            "Type into a shell; read the answer with shell_read.",
            Destroys,
            Some(Change),
            write,
        ),
        Tool::new(
            "shell_signal",
            "Send a signal to what runs in a shell's foreground.",
            Destroys,
            Some(Change),
            signal,
        ),
        Tool::new("shell_close", "End a shell and what runs in it.", Destroys, Some(Change), close),
    ]
}

fn cols() -> u16 {
    120
}

fn rows() -> u16 {
    30
}

fn chars() -> u64 {
    65536
}

fn yes() -> bool {
    true
}

fn interrupt() -> String {
    "INT".into()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Open {
    /// Its id or name
    workspace_id: String,
    /// Where it begins
    #[serde(default = "workspace_path")]
    cwd: String,
    /// Characters in a line
    #[serde(default = "cols")]
    #[schemars(range(min = 1, max = 1000))]
    cols: u16,
    /// Lines
    #[serde(default = "rows")]
    #[schemars(range(min = 1, max = 1000))]
    rows: u16,
    /// Secrets as environment variables: {"secret's name": "VARIABLE"}
    #[serde(default)]
    secret_env: Option<BTreeMap<String, String>>,
}

async fn open(host: Arc<Host>, input: Open, _: Call) -> Result<Shell, Failure> {
    let size = ShellSize { cols: input.cols, rows: input.rows };
    let secret_env = secret_env(input.secret_env)?;
    Ok(host.workspaces.open_shell(&input.workspace_id, &input.cwd, size, secret_env).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Read {
    /// Its id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
    /// From this byte on: next_cursor of the last read
    #[serde(default)]
    cursor: u64,
    /// At most so many characters
    #[serde(default = "chars")]
    #[schemars(range(min = 1, max = 1048576))]
    max_chars: u64,
    /// Without terminal control, as a person would read it
    #[serde(default)]
    plain: bool,
    /// First wait until nothing was written for so long, a minute at most
    #[serde(default)]
    #[schemars(range(min = 1, max = 60000))]
    wait_for_idle_ms: Option<u64>,
}

async fn read(host: Arc<Host>, input: Read, _: Call) -> Result<ShellRead, Failure> {
    let wish = ShellReadRequest {
        cursor: input.cursor,
        max_chars: input.max_chars,
        plain: input.plain,
        wait_for_idle_ms: input.wait_for_idle_ms,
    };
    Ok(host.workspaces.read_shell(&input.workspace_id, &input.shell_id, wish).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Write {
    /// Its id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
    /// What to type
    input: String,
    /// End the line
    #[serde(default = "yes")]
    append_newline: bool,
}

async fn write(host: Arc<Host>, input: Write, _: Call) -> Result<ShellWritten, Failure> {
    let Write { workspace_id, shell_id, input, append_newline } = input;
    Ok(host.workspaces.write_shell(&workspace_id, &shell_id, &input, append_newline).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Signal {
    /// Its id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
    /// HUP, INT, TERM or KILL
    #[serde(default = "interrupt")]
    signal_name: String,
}

async fn signal(host: Arc<Host>, input: Signal, _: Call) -> Result<ShellSignalled, Failure> {
    Ok(host.workspaces.signal_shell(&input.workspace_id, &input.shell_id, &input.signal_name).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct One {
    /// Its id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
}

async fn close(host: Arc<Host>, input: One, _: Call) -> Result<ShellClosed, Failure> {
    Ok(host.workspaces.close_shell(&input.workspace_id, &input.shell_id).await?)
}
