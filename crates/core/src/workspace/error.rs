//! Why a workspace could not do what was asked of it.

mod convert;

use std::io;
use std::path::{Path, PathBuf};

use pyro_formats::archive::ArchiveError;
use pyro_formats::disk::DiskError;
use pyro_formats::patch::{PatchError, Rejected};
use pyro_formats::redact::Redactor;
use pyro_formats::untrusted::Untrusted;
use pyro_proto::message::Failure;

use crate::bug::Bug;
use crate::cause;
use crate::command::CommandError;
use crate::failure::FailureKind;
use crate::guest::GuestError;
use crate::hint::Hint;
use crate::vm::{LimitError, VmError};
use crate::workspace::fault::Fault;
use crate::workspace::frames::ProtocolError;
use crate::workspace::life::Refusal;
use crate::workspace::secret_error::SecretError;

/// A failure of a workspace.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// Fault of pyro itself.
    #[error(transparent)]
    Bug(#[from] Bug),
    /// No workspace has the given name or id.
    #[error("there is no workspace {given:?}")]
    Unknown {
        /// Name or id that was given.
        given: String,
        /// Names and ids that look like it, the most similar first.
        near: Vec<String>,
    },
    /// Name that breaks the rules for names.
    #[error("{name:?} cannot be the name of {what}")]
    Name {
        /// Thing to be named, such as `a workspace`.
        what: &'static str,
        /// Name that was refused.
        name: String,
    },
    /// Another workspace has the name.
    #[error("the name {name:?} is taken by workspace {id}")]
    NameTaken {
        /// Name that is taken.
        name: String,
        /// Id of the workspace that has the name.
        id: String,
    },
    /// Too few or too many workspaces at once.
    #[error("{wanted} workspaces at once: there may be 1 to {most}")]
    Count {
        /// Number of workspaces that was asked for.
        wanted: u32,
        /// Largest number allowed.
        most: u32,
    },
    /// Labels that are too many, too long or malformed.
    #[error("the labels cannot be kept: {0}")]
    Labels(String),
    /// The request is out of bounds.
    #[error("the workspace cannot be made: {0}")]
    Limit(#[from] LimitError),
    /// Something that a later version brings.
    #[error("{0} is not part of this version of pyro")]
    NotYet(&'static str),
    /// A file or directory of the workspace cannot be used.
    #[error("{} cannot be {doing}", .path.display())]
    File {
        /// Path of the file or directory.
        path: PathBuf,
        /// Action that failed, as a participle.
        doing: &'static str,
        /// Cause of the failure.
        #[source]
        source: io::Error,
    },
    /// Database of the workspace cannot be used.
    #[error("the state of the workspace in {} cannot be used", .path.display())]
    State {
        /// Path of the database.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: rusqlite::Error,
    },
    /// Workspace directory laid out by an unknown version of pyro, or no workspace directory.
    #[error("{} is laid out in a way that this version of pyro does not know", .path.display())]
    Layout {
        /// Path of the directory.
        path: PathBuf,
    },
    /// Workspace laid out by a later version of pyro.
    #[error("{} was laid out by a newer version of pyro", .path.display())]
    Newer {
        /// Path of the workspace directory.
        path: PathBuf,
    },
    /// Workspace has no such snapshot.
    #[error("the workspace has no snapshot {name:?}")]
    SnapshotUnknown {
        /// Snapshot name that was asked for.
        name: String,
        /// Names of the existing snapshots, the latest first.
        there: Vec<String>,
    },
    /// Workspace already has a snapshot of this name.
    #[error("the workspace has a snapshot {0:?} already")]
    SnapshotTaken(String),
    /// Workspace has the largest number of snapshots allowed.
    #[error("the workspace has {0} snapshots, which is the most there may be")]
    SnapshotsFull(usize),
    /// Baseline cannot be deleted or replaced.
    #[error("the baseline cannot be deleted or replaced")]
    Baseline,
    /// Environment version below the workspace's disk is not installed.
    #[error("version {version} of {environment}, which the workspace is made on top of, is not installed")]
    NotInstalled {
        /// The environment's name.
        environment: String,
        /// Version that is missing.
        version: String,
    },
    /// Action that the workspace's phase does not allow.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Guest or VMM of the workspace failed.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The guest or its VMM ended.
    #[error("the guest of the workspace ended: {0}")]
    GuestEnded(String),
    /// The session with the guest was lost, and cannot be made again.
    #[error("the guest of the workspace does not answer: {0}")]
    GuestLost(String),
    /// Guest said nothing of a command whose time was up.
    #[error(
        "the guest said nothing of the command when its time was up, nor since: whether it ran, runs on or was killed is not known"
    )]
    CommandUnknown,
    /// Guest resumed writes to its disk before the copy was done, twice in a row.
    #[error("the disk of the workspace changed while it was copied")]
    Restless,
    /// Keeping the guest's memory would cut off work under way in the workspace.
    #[error(
        "something is being done in the workspace, which keeping its memory would cut off under this backend"
    )]
    Used,
    /// The VMM did not save its memory.
    #[error("the memory of the workspace's guest cannot be saved")]
    Save(#[source] Box<pyro_vmm::VmmError>),
    /// A copy of a disk failed.
    #[error("the disk of the workspace cannot be copied")]
    Copy(#[source] io::Error),
    /// No keeper could be started.
    #[error("the workspace's keeper, {}, cannot be started", .program.display())]
    Spawn {
        /// Path of the keeper's program.
        program: PathBuf,
        /// Cause of the failure.
        #[source]
        source: io::Error,
    },
    /// The keeper ended before it was ready, or said nothing for too long.
    #[error("the workspace's keeper {what}{}", .log.as_ref().map(|log| format!("; its log ends:\n{log}")).unwrap_or_default())]
    KeeperLost {
        /// Predicate of a sentence about the keeper, such as `ended during the call`.
        what: &'static str,
        /// The end of its log.
        log: Option<String>,
    },
    /// The keeper lives and says nothing.
    #[error("the workspace's keeper does not answer")]
    Silent,
    /// The keeper cannot be ended.
    #[error("the workspace's keeper cannot be ended")]
    Kill(#[source] io::Error),
    /// The conversation with the keeper broke.
    #[error("the workspace's keeper cannot be talked to")]
    Protocol(#[from] ProtocolError),
    /// The keeper speaks another generation of the protocol.
    #[error("the workspace's keeper is of another version of pyro ({version})")]
    Generation {
        /// Version of pyro that the keeper has.
        version: String,
    },
    /// No keeper lives, and what was asked needs one.
    #[error("the workspace is stopped")]
    Stopped,
    /// Another process has the workspace.
    #[error("another process is at work on the workspace")]
    Locked,
    /// Name or value is no secret, or the workspace lacks the secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Guest failed to do what it was told.
    #[error("the guest could not {what}")]
    Guest {
        /// Task of the guest, an infinitive without `to`.
        what: &'static str,
        /// Cause of the failure.
        #[source]
        source: GuestError,
    },
    /// A keeper of the generation before could not do what it was told.
    #[error("{0}")]
    Legacy(String),
    /// Operation that was given up by whoever wanted it; nothing of it is left.
    #[error("it was given up, since nobody waits for it any more")]
    GivenUp,
    /// A call that this keeper does not know.
    #[error("the workspace's keeper knows no {0:?}")]
    UnknownCall(String),
    /// Failure that the keeper reported.
    #[error("{0}")]
    Told(Fault),
    /// Number out of bounds.
    #[error("{what} is {value}: it must be {least} to {most}")]
    Bound {
        /// Name of the number.
        what: &'static str,
        /// Value that was given.
        value: u64,
        /// Smallest value allowed.
        least: u64,
        /// Largest value allowed.
        most: u64,
    },
    /// Guest failed at work on a shell or a service.
    #[error("{what}")]
    Job {
        /// Sentence that says the failure.
        what: &'static str,
        /// Cause of the failure.
        #[source]
        source: GuestError,
    },
    /// There is no such shell.
    #[error("the workspace has no shell {id:?}")]
    ShellUnknown {
        /// Id of the shell that was asked for.
        id: String,
        /// Ids of the existing shells, the oldest first.
        there: Vec<String>,
    },
    /// The shell does not run any more.
    #[error("shell {id} has ended{}", .exit_code.map(|code| format!(" with exit code {code}")).unwrap_or_default())]
    ShellEnded {
        /// Id of the shell.
        id: String,
        /// Exit code of the shell, where it is known.
        exit_code: Option<i32>,
    },
    /// Program in the shell reads no input.
    #[error("the shell takes no input: {taken} bytes were typed, {left} are left")]
    ShellBusy {
        /// Bytes that the shell took.
        taken: usize,
        /// Bytes that the shell did not take.
        left: usize,
    },
    /// There is no such signal.
    #[error("{0:?} is not HUP, INT, TERM or KILL")]
    Signal(String),
    /// There is no such service.
    #[error("the workspace has no service {name:?}")]
    ServiceUnknown {
        /// Service name that was asked for.
        name: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// A service of this name runs.
    #[error("service {0:?} runs already")]
    ServiceTaken(String),
    /// Workspace runs the largest number of services allowed.
    #[error("{0} services run, which is the most there may be")]
    ServicesFull(usize),
    /// Guest has the largest number of shells and services allowed.
    #[error("{0} shells and services run, which is the most there may be")]
    JobsFull(usize),
    /// Readiness probe that cannot be made.
    #[error("{text:?} is not {wanted}")]
    Readiness {
        /// Text that was given.
        text: String,
        /// Form that was expected.
        wanted: &'static str,
    },
    /// The service did not become ready, and was ended.
    #[error("service {name:?} did not become ready: {why}{}", .log.as_ref().map(|log| format!("; its log ends:\n{log}")).unwrap_or_default())]
    ServiceNotReady {
        /// Name of the service.
        name: String,
        /// Reason given by the probe or by the service's end.
        why: String,
        /// The end of its log.
        log: Option<String>,
    },
    /// The guest refuses to do something with a file, or cannot.
    #[error("{message}")]
    Path {
        /// Kind of the failure, for programs.
        kind: FailureKind,
        /// Guest's message, made fit to be shown.
        message: String,
    },
    /// Workspace runs, and the action needs a stopped one.
    #[error("the workspace runs, and its disk changes while it is looked at")]
    Runs,
    /// A tree cannot be packed or unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A patch cannot be read.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A patch does not fit.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// A disk cannot be read, or has no such path.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Input to be written to the workspace cannot be read.
    #[error("what is to be written cannot be read")]
    Source(#[source] io::Error),
    /// There is more than can be looked at in one go.
    #[error("there are more than {limit} {what}")]
    TooMuch {
        /// Of what, in the plural.
        what: &'static str,
        /// How many may be.
        limit: u64,
    },
}

impl WorkspaceError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        Some(match self {
            Self::Unknown { near, .. } if near.is_empty() => Hint::ListWorkspaces,
            Self::ServiceUnknown { near, .. } if near.is_empty() => Hint::ListServices,
            Self::Unknown { near, .. } | Self::ServiceUnknown { near, .. } => {
                Hint::DidYouMean { names: near.clone() }
            }
            Self::ShellUnknown { there, .. } if there.is_empty() => Hint::OpenShell,
            Self::SnapshotUnknown { there, .. } if there.is_empty() => return None,
            Self::SnapshotUnknown { there, .. } | Self::ShellUnknown { there, .. } => {
                Hint::UseExisting { names: there.clone() }
            }
            Self::Name { .. } => Hint::NameRule,
            Self::NameTaken { id, .. } => Hint::FreeName { id: id.clone() },
            Self::Newer { .. } => Hint::NewerVersion,
            Self::SnapshotsFull(_) | Self::SnapshotTaken(_) => Hint::DeleteSnapshot,
            Self::NotInstalled { environment, .. } => Hint::RestoreEnvironment { name: environment.clone() },
            Self::Stopped => Hint::StartWorkspace,
            Self::Refused(refusal) if refusal.is_stopped() => Hint::StartWorkspace,
            Self::Refused(_) | Self::Locked => Hint::TryAgain,
            Self::Used
            | Self::Guest { source: GuestError::Crowded { .. }, .. }
            | Self::Job { source: GuestError::Crowded { .. }, .. }
            | Self::Vm(VmError::Command(CommandError::Guest(GuestError::Crowded { .. }))) => {
                Hint::WaitForCommands
            }
            Self::Silent => Hint::ForceStop,
            Self::Generation { .. } => Hint::StopWithItsVersion,
            Self::GuestEnded(_) => Hint::StartAgain,
            Self::GuestLost(_) | Self::CommandUnknown => Hint::RestartWorkspace,
            Self::ShellEnded { .. } => Hint::OpenAnotherShell,
            Self::ShellBusy { .. } => Hint::InterruptShell,
            Self::ServiceTaken(_) | Self::ServicesFull(_) => Hint::StopService,
            Self::JobsFull(_) => Hint::EndJob,
            Self::ServiceNotReady { name, .. } => Hint::ReadServiceLog { name: name.clone() },
            Self::Runs => Hint::StopWorkspace,
            Self::Rejected(_) => Hint::ReadFile,
            Self::Path { kind, .. } => return path_hint(*kind),
            Self::Limit(error) => return error.hint(),
            Self::Vm(error) => return error.hint(),
            Self::Secret(error) => return error.hint(),
            Self::Archive(error) => return error.hint().map(Into::into),
            Self::Patch(error) => return error.hint().map(Into::into),
            Self::Disk(error) => return error.hint().map(Into::into),
            Self::Told(fault) => return fault.hint.clone(),
            Self::Bug(_)
            | Self::Legacy(_)
            | Self::GivenUp
            | Self::UnknownCall(_)
            | Self::Count { .. }
            | Self::Labels(_)
            | Self::NotYet(_)
            | Self::File { .. }
            | Self::State { .. }
            | Self::Layout { .. }
            | Self::Baseline
            | Self::Restless
            | Self::Save(_)
            | Self::Copy(_)
            | Self::Spawn { .. }
            | Self::KeeperLost { .. }
            | Self::Kill(_)
            | Self::Protocol(_)
            | Self::Guest { .. }
            | Self::Bound { .. }
            | Self::Job { .. }
            | Self::Signal(_)
            | Self::Readiness { .. }
            | Self::Source(_)
            | Self::TooMuch { .. } => return None,
        })
    }

    /// Whether what is in the way is somebody else's work, which ends by itself, or a keeper went while it was asked.
    pub(crate) fn is_momentary(&self) -> bool {
        match self {
            Self::Told(fault) => fault.momentary,
            Self::Refused(refusal) => !refusal.is_stopped(),
            Self::Locked | Self::Protocol(_) => true,
            _ => false,
        }
    }

    /// Kind of the failure, for programs.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Told(fault) => fault.kind,
            Self::Bug(_) => FailureKind::Bug,
            Self::Unknown { .. } => FailureKind::WorkspaceNotFound,
            Self::SnapshotUnknown { .. } => FailureKind::SnapshotNotFound,
            Self::ShellUnknown { .. } => FailureKind::ShellNotFound,
            Self::ServiceUnknown { .. } => FailureKind::ServiceNotFound,
            Self::Name { .. }
            | Self::Count { .. }
            | Self::Labels(_)
            | Self::Secret(_)
            | Self::Bound { .. }
            | Self::Signal(_)
            | Self::Readiness { .. } => FailureKind::InvalidArgument,
            Self::NameTaken { .. }
            | Self::SnapshotTaken(_)
            | Self::SnapshotsFull(_)
            | Self::ServiceTaken(_)
            | Self::ServicesFull(_)
            | Self::JobsFull(_) => FailureKind::Conflict,
            Self::Baseline => FailureKind::Baseline,
            Self::Refused(_)
            | Self::Stopped
            | Self::Locked
            | Self::Used
            | Self::Runs
            | Self::ShellBusy { .. } => FailureKind::WrongState,
            Self::GuestEnded(_) => FailureKind::GuestEnded,
            Self::ShellEnded { .. } => FailureKind::ShellEnded,
            Self::ServiceNotReady { .. } => FailureKind::ServiceNotReady,
            Self::Silent => FailureKind::KeeperSilent,
            Self::Rejected(_) => FailureKind::Rejected,
            Self::TooMuch { .. } => FailureKind::TooLarge,
            Self::NotYet(_) => FailureKind::Unsupported,
            Self::NotInstalled { .. } => FailureKind::Unavailable,
            Self::Path { kind, .. } => *kind,
            Self::Limit(error) => error.kind(),
            Self::Vm(error) => error.kind(),
            Self::GuestLost(_) | Self::CommandUnknown => FailureKind::GuestFailed,
            Self::Guest { source, .. } | Self::Job { source, .. } => source.kind(),
            Self::Archive(error) => FailureKind::of_archive(error),
            Self::Patch(error) => FailureKind::of_patch(error),
            Self::Disk(error) => FailureKind::of_disk(error),
            Self::Source(source) => FailureKind::of_host_file(source),
            Self::File { source, .. } | Self::Copy(source) => FailureKind::of_own_file(source),
            Self::State { .. }
            | Self::Layout { .. }
            | Self::Newer { .. }
            | Self::Restless
            | Self::Save(_)
            | Self::Spawn { .. }
            | Self::KeeperLost { .. }
            | Self::Kill(_)
            | Self::Protocol(_)
            | Self::Legacy(_)
            | Self::GivenUp
            | Self::UnknownCall(_)
            | Self::Generation { .. } => FailureKind::Failed,
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Told(fault) => fault.clone(),
            other => Fault {
                kind: other.kind(),
                message: cause::chain(other),
                hint: other.hint(),
                momentary: other.is_momentary(),
            },
        }
    }

    /// Hides what a front end may not see.
    pub(crate) fn redacted(self, redactor: &Redactor) -> Self {
        if redactor.is_idle() {
            return self;
        }
        let fault = self.fault();
        let hint = fault.hint.map(|hint| hint.map_text(&|text| redactor.text(text)));
        Self::Told(Fault { message: redactor.text(&fault.message), hint, ..fault })
    }

    /// Failure that the guest reports about a file, without the secrets. The guest's words are not trusted to be one line of text.
    pub(crate) fn of_guest(failure: Failure, redactor: &Redactor) -> Self {
        const LONGEST: usize = 1000;
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let words = Untrusted::new(failure.message).text(redactor);
        Self::Path { kind: failure.kind.into(), message: words.chars().map(clean).take(LONGEST).collect() }
    }

    pub(crate) fn file(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), doing, source }
    }
}

fn path_hint(kind: FailureKind) -> Option<Hint> {
    match kind {
        FailureKind::NotFound => Some(Hint::ListFiles),
        FailureKind::IsDirectory => Some(Hint::NameFileWithin),
        FailureKind::OutsideWorkspace => Some(Hint::StayInWorkspace),
        FailureKind::NoSpace => Some(Hint::FreeGuestDisk),
        _ => None,
    }
}

/// Refuses a number that is out of bounds.
pub(crate) fn check_bound(
    what: &'static str,
    value: u64,
    bounds: &std::ops::RangeInclusive<u64>,
) -> Result<(), WorkspaceError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(WorkspaceError::Bound { what, value, least: *bounds.start(), most: *bounds.end() })
}

/// Runs `work`, which blocks, on a thread of its own; a panic in it is a bug.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    crate::bug::blocking(work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waiting for a bug to go away, or killing whoever is at work because of it, helps nobody.
    #[test]
    fn a_bug_is_no_business_of_somebody_else() {
        let bug = WorkspaceError::from(Bug::lost("a test"));
        assert_eq!(bug.kind(), FailureKind::Bug);
        assert!(!bug.is_momentary() && !bug.fault().momentary);
        assert!(WorkspaceError::Locked.is_momentary());
    }
}
