//! Failures of reading an image, said so that a person can act on it.

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

/// An action that may help after a [`DiskError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskHint {
    /// Start the guest, whose kernel may repair the disk, or go back to a copy of it.
    Repair,
    /// List the directory above the path.
    ListAbove,
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
            | Self::NotADirectory { .. }
            | Self::NotAFile { .. }
            | Self::Loop { .. } => None,
        }
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    pub(super) fn read(source: io::Error) -> Self {
        Self::Io { doing: "read", source }
    }

    pub(super) fn output(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Output { path: path.to_owned(), doing, source }
    }
}
