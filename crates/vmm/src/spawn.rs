//! Starting a VMM process so that it cannot outlive or outgrow what it was started for.
//!
//! All spawns happen on one thread that lives as long as this process: the parent-death signal follows the thread
//! that spawned, not the process, and a runtime's worker threads come and go.
//!
//! The child gets exactly the descriptors it was promised, a session of its own (a terminal's Ctrl-C is for us, not
//! for it), no core dumps (they would hold guest memory), no environment, and an OOM score that makes the kernel take
//! it before the person's own programs.

use std::any::Any;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::warden;

/// How much likelier than an ordinary process the VMM is to be chosen when the host runs out of memory (-1000 to
/// 1000).
const OOM_SCORE_ADJUST: &[u8] = b"500";

/// How long a dropped process is waited for after SIGKILL.
const REAP_WAIT: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) binary: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Descriptors the child inherits, under the numbers they have here.
    pub(crate) inherit: Vec<OwnedFd>,
    /// Where the child starts.
    pub(crate) directory: PathBuf,
    /// Whether its standard output is wanted.
    pub(crate) stdout: bool,
    /// A namespace of its own, under a warden.
    pub(crate) warden: Option<warden::Order>,
    /// Dropped after the process is gone, or when it never came to be.
    pub(crate) leftover: Option<Box<dyn Any + Send>>,
}

/// A descriptor of a process, for signals: unlike a number it never means somebody else.
#[derive(Debug, Clone)]
pub(crate) struct Killer {
    pidfd: Arc<OwnedFd>,
}

impl Killer {
    /// SIGKILL, unless it is gone already.
    pub(crate) fn kill(&self) {
        // The only failure possible here is ESRCH, which is the wish fulfilled.
        let _gone = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Readable when the process has ended and can be reaped.
    pub(crate) fn ended(&self) -> io::Result<AsyncFd<Killer>> {
        // SAFETY: the clone holds the descriptor in an `Arc` that nothing takes apart, so it stays open, and its
        // number the same, for as long as the `AsyncFd` holds the clone.
        unsafe { AsyncFd::register_with_interest(self.clone(), Interest::READABLE) }.map_err(Into::into)
    }
}

impl AsFd for Killer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Killer {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// A child process, killed and reaped at the latest when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    killer: Killer,
    reaped: bool,
    _leftover: Option<Box<dyn Any + Send>>,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn killer(&self) -> Killer {
        self.killer.clone()
    }

    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Its exit status if it has ended; reaps it then. An error means that somebody else reaped it.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait();
        self.reaped = !matches!(status, Ok(None));
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.killer.kill();
        let limit = Timespec::try_from(REAP_WAIT).ok();
        let mut ends = [PollFd::new(&self.killer, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut ends, limit.as_ref()) {}
        let _status = self.try_wait();
    }
}

type Answer = io::Result<Process>;

/// Starts `order` from the spawning thread.
pub(crate) async fn spawn(order: Order) -> Answer {
    let (answer, receive) = oneshot::channel();
    // A caller that is cancelled drops `receive`: the process is then dropped, killed and reaped, by the thread.
    spawner()?.send((order, answer)).map_err(|_| io::Error::other("the spawning thread is gone"))?;
    receive.await.map_err(|_| io::Error::other("the spawning thread is gone"))?
}

type Job = (Order, oneshot::Sender<Answer>);

fn spawner() -> io::Result<mpsc::Sender<Job>> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender.clone());
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    // The thread ends when its sender is dropped, which is never for the one that stays in the static; two first
    // callers at once make two threads and the loser's ends at once, before it has spawned anything.
    std::thread::Builder::new().name("vmm-spawn".into()).spawn(move || {
        for (order, answer) in jobs {
            let _cancelled = answer.send(start(order));
        }
    })?;
    Ok(SPAWNER.get_or_init(|| sender).clone())
}

fn start(order: Order) -> Answer {
    let mut command = Command::new(&order.binary);
    command
        .args(&order.args)
        .env_clear()
        .current_dir(&order.directory)
        .stdin(Stdio::null())
        .stdout(if order.stdout { Stdio::piped() } else { Stdio::null() })
        .stderr(Stdio::piped());
    let keep: Vec<RawFd> = order.inherit.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = rustix::process::getpid();
    let watched = pidfd_open(parent, PidfdFlags::empty())?;
    let confined = order.warden.is_some();
    let warden = order.warden;
    // SAFETY: the closure runs between fork and exec in a process that may have had other threads, so it may only do
    // what is async-signal-safe: it makes plain system calls on values captured before the fork and allocates
    // nothing (io::Error from an errno does not allocate).
    unsafe {
        command.pre_exec(move || {
            before_exec(&watched, &keep)?;
            warden.as_ref().map_or(Ok(()), warden::Order::enter)
        });
    }
    let spawned = if confined { warden::in_new_pid_namespace(|| command.spawn()) } else { command.spawn() };
    // The closure holds descriptors that only the child has a use for.
    drop(command);
    let mut child = spawned?;
    drop(order.inherit);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(pidfd)) => pidfd,
        other => {
            let _ended = child.kill().and_then(|()| child.wait());
            return Err(other
                .and_then(Result::err)
                .map_or_else(|| io::Error::other("no process id"), Into::into));
        }
    };
    Ok(Process { child, killer: Killer { pidfd: Arc::new(pidfd) }, reaped: false, _leftover: order.leftover })
}

/// In the child, after fork. Async-signal-safe calls only.
fn before_exec(parent: &OwnedFd, keep: &[RawFd]) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before the line above sends nothing any more. Asked by descriptor: from inside a new PID
    // namespace the parent has no number.
    let mut ends = [PollFd::new(parent, PollFlags::IN)];
    if poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? != 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    rustix::process::setsid()?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // Not worth failing for: without it only the choice under memory pressure is worse.
    if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty()) {
        let _ = rustix::io::write(&file, OOM_SCORE_ADJUST);
    }
    // Everything of ours is close-on-exec already; this catches what some library or our own parent left open.
    close_on_exec_from(3)?;
    for &descriptor in keep {
        // SAFETY: `descriptor` is open in this process: the fork copied it from the parent, which holds it until
        // after the exec. fcntl(F_SETFD) changes a flag and no ownership.
        if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec.
fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets flags; it closes nothing and touches no memory.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    };
    if done == 0 {
        return Ok(());
    }
    // Kernels before 5.11 lack the flag. Setting it on every number that could be open costs a call each; numbers
    // that are not open give EBADF.
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(65_536).min(65_536);
    for descriptor in first as RawFd..limit as RawFd {
        // SAFETY: as above: sets a flag, or fails on a number that is not open.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}
