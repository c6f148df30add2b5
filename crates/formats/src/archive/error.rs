//! Why a tree was not taken.

use std::io;
use std::path::PathBuf;

/// A tree that cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An entry that is not taken.
    #[error("{entry:?} {refusal}")]
    Refused {
        /// Path of the entry, at most 200 characters.
        entry: String,
        /// Reason for the refusal.
        refusal: Refusal,
    },
    /// A tree that exceeds a limit.
    #[error("the tree has more than {limit} {what}")]
    TooMuch {
        /// Counted things, in the plural.
        what: &'static str,
        /// Largest count that is let through.
        limit: u64,
    },
    /// An archive grows too much when it is unpacked.
    #[error(
        "the archive unpacks to more than {ratio} times its size, as archives do that are made to fill disks"
    )]
    Bomb {
        /// Largest ratio that is let through.
        ratio: u64,
    },
    /// Neither a directory nor an archive that is known.
    #[error("{} is neither a directory nor a .tar or .tar.gz archive{}", .path.display(),
        .looks_like.map(|it| format!(", but {it}")).unwrap_or_default())]
    NotAnArchive {
        /// Path that was given.
        path: PathBuf,
        /// Guess at the format, where its first bytes are known.
        looks_like: Option<&'static str>,
    },
    /// The archive ends before it is complete.
    #[error("the archive is cut off after {entries} entries")]
    Truncated {
        /// Count of whole entries before the end.
        entries: u64,
    },
    /// The archive is damaged.
    #[error("the archive is damaged after {entries} entries: {why}")]
    Damaged {
        /// Count of whole entries before the damage.
        entries: u64,
        /// Description of the damage.
        why: String,
    },
    /// A file became shorter while it was read.
    #[error("{entry:?} changed while it was read")]
    Changed {
        /// Path of the file, at most 200 characters.
        entry: String,
    },
    /// A destination that exists already.
    #[error("{} exists already", .path.display())]
    Exists {
        /// Path of the destination.
        path: PathBuf,
    },
    /// A file of the host cannot be used.
    #[error("{path:?} cannot be {doing}")]
    File {
        /// Path of the file.
        path: String,
        /// Failed action, as a participle.
        doing: &'static str,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The stream to or from the guest broke.
    #[error("the tree's transfer broke off")]
    Stream {
        /// Error of the stream.
        #[source]
        source: io::Error,
    },
    /// The caller's progress function asked for the end.
    #[error("cancelled")]
    Cancelled,
}

/// An action that may help after an [`ArchiveError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveHint {
    /// Name a path that does not exist.
    NewPath,
    /// Unpack it and name the directory, or make an archive of a known format.
    UnpackFirst,
    /// Make or fetch the archive again.
    FetchAgain,
    /// Try again when nothing writes to the directory.
    TryWhenQuiet,
    /// Replace the link, or have all links that lead out of the tree left out.
    SkipOutsideLinks,
}

/// Reason why an entry is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An absolute path.
    #[error("has an absolute path")]
    Absolute,
    /// A path with `..` in it.
    #[error("has `..` in its path")]
    GoesUp,
    /// A path with a NUL byte, or an empty one.
    #[error("has no valid path")]
    Path,
    /// A path longer than [`super::Limits::path`], or with a name longer than 255 bytes.
    #[error("has a path that is too long")]
    Long,
    /// A path with more names than [`super::Limits::depth`].
    #[error("is too deep in directories")]
    Deep,
    /// A symbolic link that leads out of the tree, or may.
    #[error("is a symbolic link that leads out of the tree, to {target:?}")]
    LeadsOut {
        /// Target of the link, at most 200 characters.
        target: String,
    },
    /// A hard link to what is not a file that came before it.
    #[error("is a hard link to {target:?}, which is no earlier file of the tree")]
    HardLink {
        /// Target of the link, at most 200 characters.
        target: String,
    },
    /// An entry below a link or a file.
    #[error("is below something that is no directory")]
    Through,
    /// Something else has its path.
    #[error("has the path of an earlier entry of another kind")]
    Twice,
    /// A character or block device.
    #[error("is a device")]
    Device,
    /// A named pipe.
    #[error("is a fifo")]
    Fifo,
    /// A sparse file in a form that is not known.
    #[error("is stored as a sparse file; make the archive without sparse files")]
    Sparse,
    /// An entry of a type that is not known.
    #[error("is of the unknown type {0:?}")]
    Type(char),
    /// A link or directory that has content.
    #[error("is no file and has content")]
    Content,
    /// An entry outside of the file or directory that was asked for.
    #[error("is not what was to be exported")]
    Stranger,
    /// A symbolic link in place of the file or directory that was asked for.
    #[error("is a symbolic link; export what it points to")]
    Link,
}

impl ArchiveError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<ArchiveHint> {
        match self {
            Self::Exists { .. } => Some(ArchiveHint::NewPath),
            Self::NotAnArchive { .. } => Some(ArchiveHint::UnpackFirst),
            Self::Truncated { .. } | Self::Damaged { .. } => Some(ArchiveHint::FetchAgain),
            Self::Changed { .. } => Some(ArchiveHint::TryWhenQuiet),
            Self::Refused { refusal: Refusal::LeadsOut { .. }, .. } => Some(ArchiveHint::SkipOutsideLinks),
            Self::Refused { .. }
            | Self::TooMuch { .. }
            | Self::Bomb { .. }
            | Self::File { .. }
            | Self::Stream { .. }
            | Self::Cancelled => None,
        }
    }

    pub(super) fn refused(entry: &[u8], refusal: Refusal) -> Self {
        Self::Refused { entry: shown(entry), refusal }
    }

    pub(super) fn file(path: &[u8], doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { path: shown(path), doing, source }
    }
}

/// A path that may be anything, cut to what can be shown.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(800)]).chars().take(200).collect()
}
