//! Why a workspace could not do what was asked of it.

use std::io;
use std::path::{Path, PathBuf};

use pyro_formats::archive::ArchiveError;
use pyro_formats::disk::DiskError;
use pyro_formats::patch::{PatchError, Rejected};
use pyro_formats::redact::Redactor;
use pyro_proto::message::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use crate::backend::BackendError;
use crate::bug::Bug;
use crate::cause;
use crate::command::CommandError;
use crate::environment::EnvironmentError;
use crate::guest::GuestError;
use crate::hostfs::HostFsError;
use crate::identity::NoRandomness;
use crate::runtime::RuntimeError;
use crate::start::StartError;
use crate::vm::{LimitError, VmError};
use crate::workspace::frames::ProtocolError;
use crate::workspace::life::Refusal;
use crate::workspace::store::secrets::SecretError;

/// A failure of a workspace.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A fault of pyro itself.
    #[error(transparent)]
    Bug(#[from] crate::bug::Bug),
    /// There is none of this name or id.
    #[error("there is no workspace {given:?}")]
    Unknown {
        /// What was asked for.
        given: String,
        /// Names and ids that look like it, the most similar first.
        near: Vec<String>,
    },
    /// Something cannot be called this.
    #[error("{name:?} cannot be the name of {what}")]
    Name {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Another workspace has the name.
    #[error("the name {name:?} is taken by workspace {id}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// Too few or too many at once.
    #[error("{wanted} workspaces at once: there may be 1 to {most}")]
    Count {
        /// What was asked for.
        wanted: u32,
        /// The most.
        most: u32,
    },
    /// Labels that cannot be.
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
        /// Which.
        path: PathBuf,
        /// What was being done, as a participle.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its database cannot be used.
    #[error("the state of the workspace in {} cannot be used", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Its directory was laid out by another version of pyro, or is none.
    #[error("{} is laid out in a way that this version of pyro does not know", .path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
    },
    /// It was laid out by a later version of pyro.
    #[error("{} was laid out by a newer version of pyro", .path.display())]
    Newer {
        /// What was.
        path: PathBuf,
    },
    /// It has no such snapshot.
    #[error("the workspace has no snapshot {name:?}")]
    SnapshotUnknown {
        /// What was asked for.
        name: String,
        /// What there is, the latest first.
        there: Vec<String>,
    },
    /// It has a snapshot of this name.
    #[error("the workspace has a snapshot {0:?} already")]
    SnapshotTaken(String),
    /// It has as many snapshots as it may.
    #[error("the workspace has {0} snapshots, which is the most there may be")]
    SnapshotsFull(usize),
    /// The baseline stays.
    #[error("the baseline cannot be deleted or replaced")]
    Baseline,
    /// What its disk is made on top of is gone.
    #[error("version {version} of {environment}, which the workspace is made on top of, is not installed")]
    NotInstalled {
        /// The environment's name.
        environment: String,
        /// The version.
        version: String,
    },
    /// It cannot be done at this point of its life.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its guest or VMM failed.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The guest or its VMM ended.
    #[error("the guest of the workspace ended: {0}")]
    GuestEnded(String),
    /// The guest let its disk go before it was copied, and that twice.
    #[error("the disk of the workspace changed while it was copied")]
    Restless,
    /// What is done in it would be cut off.
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
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper ended before it was ready, or said nothing for too long.
    #[error("the workspace's keeper {what}{}", .log.as_ref().map(|log| format!("; its log ends:\n{log}")).unwrap_or_default())]
    KeeperLost {
        /// What it did.
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
        /// Its version.
        version: String,
    },
    /// No keeper lives, and what was asked needs one.
    #[error("the workspace is stopped")]
    Stopped,
    /// Another process has the workspace.
    #[error("another process is at work on the workspace")]
    Locked,
    /// A fault of pyro itself.
    #[error(transparent)]
    Bug(#[from] Bug),
    /// Something is no secret, or the workspace has no such one.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The guest did not do what it was told.
    #[error("the guest could not {what}")]
    Guest {
        /// What it was to do.
        what: &'static str,
        /// Why not.
        #[source]
        source: GuestError,
    },
    /// A keeper of the generation before could not do what it was told.
    #[error("{0}")]
    Legacy(String),
    /// A call that this keeper does not know.
    #[error("the workspace's keeper knows no {0:?}")]
    UnknownCall(String),
    /// The keeper says that it could not be done.
    #[error("{0}")]
    Told(Fault),
    /// A number is out of bounds.
    #[error("{what} is {value}: it must be {least} to {most}")]
    Bound {
        /// Which.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// The guest could not do it to a shell or a service.
    #[error("{what}")]
    Job {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: GuestError,
    },
    /// There is no such shell.
    #[error("the workspace has no shell {id:?}")]
    ShellUnknown {
        /// What was asked for.
        id: String,
        /// What there is, the oldest first.
        there: Vec<String>,
    },
    /// The shell does not run any more.
    #[error("shell {id} has ended{}", .exit_code.map(|code| format!(" with exit code {code}")).unwrap_or_default())]
    ShellEnded {
        /// Which.
        id: String,
        /// Its exit code, where it is known.
        exit_code: Option<i32>,
    },
    /// What runs in the shell reads nothing.
    #[error("the shell takes no input: {taken} bytes were typed, {left} are left")]
    ShellBusy {
        /// Bytes that were taken.
        taken: usize,
        /// Bytes that were not.
        left: usize,
    },
    /// There is no such signal.
    #[error("{0:?} is not HUP, INT, TERM or KILL")]
    Signal(String),
    /// There is no such service.
    #[error("the workspace has no service {name:?}")]
    ServiceUnknown {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// A service of this name runs.
    #[error("service {0:?} runs already")]
    ServiceTaken(String),
    /// As many services run as may be.
    #[error("{0} services run, which is the most there may be")]
    ServicesFull(usize),
    /// A readiness that cannot be.
    #[error("{text:?} is not {wanted}")]
    Readiness {
        /// What was given.
        text: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// The service did not become ready, and was ended.
    #[error("service {name:?} did not become ready: {why}{}", .log.as_ref().map(|log| format!("; its log ends:\n{log}")).unwrap_or_default())]
    ServiceNotReady {
        /// Which.
        name: String,
        /// Why.
        why: String,
        /// The end of its log.
        log: Option<String>,
    },
    /// The guest refuses to do something with a file, or cannot.
    #[error("{message}")]
    Path {
        /// What kind it is, for programs: `not_found`, `outside_workspace` and so on.
        kind: &'static str,
        /// What the guest says, made fit to be shown.
        message: String,
    },
    /// It runs, and what was asked needs one that is stopped.
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
    /// What was to be written to the workspace cannot be read.
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
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unknown { near, .. } if near.is_empty() => {
                "`pyro workspace list` shows those that there are".into()
            }
            Self::Unknown { near, .. } => format!("did you mean {}?", near.join(" or ")),
            Self::Name { .. } => {
                "a name has 1 to 64 letters, digits, `-`, `_` and `.`, begins with a letter or digit, and is no 12 \
                 hexadecimal digits"
                    .into()
            }
            Self::NameTaken { id, .. } => {
                format!("choose another, or free it with `pyro workspace update {id} --clear-name`")
            }
            Self::Newer { .. } => "use that version for it, or a later one; nothing of it was changed".into(),
            Self::SnapshotUnknown { there, .. } => format!("it has {}", there.join(", ")),
            Self::SnapshotsFull(_) | Self::SnapshotTaken(_) => {
                "`pyro workspace snapshot delete` removes one".into()
            }
            Self::Limit(error) => return error.hint(),
            Self::Vm(error) => return error.hint(),
            Self::NotInstalled { environment, .. } => {
                format!("`pyro env pull {environment}` brings it back if the packages are still the same")
            }
            Self::Stopped => "`pyro workspace start` brings it back".into(),
            Self::Refused(refusal) if refusal.is_stopped() => {
                "`pyro workspace start` brings it back".into()
            }
            Self::Used => "wait until its commands have ended; services and shells go on".into(),
            Self::Refused(_) | Self::Locked => "wait a moment and try again".into(),
            Self::Silent => {
                "`pyro workspace stop --force` ends it; the workspace's disk and history stay".into()
            }
            Self::Generation { .. } => {
                "stop it with the pyro that started it, or by `pyro workspace stop --force`; its disk and history stay"
                    .into()
            }
            Self::GuestEnded(_) => {
                "its disk and history stay; `pyro workspace start` brings it back".into()
            }
            Self::Told(fault) => return fault.hint.clone(),
            Self::Secret(error) => return error.hint(),
            Self::ShellUnknown { there, .. } if there.is_empty() => {
                "`pyro workspace shell open` begins one".into()
            }
            Self::ShellUnknown { there, .. } => format!("it has {}", there.join(", ")),
            Self::ShellEnded { .. } => {
                "what it wrote can still be read; `pyro workspace shell open` begins another".into()
            }
            Self::ShellBusy { .. } => "`pyro workspace shell signal` interrupts what runs in it".into(),
            Self::ServiceUnknown { near, .. } if near.is_empty() => {
                "`pyro workspace service list` shows those that there are".into()
            }
            Self::ServiceUnknown { near, .. } => format!("did you mean {}?", near.join(" or ")),
            Self::ServiceTaken(_) | Self::ServicesFull(_) => "`pyro workspace service stop` ends one".into(),
            Self::ServiceNotReady { name, .. } => {
                format!("`pyro workspace service logs` shows all that {name} wrote")
            }
            Self::Path { kind, .. } => return path_hint(kind).map(str::to_owned),
            Self::Runs => {
                "stop it first with `pyro workspace stop`, or use `workspace file` and `workspace export`".into()
            }
            Self::Archive(error) => return error.hint().map(str::to_owned),
            Self::Patch(error) => return error.hint().map(str::to_owned),
            Self::Disk(error) => return error.hint().map(str::to_owned),
            Self::Rejected(_) => "`pyro workspace file read` shows what a file has now".into(),
            _ => return None,
        };
        Some(hint)
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

    /// What kind it is, for programs: `not_found`, `state`, `invalid` and so on.
    pub fn kind(&self) -> &str {
        match self {
            Self::Told(fault) => &fault.kind,
            Self::Unknown { .. } => "unknown",
            Self::Name { .. } | Self::Labels(_) | Self::Limit(_) | Self::Secret(_) => "invalid",
            Self::NameTaken { .. } | Self::SnapshotTaken(_) | Self::SnapshotsFull(_) => "taken",
            Self::SnapshotUnknown { .. } => "snapshot_unknown",
            Self::Baseline => "baseline",
            Self::Refused(_) | Self::Stopped | Self::Locked | Self::Used => "state",
            Self::GuestEnded(_) => "guest_ended",
            Self::Silent => "keeper_silent",
            Self::Bound { .. } | Self::Signal(_) | Self::Readiness { .. } => "invalid",
            Self::ShellUnknown { .. } => "shell_unknown",
            Self::ShellEnded { .. } => "shell_ended",
            Self::ServiceUnknown { .. } => "service_unknown",
            Self::ServiceTaken(_) | Self::ServicesFull(_) => "taken",
            Self::ServiceNotReady { .. } => "service_not_ready",
            Self::Path { kind, .. } => kind,
            Self::Runs => "state",
            Self::Archive(_) | Self::Patch(_) => "invalid",
            Self::Rejected(_) => "rejected",
            _ => "failed",
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Told(fault) => fault.clone(),
            other => Fault {
                kind: other.kind().into(),
                message: cause::chain(other),
                hint: other.hint(),
                momentary: other.is_momentary(),
            },
        }
    }

    /// The same without what is not to be seen.
    pub(crate) fn redacted(self, redactor: &Redactor) -> Self {
        if redactor.is_idle() {
            return self;
        }
        let fault = self.fault();
        let hint = fault.hint.as_deref().map(|hint| redactor.text(hint));
        Self::Told(Fault { message: redactor.text(&fault.message), hint, ..fault })
    }

    /// What the guest says of a file. Its words are not trusted to be one line of text.
    pub(crate) fn of_guest(failure: &Failure) -> Self {
        const LONGEST: usize = 1000;
        let kind = match failure.kind {
            FailureKind::NotFound => "not_found",
            FailureKind::IsDirectory => "is_directory",
            FailureKind::NotDirectory => "not_directory",
            FailureKind::OutsideWorkspace => "outside_workspace",
            FailureKind::TooLarge => "too_large",
            FailureKind::Exists => "exists",
            FailureKind::NoSpace => "no_space",
            FailureKind::NotRegular => "not_regular",
            FailureKind::BadArchive => "invalid",
            _ => "failed",
        };
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        Self::Path { kind, message: failure.message.chars().map(clean).take(LONGEST).collect() }
    }

    pub(crate) fn file(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), doing, source }
    }
}

impl From<HostFsError> for WorkspaceError {
    fn from(error: HostFsError) -> Self {
        match error {
            HostFsError::File { path, doing, source } => Self::File { path, doing, source },
            // Waits for a lock are cancelled when their time is up.
            HostFsError::Cancelled => Self::Locked,
        }
    }
}

fn path_hint(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "not_found" => "`pyro workspace file list --recursive` shows what there is",
        "is_directory" => "name a file in it; `pyro workspace file list` shows what there is",
        "outside_workspace" => "name a path below /workspace that no link leads out of",
        "no_space" => "the workspace's disk is full: remove something in it",
        _ => return None,
    })
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

/// A failure as it crosses a process boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which failure it is, for programs: the variant of [`WorkspaceError`].
    pub kind: String,
    /// What failed and why, for people.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Whether what is in the way is somebody else's work, which ends by itself.
    #[serde(default)]
    pub momentary: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// Runs `work`, which blocks, on a thread of its own; a panic in it is a bug.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    crate::bug::blocking(work).await
}
