//! Shells from a front end's side: what is asked of the keeper, what is read from files whether it lives or not, and a
//! person's terminal joined to one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::client::{Conversation, Workspaces};
use super::jobs::{Job as _, OUT, Shell, ShellClosed, ShellList, ShellRead, ShellSignalled, ShellWritten};
use super::layout::Home;
use super::state::State;
use super::{WorkspaceError, spool};
use crate::capture::KEPT;
use crate::command::CommandError;
use crate::identity::unix_now;
use crate::keeper::{self, Answer, Asked, Call, Channel, Joined, Phase, ProtocolError, ShellAsk};
use pyro_formats::plain;

/// How long a keeper may take over what is asked of a shell: the longest wait for a pause, and more.
const PATIENCE: Duration = Duration::from_secs(120);
/// Columns and lines of a terminal.
const SIZES: std::ops::RangeInclusive<u16> = 1..=1000;
/// Characters of one read, and milliseconds of a pause.
const CHARS: std::ops::RangeInclusive<u64> = 1..=1 << 20;
const IDLE_MS: std::ops::RangeInclusive<u64> = 1..=60_000;
/// Bytes that are looked at for one read, at least: the longest control must fit.
const LEAST: usize = 16 << 10;
/// What a person types to let go of a shell: Ctrl-].
const DETACH: u8 = 0x1d;

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellSize {
    /// Characters in a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

impl ShellSize {
    /// It, if there can be one.
    pub(crate) fn checked(self) -> Result<Self, WorkspaceError> {
        bound("cols", u64::from(self.cols), &(1..=u64::from(*SIZES.end())))?;
        bound("rows", u64::from(self.rows), &(1..=u64::from(*SIZES.end())))?;
        Ok(self)
    }

    /// The nearest one that can be.
    fn nearest(self) -> Self {
        let within = |n: u16| n.clamp(*SIZES.start(), *SIZES.end());
        Self { cols: within(self.cols), rows: within(self.rows) }
    }
}

/// Refuses what is out of bounds.
pub(super) fn bound(
    what: &'static str,
    value: u64,
    bounds: &std::ops::RangeInclusive<u64>,
) -> Result<(), WorkspaceError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(WorkspaceError::Bound { what, value, least: *bounds.start(), most: *bounds.end() })
}

/// The one of this id.
pub(crate) fn find_shell(mut shells: Vec<Shell>, id: &str) -> Result<Shell, WorkspaceError> {
    match shells.iter().position(|shell| shell.shell_id == id) {
        Some(at) => Ok(shells.swap_remove(at)),
        None => Err(WorkspaceError::ShellUnknown {
            id: id.to_owned(),
            there: shells.into_iter().map(|shell| shell.shell_id).collect(),
        }),
    }
}

/// Forgets one that has ended, and what it wrote. The caller holds the workspace's lock. Blocks.
pub(crate) fn forget_shell(home: &Home, state: &State, id: &str) -> Result<(), WorkspaceError> {
    // The row first: what has one has its output.
    state.remove_job::<Shell>(id)?;
    let dir = home.shell(id);
    spool::remove(&dir).map_err(|error| WorkspaceError::file(&dir, "removed", error))
}

/// What to read of a shell.
#[derive(Clone, Copy, Debug)]
pub struct ReadWish {
    /// From which byte on, counted from its beginning.
    pub cursor: u64,
    /// At most so many characters, 1 to 1,048,576.
    pub max_chars: u64,
    /// Without terminal control.
    pub plain: bool,
    /// First wait until it has written nothing for so long, 1 to 60,000 ms, but a minute at most.
    pub wait_for_idle_ms: Option<u64>,
}

