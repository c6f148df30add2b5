//! Kinds of failure that a program can tell apart, one closed set from the guest to every surface.
//!
//! ```text
//!   proto::FailureKind --From--> FailureKind <--kind()-- each error of core
//!                                    |
//!                    keeper's socket, MCP, whatever comes next
//! ```
//!
//! Invariant: who maps from or to this set names every variant, so that a new one does not compile until each surface has
//! decided what to say of it.

use std::io;

use pyro_formats::archive::ArchiveError;
use pyro_formats::disk::DiskError;
use pyro_formats::patch::PatchError;
use pyro_proto::message::FailureKind as GuestKind;
use serde::{Deserialize, Serialize};

/// Kind of a failure, for programs. Names on the wire do not change; one that a newer keeper adds is read as
/// [`FailureKind::Failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// An argument makes no sense or is out of bounds.
    #[serde(rename = "invalid")]
    InvalidArgument,
    /// No such file, in the guest or on the host, or no such program.
    NotFound,
    /// No such workspace.
    #[serde(rename = "unknown")]
    WorkspaceNotFound,
    /// No such snapshot of the workspace.
    #[serde(rename = "snapshot_unknown")]
    SnapshotNotFound,
    /// No such shell of the workspace.
    #[serde(rename = "shell_unknown")]
    ShellNotFound,
    /// No such service of the workspace.
    #[serde(rename = "service_unknown")]
    ServiceNotFound,
    /// No such VM in this process.
    VmNotFound,
    /// No such environment in the catalog.
    EnvironmentNotFound,
    /// A name is taken, or there are as many of something as there may be.
    #[serde(rename = "taken")]
    Conflict,
    /// A file is there already.
    Exists,
    /// Not possible at this point of a workspace's or a VM's life.
    #[serde(rename = "state")]
    WrongState,
    /// A path leads out of the workspace.
    OutsideWorkspace,
    /// The baseline is neither deleted nor replaced.
    Baseline,
    /// A directory, where a file was expected.
    IsDirectory,
    /// Something else, where a directory was expected.
    NotDirectory,
    /// Neither a file nor a directory, where one of both was expected.
    NotRegular,
    /// A directory that is not empty, and would have to be.
    NotEmpty,
    /// More than there may be of something.
    TooLarge,
    /// A disk is full.
    NoSpace,
    /// The guest is out of processes, memory or open files.
    Exhausted,
    /// Not in this version of pyro, or not in this guest.
    Unsupported,
    /// A program exists and cannot be executed.
    NotExecutable,
    /// A working directory cannot be entered.
    BadDirectory,
    /// The guest has no such user or group.
    NoSuchUser,
    /// A patch does not fit.
    Rejected,
    /// An archive is broken, or holds what is refused.
    BadArchive,
    /// The guest failed to do it, or broke off.
    GuestFailed,
    /// The guest or its VMM ended.
    GuestEnded,
    /// A service did not become ready.
    ServiceNotReady,
    /// A shell has ended.
    ShellEnded,
    /// A keeper lives and does not answer.
    KeeperSilent,
    /// Not possible on this host now: no guest can run, an environment cannot be had.
    Unavailable,
    /// Ended on request before it was done.
    Cancelled,
    /// A mistake in pyro itself.
    Bug,
    /// Kind that this version does not know.
    #[serde(other)]
    Failed,
}

impl From<GuestKind> for FailureKind {
    fn from(kind: GuestKind) -> Self {
        match kind {
            GuestKind::NotFound => Self::NotFound,
            GuestKind::NotExecutable => Self::NotExecutable,
            GuestKind::BadDirectory => Self::BadDirectory,
            GuestKind::NoSuchUser => Self::NoSuchUser,
            GuestKind::BadRequest => Self::InvalidArgument,
            GuestKind::TooLong | GuestKind::TooLarge => Self::TooLarge,
            GuestKind::Exhausted => Self::Exhausted,
            GuestKind::Unsupported => Self::Unsupported,
            GuestKind::Internal => Self::GuestFailed,
            GuestKind::IsDirectory => Self::IsDirectory,
            GuestKind::NotDirectory => Self::NotDirectory,
            GuestKind::OutsideWorkspace => Self::OutsideWorkspace,
            GuestKind::Exists => Self::Exists,
            GuestKind::NoSpace => Self::NoSpace,
            GuestKind::NotEmpty => Self::NotEmpty,
            GuestKind::NotRegular => Self::NotRegular,
            GuestKind::BadArchive => Self::BadArchive,
        }
    }
}

