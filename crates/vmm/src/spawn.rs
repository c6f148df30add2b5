//! Spawns VMM processes that cannot outlive this process nor outgrow their machine.
//!
//! All spawns happen on one thread that lives as long as this process: the parent-death signal follows the thread
//! that spawned, not the process, and a runtime's worker threads come and go.
//!
//! The child gets exactly the descriptors it was promised, a session of its own (a terminal's Ctrl-C is not for the
//! VMM), no core dumps (they would hold guest memory), no environment, and an OOM score that makes the kernel kill it
//! before the user's own programs.

use std::any::Any;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::ptr;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::sandbox::{self, Confinement, PreparedSandbox, SpawnFault, SpawnStep};
use crate::warden;

/// `oom_score_adj` of the VMM (-1000 to 1000, 0 for ordinary processes): the kernel kills it first when memory runs
/// out.
const OOM_SCORE_ADJUST: &[u8] = b"500";

/// Longest wait for a dropped process after its SIGKILL.
const REAP_DEADLINE: Duration = Duration::from_secs(2);

/// Program, arguments and confinement of one child.
#[derive(Debug)]
pub(crate) struct SpawnRequest {
    pub(crate) binary: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Descriptors the child inherits, under the numbers they have here.
    pub(crate) inherit: Vec<OwnedFd>,
    /// Working directory of the child, where the sandbox has none of its own.
    pub(crate) directory: PathBuf,
    /// Whether the child's standard output is a pipe to this process; otherwise `/dev/null`.
    pub(crate) stdout: bool,
    /// Confinement of the child.
    pub(crate) containment: Containment,
    /// Value that is dropped after the process is reaped, or when the spawn fails.
    pub(crate) drop_with_process: Option<Box<dyn Any + Send>>,
}

/// Confinement of a VMM: by Firecracker's jailer or by our sandbox.
#[derive(Debug)]
pub(crate) enum Containment {
    /// Firecracker's jailer confines, under a warden of ours.
    Warden(warden::WardenConfig),
    /// Our own sandbox confines.
    Sandbox(Box<sandbox::SandboxPlan>),
}

/// A pidfd: unlike a process id it never refers to another process, so signals cannot go astray.
#[derive(Debug, Clone)]
pub(crate) struct ProcessPidfd {
    pidfd: Arc<OwnedFd>,
}

impl ProcessPidfd {
    /// Sends SIGKILL; no effect on a process that is gone.
    pub(crate) fn kill(&self) {
        // The only possible failure is ESRCH: the process is gone already.
        let _gone = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Registers the pidfd with the runtime: readable when the process has ended and can be reaped.
    pub(crate) fn ended(&self) -> io::Result<AsyncFd<ProcessPidfd>> {
        // SAFETY: the clone holds the descriptor in an `Arc` that nothing takes apart, so it stays open, and its
        // number the same, for as long as the `AsyncFd` holds the clone.
        unsafe { AsyncFd::register_with_interest(self.clone(), Interest::READABLE) }.map_err(Into::into)
    }
}

impl AsFd for ProcessPidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for ProcessPidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// A child process, killed and reaped at the latest when this is dropped.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    pid: u32,
    pidfd: ProcessPidfd,
    reaped: bool,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    confinement: Confinement,
    _drop_with_process: Option<Box<dyn Any + Send>>,
}

impl VmmProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn pidfd(&self) -> ProcessPidfd {
        self.pidfd.clone()
    }

    /// Confinement that the child was started with.
    pub(crate) fn confinement(&self) -> Confinement {
        self.confinement
    }

    pub(crate) fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.stdout.take()
    }

    pub(crate) fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// Reaps the process if it has ended, and gives its exit status. An error means that other code reaped it.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        self.reaped = !matches!(status, Ok(None));
        Ok(status?.map(|status| {
            // Encoded as `wait` does: a code in the second byte, a signal in the first.
            let exited = status.exit_status().map(|code| code << 8);
            ExitStatus::from_raw(exited.or(status.terminating_signal()).unwrap_or_default())
        }))
    }

    /// Waits for the end, reaps the process and gives its exit status; `None` when other code reaped it. Safe to
    /// cancel.
    pub(crate) async fn reaped(&mut self, ended: &AsyncFd<ProcessPidfd>) -> Option<ExitStatus> {
        loop {
            let readable = ended.readable().await;
            match self.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => {
                    if let Ok(mut readable) = readable {
                        readable.clear_ready();
                    }
                }
                Err(_) => return None,
            }
        }
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.pidfd.kill();
        let limit = Timespec::try_from(REAP_DEADLINE).ok();
        let mut ends = [PollFd::new(&self.pidfd, PollFlags::IN)];
        while let Err(Errno::INTR) = poll(&mut ends, limit.as_ref()) {}
        let _status = self.try_wait();
    }
}

type SpawnResult = Result<VmmProcess, SpawnFault>;

