//! `pyro workspace exec`.

use std::ffi::OsString;

use pyro_core::command::{CommandError, CommandLine};
use pyro_core::vm::{VmError, timeout};
use pyro_core::workspace::{SecretEnv, WorkspaceError};
use tokio::io::AsyncWrite;

use crate::error::{CliError, print_json};
use crate::output::errln;

/// Run one command in /workspace and exit with its exit code
#[derive(clap::Args)]
#[command(
    override_usage = "pyro workspace exec [OPTIONS] <WORKSPACE_ID> -- <COMMAND>...",
    after_help = "Several words after -- are the program and its arguments, untouched by any shell; a single word is a \
                  shell command line.\n\nExample:\n  pyro workspace exec repro -- 'make test > log; tail -n 5 log'"
)]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// The command
    #[arg(value_name = "COMMAND")]
    command_args: Vec<OsString>,
    /// Kill the command after so many seconds and exit 124
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout_seconds: u64,
    /// Give the command a secret in its environment; may be repeated
    #[arg(long = "secret-env", value_name = "NAME[=ENV]")]
    secret_env: Vec<SecretEnv>,
    /// Print one JSON object with the result instead of the command's output
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let command = CommandLine::from_words(self.command_args).ok_or_else(|| {
            CliError::Usage("there is no command to run: pyro workspace exec ID -- COMMAND...".into())
        })?;
        let limit = timeout(self.timeout_seconds).map_err(|error| CliError::new(error.to_string(), None))?;
        let (mut out, mut err): (Box<dyn AsyncWrite + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) =
            if self.json {
                (Box::new(tokio::io::sink()), Box::new(tokio::io::sink()))
            } else {
                (Box::new(tokio::io::stdout()), Box::new(tokio::io::stderr()))
            };
        let workspaces = super::workspaces(None)?;
        let report = workspaces
            .exec(&self.workspace_id, &command, Some(limit), &self.secret_env, &mut out, &mut err)
            .await;
        let report = match report {
            Ok(report) => report,
            Err(WorkspaceError::Vm(VmError::Command(error @ CommandError::Output(_)))) => {
                return Err(VmError::Command(error).into());
            }
            Err(error) => return Err(error.into()),
        };
        if report.timed_out {
            errln!(
                "[workspace-exec] timed out after {} s: the command and all it started were killed",
                self.timeout_seconds
            );
        }
        errln!(
            "[workspace-exec] workspace_id={} sequence={} cwd={} execution_mode={} exit_code={} duration_ms={}",
            report.workspace_id,
            report.sequence,
            report.cwd,
            report.execution_mode,
            report.exit_code,
            report.duration_ms
        );
        if let Some(why) = &report.unrecorded {
            errln!("[workspace-exec] the history lacks this command or its output: {why}");
        }
        if self.json {
            print_json(&serde_json::to_value(&report).unwrap_or_default());
        }
        Ok(u8::try_from(report.exit_code).unwrap_or(1))
    }
}
