//! The guest's root file system: assembling it, what every guest has besides, and a disk that fails.
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

/// What became of the root filesystem.
#[derive(Debug)]
pub enum GuestRoot {
    /// This is a plain process: the root is the machine's own. What it was told to take for its disk's root.
    Plain(Option<OwnedFd>),
    /// PID 1 without a base image: only the initramfs is there.
    Diskless,
    /// PID 1 with its base mounted, waiting for an order to assemble the rest.
    Waiting(UnassembledRoot),
    /// PID 1 with its root assembled; the disk's own root, from where workspace and what is beside it are one mount.
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

    /// The disk's own root.
    pub fn disk(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match self {
            Self::Ready(disk) | Self::Plain(Some(disk)) => Some(std::os::fd::AsFd::as_fd(disk)),
            _ => None,
        }
    }

    /// What went wrong when it was assembled.
    pub fn problem(&self) -> Option<&Failure> {
        match self {
            Self::Failed(problem) => Some(problem),
            _ => None,
        }
    }

    /// Why commands cannot run.
    pub fn refuses(&self) -> Option<Failure> {
        match self {
            Self::Waiting(_) => {
                Some(refusal(FailureKind::Unsupported, "root", "the root file system is not assembled yet"))
            }
            other => other.problem().cloned(),
        }
    }
}
