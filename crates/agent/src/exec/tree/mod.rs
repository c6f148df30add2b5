//! Everything a command started, so that all of it can be killed.
//!
//! In a guest that is a cgroup. A plain process (tests) may have no cgroups to use and walks `/proc` instead.

pub mod cgroup;
mod walk;

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use pyro_proto::message::Failure;
use rustix::process::{Pid, Signal};

use crate::reaper::Reaper;

/// Makes trees.
pub enum ProcessTrees {
    /// One cgroup each.
    Cgroups(cgroup::Cgroups),
    /// By parent and child.
    Walk(walk::Orphans),
}

impl ProcessTrees {
    /// ProcessTrees that are found by walking `/proc`. Makes the calling process a subreaper.
    pub fn walking() -> std::io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self::Walk(walk::Orphans::default()))
    }

    /// An empty tree.
    pub fn begin(self: &Rc<Self>) -> Result<ProcessTree, Failure> {
        Ok(ProcessTree::new(
            self,
            match &**self {
                Self::Cgroups(cgroups) => TreeMembers::Cgroup(cgroups.lease()?),
                Self::Walk(_) => TreeMembers::Walk(None, Vec::new()),
            },
        ))
    }

    /// An empty tree that nothing ever was in.
    pub fn begin_fresh(self: &Rc<Self>) -> Result<ProcessTree, Failure> {
        match &**self {
            Self::Cgroups(cgroups) => Ok(ProcessTree::new(self, TreeMembers::Cgroup(cgroups.fresh()?))),
            Self::Walk(_) => self.begin(),
        }
    }

    /// Kills what commands left behind when they ended, and everything else that descends from this process.
    pub fn kill_all(&self) {
        match self {
            Self::Cgroups(cgroups) => cgroups.kill_all(),
            Self::Walk(_) => walk::kill_descendants(rustix::process::getpid().as_raw_nonzero().get()),
        }
    }
}

enum TreeMembers {
    Cgroup(cgroup::Lease),
    /// Its first process, and what that left behind.
    Walk(Option<(i32, Rc<Reaper>)>, Vec<i32>),
}

/// One command's processes. Dropping it kills them all.
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
            Some(TreeMembers::Cgroup(lease)) => Some(lease.directory()),
            _ => None,
        }
    }

    /// Whether another command was in it before.
    pub fn is_reused(&self) -> bool {
        matches!(&self.kind, Some(TreeMembers::Cgroup(lease)) if lease.is_reused())
    }

    /// Says which process is its first.
    pub fn started(&mut self, pid: Pid, reaper: &Rc<Reaper>) {
        if let Some(TreeMembers::Walk(main, _)) = &mut self.kind {
            *main = Some((pid.as_raw_nonzero().get(), Rc::clone(reaper)));
        }
    }

    /// Kills everything in it.
    pub fn kill(&self) {
        match (&self.kind, &*self.trees) {
            (Some(TreeMembers::Cgroup(lease)), _) => lease.kill(),
            (Some(TreeMembers::Walk(Some((main, reaper)), left)), ProcessTrees::Walk(orphans)) => {
                orphans.kill(*main, reaper);
                orphans.kill_left(left);
            }
            _ => {}
        }
    }

    /// Sends `signal` to everything that is in it now.
    pub fn signal(&self, signal: Signal) {
        match (&self.kind, &*self.trees) {
            (Some(TreeMembers::Cgroup(lease)), _) => lease.signal(signal),
            (Some(TreeMembers::Walk(Some((main, reaper)), left)), ProcessTrees::Walk(orphans)) => {
                orphans.signal(*main, reaper, left, signal);
            }
            _ => {}
        }
    }

    /// The command's main process has ended and was reaped; the tree keeps what it left behind. Says whether there is
    /// any.
    pub fn settle(&mut self) -> bool {
        if let (Some(TreeMembers::Walk(Some((_, reaper)), left)), ProcessTrees::Walk(orphans)) =
            (&mut self.kind, &*self.trees)
        {
            left.extend(orphans.take_fresh(reaper));
        }
        !self.is_empty()
    }

    /// Whether nothing is left in it, of a command whose main process has ended.
    pub fn is_empty(&self) -> bool {
        match (&self.kind, &*self.trees) {
            (Some(TreeMembers::Cgroup(lease)), _) => lease.is_empty(),
            (Some(TreeMembers::Walk(_, left)), ProcessTrees::Walk(orphans)) => !orphans.any(left),
            _ => true,
        }
    }

    /// The command's main process has ended and was reaped, and nothing was left then if it was `alone`: what it left
    /// behind lives on. Says whether there is any.
    pub fn release(mut self, alone: bool) -> bool {
        match (self.kind.take(), &*self.trees) {
            (Some(TreeMembers::Cgroup(lease)), ProcessTrees::Cgroups(cgroups)) => {
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
        if let (Some(TreeMembers::Cgroup(lease)), ProcessTrees::Cgroups(cgroups)) =
            (self.kind.take(), &*self.trees)
        {
            cgroups.give_back(lease, false);
        }
    }
}
