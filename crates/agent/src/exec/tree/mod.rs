//! Everything a command started, so that all of it can be killed.
//!
//! In a guest that is a cgroup, and whatever has left it: root in the guest may move itself. A plain process (tests) may have no cgroups to use and walks `/proc` instead.

pub mod cgroup;
mod walk;

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use pyro_proto::message::Failure;
use rustix::process::{Pid, Signal};

use crate::reaper::Reaper;

/// Maker of process trees.
pub enum ProcessTrees {
    /// Trees that are cgroups.
    Cgroups(cgroup::Cgroups),
    /// Trees found by parent and child in `/proc`.
    Walk(walk::Orphans),
}

impl ProcessTrees {
    /// Trees that are found by walking `/proc`. Makes the calling process a subreaper.
    pub fn walking() -> std::io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self::Walk(walk::Orphans::default()))
    }

    /// Makes an empty tree.
    pub fn begin(self: &Rc<Self>) -> Result<ProcessTree, Failure> {
        Ok(ProcessTree::new(
            self,
            match &**self {
                Self::Cgroups(cgroups) => TreeMembers::Cgroup(cgroups.lease()?, None),
                Self::Walk(_) => TreeMembers::Walk(None, Vec::new()),
            },
        ))
    }

    /// Makes an empty tree that no command ever was in.
    pub fn begin_fresh(self: &Rc<Self>) -> Result<ProcessTree, Failure> {
        match &**self {
            Self::Cgroups(cgroups) => Ok(ProcessTree::new(self, TreeMembers::Cgroup(cgroups.fresh()?, None))),
            Self::Walk(_) => self.begin(),
        }
    }

    /// Kills all processes of commands, including those left behind, and everything else that descends from this
    /// process.
    pub fn kill_all(&self) {
        match self {
            Self::Cgroups(cgroups) => cgroups.kill_all(),
            Self::Walk(_) => walk::kill_descendants(rustix::process::getpid().as_raw_nonzero().get()),
        }
    }
}

enum TreeMembers {
    /// Cgroup of the command, and its first process.
    Cgroup(cgroup::Lease, Option<(i32, Rc<Reaper>)>),
    /// First process of the command, and the processes that it left behind.
    Walk(Option<(i32, Rc<Reaper>)>, Vec<i32>),
}

/// Processes of one command. Dropping the tree kills them all.
pub struct ProcessTree {
    trees: Rc<ProcessTrees>,
    kind: Option<TreeMembers>,
}

impl ProcessTree {
    fn new(trees: &Rc<ProcessTrees>, kind: TreeMembers) -> Self {
        Self { trees: Rc::clone(trees), kind: Some(kind) }
    }

    /// The cgroup to start the command in.
    pub fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Some(TreeMembers::Cgroup(lease, _)) => Some(lease.directory()),
            _ => None,
        }
    }

    /// Whether another command was in it before.
    pub fn is_reused(&self) -> bool {
        matches!(&self.kind, Some(TreeMembers::Cgroup(lease, _)) if lease.is_reused())
    }

    /// Notes the command's first process.
    pub fn started(&mut self, pid: Pid, reaper: &Rc<Reaper>) {
        if let Some(TreeMembers::Walk(main, _) | TreeMembers::Cgroup(_, main)) = &mut self.kind {
            *main = Some((pid.as_raw_nonzero().get(), Rc::clone(reaper)));
        }
    }

    /// Kills all processes of the tree.
    pub fn kill(&self) {
        match (&self.kind, &*self.trees) {
            (Some(TreeMembers::Cgroup(lease, main)), _) => {
                // Before the command's own processes are gone, which lead to those that left its cgroup.
                let strays =
                    main.as_ref().map(|(main, reaper)| walk::family(*main, reaper)).unwrap_or_default();
                lease.kill();
                if let Some((main, reaper)) = main {
                    walk::kill_family(*main, reaper, strays);
                }
            }
            (Some(TreeMembers::Walk(Some((main, reaper)), left)), ProcessTrees::Walk(orphans)) => {
                orphans.kill(*main, reaper);
                orphans.kill_left(left);
            }
            _ => {}
        }
    }

    /// Sends `signal` to all present processes of the tree.
    pub fn signal(&self, signal: Signal) {
        match (&self.kind, &*self.trees) {
            (Some(TreeMembers::Cgroup(lease, _)), _) => lease.signal(signal),
            (Some(TreeMembers::Walk(Some((main, reaper)), left)), ProcessTrees::Walk(orphans)) => {
                orphans.signal(*main, reaper, left, signal);
            }
            _ => {}
        }
    }

    /// Takes in the processes left behind by the command's main process, which has ended and was reaped; says whether
    /// there are any.
    pub fn settle(&mut self) -> bool {
        if let (Some(TreeMembers::Walk(Some((_, reaper)), left)), ProcessTrees::Walk(orphans)) =
            (&mut self.kind, &*self.trees)
        {
            left.extend(orphans.take_fresh(reaper));
        }
        !self.is_empty()
    }

    /// Whether no process is left, of a command whose main process has ended.
    pub fn is_empty(&self) -> bool {
        match (&self.kind, &*self.trees) {
            (Some(TreeMembers::Cgroup(lease, _)), _) => lease.is_empty(),
            (Some(TreeMembers::Walk(_, left)), ProcessTrees::Walk(orphans)) => !orphans.any(left),
            _ => true,
        }
    }

    /// Lets go of the processes left behind by the command's main process, which has ended and was reaped; says whether
    /// there are any. There are none if the process was `alone`.
    pub fn release(mut self, alone: bool) -> bool {
        match (self.kind.take(), &*self.trees) {
            (Some(TreeMembers::Cgroup(lease, _)), ProcessTrees::Cgroups(cgroups)) => {
                cgroups.give_back(lease, alone)
            }
            (Some(TreeMembers::Walk(Some((_, reaper)), left)), ProcessTrees::Walk(orphans)) => {
                orphans.release(&reaper) || orphans.any(&left)
            }
            _ => false,
        }
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        self.kill();
        if let (Some(TreeMembers::Cgroup(lease, _)), ProcessTrees::Cgroups(cgroups)) =
            (self.kind.take(), &*self.trees)
        {
            cgroups.give_back(lease, false);
        }
    }
}
