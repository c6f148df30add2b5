//! Work that blocks, in a process of its own.
//!
//! Whatever touches files may wait for a disk: while writing is frozen, while it is busy, while it fails. The agent has
//! one thread, which must answer meanwhile, and it can have no other (see [`crate::exec::spawn`]). So such a call is
//! answered by a fork of the agent: plain blocking code, which speaks the call's own protocol over a socket, and the
//! agent carries bytes between that and the stream.
//!
//! A host that abandons the call closes that socket. The helper finds out when it next sends or reads, undoes
//! unfinished changes, and ends; it is not killed, because changes that it has begun must be finished or undone.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;

use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use pyro_proto::frame::{self, Channel, FrameReader, HEADER, MAX_CHUNK, MAX_MESSAGE};
use pyro_proto::message::{ExecInput, ExitStatus, Failure, FailureKind, Reply, TreeTotals};
use pyro_proto::mux::Stream;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

use crate::failure::{failure, refusal, resource_kind};
use crate::reaper::Reaper;

/// Bytes in one packet between agent and helper: half of a socket's default buffer.
const PACKET: usize = 64 * 1024;
/// Bytes of input between two reports of progress.
const PROGRESS_STEP: usize = 1024 * 1024;

/// Reason why a helper stops.
#[derive(Debug)]
pub enum HelperStop {
    /// Nobody listens any more.
    Gone,
    /// The call failed.
    Failed(Failure),
}

impl From<Failure> for HelperStop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The helper's end of its socket to the agent, in frames of the call.
pub struct HelperChannel {
    socket: OwnedFd,
    packet: Vec<u8>,
    /// Bytes of the packet that were not looked at yet.
    left: std::ops::Range<usize>,
    /// Bytes of the input frame that is being read.
    owed: usize,
    over: bool,
}

impl HelperChannel {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, packet: Vec::new(), left: 0..0, owed: 0, over: false }
    }

    /// Sends a reply.
    pub fn send_reply(&mut self, reply: &Reply) -> Result<(), HelperStop> {
        let frame = frame::encode(reply)
            .map_err(|error| refusal(FailureKind::Internal, "reply", error.to_string()))?;
        self.send(&frame)
    }

    /// Sends the bytes behind the first [`HEADER`] of `buffer`, where the header is put; at most 64 KiB of them.
    pub fn send_chunk(&mut self, buffer: &mut [u8]) -> Result<(), HelperStop> {
        let len = buffer.len() - HEADER;
        buffer[..HEADER].copy_from_slice(&frame::header(Channel::Stdout, len));
        self.send(buffer)
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), HelperStop> {
        loop {
            match send(&self.socket, frame, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(HelperStop::Gone),
            }
        }
    }

    /// Reads up to `out.len()` bytes of input; 0 at its end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, HelperStop> {
        while self.owed == 0 {
            if self.over {
                return Ok(0);
            }
            let mut head = [0; HEADER];
            self.exactly(&mut head)?;
            let bad = |why: String| refusal(FailureKind::BadRequest, "input", why);
            let (channel, len) = frame::parse_header(head, MAX_MESSAGE).map_err(|e| bad(e.to_string()))?;
            match channel {
                Channel::Stdin => self.owed = len,
                Channel::Message => {
                    let mut body = vec![0; len];
                    self.exactly(&mut body)?;
                    match frame::decode(&body) {
                        Ok(ExecInput::Eof) => self.over = true,
                        Ok(_) => return Err(bad("a message that has no place here".to_owned()).into()),
                        Err(error) => return Err(bad(error.to_string()).into()),
                    }
                }
                other => return Err(bad(format!("{other:?} from the host")).into()),
            }
        }
        let n = self.some(out.len().min(self.owed))?;
        out[..n].copy_from_slice(&self.packet[self.left.start..self.left.start + n]);
        self.left.start += n;
        self.owed -= n;
        Ok(n)
    }

    fn exactly(&mut self, out: &mut [u8]) -> Result<(), HelperStop> {
        let mut done = 0;
        while done < out.len() {
            let n = self.some(out.len() - done)?;
            out[done..done + n].copy_from_slice(&self.packet[self.left.start..self.left.start + n]);
            self.left.start += n;
            done += n;
        }
        Ok(())
    }

    /// Makes sure that there is something in the packet; says how much, at most `most`.
    fn some(&mut self, most: usize) -> Result<usize, HelperStop> {
        while self.left.is_empty() {
            self.packet.resize(PACKET, 0);
            match recv(&self.socket, &mut self.packet[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(HelperStop::Gone),
                Ok((n, _)) => self.left = 0..n,
                Err(Errno::INTR) => {}
                Err(_) => return Err(HelperStop::Gone),
            }
        }
        Ok(self.left.len().min(most))
    }

    /// Waits until the host ends the input or is gone (both `true`), or `limit` milliseconds have passed (`false`).
    pub fn over_within(&mut self, limit: u64) -> bool {
        let until = std::time::Instant::now() + std::time::Duration::from_millis(limit);
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let wait = rustix::time::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut poll = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut poll, Some(&wait)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(_) => {}
            }
        }
    }
}

/// Input as a [`io::Read`]. The reason why it stopped is kept aside.
pub struct InputReader<'a> {
    channel: &'a mut HelperChannel,
    amount: Rc<Cell<TreeTotals>>,
    /// Bytes read since the last report of progress.
    untold: usize,
    /// Reason why reading stopped.
    pub stop: Option<HelperStop>,
}

impl<'a> InputReader<'a> {
    /// Reads from `channel`, and reports `amount` to the host every [`PROGRESS_STEP`] bytes.
    pub fn new(channel: &'a mut HelperChannel, amount: Rc<Cell<TreeTotals>>) -> Self {
        Self { channel, amount, untold: 0, stop: None }
    }

