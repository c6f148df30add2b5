//! Calls about shells and services whose connection carries more than one answer.

use serde::{Deserialize, Serialize};

use super::Call;
use crate::workspace::store::jobs::ShellSize;
use crate::workspace::store::jobs_view::Shell;

/// Join a shell: its output comes as chunks of [`crate::workspace::frames::Channel::Stdout`], and what is typed goes the
/// other way on the same channel, between messages that are [`TerminalEvent`]s. The answer is the shell that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachShell {
    /// Id of the shell, 12 hexadecimal digits.
    pub shell_id: String,
    /// Size of the person's terminal.
    pub size: ShellSize,
}

impl Call for AttachShell {
    const NAME: &'static str = "attach_shell";
    type Answer = Shell;
}

/// Something that happened to the terminal of a person who joined a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TerminalEvent {
    /// The terminal has another size.
    Resize(ShellSize),
}
