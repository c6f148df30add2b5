//! Shells from a front end's side: what is asked of the keeper, and what is read from files whether it lives or not.

use pyro_formats::plain;
use pyro_formats::redact::Redactor;

use super::{Workspaces, reach};
use crate::capture::KEPT;
use crate::identity::unix_now;
use crate::workspace::error::{WorkspaceError, blocking, check_bound};
use crate::workspace::life::Phase;
use crate::workspace::ops;
use crate::workspace::store::jobs::{Job as _, JobState, OUT, ShellRecord, ShellSize, find_shell};
use crate::workspace::store::jobs_view::{
    Shell, ShellClosed, ShellList, ShellRead, ShellSignalled, ShellWritten,
};
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::WORKSPACE_PATH;
use crate::workspace::store::secrets::{self, SecretEnv};
use crate::workspace::store::spool;

/// Characters of one read, and milliseconds of a pause.
const CHARS: std::ops::RangeInclusive<u64> = 1..=1 << 20;
const IDLE_MS: std::ops::RangeInclusive<u64> = 1..=60_000;
/// Bytes that are looked at for one read, at least: the longest control must fit.
const LEAST: usize = 16 << 10;

/// Part of a shell's output to read.
#[derive(Clone, Copy, Debug)]
pub struct ShellReadRequest {
    /// From which byte on, counted from its beginning.
    pub cursor: u64,
    /// At most so many characters, 1 to 1,048,576.
    pub max_chars: u64,
    /// Without terminal control.
    pub plain: bool,
    /// First wait until it has written nothing for so long, 1 to 60,000 ms, but a minute at most.
    pub wait_for_idle_ms: Option<u64>,
}

impl Workspaces {
    /// Shells in the database, where no keeper has a guest.
    async fn shells_at_rest(&self, home: &Home) -> Result<Option<Vec<ShellRecord>>, WorkspaceError> {
        let phase = reach::phase(home).await?;
        if phase.is_some_and(|phase| phase != Phase::Stopped) {
            return Ok(None);
        }
        let shells = super::read(home, |state| state.jobs::<ShellRecord>()).await?;
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
        secret_env: Vec<SecretEnv>,
    ) -> Result<Shell, WorkspaceError> {
        self.perform(given, ops::OpenShell { cwd: directory(cwd), size: size.checked()?, secret_env }).await
    }

