//! What went wrong, in words that a model can act on. It is a tool's result, not an error of the protocol.

use std::io;

use pyro_core::archive::ArchiveError;
use pyro_core::cause;
use pyro_core::disk::DiskError;
use pyro_core::environment::EnvironmentError;
use pyro_core::start::StartError;
use pyro_core::vm::{LimitError, VmError};
use pyro_core::workspace::{SecretError, WorkspaceError};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Serialize;

use super::cut;
use super::roots::Refusal;

/// Longest words of a failure, bytes.
const LONGEST: usize = 8 << 10;

/// What kind of failure it is. The set is closed: clients may switch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An argument is missing, of a wrong type or out of bounds.
    InvalidArgument,
    /// There is no such workspace, file, snapshot, shell, service or VM.
    NotFound,
    /// The name is taken.
    Conflict,
    /// It cannot be done at this point of its life: it is stopped, or about to start.
    WrongState,
    /// The person or the sandbox does not allow it.
    NotAllowed,
    /// There is more than may be.
    TooLarge,
    /// A disk is full.
    NoSpace,
    /// A patch or archive is not taken; nothing was changed.
    Rejected,
    /// The guest, or what was to run in it, failed.
    GuestFailed,
    /// This host cannot do it now: no guest can run, an environment cannot be had.
    Unavailable,
    /// Anything else.
    Failed,
}

/// A failure.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// What failed and why.
    pub error: String,
    /// What to try next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Failure {
    /// Something that the arguments are to blame for.
    pub fn invalid(error: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind: Kind::InvalidArgument, error: error.into(), next: Some(next.into()) }
    }

    /// Something that the person did not allow.
    pub fn not_allowed(error: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind: Kind::NotAllowed, error: error.into(), next: Some(next.into()) }
    }

    /// As the result of a tool.
    pub fn result(&self) -> CallToolResult {
        let mut told = self.clone();
        // It may repeat what was given, which may be long.
        cut::middle(&mut told.error, LONGEST, "what failed is at both ends");
        let text = serde_json::to_string(&told).unwrap_or_else(|_| told.error.clone());
        CallToolResult::error(vec![ContentBlock::text(text)])
    }
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        let kind = match &error {
            VmError::Limit(LimitError::Network) => Kind::Unavailable,
            VmError::Limit(_) => Kind::InvalidArgument,
            VmError::Environment(error) if error.is_callers_mistake() => Kind::NotFound,
            VmError::Start(StartError::Environment(error)) if error.is_callers_mistake() => Kind::NotFound,
            VmError::Start(StartError::Disk(_)) => Kind::Failed,
            VmError::Environment(_) | VmError::Runtime(_) | VmError::Backend(_) | VmError::Start(_) => {
                Kind::Unavailable
            }
            VmError::Command(_) => Kind::GuestFailed,
            VmError::State { .. } => Kind::WrongState,
            VmError::Unknown(_) => Kind::NotFound,
            _ => Kind::Failed,
        };
        Self { kind, error: cause::chain(&error), next: error.hint().map(|hint| of_tools(&hint)) }
    }
}

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Self {
        let error = match error {
            WorkspaceError::Vm(error) => return error.into(),
            error => error,
        };
        let kind = match &error {
            WorkspaceError::Archive(error) => of_archive(error),
            WorkspaceError::Disk(error) => of_disk(error),
            error => of_workspace(error),
        };
        Self { kind, error: cause::chain(&error), next: error.hint().map(|hint| of_tools(&hint)) }
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        WorkspaceError::from(error).into()
    }
}

impl From<EnvironmentError> for Failure {
    fn from(error: EnvironmentError) -> Self {
        VmError::from(error).into()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::None { .. } | Refusal::Outside { .. } | Refusal::Root { .. } => Kind::NotAllowed,
            Refusal::Unusable { .. } => Kind::NotFound,
            Refusal::Kind { .. } | Refusal::Nameless { .. } => Kind::InvalidArgument,
            Refusal::Changed { .. } => Kind::Conflict,
        };
        Self { kind, error: cause::chain(&refusal), next: refusal.hint().map(Into::into) }
    }
}

