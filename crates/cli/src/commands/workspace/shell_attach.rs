//! `pyro workspace shell attach`: a person's own terminal.

use pyro_core::plain::Modes;
use pyro_core::workspace::{AttachEnd, ShellSize};
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use crate::error::CliError;
use crate::output::errln;
use crate::terminal;

/// Join your own terminal to a shell; Ctrl-] lets go of it
#[derive(clap::Args)]
#[command(
    after_help = "Without a shell it is the one that was opened last, or a new one. Others may read and write it \
                  meanwhile. It goes on when you let go.\n\nExample:\n  pyro workspace shell attach repro"
)]
pub struct Args {
    /// The workspace's id or name
    workspace_id: String,
    /// The shell's id
    shell_id: Option<String>,
}

/// Terminal of the person, and the modes that it was told to be in.
struct Watched {
    out: tokio::io::Stdout,
    modes: Modes,
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.out).poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = written {
            self.modes.watch(&bytes[..n]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.out).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.out).poll_shutdown(cx)
    }
}

/// Leaves the terminal as it was found, however this ends.
struct Joined {
    terminal: Watched,
    raw: Option<terminal::Raw>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        let undo = self.terminal.modes.undo();
        // Nothing better can be done than to try.
        let _ = std::io::stdout().write_all(undo.as_bytes()).and_then(|()| std::io::stdout().flush());
        drop(self.raw.take());
    }
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let (size, mut changes) = terminal::sizes("attach")?;
        let shell_size =
            |size: pyro_core::command::TerminalSize| ShellSize { cols: size.cols, rows: size.rows };
        let (sender, mut sizes) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(size) = changes.recv().await {
                if sender.send(shell_size(size)).await.is_err() {
                    return;
                }
            }
        });
        let workspaces = super::workspaces(None)?;
        let mut joined =
            Joined { terminal: Watched { out: tokio::io::stdout(), modes: Modes::default() }, raw: None };
        let mut shell_id = String::new();
        let Joined { terminal, raw } = &mut joined;
        let end = workspaces
            .attach_shell(
                &self.workspace_id,
                self.shell_id.as_deref(),
                (shell_size(size), &mut sizes),
                &mut terminal::input(),
                terminal,
                |attached| {
                    shell_id.clone_from(&attached.shell_id);
                    let what = if attached.opened { "a new shell" } else { "shell" };
                    errln!(
                        "[workspace-shell-attach] joined {what} {}; Ctrl-] lets go of it",
                        attached.shell_id
                    );
                    // Raw only now: until here Ctrl-C must end pyro.
                    *raw = terminal::Raw::enter();
                },
            )
            .await;
        drop(joined);
        match end? {
            AttachEnd::Detached => {
                errln!("\n[workspace-shell-attach] let go of shell {shell_id}, which goes on");
                Ok(0)
            }
            AttachEnd::Ended(shell) => {
                let code = shell.exit_code.unwrap_or(1);
                errln!("\n[workspace-shell-attach] shell {shell_id} ended exit_code={code}");
                Ok(u8::try_from(code).unwrap_or(1))
            }
        }
    }
}
