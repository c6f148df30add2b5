//! What went wrong, in words that a model can act on. It is a tool's result, not an error of the protocol.

use std::io;

use pyro_core::cause;
use pyro_core::environment::EnvironmentError;
use pyro_core::failure::FailureKind;
use pyro_core::hint::Hint;
use pyro_core::vm::VmError;
use pyro_core::workspace::{SecretError, WorkspaceError};
use rmcp::model::{CallToolResult, ContentBlock};
use rustix::io::Errno;
use serde::Serialize;

use super::roots::Refusal;
use super::{cut, hint};

/// Longest words of a failure, bytes.
const LONGEST: usize = 8 << 10;

/// What kind of failure it is. The set is closed: clients may switch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolFailureKind {
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
    /// The guest, or what was to run in it, failed or ran out of something.
    GuestFailed,
    /// This host, or this version of pyro, cannot do it: no guest can run, an environment cannot be had.
    Unavailable,
    /// Anything else.
    Failed,
}

impl From<FailureKind> for ToolFailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::InvalidArgument
            | FailureKind::IsDirectory
            | FailureKind::NotDirectory
            | FailureKind::NotRegular
            | FailureKind::BadDirectory
            | FailureKind::NoSuchUser => Self::InvalidArgument,
            FailureKind::NotFound
            | FailureKind::WorkspaceNotFound
            | FailureKind::SnapshotNotFound
            | FailureKind::ShellNotFound
            | FailureKind::ServiceNotFound
            | FailureKind::VmNotFound
            | FailureKind::EnvironmentNotFound => Self::NotFound,
            FailureKind::Conflict | FailureKind::Exists | FailureKind::NotEmpty => Self::Conflict,
            FailureKind::WrongState | FailureKind::ShellEnded => Self::WrongState,
            FailureKind::OutsideWorkspace | FailureKind::Baseline => Self::NotAllowed,
            FailureKind::TooLarge => Self::TooLarge,
            FailureKind::NoSpace => Self::NoSpace,
            FailureKind::Rejected | FailureKind::BadArchive => Self::Rejected,
            FailureKind::Exhausted
            | FailureKind::NotExecutable
            | FailureKind::GuestFailed
            | FailureKind::GuestEnded
            | FailureKind::ServiceNotReady => Self::GuestFailed,
            FailureKind::Unsupported | FailureKind::Unavailable => Self::Unavailable,
            FailureKind::KeeperSilent | FailureKind::Cancelled | FailureKind::Bug | FailureKind::Failed => {
                Self::Failed
            }
        }
    }
}

/// A failure.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// What kind.
    pub kind: ToolFailureKind,
    /// What failed and why.
    pub error: String,
    /// What to try next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Failure {
    /// Something that the arguments are to blame for.
    pub fn invalid(error: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind: ToolFailureKind::InvalidArgument, error: error.into(), next: Some(next.into()) }
    }

    /// Something that the person did not allow.
    pub fn not_allowed(error: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind: ToolFailureKind::NotAllowed, error: error.into(), next: Some(next.into()) }
    }

    /// As the result of a tool.
    pub fn result(&self) -> CallToolResult {
        let mut told = self.clone();
        // It may repeat what was given, which may be long.
        cut::middle(&mut told.error, LONGEST, |_| "what failed is at both ends".into());
        let text = serde_json::to_string(&told).unwrap_or_else(|_| told.error.clone());
        CallToolResult::error(vec![ContentBlock::text(text)])
    }
}

impl Failure {
    fn new(error: &dyn std::error::Error, kind: FailureKind, hint: Option<Hint>) -> Self {
        let next = hint.as_ref().map(hint::for_models);
        Self { kind: kind.into(), error: cause::chain(error), next }
    }
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        Self::new(&error, error.kind(), error.hint())
    }
}

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Self {
        Self::new(&error, error.kind(), error.hint())
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
            Refusal::None { .. } | Refusal::Outside { .. } | Refusal::Root { .. } => {
                ToolFailureKind::NotAllowed
            }
            Refusal::Unusable { ref source, .. } => unusable(source),
            Refusal::Kind { .. } | Refusal::Nameless { .. } => ToolFailureKind::InvalidArgument,
            Refusal::Changed { .. } => ToolFailureKind::Conflict,
        };
        Self { kind, error: cause::chain(&refusal), next: refusal.hint().map(Into::into) }
    }
}

