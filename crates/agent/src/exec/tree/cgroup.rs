//! Cgroups: one for each command, below one for all of them.
//!
//! ```text
//!   /sys/fs/cgroup          the agent (and kernel threads)
//!   /sys/fs/cgroup/pyro     limits on all commands together, so that the agent always has room to answer
//!   /sys/fs/cgroup/pyro/N   one command
//! ```
//!
//! The controllers stop at `pyro`: a command's own cgroup only holds it together, and costs little. Empty cgroups are
//! kept for the next command, which spares making and removing a directory full of files each time.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_proto::message::Failure;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{failure, resource_kind};

/// Empty cgroups that are kept.
const KEPT: usize = 16;
const ROOT: &str = "/sys/fs/cgroup";
/// Room that commands leave to kernel and agent.
const RESERVE_MIB: u64 = 32;
/// Processes per MiB of guest memory: each costs the kernel about 100 KiB, so that a fork bomb hits this limit before
/// it has used up the memory.
const PROCESSES_PER_MIB: u64 = 4;

/// The cgroups of all commands.
pub struct Cgroups {
    parent: OwnedFd,
    next: Cell<u64>,
    idle: RefCell<Vec<Lease>>,
    /// Cgroups of commands that left processes behind, or were killed a moment ago.
    lingering: RefCell<Vec<Lease>>,
}

/// Cgroup of one command.
pub struct Lease {
    name: String,
    directory: OwnedFd,
    events: OwnedFd,
    used: bool,
    /// The kernel may go on killing whatever is made in it: 6.1 compares numbers that a kill raises.
    killed: Cell<bool>,
}

impl Cgroups {
    /// Makes `/sys/fs/cgroup/pyro` with its limits for a guest of `memory_mib`.
    pub fn new(memory_mib: u64) -> io::Result<Self> {
        // A controller that the kernel lacks must not take the others with it.
        for controller in ["+pids", "+memory", "+cpu"] {
            let _ = std::fs::write(format!("{ROOT}/cgroup.subtree_control"), controller);
        }
        let path = format!("{ROOT}/pyro");
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let _ =
            std::fs::write(format!("{path}/pids.max"), (memory_mib * PROCESSES_PER_MIB).max(256).to_string());
        if memory_mib > 4 * RESERVE_MIB {
            let _ = std::fs::write(format!("{path}/memory.max"), format!("{}M", memory_mib - RESERVE_MIB));
        }
        let parent =
            rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { parent, next: Cell::new(1), idle: RefCell::default(), lingering: RefCell::default() })
    }

    /// Leases an empty cgroup, an old one if there is one.
    pub fn lease(&self) -> Result<Lease, Failure> {
        let mut lingering = self.lingering.borrow_mut();
        let mut idle = self.idle.borrow_mut();
        let mut at = 0;
        while at < lingering.len() {
            if lingering[at].is_empty() {
                let lease = lingering.swap_remove(at);
                self.keep(&mut idle, lease);
            } else {
                at += 1;
            }
        }
        match idle.pop() {
            Some(lease) => Ok(lease),
            None => self.fresh(),
        }
    }

    /// Makes a new cgroup.
    pub fn fresh(&self) -> Result<Lease, Failure> {
        let number = self.next.replace(self.next.get() + 1);
        let name = number.to_string();
        let made = || {
            mkdirat(&self.parent, &name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(&self.parent, &name, flags, Mode::empty())?;
            let events =
                openat(&directory, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            Ok(Lease { name: name.clone(), directory, events, used: false, killed: Cell::new(false) })
        };
        made().map_err(|errno| failure(resource_kind(errno), "cgroup", errno, "a cgroup for the command"))
    }

    /// Takes a command's cgroup back; says whether processes are left in it. A cgroup that is known to be `empty` is
    /// not examined.
    pub fn give_back(&self, mut lease: Lease, empty: bool) -> bool {
        lease.used = true;
        if empty || lease.is_empty() {
            self.keep(&mut self.idle.borrow_mut(), lease);
            return false;
        }
        self.lingering.borrow_mut().push(lease);
        true
    }

    fn keep(&self, idle: &mut Vec<Lease>, lease: Lease) {
        if idle.len() < KEPT && !lease.killed.get() {
            idle.push(lease);
        } else {
            let _ = unlinkat(&self.parent, &lease.name, AtFlags::REMOVEDIR);
        }
    }

    /// Kills all commands and all that they left behind.
    pub fn kill_all(&self) {
        let _ = write(self.parent.as_fd(), "cgroup.kill");
    }
}

impl Lease {
    /// The cgroup's directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether it was another command's before.
    pub fn is_reused(&self) -> bool {
        self.used
    }

    /// Kills all processes in it, including those that are just being made.
    pub fn kill(&self) {
        self.killed.set(true);
        let _ = write(self.directory.as_fd(), "cgroup.kill");
    }

    /// Sends `signal` to all processes in it.
    pub fn signal(&self, signal: Signal) {
        let Ok(file) =
            openat(&self.directory, "cgroup.procs", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        else {
            return;
        };
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text);
        for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether no process is in it.
    pub fn is_empty(&self) -> bool {
        let mut text = [0; 64];
        let n = rustix::io::pread(&self.events, &mut text, 0).unwrap_or(0);
        text[..n].starts_with(b"populated 0")
    }
}

fn write(directory: BorrowedFd<'_>, file: &str) -> rustix::io::Result<()> {
    let file = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, b"1").map(drop)
}
