//! Files and trees of the workspace, as data.
//!
//! Every path is relative to the workspace; a leading `/workspace/` is taken off. A path that leads outside, through
//! links or otherwise, is refused as `OutsideWorkspace`.

use serde::{Deserialize, Serialize};

use crate::message::Bytes;

/// Most entries of one listing.
pub const MAX_ENTRIES: u64 = 100_000;
/// Most operations in one batch.
pub const MAX_BATCH: usize = 10_000;
/// Longest path, in bytes: as Linux has it.
pub const MAX_PATH: usize = 4095;
/// Longest freeze of the disk, milliseconds.
pub const FREEZE_MS: u64 = 60_000;
/// Most bytes of a secret.
pub const MAX_SECRET: usize = 64 * 1024;

/// Kind of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A socket, a pipe or a device.
    Other,
}

/// Description of a file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path below the workspace; empty for the workspace itself.
    pub path: Bytes,
    /// Kind of the file.
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since 1970 UTC.
    pub mtime_ns: i64,
    /// Number of hard links.
    pub links: u32,
    /// Target of a symbolic link.
    pub target: Option<Bytes>,
}

/// Several changes: all of them are made, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBatch {
    /// Changes in the order in which they are made; at most [`MAX_BATCH`].
    pub ops: Vec<FileOp>,
    /// Whether directories that deletions leave empty are removed.
    pub prune: bool,
}

/// A change of one file. No path may be a directory, and links are not followed at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileOp {
    /// Makes or replaces a file; missing directories above it are made.
    Write {
        /// Path of the file.
        path: Bytes,
        /// Bytes of its content, which follows as Stdin chunks.
        len: u64,
        /// Permission bits; absent to keep those of the file that is replaced, or 0644.
        mode: Option<u32>,
    },
    /// Removes a file or link.
    Delete {
        /// Path of the file or link.
        path: Bytes,
    },
    /// Makes or replaces a symbolic link; missing directories above it are made.
    Link {
        /// Path of the link.
        path: Bytes,
        /// Target of the link; not checked, since nothing follows a link out of the workspace.
        target: Bytes,
    },
}

/// Request to unpack a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreePut {
    /// Destination directory, made if it does not exist. Files in it stay, unless the archive has them too.
    pub dest: Bytes,
    /// Most entries that are accepted.
    pub max_entries: u64,
    /// Most bytes of content that are accepted.
    pub max_bytes: u64,
}

/// Totals of a tree, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeTotals {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// A difference from the baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Path that differs.
    pub path: Bytes,
    /// Kind of the difference.
    pub kind: FileChangeKind,
    /// State in the baseline; absent for an added path.
    pub before: Option<FileState>,
    /// Present state; absent for a deleted path.
    pub after: Option<FileState>,
}

/// Attributes of a file that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Kind of the file.
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
}

/// Kind of a difference from the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileChangeKind {
    /// The path is new.
    Added,
    /// The path is gone.
    Deleted,
    /// The content differs for certain: another size, or another target of a link.
    Modified,
    /// The file was touched; only its content can tell. `before` and `after` show whether its permissions differ too.
    Touched,
    /// The path has another kind of file.
    Type,
    /// Only the permissions of a directory differ.
    Mode,
}
