//! `pyro workspace shell`.

use clap::Subcommand;
use pyro_core::workspace::{SecretEnv, Shell as Session, ShellReadRequest, ShellSize};
use serde::Serialize;

use super::{shell_attach, show_jobs};
use crate::error::{CliError, print_json, printed};
use crate::output::{self, errln, outln};

/// Open, use and close terminal sessions that stay
#[derive(Subcommand)]
pub enum Shell {
    /// Begin a shell on a terminal of its own
    Open(Open),
    /// Read what a shell wrote, from a cursor on
    Read(Read),
    /// Type into a shell
    Write(Write),
    /// Send a signal to what runs in a shell's foreground
    Signal(Signal),
    /// End a shell and what runs in it, and forget what it wrote
    #[command(after_help = "Example:\n  pyro workspace shell close repro 0123456789ab")]
    Close(Named),
    /// List the shells
    #[command(after_help = "Example:\n  pyro workspace shell list repro")]
    List {
        /// The workspace's id or name
        workspace_id: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Join your own terminal to a shell; Ctrl-] lets go of it
    Attach(shell_attach::Args),
}

/// Begin a shell on a terminal of its own
#[derive(clap::Args)]
#[command(after_help = "Example:\n  id=$(pyro workspace shell open repro --id-only)")]
pub struct Open {
    /// The workspace's id or name
    workspace_id: String,
    /// Where it begins
    #[arg(long, value_name = "DIR", default_value = "/workspace")]
    cwd: String,
    /// Characters in a line, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 120)]
    cols: u16,
    /// Lines, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 30)]
    rows: u16,
    /// Give it a secret in its environment; may be repeated
    #[arg(long = "secret-env", value_name = "NAME[=ENV]")]
    secret_env: Vec<SecretEnv>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "id_only")]
    json: bool,
    /// Print only its id
    #[arg(long)]
    id_only: bool,
}

/// Read what a shell wrote, from a cursor on
#[derive(clap::Args)]
#[command(
    after_help = "The next cursor is told on standard error, and in the JSON object: whoever goes on from there misses \
                  nothing and gets nothing twice.\n\nExample:\n  pyro workspace shell read repro 0123456789ab --plain \
                  --wait-for-idle-ms 300"
)]
pub struct Read {
    /// The workspace's id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
    /// From which byte on, counted from its beginning
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    cursor: u64,
    /// At most so many characters, 1 to 1048576
    #[arg(long, value_name = "N", default_value_t = 65536)]
    max_chars: u64,
    /// Take terminal control out, as a person would have read it
    #[arg(long)]
    plain: bool,
    /// First wait until nothing was written for so long, 1 to 60000; a minute at most
    #[arg(long, value_name = "MS")]
    wait_for_idle_ms: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Type into a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace shell write repro 0123456789ab --input 'make test'")]
pub struct Write {
    /// The workspace's id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
    /// What to type
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    input: String,
    /// Do not end the line
    #[arg(long)]
    no_newline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Send a signal to what runs in a shell's foreground
#[derive(clap::Args)]
#[command(
    after_help = "At its prompt the shell itself is in the foreground.\n\nExample:\n  pyro workspace shell signal repro \
                  0123456789ab --signal INT"
)]
pub struct Signal {
    /// The workspace's id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
    /// Which
    #[arg(long, value_name = "NAME", default_value = "INT", value_parser = ["HUP", "INT", "TERM", "KILL"])]
    signal: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One shell.
#[derive(clap::Args)]
pub struct Named {
    /// The workspace's id or name
    workspace_id: String,
    /// The shell's id
    shell_id: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Shell {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::Open(args) => args.execute().await?,
            Self::Read(args) => args.execute().await?,
            Self::Write(args) => args.execute().await?,
            Self::Signal(args) => args.execute().await?,
            Self::Close(args) => {
                let closed = super::workspaces(None)?.close_shell(&args.workspace_id, &args.shell_id).await?;
                report(args.json, &closed, || format!("{} is closed{}", args.shell_id, code(&closed.shell)));
            }
            Self::List { workspace_id, json } => {
                let list = super::workspaces(None)?.shells(&workspace_id).await?;
                if json {
                    print_json(&serde_json::to_value(&list).unwrap_or_default());
                } else {
                    show_jobs::shells(&list);
                }
            }
            Self::Attach(args) => return args.execute().await,
        }
        Ok(0)
    }
}

fn report(json: bool, value: &impl Serialize, line: impl FnOnce() -> String) {
    if json {
        print_json(&serde_json::to_value(value).unwrap_or_default());
    } else {
        outln!("{}", line());
    }
}

fn code(shell: &Session) -> String {
    shell.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default()
}

impl Open {
    async fn execute(self) -> Result<(), CliError> {
        let size = ShellSize { cols: self.cols, rows: self.rows };
        let shell =
            super::workspaces(None)?.open_shell(&self.workspace_id, &self.cwd, size, self.secret_env).await?;
        report(self.json, &shell, || {
            let what = if self.id_only { "" } else { " is open" };
            format!("{}{what}", shell.shell_id)
        });
        Ok(())
    }
}

impl Read {
    async fn execute(self) -> Result<(), CliError> {
        let wish = ShellReadRequest {
            cursor: self.cursor,
            max_chars: self.max_chars,
            plain: self.plain,
            wait_for_idle_ms: self.wait_for_idle_ms,
        };
        let read = super::workspaces(None)?.read_shell(&self.workspace_id, &self.shell_id, wish).await?;
        if self.json {
            print_json(&serde_json::to_value(&read).unwrap_or_default());
            return Ok(());
        }
        output::print(read.output.as_bytes());
        printed()?;
        let end =
            if read.plain && !read.output.is_empty() && !read.output.ends_with('\n') { "\n" } else { "" };
        let lost =
            if read.lost_bytes > 0 { format!(" lost_bytes={}", read.lost_bytes) } else { String::new() };
        errln!(
            "{end}[workspace-shell-read] shell_id={} state={} cursor={} next_cursor={} truncated={}{lost}",
            read.shell.shell_id,
            read.shell.state,
            read.cursor,
            read.next_cursor,
            read.truncated
        );
        Ok(())
    }
}

impl Write {
    async fn execute(self) -> Result<(), CliError> {
        let workspaces = super::workspaces(None)?;
        let newline = !self.no_newline;
        let written =
            workspaces.write_shell(&self.workspace_id, &self.shell_id, &self.input, newline).await?;
        report(self.json, &written, || format!("{} characters are typed", written.input_length));
        Ok(())
    }
}

impl Signal {
    async fn execute(self) -> Result<(), CliError> {
        let workspaces = super::workspaces(None)?;
        let sent = workspaces.signal_shell(&self.workspace_id, &self.shell_id, &self.signal).await?;
        report(self.json, &sent, || format!("{} is sent", sent.signal));
        Ok(())
    }
}
