//! Why a tree was not taken.

use std::io;
use std::path::PathBuf;

/// A tree that cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An entry that is not taken.
    #[error("{entry:?} {refusal}")]
    Refused {
        /// Its path, at most 200 characters.
        entry: String,
        /// Why.
        refusal: Refusal,
    },
    /// There is too much of it.
    #[error("the tree has more than {limit} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// It grows too much when it is unpacked.
    #[error(
        "the archive unpacks to more than {ratio} times its size, as archives do that are made to fill disks"
    )]
    Bomb {
        /// What is allowed.
        ratio: u64,
    },
    /// It is neither a directory nor an archive that is known.
    #[error("{} is neither a directory nor a .tar or .tar.gz archive{}", .path.display(),
        .looks_like.map(|it| format!(", but {it}")).unwrap_or_default())]
    NotAnArchive {
        /// What was given.
        path: PathBuf,
        /// What it is, where that is known.
        looks_like: Option<&'static str>,
    },
    /// The archive ends before it is complete.
    #[error("the archive is cut off after {entries} entries")]
    Truncated {
        /// Entries before that.
        entries: u64,
    },
    /// The archive is damaged.
    #[error("the archive is damaged after {entries} entries: {why}")]
    Damaged {
        /// Entries before that.
        entries: u64,
        /// How.
        why: String,
    },
    /// A file became shorter while it was read.
    #[error("{entry:?} changed while it was read")]
    Changed {
        /// Its path, at most 200 characters.
        entry: String,
    },
    /// What is to be written is there already.
    #[error("{} exists already", .path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// A file of the host cannot be used.
    #[error("{path:?} cannot be {doing}")]
    File {
        /// Which.
        path: String,
        /// What was being done, as a participle.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream to or from the guest broke.
    #[error("the tree's transfer broke off")]
    Stream {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was cancelled.
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

/// Why an entry is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its path is absolute.
    #[error("has an absolute path")]
    Absolute,
    /// Its path goes up.
    #[error("has `..` in its path")]
    GoesUp,
    /// Its path has a NUL byte or none at all.
    #[error("has no valid path")]
    Path,
    /// Its path is too long.
    #[error("has a path that is too long")]
    Long,
    /// It is in too many directories.
    #[error("is too deep in directories")]
    Deep,
    /// A symbolic link that leads out of the tree, or may.
    #[error("is a symbolic link that leads out of the tree, to {target:?}")]
    LeadsOut {
        /// What it says, at most 200 characters.
        target: String,
    },
    /// A hard link to what is not a file that came before it.
    #[error("is a hard link to {target:?}, which is no earlier file of the tree")]
    HardLink {
        /// What it says, at most 200 characters.
        target: String,
    },
    /// What is above it is a link or a file.
    #[error("is below something that is no directory")]
    Through,
    /// Something else has its path.
    #[error("has the path of an earlier entry of another kind")]
    Twice,
    /// A device.
    #[error("is a device")]
    Device,
    /// A fifo.
    #[error("is a fifo")]
    Fifo,
    /// A sparse file in a form that is not known.
    #[error("is stored as a sparse file; make the archive without sparse files")]
    Sparse,
    /// Something else.
    #[error("is of the unknown type {0:?}")]
    Type(char),
    /// A link or directory that has content.
    #[error("is no file and has content")]
    Content,
    /// It is not part of what was asked for.
    #[error("is not what was to be exported")]
    Stranger,
    /// What was asked for is a symbolic link.
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
