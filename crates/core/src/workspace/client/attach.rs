//! A person's terminal joined to a shell.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::Workspaces;
use super::reach::{self, Conversation, answer_of};
use crate::command::CommandError;
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::{self, Channel, ProtocolError};
use crate::workspace::store::jobs::{JobState, ShellSize};
use crate::workspace::store::jobs_view::Shell;
use crate::workspace::store::record::WORKSPACE_PATH;
use crate::workspace::wire::jobs::{AttachShell, TerminalEvent};
use crate::workspace::wire::{Outcome, Request};

/// Key that detaches a person from a shell: Ctrl-].
const DETACH: u8 = 0x1d;

/// Shell that a terminal was joined to.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Id of the shell, 12 hexadecimal digits.
    pub shell_id: String,
    /// Whether it was opened for this.
    pub opened: bool,
}

/// How a terminal came to be on its own again.
#[derive(Clone, Debug)]
pub enum AttachEnd {
    /// The person let go; the shell goes on.
    Detached,
    /// The shell ended.
    Ended(Box<Shell>),
}

impl Workspaces {
    /// Joins a terminal to a shell: the given one, else the one that was opened last, else a new one. `joined` hears
    /// which before anything of it is shown. Dropping the future lets go.
    ///
    /// # Errors
    /// When the shell does not run, or the connection to its keeper breaks.
    pub async fn attach_shell(
        &self,
        given: &str,
        shell_id: Option<&str>,
        (size, sizes): (ShellSize, &mut mpsc::Receiver<ShellSize>),
        input: &mut (dyn AsyncRead + Send + Unpin),
        output: &mut (dyn AsyncWrite + Send + Unpin),
        joined: impl FnOnce(&Attached),
    ) -> Result<AttachEnd, WorkspaceError> {
        let home = self.find(given).await?;
        let size = size.nearest();
        let attached = match shell_id {
            Some(id) => Attached { shell_id: id.to_owned(), opened: false },
            None => {
                let shells = self.shells(given).await?.shells;
                match shells.into_iter().rev().find(|shell| shell.state == JobState::Running) {
                    Some(shell) => Attached { shell_id: shell.shell_id, opened: false },
                    None => {
                        let shell = self.open_shell(given, WORKSPACE_PATH, size, Vec::new()).await?;
                        Attached { shell_id: shell.shell_id, opened: true }
                    }
                }
            }
        };
        let Some(conversation) = reach::meet(&home).await? else {
            return Err(WorkspaceError::Stopped);
        };
        conversation.check_generation()?;
        let Conversation { mut stream, .. } = conversation;
        let call = AttachShell { shell_id: attached.shell_id.clone(), size };
        frames::send(&mut stream, &Request::new(&call)).await?;
        let (mut reader, mut writer) = stream.into_split();
        let mut body = Vec::new();
        // The keeper refuses, or shows something, before the person types.
        let mut first = Some(frames::receive_frame(&mut reader, &mut body).await?);
        if first != Some(Some(Channel::Message)) {
            joined(&attached);
        }
        let showing = async {
            loop {
                let channel = match first.take() {
                    Some(first) => first,
                    None => frames::receive_frame(&mut reader, &mut body).await?,
                };
                match channel {
                    Some(Channel::Stdout) => super::exec::pass_on(output, &body).await?,
                    Some(Channel::Message) => {
                        let outcome: Outcome<Shell> =
                            serde_json::from_slice(&body).map_err(ProtocolError::Message)?;
                        return answer_of(outcome).map(|shell| AttachEnd::Ended(Box::new(shell)));
                    }
                    Some(Channel::Stderr) | None => return Err(ProtocolError::Ended.into()),
                }
            }
        };
        let typing = async {
            let mut buffer = vec![0; 16 << 10];
            let mut sized = true;
            loop {
                tokio::select! {
                    n = input.read(&mut buffer) => {
                        let typed = &buffer[..n.map_err(CommandError::Output)?];
                        let key = typed.iter().position(|byte| *byte == DETACH);
                        let typed = &typed[..key.unwrap_or(typed.len())];
                        if !typed.is_empty() {
                            frames::send_frame(&mut writer, Channel::Stdout, typed).await?;
                        }
                        if key.is_some() || typed.is_empty() {
                            return Ok(AttachEnd::Detached);
                        }
                    }
                    size = sizes.recv(), if sized => match size {
                        Some(size) => frames::send(&mut writer, &TerminalEvent::Resize(size.nearest())).await?,
                        None => sized = false,
                    },
                }
            }
        };
        let ended: Result<AttachEnd, WorkspaceError> = tokio::select! {
            biased;
            ended = showing => ended,
            // A keeper that is gone is told by what it shows.
            typed = typing => match typed {
                Err(WorkspaceError::Protocol(_)) => Err(ProtocolError::Ended.into()),
                typed => typed,
            },
        };
        match ended {
            Err(WorkspaceError::Protocol(_)) => {
                Err(WorkspaceError::KeeperLost { what: "ended while its shell was shown", log: None })
            }
            ended => {
                let _ = output.flush().await;
                ended
            }
        }
    }
}
