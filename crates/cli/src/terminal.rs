//! The person's own terminal: raw mode while a program in the guest has it, and this process's standard input.

use std::io::Read;
use std::os::fd::AsFd;

use pyro_core::command::TerminalSize;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::AsyncRead;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::CliError;

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// Whether standard error is a terminal, which is where progress goes.
pub fn stderr_is_terminal() -> bool {
    isatty(rustix::stdio::stderr())
}

/// Raw mode, until it is dropped.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Takes the terminal on standard input; `None` where there is none any more.
    pub fn enter() -> Option<Self> {
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done than to try.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.before);
    }
}

/// The terminal's size now, and each later one, for `what` needs it.
pub fn sizes(what: &str) -> Result<(TerminalSize, mpsc::Receiver<TerminalSize>), CliError> {
    let refuse = |why: &str| {
        CliError::new(
            format!("{what} needs a terminal on standard input: {why}"),
            (what == "-t").then(|| "leave -t away to run the command without one".into()),
        )
    };
    if !stdin_is_terminal() {
        return Err(refuse("it is not one"));
    }
    // A terminal that does not know its size, as on a serial line, gets the classic one.
    let now = size().unwrap_or(TerminalSize { rows: 24, cols: 80 });
    let (sender, receiver) = mpsc::channel(4);
    let mut changes = signal(SignalKind::window_change()).map_err(|error| refuse(&error.to_string()))?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            if let Some(size) = size()
                && sender.send(size).await.is_err()
            {
                return;
            }
        }
    });
    Ok((now, receiver))
}

fn size() -> Option<TerminalSize> {
    let of = |fd: std::os::fd::BorrowedFd<'_>| {
        tcgetwinsize(fd).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0)
    };
    let size = of(stdout().as_fd()).or_else(|| of(stdin().as_fd()))?;
    Some(TerminalSize { rows: size.ws_row, cols: size.ws_col })
}

/// Standard input as a stream. A thread of its own reads it: it may block for ever, which must keep neither the
/// runtime nor the process.
pub fn input() -> Box<dyn AsyncRead + Send + Unpin> {
    let (sender, receiver) = mpsc::channel::<std::io::Result<std::io::Cursor<Vec<u8>>>>(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let piece = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(std::io::Cursor::new(buffer[..n].to_vec())),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            if sender.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    let pieces = futures_stream(receiver);
    Box::new(tokio_util::io::StreamReader::new(Box::pin(pieces)))
}

fn futures_stream<T>(mut receiver: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::poll_fn(move |cx| receiver.poll_recv(cx))
}
