//! Start of the agent: as a plain process, or as PID 1 of a guest.

pub mod power;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;

use futures::future::{Either, select};
use rustix::process::Resource;

use crate::console;
use crate::exec::Commands;
use crate::exec::spawn::ChildSetup;
use crate::exec::tree::{ProcessTrees, cgroup};
use crate::identity::IdentityFiles;
use crate::reaper::Reaper;
use crate::root::{self, GuestRoot, disk, mounts};
use crate::server::{self, SessionOutcome};
use crate::session::{Agent, GuestParts};
use crate::wire::{Wire, port, vsock};

/// Transport of a plain agent.
#[derive(Debug)]
pub enum ListenOn {
    /// On a Unix socket at this path.
    Socket(PathBuf),
    /// On this stream.
    Stream(OwnedFd),
}

/// Open files: the agent's own need with all calls in use, and the commands' limits (soft, hard).
const OWN_OPEN_FILES: u64 = 65_536;
/// Soft as development tools want it, and not the million of some: programs that close every descriptor they could have then
/// take long to start.
const COMMANDS_OPEN_FILES: (u64, u64) = (65_536, 1_048_576);
/// Limits of a development machine, where the kernel's own are a small server's: watchers of trees, debuggers, databases.
const KERNEL_LIMITS: [(&str, u64); 3] = [
    ("/proc/sys/fs/inotify/max_user_watches", 1_048_576),
    ("/proc/sys/fs/inotify/max_user_instances", 8192),
    ("/proc/sys/vm/max_map_count", 1_048_576),
];

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Makes writing to a closed pipe an error instead of a death; see [`crate::exec::spawn`] for the children.
fn ignore_broken_pipes() {
    // SAFETY: only changes the disposition of one signal, before anything else runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Keeps freed memory instead of giving it back to the kernel with every chunk of output: under software emulation a
/// page fault costs as much as copying ten pages. Kept memory is bounded by the most that the calls of a session may
/// hold.
fn keep_freed_memory() {
    // SAFETY: sets parameters of the allocator, before there is another thread.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TOP_PAD, 1 << 20);
    }
}