fn of_workspace(error: &WorkspaceError) -> Kind {
    match error.kind() {
        "unknown" | "not_found" | "snapshot_unknown" | "shell_unknown" | "service_unknown" => Kind::NotFound,
        "invalid" | "is_directory" | "not_directory" | "not_regular" => Kind::InvalidArgument,
        "taken" | "exists" => Kind::Conflict,
        "state" | "shell_ended" => Kind::WrongState,
        "baseline" | "outside_workspace" => Kind::NotAllowed,
        "too_large" => Kind::TooLarge,
        "no_space" => Kind::NoSpace,
        "rejected" => Kind::Rejected,
        "guest_ended" | "service_not_ready" => Kind::GuestFailed,
        _ => match error {
            WorkspaceError::NotYet(_) | WorkspaceError::NotInstalled { .. } => Kind::Unavailable,
            WorkspaceError::TooMuch { .. } => Kind::TooLarge,
            _ => Kind::Failed,
        },
    }
}

fn of_archive(error: &ArchiveError) -> Kind {
    match error {
        ArchiveError::Exists { .. } => Kind::Conflict,
        ArchiveError::TooMuch { .. } | ArchiveError::Bomb { .. } => Kind::TooLarge,
        ArchiveError::NotAnArchive { .. } => Kind::InvalidArgument,
        ArchiveError::Refused { .. } | ArchiveError::Truncated { .. } | ArchiveError::Damaged { .. } => {
            Kind::Rejected
        }
        ArchiveError::File { source, .. } => of_host(source),
        _ => Kind::Failed,
    }
}

fn of_disk(error: &DiskError) -> Kind {
    match error {
        DiskError::NotFound { .. } => Kind::NotFound,
        DiskError::NotADirectory { .. } | DiskError::NotAFile { .. } | DiskError::Loop { .. } => {
            Kind::InvalidArgument
        }
        DiskError::TooMany { .. } => Kind::TooLarge,
        DiskError::Output { source, .. } => of_host(source),
        _ => Kind::Failed,
    }
}

/// A file of the host.
fn of_host(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::AlreadyExists => Kind::Conflict,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
        _ => Kind::Failed,
    }
}

/// Hints are written for people at a command line: a model is told the tool instead.
fn of_tools(hint: &str) -> String {
    const WORDS: [(&str, &str); 17] = [
        ("pyro workspace snapshot delete", "snapshot_delete"),
        ("pyro workspace shell open", "shell_open"),
        ("pyro workspace shell signal", "shell_signal"),
        ("pyro workspace service list", "service_list"),
        ("pyro workspace service stop", "service_stop"),
        ("pyro workspace service logs", "service_logs"),
        ("pyro workspace file list --recursive", "workspace_file_list"),
        ("pyro workspace file list", "workspace_file_list"),
        ("pyro workspace file read", "workspace_file_read"),
        ("pyro workspace create --secret NAME=VALUE", "secrets of workspace_create"),
        ("pyro workspace update", "workspace_update"),
        ("pyro workspace list", "workspace_list"),
        ("pyro workspace start", "workspace_start"),
        ("pyro workspace stop", "workspace_stop"),
        ("--skip-outside-links", "skip_outside_links"),
        ("--secret-env NAME=ENV", "secret_env"),
        (" --clear-name", " and clear_name"),
    ];
    let mut text = hint.to_owned();
    for (of_people, of_tools) in WORDS {
        text = text.replace(of_people, of_tools);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_told_of_tools() {
        let stopped = Failure::from(WorkspaceError::Stopped);
        assert_eq!(stopped.kind, Kind::WrongState);
        assert_eq!(stopped.next.as_deref(), Some("`workspace_start` brings it back"));
        let text = serde_json::to_string(&stopped).unwrap();
        assert!(
            text.starts_with(r#"{"kind":"wrong_state","error":"the workspace is stopped","next":"#),
            "{text}"
        );
    }
}