/// Whom a terminal was joined to.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The shell.
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
    async fn ask_shell(&self, home: &Home, ask: ShellAsk) -> Result<Shell, WorkspaceError> {
        match self.ask(home, &Call::Shell { ask }, PATIENCE).await? {
            Some(Answer::Shell { shell }) => Ok(*shell),
            Some(_) => Err(super::client::odd()),
            None => Err(WorkspaceError::Stopped),
        }
    }

    /// What is written down of the shells, where no keeper has a guest.
    async fn shells_at_rest(&self, home: &Home) -> Result<Option<Vec<Shell>>, WorkspaceError> {
        let phase = self.phase(home).await?;
        if phase.is_some_and(|phase| phase != Phase::Stopped) {
            return Ok(None);
        }
        let shells = home.read()?.jobs::<Shell>()?;
        Ok(Some(shells.into_iter().map(|shell| shell.without_guest(unix_now())).collect()))
    }

    /// Begins a shell in `cwd`.
    ///
    /// # Errors
    /// When the workspace does not run, or there is no such directory.
    pub async fn open_shell(
        &self,
        given: &str,
        cwd: &str,
        size: ShellSize,
        secret_env: Vec<super::SecretEnv>,
    ) -> Result<Shell, WorkspaceError> {
        let home = self.find(given).await?;
        let ask = ShellAsk::Open { cwd: directory(cwd), size: size.checked()?, secret_env };
        self.ask_shell(&home, ask).await
    }

    /// The shells, the oldest first.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn shells(&self, given: &str) -> Result<ShellList, WorkspaceError> {
        let home = self.find(given).await?;
        let shells = match self.shells_at_rest(&home).await? {
            Some(shells) => shells,
            None => home.read()?.jobs()?,
        };
        Ok(ShellList {
            workspace_id: home.read()?.record()?.id,
            count: shells.len(),
            running_count: shells.iter().filter(|shell| shell.is_running()).count(),
            shells,
        })
    }

    /// Reads what a shell wrote, from a cursor on; also of one that ended, or whose workspace is stopped.
    ///
    /// # Errors
    /// When there is no such shell.
    pub async fn read_shell(
        &self,
        given: &str,
        shell_id: &str,
        wish: ReadWish,
    ) -> Result<ShellRead, WorkspaceError> {
        bound("max_chars", wish.max_chars, &CHARS)?;
        if let Some(ms) = wish.wait_for_idle_ms {
            bound("wait_for_idle_ms", ms, &IDLE_MS)?;
        }
        let home = self.find(given).await?;
        let shell = match self.shells_at_rest(&home).await? {
            Some(shells) => find_shell(shells, shell_id)?,
            None => {
                let ask = ShellAsk::Look { shell_id: shell_id.to_owned(), idle_ms: wish.wait_for_idle_ms };
                self.ask_shell(&home, ask).await?
            }
        };
        let dir = home.shell(&shell.shell_id);
        let most = (wish.max_chars as usize).saturating_mul(4).clamp(LEAST, 2 * KEPT);
        let kept = spool::read(&dir, OUT, wish.cursor, most)
            .map_err(|error| WorkspaceError::file(&dir, "read", error))?;
        let end = kept.from + kept.bytes.len() as u64;
        let last = end >= kept.written;
        let over = last && !shell.is_running();
        let (output, taken, cut) = text(&kept.bytes, over, &wish, (shell.cols, shell.rows));
        let lost_bytes = kept.from.saturating_sub(wish.cursor);
        Ok(ShellRead {
            cursor: wish.cursor,
            next_cursor: kept.from + taken as u64,
            output,
            truncated: cut || !last || lost_bytes > 0,
            lost_bytes,
            plain: wish.plain,
            wait_for_idle_ms: wish.wait_for_idle_ms,
            shell,
        })
    }

    /// Types into a shell, and ends the line if `newline`.
    ///
    /// # Errors
    /// When it has ended, or takes no input.
    pub async fn write_shell(
        &self,
        given: &str,
        shell_id: &str,
        input: &str,
        newline: bool,
    ) -> Result<ShellWritten, WorkspaceError> {
        let home = self.find(given).await?;
        let line = format!("{input}{}", if newline { "\n" } else { "" });
        let ask = ShellAsk::Write { shell_id: shell_id.to_owned(), input: line };
        let shell = self.ask_shell(&home, ask).await?;
        Ok(ShellWritten { shell, input_length: input.chars().count(), append_newline: newline })
    }

    /// Sends `HUP`, `INT`, `TERM` or `KILL` to what runs in a shell's foreground: at its prompt, the shell itself.
    ///
    /// # Errors
    /// When it has ended, or there is no such signal.
    pub async fn signal_shell(
        &self,
        given: &str,
        shell_id: &str,
        signal: &str,
    ) -> Result<ShellSignalled, WorkspaceError> {
        let number = match signal {
            "HUP" => 1,
            "INT" => 2,
            "KILL" => 9,
            "TERM" => 15,
            other => return Err(WorkspaceError::Signal(other.to_owned())),
        };
        let home = self.find(given).await?;
        let ask = ShellAsk::Signal { shell_id: shell_id.to_owned(), number };
        let shell = self.ask_shell(&home, ask).await?;
        Ok(ShellSignalled { shell, signal: signal.to_owned() })
    }

    /// Ends a shell and all that runs in it, and forgets it.
    ///
    /// # Errors
    /// When there is no such shell.
    pub async fn close_shell(&self, given: &str, shell_id: &str) -> Result<ShellClosed, WorkspaceError> {
        let home = self.find(given).await?;
        let ask = ShellAsk::Close { shell_id: shell_id.to_owned() };
        let shell = match self.ask_shell(&home, ask).await {
            Err(WorkspaceError::Stopped) => {
                let (held, state) = self.own(&home).await?;
                let shell = find_shell(state.jobs()?, shell_id)?.without_guest(unix_now());
                forget_shell(&home, &state, shell_id)?;
                drop((state, held));
                shell
            }
            asked => asked?,
        };
        Ok(ShellClosed { shell, closed: true })
    }

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
                match shells.into_iter().rev().find(Shell::is_running) {
                    Some(shell) => Attached { shell_id: shell.shell_id, opened: false },
                    None => {
                        let shell = self.open_shell(given, super::WORKSPACE_PATH, size, Vec::new()).await?;
                        Attached { shell_id: shell.shell_id, opened: true }
                    }
                }
            }
        };
        let Some(Conversation { mut stream, .. }) = self.meet(&home).await? else {
            return Err(WorkspaceError::Stopped);
        };
        let call = Call::ShellAttach { shell_id: attached.shell_id.clone(), size };
        keeper::send(&mut stream, &Asked::now(&call)).await?;
        let (mut reader, mut writer) = stream.into_split();
        let mut body = Vec::new();
        // It refuses, or shows something, before anything is said.
        let mut first = Some(keeper::receive_frame(&mut reader, &mut body).await?);
        if first != Some(Some(Channel::Message)) {
            joined(&attached);
        }
        let showing = async {
            loop {
                let channel = match first.take() {
                    Some(first) => first,
                    None => keeper::receive_frame(&mut reader, &mut body).await?,
                };
                match channel {
                    Some(Channel::Stdout) => super::command::pass_on(output, &body).await?,
                    Some(Channel::Message) => {
                        return match serde_json::from_slice(&body).map_err(ProtocolError::Message)? {
                            Answer::Shell { shell } => Ok(AttachEnd::Ended(shell)),
                            Answer::Failed { fault } => Err(WorkspaceError::Told(fault)),
                            _ => Err(super::client::odd()),
                        };
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
                            keeper::send_frame(&mut writer, Channel::Stdout, typed).await?;
                        }
                        if key.is_some() || typed.is_empty() {
                            return Ok(AttachEnd::Detached);
                        }
                    }
                    size = sizes.recv(), if sized => match size {
                        Some(size) => keeper::send(&mut writer, &Joined::Resize(size.nearest())).await?,
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

/// Where a job begins: what is not absolute is below the workspace.
pub(super) fn directory(cwd: &str) -> String {
    if cwd.starts_with('/') { cwd.to_owned() } else { format!("{}/{cwd}", super::WORKSPACE_PATH) }
}

/// The text of as many of `bytes` as may be shown, how many that are, and whether that is for its length. What is not
/// finished waits for the rest, unless it is `over`.
fn text(bytes: &[u8], over: bool, wish: &ReadWish, (cols, rows): (u16, u16)) -> (String, usize, bool) {
    let most = wish.max_chars as usize;
    let (raw, mut n) = decode(bytes, over, most);
    let mut cut = n < bytes.len() && raw.chars().count() >= most;
    if !wish.plain {
        return (raw, n, cut);
    }
    loop {
        let all = over && n == bytes.len();
        let mut whole = if all { n } else { plain::whole(&bytes[..n]) };
        if whole == 0 && cut {
            // A control alone is longer than all that may be shown; of its text there is none.
            let ends = (n..=bytes.len()).map(|n| plain::whole(&bytes[..n]));
            whole = ends.into_iter().find(|whole| *whole > 0).unwrap_or(if over { bytes.len() } else { 0 });
        }
        let text = plain::plain(&bytes[..whole], cols, rows);
        if text.chars().count() <= most || n <= 1 {
            return (text.chars().take(most).collect(), whole, cut);
        }
        cut = true;
        n /= 2;
    }
}

/// At most `most` characters, and how many bytes they were.
fn decode(bytes: &[u8], over: bool, most: usize) -> (String, usize) {
    let (mut text, mut n, mut left) = (String::new(), 0, most);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars().take(left) {
            text.push(c);
            n += c.len_utf8();
            left -= 1;
        }
        let invalid = chunk.invalid();
        if left == 0 {
            break;
        }
        if invalid.is_empty() {
            continue;
        }
        let last = n + invalid.len() == bytes.len();
        let may_go_on = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if last && may_go_on && !over {
            break;
        }
        text.push('\u{fffd}');
        n += invalid.len();
        left -= 1;
    }
    (text, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wish(max_chars: u64, plain: bool) -> ReadWish {
        ReadWish { cursor: 0, max_chars, plain, wait_for_idle_ms: None }
    }

    #[test]
    fn what_is_not_finished_waits_for_the_rest() {
        let bytes = "aé".as_bytes();
        assert_eq!(text(&bytes[..2], false, &wish(9, false), (80, 24)), ("a".into(), 1, false));
        assert_eq!(text(&bytes[..2], true, &wish(9, false), (80, 24)), ("a\u{fffd}".into(), 2, false));
        assert_eq!(text(b"a\x1b[3", false, &wish(9, true), (80, 24)), ("a".into(), 1, false));
        assert_eq!(text(b"a\x1b[3", true, &wish(9, true), (80, 24)), ("a".into(), 4, false));
        // Raw, it is for the reader to put together.
        assert_eq!(text(b"a\x1b[3", false, &wish(9, false), (80, 24)), ("a\x1b[3".into(), 4, false));
    }

    #[test]
    fn a_long_control_does_not_hold_up_a_short_read() {
        let bytes = [b"\x1b]0;".to_vec(), vec![b't'; 100], b"\x07abc".to_vec()].concat();
        let (first, n, cut) = text(&bytes, false, &wish(3, true), (80, 24));
        assert_eq!((first.as_str(), n, cut), ("", 105, true));
        assert_eq!(text(&bytes[n..], false, &wish(3, true), (80, 24)), ("abc".into(), 3, false));
    }

    #[test]
    fn gaps_that_are_longer_than_may_be_shown_do_not_hang_it() {
        let (text, n, cut) = text(b"\x1b[30Cx\r\n", false, &wish(2, true), (80, 24));
        assert!(text.chars().count() <= 2 && n > 0 && cut, "{text:?} {n}");
    }

    proptest! {
        /// Any bytes, read in any steps: each is shown once, and the whole is what was written.
        #[test]
        fn cursors_neither_lose_nor_repeat(bytes in prop::collection::vec(any::<u8>(), 0..200), most in 1_u64..9, plain in any::<bool>()) {
            let mut at = 0;
            let mut raw = String::new();
            while at < bytes.len() {
                let (said, n, _) = text(&bytes[at..], true, &wish(most, plain), (80, 24));
                prop_assert!(n > 0, "stuck at {at} of {bytes:?}");
                prop_assert!(said.chars().count() <= most as usize);
                raw += &said;
                at += n;
            }
            prop_assert_eq!(at, bytes.len());
            if !plain {
                prop_assert_eq!(raw, String::from_utf8_lossy(&bytes));
            }
        }
    }
}
