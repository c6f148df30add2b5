//! The guest's root file system: assembling it, the files that every guest has besides, and a disk that fails.
//!
//! ```text
//!   assemble   base image, upper layer and workspace become `/`
//!   mounts     the kernel's own file systems, and the files that every root has
//!   disk       watches the disk for errors
//! ```

pub mod assemble;
pub mod disk;
pub mod mounts;

use std::os::fd::OwnedFd;

use pyro_proto::message::{Failure, FailureKind};

use crate::failure::refusal;

pub use assemble::{UnassembledRoot, begin, open_disk};

/// State of the root file system.
#[derive(Debug)]
pub enum GuestRoot {
    /// Root of a plain process, which is the machine's own; the directory to take for the disk's root, if one was
    /// given.
    Plain(Option<OwnedFd>),
    /// PID 1 without a base image: only the initramfs is there.
    Diskless,
    /// PID 1 with its base mounted, waiting for the request to assemble the rest.
    Waiting(UnassembledRoot),
    /// PID 1 with its root assembled; the disk's own root, from where the workspace and the files beside it are one
    /// mount.
    Ready(OwnedFd),
    /// PID 1 whose root could not be assembled.
    Failed(Failure),
}

impl GuestRoot {
    /// Whether the agent is PID 1.
    pub fn is_pid1(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Whether the guest's own root is there.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// Root directory of the disk.
    pub fn disk(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match self {
            Self::Ready(disk) | Self::Plain(Some(disk)) => Some(std::os::fd::AsFd::as_fd(disk)),
            _ => None,
        }
    }

    /// Failure to assemble the root.
    pub fn problem(&self) -> Option<&Failure> {
        match self {
            Self::Failed(problem) => Some(problem),
            _ => None,
        }
    }

    /// Reason why commands cannot run; `None` where they can.
    pub fn refuses(&self) -> Option<Failure> {
        match self {
            Self::Waiting(_) => {
                Some(refusal(FailureKind::Unsupported, "root", "the root file system is not assembled yet"))
            }
            other => other.problem().cloned(),
        }
    }
}
