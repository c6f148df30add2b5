//! Everything a command started, so that all of it can be killed.
//!
//! In a guest that is a cgroup. A plain process (tests) may have no cgroups to use and walks `/proc` instead.

pub mod cgroup;
mod walk;

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use pyro_proto::message::Failure;
use rustix::process::Pid;

use crate::reaper::Reaper;

/// Makes trees.
pub enum Trees {
    /// One cgroup each.
    Cgroups(cgroup::Cgroups),
    /// By parent and child.
    Walk(walk::Orphans),
}

impl Trees {
    /// Trees that are found by walking `/proc`. Makes the calling process a subreaper.
    pub fn walking() -> std::io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self::Walk(walk::Orphans::default()))
    }

    /// An empty tree.
    pub fn begin(&self) -> Result<Tree<'_>, Failure> {
        Ok(Tree(Some(match self {
            Self::Cgroups(cgroups) => Kind::Cgroup(cgroups, cgroups.lease()?),
            Self::Walk(orphans) => Kind::Walk(orphans, None),
        })))
    }

    /// An empty tree that nothing ever was in.
    pub fn begin_fresh(&self) -> Result<Tree<'_>, Failure> {
        match self {
            Self::Cgroups(cgroups) => Ok(Tree(Some(Kind::Cgroup(cgroups, cgroups.fresh()?)))),
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

enum Kind<'a> {
    Cgroup(&'a cgroup::Cgroups, cgroup::Lease),
    Walk(&'a walk::Orphans, Option<(i32, Rc<Reaper>)>),
}

/// One command's processes. Dropping it kills them all.
pub struct Tree<'a>(Option<Kind<'a>>);

impl Tree<'_> {
    /// The cgroup to start the command in.
    pub fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Some(Kind::Cgroup(_, lease)) => Some(lease.directory()),
            _ => None,
        }
    }

    /// Whether another command was in it before.
    pub fn is_reused(&self) -> bool {
        matches!(&self.0, Some(Kind::Cgroup(_, lease)) if lease.is_reused())
    }

    /// Says which process is its first.
    pub fn started(&mut self, pid: Pid, reaper: &Rc<Reaper>) {
        if let Some(Kind::Walk(_, main)) = &mut self.0 {
            *main = Some((pid.as_raw_nonzero().get(), Rc::clone(reaper)));
        }
    }

    /// Kills everything in it.
    pub fn kill(&self) {
        match &self.0 {
            Some(Kind::Cgroup(_, lease)) => lease.kill(),
            Some(Kind::Walk(orphans, Some((main, reaper)))) => orphans.kill(*main, reaper),
            _ => {}
        }
    }

    /// The command's main process has ended and was reaped: what it left behind lives on. Says whether there is any.
    pub fn release(mut self) -> bool {
        match self.0.take() {
            Some(Kind::Cgroup(cgroups, lease)) => cgroups.give_back(lease),
            Some(Kind::Walk(orphans, Some((_, reaper)))) => orphans.release(&reaper),
            _ => false,
        }
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        self.kill();
        if let Some(Kind::Cgroup(cgroups, lease)) = self.0.take() {
            cgroups.give_back(lease);
        }
    }
}
