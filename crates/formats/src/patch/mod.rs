//! Patches: read as people, `git` and language models write them, applied to a tree in memory, and written so that `git
//! apply` takes them.
//!
//! Two formats are read into the same [`FilePatch`]es: unified diffs, and what stands between `*** Begin Patch` and `***
//! End Patch`. Three steps that know nothing of each other's callers: [`parse`] bytes into [`FilePatch`]es, [`apply`] them to a
//! [`Tree`] (all or nothing: the result is a list of [`Change`]s or the reasons why there is none), and [`render`] a
//! difference back into text. No file is opened here; whoever carries the changes out decides how.
//!
//! Leniency has one limit: it never guesses. A hunk is moved, or its context is looked at less closely, only while
//! exactly one place in the file fits; what a patch removes must be there to the letter, trailing white space aside.
//!
//! Invariant: no path that leaves here is absolute, has a `..`, or is longer than [`MAX_PATH`].

mod anchor;
mod apply;
mod dialect;
mod error;
mod names;
mod parse;
mod place;
mod render;
#[cfg(test)]
mod tests;
mod unified;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

pub use apply::{apply, removed};
pub use error::{Nearest, PatchError, PatchHint, Reason, Rejected, Rejection};
pub use parse::parse;
pub use render::{Rendered, Side, render};

/// The longest patch that is read, bytes.
pub const MAX_PATCH: usize = 16 << 20;
/// The longest file that is patched or rendered as text, bytes.
pub const MAX_FILE: usize = 32 << 20;
/// The most that all files of a patch may have together, bytes: they are kept in memory until all fit.
pub const MAX_FILES: usize = 512 << 20;
/// The longest path, bytes: what Linux takes, less room for what it is put under.
pub const MAX_PATH: usize = 3800;
/// The most lines that the hunks of a patch may have.
pub const MAX_LINES: usize = 2_000_000;

/// Part of a patch about one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePatch<'a> {
    /// Effect on the file's path.
    pub action: Action,
    /// Permissions and kind before, as git writes them (`0o100644`), where the patch says so.
    pub old_mode: Option<u32>,
    /// Permissions and kind afterwards, where the patch says so.
    pub new_mode: Option<u32>,
    /// Changes of the text.
    pub hunks: Vec<Hunk<'a>>,
    /// The line of the patch where this file begins, from 1.
    pub line: usize,
    /// Whether its paths are meant as they are; an `a/` or `b/` at their beginning may else be a prefix.
    pub exact: bool,
}

impl FilePatch<'_> {
    /// What `path` may mean when nothing is there: the same without a prefix.
    fn other<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        names::without_prefix(path).filter(|_| !self.exact)
    }
}

/// Effect of a patch on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Changes a file that is there.
    Modify(PathBuf),
    /// Makes a new file.
    Create(PathBuf),
    /// Removes a file, all of whose lines the hunks show.
    Delete(PathBuf),
    /// Removes a file whatever is in it.
    Remove(PathBuf),
    /// Gives a file another name.
    Rename {
        /// Name before the patch.
        from: PathBuf,
        /// Name after the patch.
        to: PathBuf,
    },
    /// Another file begins as a copy of it.
    Copy {
        /// The original, which stays.
        from: PathBuf,
        /// Path of the copy.
        to: PathBuf,
    },
}

impl Action {
    /// The path that is read.
    pub fn source(&self) -> &Path {
        match self {
            Self::Modify(path) | Self::Create(path) | Self::Delete(path) | Self::Remove(path) => path,
            Self::Rename { from, .. } | Self::Copy { from, .. } => from,
        }
    }

    /// The path that is there afterwards, or is gone.
    pub fn target(&self) -> &Path {
        match self {
            Self::Modify(path) | Self::Create(path) | Self::Delete(path) | Self::Remove(path) => path,
            Self::Rename { to, .. } | Self::Copy { to, .. } => to,
        }
    }
}

/// Stretch of lines that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk<'a> {
    /// The `@@` lines as they stood, at most 200 characters; empty where there is none.
    pub header: String,
    /// The line of the patch where it begins, from 1.
    pub line: usize,
    /// The first line that it covers in the old file, from 1, where the header says so. 0 when it covers none.
    pub old_start: Option<u64>,
    /// Lines of the file that stand above it, each after the one before: where to look from.
    pub anchors: Vec<&'a [u8]>,
    /// Whether it covers the end of the file.
    pub at_end: bool,
    /// Whether all of its context has to be there: nothing else says where it belongs.
    pub whole: bool,
    /// Lines in their order.
    pub lines: Vec<Line<'a>>,
}

/// Line of a hunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Whether it stays, goes or comes.
    pub kind: LineKind,
    /// Bytes without the line feed; a carriage return before that is part of them.
    pub text: &'a [u8],
    /// Whether a line feed ends it.
    pub newline: bool,
    /// Whether it has no mark: it is context if the file has it, and else nobody knows what it is.
    pub unmarked: bool,
}

/// Effect of a hunk on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Stays as it is.
    Context,
    /// Is taken away.
    Remove,
    /// Is added here.
    Add,
}

/// Type of the file at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A symbolic link; its bytes are what it points to.
    Symlink,
    /// A directory, which no patch changes.
    Directory,
    /// A device, a socket, a fifo.
    Other,
}

/// File at a path, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Type of the file.
    pub kind: NodeKind,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
    /// Content of a file, or target of a symbolic link.
    pub bytes: Vec<u8>,
}

/// Files that a patch is applied to.
pub trait Tree {
    /// Reads the file at `path`, symbolic links not followed; `None` when there is none.
    ///
    /// # Errors
    /// When that cannot be known. It becomes a [`Reason::Unreadable`].
    fn node(&self, path: &Path) -> io::Result<Option<Node>>;
}

impl Tree for BTreeMap<PathBuf, Node> {
    fn node(&self, path: &Path) -> io::Result<Option<Node>> {
        Ok(self.get(path).cloned())
    }
}

/// Change of one path. [`apply`] lists each path once, in an order in which they can be carried out once all that
/// [`removed`] lists is gone. A file may take the place of a directory that this empties, which is then removed too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Removes a file.
    Delete {
        /// Path of the file.
        path: PathBuf,
    },
    /// Writes a file.
    Write {
        /// Path of the file.
        path: PathBuf,
        /// File with its whole content.
        node: Node,
        /// Whether it was not there.
        added: bool,
    },
    /// Write it under another name and remove the old one.
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
        /// All of it, as it is afterwards.
        node: Node,
    },
}

/// Every path that [`apply`] may ask a tree for, but the directories above them: what to fetch beforehand when the
/// tree is far away.
pub fn paths(patches: &[FilePatch<'_>]) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for patch in patches {
        for path in [patch.action.source(), patch.action.target()] {
            paths.insert(path.to_path_buf());
            paths.extend(patch.other(path).map(Path::to_path_buf));
        }
    }
    paths
}
