//! Files and trees of the workspace, as data.
//!
//! Every path is relative to the workspace (`/workspace/` in front of it is taken off), and nothing that it names lies
//! outside, through links or otherwise: that is refused as `OutsideWorkspace`.

use serde::{Deserialize, Serialize};

use crate::message::Bytes;

/// Most entries of one listing.
pub const MAX_ENTRIES: u64 = 100_000;
/// Most operations in one batch.
pub const MAX_BATCH: usize = 10_000;
/// Longest path, in bytes: as Linux has it.
pub const MAX_PATH: usize = 4095;
/// Longest time that writing may be held up, milliseconds.
pub const FREEZE_MS: u64 = 60_000;
/// Most bytes of a secret.
pub const MAX_SECRET: usize = 64 * 1024;

/// What a path is.
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

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path below the workspace; empty for the workspace itself.
    pub path: Bytes,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since 1970 UTC.
    pub mtime_ns: i64,
    /// Names that it has.
    pub links: u32,
    /// Where a link leads.
    pub target: Option<Bytes>,
}

/// Several changes, of which all are made or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBatch {
    /// One after the other; at most [`MAX_BATCH`].
    pub ops: Vec<FileOp>,
    /// Whether directories that deletions leave empty are removed.
    pub prune: bool,
}

/// One change. None of the paths may be a directory, and links are not followed at their ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileOp {
    /// Makes or replaces a file; missing directories above it are made.
    Write {
        /// Which.
        path: Bytes,
        /// Bytes of its content, which follows.
        len: u64,
        /// Its permissions; absent to keep what is there, or 0644.
        mode: Option<u32>,
    },
    /// Removes a file or link.
    Delete {
        /// Which.
        path: Bytes,
    },
    /// Makes or replaces a symbolic link; missing directories above it are made.
    Link {
        /// Which.
        path: Bytes,
        /// Where it leads; not checked, and followed by nothing that would leave the workspace.
        target: Bytes,
    },
}

/// Where to unpack a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreePut {
    /// A directory, which is made if it does not exist. What is in it stays, unless the archive has it too.
    pub dest: Bytes,
    /// Refuse archives with more entries.
    pub max_entries: u64,
    /// Refuse archives with more bytes of content.
    pub max_bytes: u64,
}

/// How much of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeTotals {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// One difference from the baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Which.
    pub path: Bytes,
    /// In what way.
    pub kind: FileChangeKind,
    /// What it was.
    pub before: Option<FileState>,
    /// What it is.
    pub after: Option<FileState>,
}

/// What is compared of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
}

/// In what way a path differs from the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// Its content differs for certain: another size, or a link that leads elsewhere.
    Modified,
    /// It was touched; only its content can tell. `before` and `after` show whether its permissions differ too.
    Touched,
    /// It is something else than it was.
    Type,
    /// Only its permissions differ for certain: a directory's.
    Mode,
}