/// Kind of a failure to find or open a path of the host that lies where it may.
fn unusable(source: &io::Error) -> ToolFailureKind {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ToolFailureKind::NotAllowed,
        io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
            ToolFailureKind::InvalidArgument
        }
        _ if Errno::from_io_error(source) == Some(Errno::LOOP) => ToolFailureKind::InvalidArgument,
        _ => ToolFailureKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyro_core::guest::GuestError;

    #[test]
    fn a_model_is_told_of_tools() {
        let stopped = Failure::from(WorkspaceError::Stopped);
        assert_eq!(stopped.kind, ToolFailureKind::WrongState);
        assert_eq!(stopped.next.as_deref(), Some("`workspace_start` brings it back"));
        let text = serde_json::to_string(&stopped).unwrap();
        assert!(
            text.starts_with(r#"{"kind":"wrong_state","error":"the workspace is stopped","next":"#),
            "{text}"
        );
    }

    #[test]
    fn each_kind_of_the_guest_arrives() {
        use pyro_proto::message::FailureKind as Guest;
        for (kind, expected) in [
            (Guest::NotFound, ToolFailureKind::NotFound),
            (Guest::NotExecutable, ToolFailureKind::GuestFailed),
            (Guest::BadDirectory, ToolFailureKind::InvalidArgument),
            (Guest::NoSuchUser, ToolFailureKind::InvalidArgument),
            (Guest::BadRequest, ToolFailureKind::InvalidArgument),
            (Guest::TooLong, ToolFailureKind::TooLarge),
            (Guest::Exhausted, ToolFailureKind::GuestFailed),
            (Guest::Unsupported, ToolFailureKind::Unavailable),
            (Guest::Internal, ToolFailureKind::GuestFailed),
            (Guest::IsDirectory, ToolFailureKind::InvalidArgument),
            (Guest::NotDirectory, ToolFailureKind::InvalidArgument),
            (Guest::OutsideWorkspace, ToolFailureKind::NotAllowed),
            (Guest::TooLarge, ToolFailureKind::TooLarge),
            (Guest::Exists, ToolFailureKind::Conflict),
            (Guest::NoSpace, ToolFailureKind::NoSpace),
            (Guest::NotEmpty, ToolFailureKind::Conflict),
            (Guest::NotRegular, ToolFailureKind::InvalidArgument),
            (Guest::BadArchive, ToolFailureKind::Rejected),
        ] {
            let failure = pyro_proto::message::Failure {
                kind,
                stage: "open".into(),
                errno: None,
                message: "no".into(),
            };
            let source = GuestError::Failed(failure);
            let failure = Failure::from(WorkspaceError::Job { what: "the shell takes no input", source });
            assert_eq!(failure.kind, expected, "{kind:?}");
            assert_eq!(ToolFailureKind::from(FailureKind::from(kind)), expected);
        }
    }

    #[test]
    fn a_path_of_the_host_that_cannot_be_is_an_argument() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let roots = crate::mcp::roots::Roots::new(vec![root], std::path::Path::new("/"), &[]).unwrap();
        for (given, kind) in [
            ("none", ToolFailureKind::NotFound),
            ("loop", ToolFailureKind::InvalidArgument),
            ("file/below", ToolFailureKind::InvalidArgument),
            (&"n".repeat(256), ToolFailureKind::InvalidArgument),
            ("nul\0", ToolFailureKind::InvalidArgument),
        ] {
            assert_eq!(Failure::from(roots.source(given).unwrap_err()).kind, kind, "{given}");
        }
    }

    #[test]
    fn names_of_kinds_stay() {
        for (kind, name) in [
            (ToolFailureKind::InvalidArgument, "invalid_argument"),
            (ToolFailureKind::NotFound, "not_found"),
            (ToolFailureKind::Conflict, "conflict"),
            (ToolFailureKind::WrongState, "wrong_state"),
            (ToolFailureKind::NotAllowed, "not_allowed"),
            (ToolFailureKind::TooLarge, "too_large"),
            (ToolFailureKind::NoSpace, "no_space"),
            (ToolFailureKind::Rejected, "rejected"),
            (ToolFailureKind::GuestFailed, "guest_failed"),
            (ToolFailureKind::Unavailable, "unavailable"),
            (ToolFailureKind::Failed, "failed"),
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
    }
}
