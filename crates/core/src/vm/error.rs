//! Why a VM could not do what was asked of it.

use crate::backend::BackendError;
use crate::bug::Bug;
use crate::command::CommandError;
use crate::environment::EnvironmentError;
use crate::failure::FailureKind;
use crate::hint::Hint;
use crate::host_compat::HostCompatError;
use crate::hostfs::HostFsError;
use crate::identity::NoRandomness;
use crate::runtime::RuntimeError;
use crate::start::StartError;
use crate::vm::{LimitError, VmState};

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
    /// No guest came to run.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A template cannot be removed.
    #[error(transparent)]
    Files(#[from] HostFsError),
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
    /// The VM is in another state.
    #[error("VM {vm_id} is {state}: it cannot be {wanted}")]
    State {
        /// Id of the VM.
        vm_id: String,
        /// State that the VM is in.
        state: VmState,
        /// The attempted action, as a participle.
        wanted: &'static str,
    },
    /// No such VM in this process.
    #[error("there is no VM {0:?} in this process")]
    Unknown(String),
    /// A fault of pyro itself.
    #[error(transparent)]
    Bug(#[from] Bug),
}

impl VmError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Limit(error) => error.hint(),
            Self::Environment(error) => error.hint(),
            Self::Runtime(error) => Some(error.hint()),
            Self::Backend(error) => error.hint(),
            Self::Start(error) => error.hint(),
            Self::State { .. } | Self::Unknown(_) => Some(Hint::OneCommandVm),
            Self::Command(_)
            | Self::HostCompat(_)
            | Self::Stop(_)
            | Self::Randomness(_)
            | Self::Bug(_)
            | Self::Files(_) => None,
        }
    }

    /// Kind of the failure, for programs.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Limit(error) => error.kind(),
            Self::Environment(error) => error.kind(),
            Self::Runtime(_) | Self::Backend(_) => FailureKind::Unavailable,
            Self::Start(error) => error.kind(),
            Self::Command(error) => error.kind(),
            Self::State { .. } => FailureKind::WrongState,
            Self::Unknown(_) => FailureKind::VmNotFound,
            Self::Bug(_) => FailureKind::Bug,
            Self::Files(HostFsError::File { source, .. }) => FailureKind::of_own_file(source),
            Self::Files(HostFsError::Cancelled) => FailureKind::Cancelled,
            Self::HostCompat(_) | Self::Stop(_) | Self::Randomness(_) => FailureKind::Failed,
        }
    }

    /// Whether this means that no guest can run here, as opposed to a request that makes no sense anywhere.
    pub(crate) fn no_guest_can_run(&self) -> bool {
        match self {
            Self::Runtime(_) | Self::Backend(_) => true,
            Self::Start(error) => error.no_guest_can_run(),
            Self::Environment(error) => !error.is_callers_mistake(),
            _ => false,
        }
    }
}