    /// The shells, the oldest first.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn shells(&self, given: &str) -> Result<ShellList, WorkspaceError> {
        let home = self.find(given).await?;
        let shells = match self.shells_at_rest(&home).await? {
            Some(shells) => shells,
            None => super::read(&home, |state| state.jobs::<ShellRecord>()).await?,
        };
        Ok(ShellList {
            workspace_id: home.id(),
            count: shells.len(),
            running_count: shells.iter().filter(|shell| shell.is_running()).count(),
            shells: shells.into_iter().map(|shell| Shell::new(home.id(), shell)).collect(),
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
        wish: ShellReadRequest,
    ) -> Result<ShellRead, WorkspaceError> {
        check_bound("max_chars", wish.max_chars, &CHARS)?;
        if let Some(ms) = wish.wait_for_idle_ms {
            check_bound("wait_for_idle_ms", ms, &IDLE_MS)?;
        }
        let home = self.find(given).await?;
        let shell = match self.shells_at_rest(&home).await? {
            Some(shells) => Shell::new(home.id(), find_shell(shells, shell_id)?),
            None => {
                let look = ops::LookAtShell { shell_id: shell_id.to_owned(), idle_ms: wish.wait_for_idle_ms };
                self.perform_in(&home, look).await?
            }
        };
        let dir = home.shell(&shell.shell_id);
        let most = (wish.max_chars as usize).saturating_mul(4).clamp(LEAST, 2 * KEPT);
        let (ended, size) = (shell.state != JobState::Running, (shell.cols, shell.rows));
        let (from, last, (output, taken, cut)) = blocking(move || {
            let kept = spool::read(&dir, OUT, wish.cursor, most)
                .map_err(|error| WorkspaceError::file(&dir, "read", error))?;
            let last = kept.from + kept.bytes.len() as u64 >= kept.written;
            // Only plain text is made of what was written, and may hold a secret that was not there.
            let redactor = if wish.plain { secrets::redactor(&home)? } else { Redactor::default() };
            let shown = text(&kept.bytes, last && ended, &wish, size, &redactor);
            Ok::<_, WorkspaceError>((kept.from, last, shown))
        })
        .await?;
        let lost_bytes = from.saturating_sub(wish.cursor);
        Ok(ShellRead {
            cursor: wish.cursor,
            next_cursor: from + taken as u64,
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
        let line = format!("{input}{}", if newline { "\n" } else { "" });
        let write = ops::WriteShell { shell_id: shell_id.to_owned(), input: line };
        let shell = self.perform(given, write).await?;
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
        let shell = self.perform(given, ops::SignalShell { shell_id: shell_id.to_owned(), number }).await?;
        Ok(ShellSignalled { shell, signal: signal.to_owned() })
    }

    /// Ends a shell and all that runs in it, and forgets it.
    ///
    /// # Errors
    /// When there is no such shell.
    pub async fn close_shell(&self, given: &str, shell_id: &str) -> Result<ShellClosed, WorkspaceError> {
        let shell = self.perform(given, ops::CloseShell { shell_id: shell_id.to_owned() }).await?;
        Ok(ShellClosed { shell, closed: true })
    }
}

/// Where a job begins: what is not absolute is below the workspace.
pub(super) fn directory(cwd: &str) -> String {
    if cwd.starts_with('/') { cwd.to_owned() } else { format!("{}/{cwd}", WORKSPACE_PATH) }
}

/// The text of as many of `bytes` as may be shown, how many that are, and whether that is for its length. What is not
/// finished waits for the rest, unless it is `over`. Plain text is redacted again: controls within a secret hide it from who
/// looks for it in what was written.
fn text(
    bytes: &[u8],
    over: bool,
    wish: &ShellReadRequest,
    (cols, rows): (u16, u16),
    redactor: &Redactor,
) -> (String, usize, bool) {
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
            whole = next_end(bytes, n, |_| true).unwrap_or(if over { bytes.len() } else { 0 });
        }
        let render = |end: usize| plain::plain(&bytes[..end], cols, rows);
        let mut text = render(whole);
        if !all {
            (whole, text) = settled(bytes, whole, text, cut, redactor, render);
        }
        let text = redactor.text(&text);
        if text.chars().count() <= most || n <= 1 {
            return (text.chars().take(most).collect(), whole, cut);
        }
        cut = true;
        n /= 2;
    }
}

/// The first end from `from` on at which `bytes` can be cut, if it `fits`.
fn next_end(bytes: &[u8], from: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    (from..=bytes.len()).map(|end| plain::whole(&bytes[..end])).find(|end| *end > 0 && fits(*end))
}

/// End and text of what can be shown of the first `end` bytes, whose `text` that is, without the beginning of a secret whose
/// rest may follow. Where nothing can, and the reader `must` go on, because more than is asked for is there, the secret is
/// taken whole.
fn settled(
    bytes: &[u8],
    end: usize,
    text: String,
    must: bool,
    redactor: &Redactor,
    render: impl Fn(usize) -> String,
) -> (usize, String) {
    let (mut shown, mut text) = (end, text);
    loop {
        let begun = redactor.begun(text.as_bytes());
        if begun == 0 {
            break;
        }
        // Each byte of it was written as one at least, and any number of controls between.
        shown = plain::whole(&bytes[..shown.saturating_sub(begun)]);
        text = render(shown);
    }
    if shown > 0 || !must {
        return (shown, text);
    }
    let closed = next_end(bytes, end, |end| redactor.begun(render(end).as_bytes()) == 0);
    let shown = closed.unwrap_or(bytes.len());
    (shown, render(shown))
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

    fn wish(max_chars: u64, plain: bool) -> ShellReadRequest {
        ShellReadRequest { cursor: 0, max_chars, plain, wait_for_idle_ms: None }
    }

    #[test]
    fn what_is_not_finished_waits_for_the_rest() {
        let bytes = "aé".as_bytes();
        assert_eq!(
            text(&bytes[..2], false, &wish(9, false), (80, 24), &Redactor::default()),
            ("a".into(), 1, false)
        );
        assert_eq!(
            text(&bytes[..2], true, &wish(9, false), (80, 24), &Redactor::default()),
            ("a\u{fffd}".into(), 2, false)
        );
        assert_eq!(
            text(b"a\x1b[3", false, &wish(9, true), (80, 24), &Redactor::default()),
            ("a".into(), 1, false)
        );
        assert_eq!(
            text(b"a\x1b[3", true, &wish(9, true), (80, 24), &Redactor::default()),
            ("a".into(), 4, false)
        );
        // Raw, it is for the reader to put together.
        assert_eq!(
            text(b"a\x1b[3", false, &wish(9, false), (80, 24), &Redactor::default()),
            ("a\x1b[3".into(), 4, false)
        );
    }

    #[test]
    fn a_secret_is_not_put_together_by_taking_controls_out() {
        let redactor = Redactor::new(["hunter2hunter2"]).unwrap();
        let colour = b"a hunter2\x1b[01;31m\x1b[Khunt\x1b[m\x1b[Ker2 b\r\n";
        let read = |bytes: &[u8], over, most| text(bytes, over, &wish(most, true), (80, 24), &redactor);
        assert_eq!(read(colour, true, 99).0, "a [REDACTED] b\n");
        // Neither is it in two reads, wherever what is there ends now.
        for end in 0..colour.len() {
            let (first, taken, _) = read(&colour[..end], false, 99);
            let (rest, _, _) = read(&colour[taken..], true, 99);
            assert_eq!(format!("{first}{rest}"), "a [REDACTED] b\n", "{end}");
        }
        // A reader of two characters at a time sees less than all, and nothing of the secret.
        let (mut at, mut all) = (0, String::new());
        while at < colour.len() {
            let (said, taken, _) = read(&colour[at..], true, 2);
            assert!(taken > 0, "{at}");
            (at, all) = (at + taken, all + &said);
        }
        assert!(all.starts_with("a [R") && !all.contains("hu"), "{all:?}");
    }

    #[test]
    fn a_long_control_does_not_hold_up_a_short_read() {
        let bytes = [b"\x1b]0;".to_vec(), vec![b't'; 100], b"\x07abc".to_vec()].concat();
        let (first, n, cut) = text(&bytes, false, &wish(3, true), (80, 24), &Redactor::default());
        assert_eq!((first.as_str(), n, cut), ("", 105, true));
        assert_eq!(
            text(&bytes[n..], false, &wish(3, true), (80, 24), &Redactor::default()),
            ("abc".into(), 3, false)
        );
    }

    #[test]
    fn gaps_that_are_longer_than_may_be_shown_do_not_hang_it() {
        let (text, n, cut) = text(b"\x1b[30Cx\r\n", false, &wish(2, true), (80, 24), &Redactor::default());
        assert!(text.chars().count() <= 2 && n > 0 && cut, "{text:?} {n}");
    }

    proptest! {
        /// Any bytes, read in any steps: each is shown once, and the whole is what was written.
        #[test]
        fn cursors_neither_lose_nor_repeat(bytes in prop::collection::vec(any::<u8>(), 0..200), most in 1_u64..9, plain in any::<bool>()) {
            let mut at = 0;
            let mut raw = String::new();
            while at < bytes.len() {
                let (said, n, _) = text(&bytes[at..], true, &wish(most, plain), (80, 24), &Redactor::default());
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
