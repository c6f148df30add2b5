//! Errors of other rooms as errors of a workspace.

use crate::backend::BackendError;
use crate::command::CommandError;
use crate::environment::EnvironmentError;
use crate::hostfs::HostFsError;
use crate::identity::NoRandomness;
use crate::runtime::RuntimeError;
use crate::start::StartError;
use crate::workspace::error::WorkspaceError;

impl From<HostFsError> for WorkspaceError {
    fn from(error: HostFsError) -> Self {
        match error {
            HostFsError::File { path, doing, source } => Self::File { path, doing, source },
            // Waits for a lock are cancelled when their time is up.
            HostFsError::Cancelled => Self::Locked,
        }
    }
}

impl From<EnvironmentError> for WorkspaceError {
    fn from(error: EnvironmentError) -> Self {
        Self::Vm(error.into())
    }
}

impl From<StartError> for WorkspaceError {
    fn from(error: StartError) -> Self {
        Self::Vm(error.into())
    }
}

impl From<RuntimeError> for WorkspaceError {
    fn from(error: RuntimeError) -> Self {
        Self::Vm(error.into())
    }
}

impl From<BackendError> for WorkspaceError {
    fn from(error: BackendError) -> Self {
        Self::Vm(error.into())
    }
}

impl From<NoRandomness> for WorkspaceError {
    fn from(error: NoRandomness) -> Self {
        Self::Vm(error.into())
    }
}

impl From<CommandError> for WorkspaceError {
    fn from(error: CommandError) -> Self {
        Self::Vm(error.into())
    }
}
