//! A command's standard streams, seen from the agent.
//!
//! Output is read straight into the buffer it is sent from, behind room for the frame's header. Input is written
//! straight from the frame it came in; only bytes that the command does not take at once are kept, and the host may
//! have no more than [`STDIN_WINDOW`] bytes on their way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use pyro_proto::frame::Channel;
use pyro_proto::message::{ExecStdio, STDIN_WINDOW, TerminalSize};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;

use crate::users::Account;

/// Descriptor of a stream, shared by its reader and its writer.
pub type WatchedFd = Rc<AsyncFd<OwnedFd>>;

/// Room in a pipe that carries much: fewer and larger reads.
const WIDE_PIPE: usize = 256 * 1024;
/// Credit is returned in steps of this many bytes: a message per chunk would cost more than the bytes.
const CREDIT_STEP: u32 = (STDIN_WINDOW / 4) as u32;
/// Ends the input of a program that reads a terminal line by line: control-D.
const END_OF_TRANSMISSION: u8 = 4;

/// Both ends of a command's streams.
pub struct StreamEnds {
    /// The agent's ends.
    pub ours: AgentStreams,
    /// The command's ends: stdin, stdout, stderr; to be dropped once the command has them.
    pub theirs: ChildEnds,
}

/// The command's ends.
pub enum ChildEnds {
    /// Pipes of stdin, stdout and stderr; `None` for an empty stdin.
    Pipes(Option<OwnedFd>, OwnedFd, OwnedFd),
    /// The command's side of a terminal.
    Terminal(OwnedFd),
}

impl ChildEnds {
    /// Standard input, output and error; `null` is an empty one.
    pub fn fds<'a>(&'a self, null: &'a OwnedFd) -> [BorrowedFd<'a>; 3] {
        match self {
            Self::Pipes(stdin, stdout, stderr) => {
                [stdin.as_ref().unwrap_or(null).as_fd(), stdout.as_fd(), stderr.as_fd()]
            }
            Self::Terminal(terminal) => [terminal.as_fd(); 3],
        }
    }
}

/// The agent's ends.
pub struct AgentStreams {
    /// Standard input of the command.
    pub stdin: Stdin,
    /// Sources of output.
    pub sources: Vec<OutputSource>,
    /// The agent's side of the terminal, if there is one.
    pub terminal: Option<WatchedFd>,
}

/// Pipes for a command's output, made before the command is asked for: making and watching them is six system calls.
pub struct SparePipes {
    stdout: WatchedFd,
    stderr: WatchedFd,
    theirs: [OwnedFd; 2],
}

impl SparePipes {
    /// Makes both pipes.
    pub fn new() -> io::Result<Self> {
        let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { stdout: watch(stdout)?, stderr: watch(stderr)?, theirs: [their_stdout, their_stderr] })
    }
}

/// Makes the streams that `kind` asks for, from the `spare` pipes if there are some; a terminal belongs to `account`.
pub fn open(
    kind: ExecStdio,
    account: Option<&Account>,
    spare: &mut Option<SparePipes>,
) -> io::Result<StreamEnds> {
    let ExecStdio::Terminal(size) = kind else {
        let (stdin, input) = match kind {
            ExecStdio::Piped => {
                let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
                (Some(theirs), Some(watch(ours)?))
            }
            _ => (None, None),
        };
        let SparePipes { stdout, stderr, theirs: [their_stdout, their_stderr] } = match spare.take() {
            Some(spare) => spare,
            None => SparePipes::new()?,
        };
        let sources = vec![
            OutputSource::new(stdout, Channel::Stdout, false),
            OutputSource::new(stderr, Channel::Stderr, false),
        ];
        let ours = AgentStreams { stdin: Stdin::new(input, false), sources, terminal: None };
        return Ok(StreamEnds { ours, theirs: ChildEnds::Pipes(stdin, their_stdout, their_stderr) });
    };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/ptmx", flags | OFlags::NONBLOCK, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    if let Some(account) = account {
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(account.uid)), None)?;
    }
    resize(master.as_fd(), size)?;
    let master = Rc::new(crate::wire::watch(master)?);
    let ours = AgentStreams {
        stdin: Stdin::new(Some(Rc::clone(&master)), true),
        sources: vec![OutputSource::new(Rc::clone(&master), Channel::Stdout, true)],
        terminal: Some(master),
    };
    Ok(StreamEnds { ours, theirs: ChildEnds::Terminal(slave) })
}