/// Keeps descriptors that this process inherited from reaching commands.
fn keep_inherited_files() {
    // SAFETY: only sets the close-on-exec flag of whatever is open above the standard streams.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}

/// Sets [`KERNEL_LIMITS`]; a kernel without one of them has no need of it.
fn raise_kernel_limits() {
    for (path, limit) in KERNEL_LIMITS {
        let _ = std::fs::write(path, limit.to_string());
    }
}

/// Resets the signals that the parent ignored, for the commands' sake; all of them, including the C library's own two.
fn reset_signals() {
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel's sigaction is four words: handler (zero is the default), flags, restorer, mask. Numbers
        // that it refuses stay as they are.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Polls `beside` before `main` each time, until `main` ends.
async fn first<T>(beside: impl Future<Output = ()> + Unpin, main: impl Future<Output = T> + Unpin) -> T {
    match select(beside, main).await {
        Either::Left(((), main)) => main.await,
        Either::Right((end, _)) => end,
    }
}

/// Runs as a plain process until the stream closes, an order to shut down or a signal comes; then kills all processes
/// that are left. With `disk` there is a workspace: its directory `workspace`.
pub fn plain(listen: ListenOn, disk: Option<PathBuf>) -> io::Result<()> {
    mounts::fill_standard_streams()?;
    keep_inherited_files();
    reset_signals();
    ignore_broken_pipes();
    let disk = match disk {
        Some(path) => Some(root::open_disk(&path)?),
        None => None,
    };
    runtime()?.block_on(async {
        let reaper = Rc::new(Reaper::new(true)?);
        let setup = ChildSetup { subreaper: true, ..ChildSetup::default() };
        let commands = Commands::new(Rc::clone(&reaper), ProcessTrees::walking()?, setup)?;
        let agent = Agent::new(commands, GuestRoot::Plain(disk), None);
        let serve = async {
            match listen {
                ListenOn::Socket(path) => server::on_socket(&agent, &path).await,
                ListenOn::Stream(fd) => {
                    let wire = Wire::new(fd)?;
                    server::on_wire(&agent, &wire).await;
                    Ok(())
                }
            }
        };
        // First the children, so that a session that ends sees them gone.
        let serve = async { first(pin!(agent.jobs.run()), pin!(serve)).await };
        let end = match select(pin!(reaper.run()), pin!(serve)).await {
            Either::Left((end, _)) => end.map(drop),
            Either::Right((end, _)) => end,
        };
        agent.commands.kill_all();
        reaper.reap();
        end
    })
}

/// Runs as PID 1. Failures are remembered and told to the host; only a guest without an agent is of no use at all.
pub fn run() -> ! {
    ignore_broken_pipes();
    keep_freed_memory();
    let begun = mounts::early();
    let _ = mounts::fill_standard_streams();
    let words = power::CommandLine::read();
    let memory = mounts::late();
    raise_kernel_limits();
    // Before the root, which shows one of its files.
    let identity = IdentityFiles::prepare();
    let root = match begun {
        Ok(()) => root::begin(words.bare),
        Err(failure) => GuestRoot::Failed(failure),
    };
    if let Some(problem) = root.problem() {
        console::note(&format!("{}: {}", problem.stage, problem.message));
    }
    let cgroups = memory.and_then(cgroup::Cgroups::new);
    let limit =
        rustix::process::Rlimit { current: Some(OWN_OPEN_FILES), maximum: Some(COMMANDS_OPEN_FILES.1) };
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    let trees = match cgroups {
        Ok(cgroups) => Ok(ProcessTrees::Cgroups(cgroups)),
        Err(error) => {
            console::note(&format!("no cgroups: {error}"));
            ProcessTrees::walking()
        }
    };
    let served = trees.and_then(|trees| runtime()?.block_on(serve(trees, root, identity?, &words)));
    if let Err(error) = served {
        console::note(&format!("cannot go on: {error}"));
    }
    power::off(&words)
}

/// The out-of-memory killer never takes PID 1, so nothing need be said about that.
async fn serve(
    trees: ProcessTrees,
    root: GuestRoot,
    identity: IdentityFiles,
    words: &power::CommandLine,
) -> io::Result<()> {
    let reaper = Rc::new(Reaper::new(false)?);
    let setup = ChildSetup {
        subreaper: matches!(trees, ProcessTrees::Walk(_)),
        open_files: Some(COMMANDS_OPEN_FILES),
    };
    let commands = Commands::new(Rc::clone(&reaper), trees, setup)?;
    let disk = Rc::new(disk::DiskWatch::new()?);
    let agent = Agent::new(commands, root, Some(GuestParts { identity, disk: Rc::clone(&disk) }));
    agent.watch_disk();
    let sessions = async {
        if words.vsock {
            let listener = vsock::VsockListener::new()?;
            return server::on_vsock(&agent, &listener).await;
        }
        let mut port = port::open().await?;
        loop {
            port = port::host_present(port).await?;
            let wire = Wire::new(port)?;
            let (outcome, established) = server::on_wire(&agent, &wire).await;
            if outcome == SessionOutcome::Shutdown || (established && agent.is_oneshot()) {
                return Ok(());
            }
            port = wire.into_fd().ok_or_else(|| io::Error::other("the port is still in use"))?;
        }
    };
    let housekeeping = async {
        match select(pin!(reaper.run()), pin!(disk.run())).await {
            Either::Left((end, _)) => end.map(drop),
            Either::Right((end, _)) => end,
        }
    };
    let sessions = async { first(pin!(agent.jobs.run()), pin!(sessions)).await };
    let end = match select(pin!(housekeeping), pin!(sessions)).await {
        Either::Left((end, _)) | Either::Right((end, _)) => end,
    };
    agent.commands.kill_all();
    end
}