/// Kinds of errors that core does not define itself.
impl FailureKind {
    /// Kind of a failure with a file of the host that a person or a model named.
    pub(crate) fn of_host_file(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Exists,
            io::ErrorKind::IsADirectory => Self::IsDirectory,
            io::ErrorKind::NotADirectory => Self::NotDirectory,
            io::ErrorKind::DirectoryNotEmpty => Self::NotEmpty,
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            // A name that is too long, or has a byte that no name has.
            io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => Self::InvalidArgument,
            _ if is_loop(error) => Self::InvalidArgument,
            kind if is_full(kind) => Self::NoSpace,
            _ => Self::Failed,
        }
    }

    /// Kind of a failure with a file that pyro keeps for itself: that one is missing is not the caller's business.
    pub(crate) fn of_own_file(error: &io::Error) -> Self {
        if is_full(error.kind()) { Self::NoSpace } else { Self::Failed }
    }

    pub(crate) fn of_archive(error: &ArchiveError) -> Self {
        match error {
            ArchiveError::Exists { .. } => Self::Exists,
            ArchiveError::TooMuch { .. } | ArchiveError::Bomb { .. } => Self::TooLarge,
            ArchiveError::NotAnArchive { .. } => Self::InvalidArgument,
            ArchiveError::Refused { .. } | ArchiveError::Truncated { .. } | ArchiveError::Damaged { .. } => {
                Self::BadArchive
            }
            ArchiveError::File { source, .. } => Self::of_host_file(source),
            ArchiveError::Cancelled => Self::Cancelled,
            ArchiveError::Changed { .. } | ArchiveError::Stream { .. } => Self::Failed,
        }
    }

    pub(crate) fn of_disk(error: &DiskError) -> Self {
        match error {
            DiskError::NotFound { .. } => Self::NotFound,
            DiskError::NotADirectory { .. } => Self::NotDirectory,
            DiskError::NotAFile { .. } => Self::NotRegular,
            DiskError::Loop { .. } => Self::InvalidArgument,
            DiskError::TooMany { .. } | DiskError::TooMuchWork { .. } => Self::TooLarge,
            DiskError::Cancelled => Self::Cancelled,
            DiskError::Output { source, .. } => Self::of_host_file(source),
            DiskError::Io { .. }
            | DiskError::NotExt4
            | DiskError::Unsupported { .. }
            | DiskError::Damaged { .. } => Self::Failed,
        }
    }

    pub(crate) fn of_patch(error: &PatchError) -> Self {
        match error {
            PatchError::TooLarge { .. } => Self::TooLarge,
            PatchError::Empty { .. }
            | PatchError::Malformed { .. }
            | PatchError::Binary { .. }
            | PatchError::Path { .. } => Self::InvalidArgument,
        }
    }
}

/// Whether a path goes round in a circle of links.
fn is_loop(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the file system says of a path that somebody gave is his to mend.
    #[test]
    fn a_path_that_cannot_be_is_an_argument() {
        use std::fs::File;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("b", at("a")).unwrap();
        std::os::unix::fs::symlink("a", at("b")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (path, kind) in [
            (at(&"n".repeat(256)), FailureKind::InvalidArgument),
            (at(&"n/".repeat(3000)), FailureKind::InvalidArgument),
            (at("a"), FailureKind::InvalidArgument),
            (at("a/below"), FailureKind::InvalidArgument),
            (at("nul\0"), FailureKind::InvalidArgument),
            (at("file/below"), FailureKind::NotDirectory),
            (at("none"), FailureKind::NotFound),
        ] {
            let error = File::open(&path).unwrap_err();
            assert_eq!(FailureKind::of_host_file(&error), kind, "{error}");
        }
        let error = File::create(dir.path()).unwrap_err();
        assert_eq!(FailureKind::of_host_file(&error), FailureKind::IsDirectory);
        let error = File::create_new(at("file")).unwrap_err();
        assert_eq!(FailureKind::of_host_file(&error), FailureKind::Exists);
    }

    #[test]
    fn names_on_the_wire_stay_and_new_ones_are_read() {
        for (kind, name) in [
            (FailureKind::WorkspaceNotFound, "unknown"),
            (FailureKind::WrongState, "state"),
            (FailureKind::InvalidArgument, "invalid"),
            (FailureKind::Conflict, "taken"),
            (FailureKind::SnapshotNotFound, "snapshot_unknown"),
            (FailureKind::NotDirectory, "not_directory"),
            (FailureKind::KeeperSilent, "keeper_silent"),
            (FailureKind::Failed, "failed"),
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
            assert_eq!(serde_json::from_value::<FailureKind>(name.into()).unwrap(), kind);
        }
        let newer = serde_json::from_str::<FailureKind>("\"network_denied\"").unwrap();
        assert_eq!(newer, FailureKind::Failed);
    }
}