/// Starts `request` on the spawning thread.
pub(crate) async fn spawn(request: SpawnRequest) -> SpawnResult {
    let gone =
        || SpawnFault { step: SpawnStep::Clone, source: io::Error::other("the spawning thread is gone") };
    let (answer, receive) = oneshot::channel();
    // A caller that is cancelled drops `receive`: the process is then dropped, killed and reaped, by the thread.
    let thread = spawner().map_err(|source| SpawnFault { step: SpawnStep::Clone, source })?;
    thread.send((request, answer)).map_err(|_| gone())?;
    receive.await.map_err(|_| gone())?
}

type SpawnJob = (SpawnRequest, oneshot::Sender<SpawnResult>);

fn spawner() -> io::Result<mpsc::Sender<SpawnJob>> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnJob>> = OnceLock::new();
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender.clone());
    }
    let (sender, jobs) = mpsc::channel::<SpawnJob>();
    // The thread ends when its sender is dropped, which is never for the one that stays in the static; two first
    // callers at once make two threads and the loser's ends at once, before it has spawned anything.
    std::thread::Builder::new().name("vmm-spawn".into()).spawn(move || {
        for (request, answer) in jobs {
            let _cancelled = answer.send(start(request));
        }
    })?;
    Ok(SPAWNER.get_or_init(|| sender).clone())
}

/// Starts `request`, confined as far as the host allows.
fn start(mut request: SpawnRequest) -> SpawnResult {
    loop {
        let fault = match attempt(&mut request) {
            Ok(mut process) => {
                process._drop_with_process = request.drop_with_process.take();
                return Ok(process);
            }
            Err(fault) => fault,
        };
        let weaker = match &mut request.containment {
            Containment::Sandbox(plan) => plan.weaken(&fault),
            Containment::Warden(_) => false,
        };
        if !weaker {
            return Err(fault);
        }
    }
}

