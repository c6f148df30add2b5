//! The one place that waits for children.
//!
//! As PID 1 (or a subreaper) the agent inherits every orphan. One loop takes them all; the ends of commands go to the
//! futures that registered them. Because nobody else waits, a registered process id stays the command's own until its
//! end was delivered, so it is safe to signal.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Instant;

use futures::channel::oneshot;
use pyro_proto::message::ExitStatus;
use rustix::process::{Pid, WaitOptions};
use tokio::io::unix::AsyncFd;

/// End of a child, and the time at which it was seen.
#[derive(Clone, Copy, Debug)]
pub struct ChildExit {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Time at which it was reaped.
    pub at: Instant,
    /// Whether the agent had no other child then, so that none of the processes that this one started was left.
    pub alone: bool,
}

/// Waits for children. One per process.
pub struct Reaper {
    signals: AsyncFd<OwnedFd>,
    waiting: RefCell<HashMap<i32, oneshot::Sender<ChildExit>>>,
}

/// A signal that asks the agent itself to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminated;

impl Reaper {
    /// Takes over `SIGCHLD`, and with `terminable` also `SIGTERM`, `SIGINT` and `SIGHUP`, for the whole process.
    pub fn new(terminable: bool) -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is used; all calls only touch that set and the
        // calling thread's mask.
        let fd = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGCHLD);
            if terminable {
                for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                    libc::sigaddset(&mut set, signal);
                }
            }
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd just returned this descriptor and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { signals: crate::wire::watch(fd)?, waiting: RefCell::default() })
    }

    /// Receives the end of the child `pid`, which must not have been reaped yet.
    pub fn watch(&self, pid: Pid) -> oneshot::Receiver<ChildExit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(pid.as_raw_nonzero().get(), sender);
        receiver
    }

    /// Whether `pid` is a registered command that was not reaped yet.
    pub fn is_watched(&self, pid: i32) -> bool {
        self.waiting.borrow().contains_key(&pid)
    }

    /// Reaps for ever; returns when the agent is asked to end.
    pub async fn run(&self) -> io::Result<Terminated> {
        let mut buffer = [0_u8; 8 * size_of::<libc::signalfd_siginfo>()];
        loop {
            let mut ready = self.signals.readable().await?;
            let n = match rustix::io::read(self.signals.get_ref(), &mut buffer) {
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Fewer records came than fit, so the descriptor is empty now; later ones are announced anew.
            if n < buffer.len() {
                ready.clear_ready();
            }
            // ssi_signo is the first field of each record.
            let asked = buffer[..n].chunks(size_of::<libc::signalfd_siginfo>()).any(|record| {
                record.first_chunk().is_some_and(|signo| u32::from_ne_bytes(*signo) != libc::SIGCHLD as u32)
            });
            self.reap();
            if asked {
                return Ok(Terminated);
            }
        }
    }

    /// Reaps every child that has ended.
    pub fn reap(&self) {
        let mut over = Vec::new();
        let alone = loop {
            let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(child)) => child,
                Ok(None) => break false,
                Err(error) => break error == rustix::io::Errno::CHILD,
            };
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code as u8),
                (None, Some(signal)) => ExitStatus::Signal(signal as u8),
                (None, None) => continue,
            };
            if let Some(waiter) = self.waiting.borrow_mut().remove(&pid.as_raw_nonzero().get()) {
                over.push((waiter, status, Instant::now()));
            }
        };
        for (waiter, status, at) in over {
            let _ = waiter.send(ChildExit { status, at, alone });
        }
    }
}