    fn next(&mut self, out: &mut [u8]) -> Result<usize, HelperStop> {
        let n = self.channel.read(out)?;
        self.untold += n;
        if self.untold >= PROGRESS_STEP {
            self.untold = 0;
            self.channel.send_reply(&Reply::Progress(self.amount.get()))?;
        }
        Ok(n)
    }
}

impl io::Read for InputReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.next(out).map_err(|stop| {
            self.stop = Some(stop);
            io::Error::other("the input stopped")
        })
    }
}

/// Answers a call by `work` in a fork of this process, which keeps no descriptor but `keep`. Should that be killed,
/// another fork does `mend` with its process id.
pub async fn run(
    reaper: &Rc<Reaper>,
    frames: FrameReader<ReadHalf<Stream>>,
    mut write: WriteHalf<Stream>,
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce(&mut HelperChannel) -> Result<Reply, HelperStop>,
    mend: impl FnOnce(Pid) -> Result<(), Failure>,
) {
    let mut read = frames.into_inner();
    let (ours, pid) = match begin(keep, work) {
        Ok(begun) => begun,
        Err(errno) => {
            let why = failure(resource_kind(errno), "helper", errno, "no new process");
            return crate::wire::last_word(&mut write, &Reply::Failed(why)).await;
        }
    };
    let ended = reaper.watch(pid);
    let Ok(socket) = crate::wire::watch(ours) else { return };
    let answered = {
        let down = pin!(down(&mut read, &socket));
        match select(down, pin!(up(&socket, &mut write))).await {
            // The host has dropped the call, and hears nothing any more.
            Either::Left(_) => false,
            Either::Right((answered, _)) => answered,
        }
    };
    drop(socket);
    if !answered {
        return;
    }
    match ended.await {
        Ok(ended) if ended.status != ExitStatus::Code(0) => {
            let why = match ended.status {
                ExitStatus::Signal(number) => format!("it was killed by signal {number}"),
                ExitStatus::Code(code) => format!("it failed with {code}"),
            };
            let mended = begin(keep, |_| Ok(mend(pid).map(|()| Reply::Done)?));
            if let Ok((_ours, pid)) = mended {
                let _ = reaper.watch(pid).await;
            }
            let why = refusal(FailureKind::Exhausted, "helper", why);
            crate::wire::last_word(&mut write, &Reply::Failed(why)).await;
        }
        _ => drop(write.close().await),
    }
    // Input may still be on its way; see [`crate::exec::drive::run`].
    let mut rest = vec![0; PACKET];
    while matches!(read.read(&mut rest).await, Ok(n) if n > 0) {}
}

/// Carries the host's bytes to the helper, until the host is gone.
async fn down(read: &mut ReadHalf<Stream>, socket: &AsyncFd<OwnedFd>) {
    let mut buffer = vec![0; PACKET];
    let mut deaf = false;
    while let Ok(n @ 1..) = read.read(&mut buffer).await {
        // A helper that has ended does not listen; its last reply is still to be carried.
        while !deaf {
            let Ok(mut ready) = socket.writable().await else { return };
            match send(socket.get_ref(), &buffer[..n], SendFlags::NOSIGNAL) {
                Ok(_) => break,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => deaf = true,
            }
        }
    }
}

/// Carries the helper's bytes to the host, until the helper has ended; `false` when the host is gone before.
async fn up(socket: &AsyncFd<OwnedFd>, write: &mut WriteHalf<Stream>) -> bool {
    let mut buffer = vec![0; HEADER + MAX_CHUNK];
    loop {
        let Ok(mut ready) = socket.readable().await else { return false };
        match recv(socket.get_ref(), &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return true,
            Ok((n, _)) => {
                if write.write_all(&buffer[..n]).await.is_err() || write.flush().await.is_err() {
                    return false;
                }
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            // Reported once where the helper ended with input unread; the helper's own bytes come after that.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(_) => return true,
        }
    }
}

/// Starts the helper; returns the agent's end of the socket, and the process id.
fn begin(
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce(&mut HelperChannel) -> Result<Reply, HelperStop>,
) -> Result<(OwnedFd, Pid), Errno> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    // SAFETY: the process has one thread, so that the child's copy of its memory is whole and no lock in it is held.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                child(theirs, keep, work);
            }));
            // SAFETY: ends the child without running the agent's own exit handlers.
            unsafe { libc::_exit(if code.is_ok() { 0 } else { 101 }) }
        }
        pid => Ok((ours, Pid::from_raw(pid).ok_or(Errno::SRCH)?)),
    }
}

/// Runs in the helper: keeps only the descriptors it needs, does `work`, sends its reply.
fn child(
    socket: OwnedFd,
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce(&mut HelperChannel) -> Result<Reply, HelperStop>,
) {
    // With every other descriptor of the agent's this would hold terminals and pipes of commands open.
    let mut kept: Vec<i32> = keep.iter().map(|fd| fd.as_raw_fd()).chain([socket.as_raw_fd()]).collect();
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept.into_iter().filter(|fd| *fd >= 3) {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, i32::MAX);
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // Never the out-of-memory killer's choice: begun work is better finished than mended.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    // No mask: files get exactly the permissions that are asked for.
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut channel = HelperChannel::new(socket);
    let last = match work(&mut channel) {
        Ok(reply) => reply,
        Err(HelperStop::Failed(failure)) => Reply::Failed(failure),
        Err(HelperStop::Gone) => return,
    };
    let _ = channel.send_reply(&last);
}

fn close_range(from: i32, to: i32) {
    if from <= to {
        // SAFETY: the child uses none of these; their owners in the agent's memory are never dropped here.
        unsafe { libc::close_range(from as libc::c_uint, to as libc::c_uint, 0) };
    }
}