fn attempt(request: &mut SpawnRequest) -> SpawnResult {
    let fault = |step| move |source| SpawnFault { step, source };
    let c_string = |text: &[u8]| CString::new(text).map_err(|error| fault(SpawnStep::Exec)(error.into()));
    // A link may lead nowhere in the sandbox's root directory. A path that does not exist fails at the exec.
    let binary = request.binary.canonicalize().unwrap_or_else(|_| request.binary.clone());
    let program = c_string(binary.as_os_str().as_bytes())?;
    let words = request.args.iter().map(|word| c_string(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let mut argv: Vec<_> = [&program].into_iter().chain(&words).map(|word| word.as_ptr()).collect();
    argv.push(ptr::null());
    let directory = c_string(request.directory.as_os_str().as_bytes())?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(SpawnFault::at(SpawnStep::Streams));
    let null = File::options().read(true).write(true).open("/dev/null").map_err(fault(SpawnStep::Streams))?;
    let (stdout, stdout_theirs) =
        if request.stdout { pipe().map(|(a, b)| (Some(a), Some(b)))? } else { (None, None) };
    let (stderr, stderr_theirs) = pipe()?;
    let (mut report, report_theirs) = pipe().map(|(ours, theirs)| (File::from(ours), theirs))?;
    let parent = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(SpawnFault::at(SpawnStep::Orphan))?;
    let (confinement, prepared, warden) = match &mut request.containment {
        Containment::Warden(warden) => {
            let user = warden.user;
            let confinement =
                Confinement { user, namespaces: true, jailer: true, cgroup: warden.cgroup, landlock: false };
            (confinement, None, Some(&*warden))
        }
        Containment::Sandbox(plan) => {
            let prepared = plan.prepare(&binary)?;
            (plan.confinement(), Some(prepared), None)
        }
    };
    let flags = match &prepared {
        Some(prepared) => prepared.clone_flags(),
        // The jailer makes the other namespaces, but for the network's.
        None => libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC,
    };
    let keep: Vec<RawFd> = request.inherit.iter().map(AsRawFd::as_raw_fd).collect();
    let image = ChildProgram {
        program: program.as_ptr(),
        argv: argv.as_ptr(),
        directory: &directory,
        streams: [
            null.as_fd(),
            stdout_theirs.as_ref().map_or(null.as_fd(), OwnedFd::as_fd),
            stderr_theirs.as_fd(),
        ],
        keep: &keep,
        parent: &parent,
        prepared: prepared.as_ref(),
        warden,
    };
    let mut pidfd: libc::c_int = -1;
    // libc's fork would run handlers and take locks that another thread may hold; with vfork this process would see
    // the child's changes to itself. SAFETY: without a stack and without CLONE_VM this is a fork: the child goes on
    // here with memory of its own, in which no other thread runs. The kernel writes one descriptor to `pidfd`.
    let pid = unsafe {
        let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
        libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0)
    };
    if pid < 0 {
        return Err(SpawnFault { step: SpawnStep::Clone, source: io::Error::last_os_error() });
    }
    if pid == 0 {
        image.exec_or_report(&report_theirs);
    }
    // SAFETY: the kernel just made this descriptor for us.
    let pidfd = ProcessPidfd { pidfd: Arc::new(unsafe { OwnedFd::from_raw_fd(pidfd) }) };
    let process = VmmProcess {
        pid: u32::try_from(pid).unwrap_or_default(),
        pidfd,
        reaped: false,
        stdout,
        stderr: Some(stderr),
        confinement,
        _drop_with_process: None,
    };
    // Only the child holds the other ends now.
    drop((report_theirs, stdout_theirs, stderr_theirs));
    let mut words = Vec::new();
    // End-of-file means that the exec closed the pipe, or that the child ended.
    report.read_to_end(&mut words).map_err(fault(SpawnStep::Clone))?;
    match words.split_first_chunk::<4>() {
        None => Ok(process),
        Some((errno, rest)) => {
            let step = rest.first().copied().and_then(SpawnStep::of).unwrap_or(SpawnStep::Clone);
            process.pidfd.kill();
            Err(SpawnFault { step, source: io::Error::from_raw_os_error(i32::from_ne_bytes(*errno)) })
        }
    }
}

/// Everything that the child needs up to its exec, allocated before the clone.
struct ChildProgram<'a> {
    program: *const libc::c_char,
    argv: *const *const libc::c_char,
    directory: &'a CString,
    streams: [BorrowedFd<'a>; 3],
    keep: &'a [RawFd],
    parent: &'a OwnedFd,
    prepared: Option<&'a PreparedSandbox>,
    warden: Option<&'a warden::WardenConfig>,
}

impl ChildProgram<'_> {
    /// Runs in the child: executes the program, or writes errno and step to `report`. Async-signal-safe calls only.
    fn exec_or_report(&self, report: &OwnedFd) -> ! {
        let Err(fault) = self.set_up_and_exec();
        let errno = fault.source.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
        let words = [errno[0], errno[1], errno[2], errno[3], fault.step as u8];
        let _unheard = rustix::io::write(report, &words);
        // SAFETY: ends this process without running anything that was the parent's.
        unsafe { libc::_exit(127) }
    }

    fn set_up_and_exec(&self) -> Result<Infallible, SpawnFault> {
        self.check_parent()?;
        rustix::process::setsid().map_err(SpawnFault::at(SpawnStep::Orphan))?;
        for (number, stream) in (0..).zip(self.streams) {
            // SAFETY: plain numbers; no value in this process owns one of the three standard descriptors.
            if unsafe { libc::dup2(stream.as_raw_fd(), number) } < 0 {
                return Err(SpawnFault { step: SpawnStep::Streams, source: io::Error::last_os_error() });
            }
        }
        // Programs expect no blocked signals and default actions; Rust programs ignore SIGPIPE. SAFETY: an empty set
        // and a default action; no handler of ours is ever run in the program.
        unsafe {
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        // One byte is too short for any dump, and unlike 0 it also keeps the kernel from feeding one to a program
        // that collects dumps (core(5), `core_pattern` with a pipe).
        let most = rustix::process::getrlimit(Resource::Core).maximum.map_or(1, |most| most.min(1));
        let no_core = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(Resource::Core, no_core).map_err(SpawnFault::at(SpawnStep::Limits))?;
        // A failure is ignored: only the kernel's choice under memory pressure is worse then.
        if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty()) {
            let _ = rustix::io::write(&file, OOM_SCORE_ADJUST);
        }
        let mut directory = self.directory.as_c_str();
        if let Some(prepared) = self.prepared {
            prepared.enter(|| self.check_parent())?;
            directory = prepared.directory().unwrap_or(directory);
        }
        rustix::process::chdir(directory).map_err(SpawnFault::at(SpawnStep::View))?;
        // Our own descriptors are close-on-exec already; the call catches those that a library or our parent left
        // open.
        close_on_exec_from(3).map_err(|source| SpawnFault { step: SpawnStep::Descriptors, source })?;
        for &descriptor in self.keep {
            // SAFETY: `descriptor` is open in this process: the clone copied it from the parent, which holds it until
            // after the exec. fcntl(F_SETFD) changes a flag and no ownership.
            if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } < 0 {
                return Err(SpawnFault { step: SpawnStep::Descriptors, source: io::Error::last_os_error() });
            }
        }
        if let Some(warden) = self.warden {
            warden.enter().map_err(|source| SpawnFault { step: SpawnStep::Warden, source })?;
        }
        if let Some(prepared) = self.prepared {
            prepared.restrict()?;
        }
        // SAFETY: C strings and an array of them that ends with a null, made before the clone; no environment.
        unsafe { libc::execve(self.program, self.argv, [ptr::null()].as_ptr()) };
        Err(SpawnFault { step: SpawnStep::Exec, source: io::Error::last_os_error() })
    }

    /// Asks for SIGKILL at the parent's end, and fails if the parent has ended already.
    fn check_parent(&self) -> Result<(), SpawnFault> {
        let at = SpawnFault::at(SpawnStep::Orphan);
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(&at)?;
        // A parent that ended before the line above sends no signal any more. It is found by descriptor, because it
        // has no id inside a new PID namespace.
        let mut ends = [PollFd::new(self.parent, PollFlags::IN)];
        match poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(&at)? {
            0 => Ok(()),
            _ => Err(at(Errno::SRCH)),
        }
    }
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
