//! Trees on their way into a guest and out of it, on the host's side, as tar archives that nobody believes.
//!
//! [`Source`] makes one plain stream of a directory or an archive (seeding, `sync push`); [`Sink`] makes a file or
//! directory of a stream that a guest sent (`export`). Both put every entry through the same checks, so that what is
//! refused one way is refused the other way: paths and links that lead elsewhere, devices, bombs.
//!
//! Plain blocking IO, for a thread that may block; memory is bounded by the number of entries and not by their size.
//!
//! Invariant: no path of an entry is opened through a symbolic link, neither one of the tree nor one that somebody puts
//! there meanwhile. Every directory is opened from its parent's descriptor.
//! Invariant: a stream is whole and checked only at its end; whoever takes it must change nothing before that.

mod beside;
mod check;
mod error;
mod look;
mod read;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod walk;
mod write;

use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use error::{ArchiveError, ArchiveHint, Refusal};
pub use look::{SeenFile, look};
pub use sink::{Artifact, Sink, Unpacked};
pub use source::{Form, Source, Written};

/// Bounds on one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content, holes counted.
    pub bytes: u64,
    /// Bytes of a path, from 1 to 3800 (Linux takes 4095, and it is put below something).
    pub path: usize,
    /// Names in a path.
    pub depth: usize,
    /// Bytes of all paths together: they are what memory is needed for.
    pub names: u64,
    /// Factor by which compression may have made an archive smaller, once it is larger than `ratio_free`. Deflate
    /// makes zeros 1,030 times smaller and text 3 to 10 times.
    pub ratio: u64,
    /// Bytes that may come out of an archive whatever the ratio: sparse files of a few GiB are honest.
    pub ratio_free: u64,
    /// Treatment of symbolic links that lead out of the tree, or may.
    pub outside_links: OutsideLinks,
}

/// Treatment of symbolic links that lead out of a tree, such as `bin/python -> /usr/bin/python3`: they are never
/// taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutsideLinks {
    /// The tree is refused because of one.
    #[default]
    Refuse,
    /// Such links are left out, and reported.
    Skip,
}

/// A symbolic link that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedLink {
    /// Path in the tree, at most 200 characters.
    pub path: String,
    /// Target of the link, at most 200 characters.
    pub target: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            bytes: 16 << 30,
            path: 3800,
            depth: 200,
            names: 256 << 20,
            ratio: 200,
            ratio_free: 4 << 30,
            outside_links: OutsideLinks::Refuse,
        }
    }
}

/// Counts of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Sockets and fifos of a directory that were left out.
    pub skipped: u64,
    /// Symbolic links that lead out of the tree and were left out.
    pub skipped_links: u64,
}

/// Called with what went through so far, at least once an entry and once a MiB. [`ControlFlow::Break`] cancels, and
/// nothing is left behind.
pub type Progress<'p> = dyn FnMut(Totals) -> ControlFlow<()> + 'p;

/// Entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: Vec<u8>,
    content: Content,
    /// Permission bits without set-user-id and set-group-id.
    mode: u32,
    mtime: Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// Regular file of so many bytes.
    File(u64),
    Directory,
    /// Symbolic link with its target.
    Symlink(Vec<u8>),
    /// The entry that it is another name of.
    HardLink(Vec<u8>),
}

/// Moment of the last change, counted from 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Time {
    seconds: i64,
    /// Part of a second, added to `seconds`: 0 to 999,999,999.
    nanoseconds: u32,
}

/// The bits of a mode that are kept: permissions, and the sticky bit.
const MODE: u32 = 0o1777;
/// Bytes of content moved at once.
const CHUNK: usize = 256 << 10;

/// Content on its way, counted.
struct Meter<'p> {
    totals: Totals,
    reported: u64,
    progress: &'p mut Progress<'p>,
}

impl Meter<'_> {
    fn entry(&mut self) -> Result<(), ArchiveError> {
        self.totals.entries += 1;
        self.tell()
    }

    /// A symbolic link was left out.
    fn link(&mut self) -> Result<(), ArchiveError> {
        self.totals.skipped_links += 1;
        self.tell()
    }

    fn bytes(&mut self, count: usize) -> Result<(), ArchiveError> {
        self.totals.bytes += count as u64;
        if self.totals.bytes - self.reported >= 1 << 20 { self.tell() } else { Ok(()) }
    }

    fn tell(&mut self) -> Result<(), ArchiveError> {
        self.reported = self.totals.bytes;
        match (self.progress)(self.totals) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ArchiveError::Cancelled),
        }
    }
}