fn watch(fd: OwnedFd) -> io::Result<WatchedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Rc::new(crate::wire::watch(fd)?))
}

/// Sets a terminal's size; its foreground processes get `SIGWINCH` if it changed.
pub fn resize(terminal: BorrowedFd<'_>, size: TerminalSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Stream of a command's output.
pub struct OutputSource {
    fd: WatchedFd,
    closed: bool,
    channel: Channel,
    terminal: bool,
    wide: bool,
    owed: OutputOwed,
}

/// Output that must still be read after the command's end, because it was there at that moment.
enum OutputOwed {
    /// All that is there at the next look, including bytes that others wrote since.
    Unknown,
    /// Number of bytes still owed.
    Bytes(usize),
}

impl OutputSource {
    fn new(fd: WatchedFd, channel: Channel, terminal: bool) -> Self {
        Self { fd, closed: false, channel, terminal, wide: terminal, owed: OutputOwed::Bytes(0) }
    }

    /// Channel of the stream.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// Whether everything was read.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether something the command wrote before its end is still to be read.
    pub fn owes(&self) -> bool {
        !self.closed
            && match self.owed {
                OutputOwed::Unknown => waiting(&self.fd) > 0,
                OutputOwed::Bytes(owed) => owed > 0,
            }
    }

    /// Notes that the command has ended: the stream may now hold its last output.
    pub fn command_ended(&mut self) {
        // Mostly the next read finds the stream closed, and how much there was need not be asked.
        self.owed = OutputOwed::Unknown;
    }

    /// Reads the waiting bytes; `Ready(0)` once, when the stream closes, and pending for ever after that. The
    /// descriptor is left open until this is dropped, which can wait until the host has its answer.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<usize> {
        if self.closed {
            return Poll::Pending;
        }
        let fd = &self.fd;
        while let Ok(mut ready) = ready!(fd.poll_read_ready(cx)) {
            match rustix::io::read(fd.get_ref(), &mut *out) {
                Ok(0) => break,
                Ok(n) => {
                    self.owed = match self.owed {
                        OutputOwed::Unknown => OutputOwed::Bytes(waiting(fd)),
                        OutputOwed::Bytes(owed) => OutputOwed::Bytes(owed.saturating_sub(n)),
                    };
                    if n == out.len() && !self.wide {
                        self.wide = true;
                        let _ = fcntl_setpipe_size(fd.get_ref(), WIDE_PIPE);
                    }
                    // A pipe gives all it has: less than asked means that it is empty. A terminal may have more.
                    if n < out.len() && !self.terminal {
                        ready.clear_ready();
                    }
                    return Poll::Ready(n);
                }
                Err(Errno::AGAIN) => {
                    self.owed = OutputOwed::Bytes(0);
                    ready.clear_ready();
                }
                Err(Errno::INTR) => {}
                // A terminal whose last process is gone gives EIO.
                Err(_) => break,
            }
        }
        self.closed = true;
        Poll::Ready(0)
    }
}

/// Number of bytes that wait to be read.
fn waiting(fd: &WatchedFd) -> usize {
    rustix::io::ioctl_fionread(fd.get_ref()).map_or(0, |n| n as usize)
}

/// A command's standard input.
pub struct Stdin {
    fd: RefCell<Option<WatchedFd>>,
    terminal: bool,
    /// Bytes from the host that the command has not taken yet; at most [`STDIN_WINDOW`].
    queue: RefCell<VecDeque<u8>>,
    eof: Cell<bool>,
    wide: Cell<bool>,
    /// Bytes from the host that are not credited yet.
    held: Cell<usize>,
    /// Bytes that the command took and that are not credited yet.
    taken: Cell<u32>,
}

