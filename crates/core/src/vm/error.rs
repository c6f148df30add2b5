//! Why a VM could not do what was asked of it.

use crate::backend::BackendError;
use crate::command::CommandError;
use crate::environment::EnvironmentError;
use crate::failure::FailureKind;
use crate::hint::Hint;
use crate::host_compat::HostCompatError;
use crate::identity::NoRandomness;
use crate::launch::BootError;
use crate::runtime::RuntimeError;
use crate::vm::LimitError;

/// A failure in the life of a VM.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The request is out of bounds.
    #[error("the VM cannot be created: {0}")]
    Limit(#[from] LimitError),
    /// The environment cannot be had.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The runtime bundle cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// No VMM to run it.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The guest did not come up.
    #[error("the guest did not start")]
    Boot(#[from] BootError),
    /// The command has no outcome.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The command could not be run on the host.
    #[error(transparent)]
    HostCompat(#[from] HostCompatError),
    /// The VMM did not end.
    #[error("the VM could not be stopped")]
    Stop(#[source] pyro_vmm::VmmError),
    /// The kernel gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A file of the VM cannot be made or used.
    #[error("a file for the VM's disk or memory cannot be used")]
    Disk {
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The VM is in another state.
    #[error("VM {vm_id} is {state}: it cannot be {wanted}")]
    State {
        /// Which VM.
        vm_id: String,
        /// Its state.
        state: &'static str,
        /// What was asked.
        wanted: &'static str,
    },
    /// No such VM in this process.
    #[error("there is no VM {0:?} in this process")]
    Unknown(String),
    /// The installer's thread ended without an answer.
    #[error("installing the environment ended without a result; this is a bug in pyro")]
    PullPanicked,
}

impl VmError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Limit(error) => error.hint(),
            Self::Environment(error) => error.hint(),
            Self::Runtime(error) => Some(error.hint()),
            Self::Backend(error) => error.hint(),
            Self::Boot(_) => Some(Hint::Diagnose),
            Self::State { .. } | Self::Unknown(_) => Some(Hint::OneCommandVm),
            Self::Command(_)
            | Self::HostCompat(_)
            | Self::Stop(_)
            | Self::Randomness(_)
            | Self::Disk { .. }
            | Self::PullPanicked => None,
        }
    }

    /// Kind of the failure, for programs.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Limit(error) => error.kind(),
            Self::Environment(error) => error.kind(),
            Self::Runtime(_) | Self::Backend(_) | Self::Boot(_) => FailureKind::Unavailable,
            Self::Command(error) => error.kind(),
            Self::Disk { source } => FailureKind::of_own_file(source),
            Self::State { .. } => FailureKind::WrongState,
            Self::Unknown(_) => FailureKind::VmNotFound,
            Self::PullPanicked => FailureKind::Bug,
            Self::HostCompat(_) | Self::Stop(_) | Self::Randomness(_) => FailureKind::Failed,
        }
    }

    /// Whether this means that no guest can run here, as opposed to a request that makes no sense anywhere.
    pub(crate) fn no_guest_can_run(&self) -> bool {
        match self {
            Self::Runtime(_) | Self::Backend(_) | Self::Boot(_) => true,
            Self::Environment(error) => !error.is_callers_mistake(),
            _ => false,
        }
    }
}
