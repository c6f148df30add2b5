//! Failures of reading an image, said so that a person can act on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An image that cannot be read or exported, or a path that is not in it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file that holds the image cannot be read.
    #[error("the disk image cannot be {doing}")]
    Io {
        /// Failed action, as a participle.
        doing: &'static str,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// A file that holds no ext4 file system.
    #[error("the disk image holds no ext4 file system")]
    NotExt4,
    /// The file system has something that is not read here.
    #[error("the disk image uses {what}, which cannot be read offline")]
    Unsupported {
        /// Name of the feature.
        what: String,
    },
    /// The file system contradicts itself.
    #[error("the disk image is damaged: {what}")]
    Damaged {
        /// Description of the damage and its place.
        what: String,
    },
    /// An image with more of something than is held in memory.
    #[error("the disk image has more than {limit} {what}")]
    TooMany {
        /// Counted things, in the plural.
        what: &'static str,
        /// Largest count that is let through.
        limit: u64,
    },
    /// What was asked for takes more work than a call may cost: of a disk that was made so, or of a very large one.
    #[error("{reading} takes more than {limit} steps, which is more work than one call may cost")]
    TooMuchWork {
        /// What was being read.
        reading: Reading,
        /// Steps that the call was allowed, as [`Budget`](super::Budget) counts them.
        limit: u64,
    },
    /// Nobody wants the result any more.
    #[error("reading the disk image was cancelled")]
    Cancelled,
    /// The tree has no such path.
    #[error("the disk has no {}", .path.display())]
    NotFound {
        /// The path, as far as it was followed.
        path: PathBuf,
    },
    /// Something on the way is no directory.
    #[error("{} on the disk is not a directory", .path.display())]
    NotADirectory {
        /// Path of the file that is no directory.
        path: PathBuf,
    },
    /// Only the content of a regular file can be read.
    #[error("{} on the disk is not a regular file", .path.display())]
    NotAFile {
        /// Path of the file that is no regular one.
        path: PathBuf,
    },
    /// Symbolic links lead in a circle, or through too many others.
    #[error("{} on the disk leads through too many symbolic links", .path.display())]
    Loop {
        /// Path that was asked for.
        path: PathBuf,
    },
    /// The exported image cannot be written.
    #[error("{} cannot be {doing}", .path.display())]
    Output {
        /// Path of the exported image.
        path: PathBuf,
        /// Failed action, as a participle.
        doing: &'static str,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
}

/// Part of a disk whose reading took too much work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Something in the image.
    Image,
    /// The journal, which is replayed when an image is opened.
    Journal,
    /// The list of deleted files, which an export frees.
    Deleted,
    /// A file or directory of the tree.
    Path(PathBuf),
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("reading the disk image"),
            Self::Journal => f.write_str("replaying the journal of the disk image"),
            Self::Deleted => f.write_str("freeing the deleted files of the disk image"),
            Self::Path(path) => write!(f, "reading {} on the disk", path.display()),
        }
    }
}

/// An action that may help after a [`DiskError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskHint {
    /// Start the guest, whose kernel may repair the disk, or go back to a copy of it.
    Repair,
    /// List the directory above the path.
    ListAbove,
    /// Read a smaller part in one call, or export the disk and look at it with other tools.
    LessAtOnce,
    /// Free space, or export to another file system.
    FreeSpace,
    /// Choose another name, or remove the file that has it.
    AnotherName,
}

impl DiskError {
    /// Action that may help, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<DiskHint> {
        match self {
            Self::Damaged { .. } | Self::TooMany { .. } | Self::Unsupported { .. } => Some(DiskHint::Repair),
            // Neither can be asked for in parts.
            Self::TooMuchWork { reading: Reading::Journal | Reading::Deleted, .. } => Some(DiskHint::Repair),
            Self::TooMuchWork { reading: Reading::Image | Reading::Path(_), .. } => {
                Some(DiskHint::LessAtOnce)
            }
            Self::NotFound { .. } => Some(DiskHint::ListAbove),
            Self::Output { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some(DiskHint::FreeSpace)
            }
            Self::Output { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                Some(DiskHint::AnotherName)
            }
            Self::Output { .. }
            | Self::Io { .. }
            | Self::NotExt4
            | Self::Cancelled
            | Self::NotADirectory { .. }
            | Self::NotAFile { .. }
            | Self::Loop { .. } => None,
        }
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// Says what was being read, where that was not said yet.
    pub(super) fn reading(self, what: impl FnOnce() -> Reading) -> Self {
        match self {
            Self::TooMuchWork { reading: Reading::Image, limit } => {
                Self::TooMuchWork { reading: what(), limit }
            }
            other => other,
        }
    }

    pub(super) fn read(source: io::Error) -> Self {
        Self::Io { doing: "read", source }
    }

    pub(super) fn output(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Output { path: path.to_owned(), doing, source }
    }
}