/// The host sent more than it had credit for.
#[derive(Debug)]
pub struct StdinWindowExceeded;

impl Stdin {
    fn new(fd: Option<WatchedFd>, terminal: bool) -> Self {
        Self {
            fd: RefCell::new(fd),
            terminal,
            queue: RefCell::default(),
            eof: Cell::new(false),
            wide: Cell::new(terminal),
            held: Cell::new(0),
            taken: Cell::new(0),
        }
    }

    /// Takes bytes from the host. Bytes that the command cannot take now are kept; see [`Stdin::poll_feed`].
    pub fn push(&self, mut bytes: &[u8]) -> Result<(), StdinWindowExceeded> {
        if self.held.get() + bytes.len() > STDIN_WINDOW {
            return Err(StdinWindowExceeded);
        }
        self.held.set(self.held.get() + bytes.len());
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() && !self.eof.get() {
            while !bytes.is_empty() {
                let n = match &*self.fd.borrow() {
                    Some(fd) => match rustix::io::write(fd.get_ref(), bytes) {
                        Ok(n) => n,
                        Err(Errno::INTR) => continue,
                        // Also when the reader is gone: the feeder finds out and drops the kept bytes.
                        Err(_) => break,
                    },
                    None => bytes.len(),
                };
                self.take(n);
                bytes = &bytes[n..];
            }
        } else if self.eof.get() {
            self.take(bytes.len());
            return Ok(());
        }
        queue.extend(bytes);
        Ok(())
    }

    /// Takes as many of `bytes` as there is room for, from a host that is given no credit; returns their number.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        self.held.set(self.held.get().saturating_sub(self.taken.replace(0) as usize));
        let bytes = &bytes[..bytes.len().min(STDIN_WINDOW - self.held.get())];
        if self.push(bytes).is_ok() { bytes.len() } else { 0 }
    }

    /// Ends the input once the kept bytes are in.
    pub fn end(&self) {
        if !self.eof.replace(true) && self.terminal {
            self.queue.borrow_mut().push_back(END_OF_TRANSMISSION);
        }
    }

    /// Closes the input and drops the bytes that are left.
    pub fn close(&self) {
        self.queue.borrow_mut().clear();
        *self.fd.borrow_mut() = None;
    }

    /// Moves kept bytes into the command; closes its input when all are in and no more come.
    pub fn poll_feed(&self, cx: &mut Context<'_>) {
        let mut slot = self.fd.borrow_mut();
        let Some(fd) = &*slot else { return };
        let mut queue = self.queue.borrow_mut();
        while !queue.is_empty() {
            let Poll::Ready(ready) = fd.poll_write_ready(cx) else { return };
            let Ok(mut ready) = ready else { break };
            match rustix::io::write(fd.get_ref(), queue.as_slices().0) {
                Ok(n) => {
                    queue.drain(..n);
                    self.take(n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    if !self.wide.replace(true) {
                        let _ = fcntl_setpipe_size(fd.get_ref(), WIDE_PIPE);
                    }
                }
                // The command closed its input, or is gone.
                Err(_) => {
                    self.take(queue.len());
                    queue.clear();
                    *slot = None;
                    return;
                }
            }
        }
        // A terminal stays open: it is also where output comes from.
        if queue.is_empty() && self.eof.get() && !self.terminal {
            *slot = None;
        }
    }

    fn take(&self, n: usize) {
        self.taken.set(self.taken.get().saturating_add(n as u32));
    }

    /// The credit to return to the host now, if it is worth a message.
    pub fn credit(&self) -> Option<u32> {
        let taken = self.taken.get();
        if taken < CREDIT_STEP {
            return None;
        }
        self.taken.set(0);
        self.held.set(self.held.get().saturating_sub(taken as usize));
        Some(taken)
    }
}
