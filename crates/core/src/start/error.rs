//! Why a guest did not come to run.

use std::io;

use crate::environment::EnvironmentError;
use crate::failure::FailureKind;
use crate::hint::Hint;
use crate::launch::BootError;
use crate::runtime::RuntimeError;

/// A start without a guest. No fault of a template is among these: such a start boots.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The environment's image or a blank disk cannot be had.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The runtime bundle cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The guest did not come up.
    #[error("the guest did not start")]
    Boot(#[from] BootError),
    /// A file of the VM cannot be made or used.
    #[error("a file for the VM's disk or memory cannot be used")]
    Disk(#[source] io::Error),
}

impl StartError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Environment(error) => error.hint(),
            Self::Runtime(error) => Some(error.hint()),
            Self::Boot(_) => Some(Hint::Diagnose),
            Self::Disk(_) => None,
        }
    }

    /// Kind of the failure, for programs.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Environment(error) => error.kind(),
            Self::Runtime(_) | Self::Boot(_) => FailureKind::Unavailable,
            Self::Disk(source) => FailureKind::of_own_file(source),
        }
    }

    /// Whether no guest can run here, as opposed to a request that makes no sense anywhere.
    pub(crate) fn no_guest_can_run(&self) -> bool {
        match self {
            Self::Runtime(_) | Self::Boot(_) => true,
            Self::Environment(error) => !error.is_callers_mistake(),
            Self::Disk(_) => false,
        }
    }
}
