//! Why a patch could not be read or applied, in words that let its author repair it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A patch that cannot be read. Lines are counted from 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// A patch that is too long.
    #[error("the patch has {size} {unit}, and at most {limit} are read")]
    TooLarge {
        /// Size of the patch.
        size: usize,
        /// Counted things, in the plural.
        unit: &'static str,
        /// Largest size that is let through.
        limit: usize,
    },
    /// Text without a change in it.
    #[error("there is no unified diff and no `*** Begin Patch` in the patch{}", .looks_like.map(|it| format!(": it looks like {it}")).unwrap_or_default())]
    Empty {
        /// Guess at the format, where it is known.
        looks_like: Option<&'static str>,
    },
    /// A patch that is not written as one must be.
    #[error("line {line} of the patch: {why}")]
    Malformed {
        /// Line of the patch, from 1.
        line: usize,
        /// Description of the mistake.
        why: String,
    },
    /// A change of a binary file.
    #[error("line {line} of the patch changes {}, a binary file, and only text is patched", .path.display())]
    Binary {
        /// Line of the patch, from 1.
        line: usize,
        /// Path of the binary file.
        path: PathBuf,
    },
    /// A name of a file that is not below the tree.
    #[error("line {line} of the patch names {name:?}: {why}")]
    Path {
        /// Line of the patch, from 1.
        line: usize,
        /// The name, at most 200 characters.
        name: String,
        /// Reason why that is no path.
        why: &'static str,
    },
}

impl PatchError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<PatchHint> {
        match self {
            Self::Empty { .. } => Some(PatchHint::WriteUnifiedDiff),
            Self::Path { .. } => Some(PatchHint::PathBelowWorkspace),
            Self::Binary { .. } => Some(PatchHint::CopyBinaryFiles),
            Self::TooLarge { .. } => Some(PatchHint::ApplyInParts),
            Self::Malformed { .. } => None,
        }
    }
}

/// An action that may help after a [`PatchError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchHint {
    /// Write it as a unified diff.
    WriteUnifiedDiff,
    /// Name files by their path below the workspace's directory.
    PathBelowWorkspace,
    /// Copy binary files in another way.
    CopyBinaryFiles,
    /// Apply it in parts.
    ApplyInParts,
}

/// A patch that cannot be applied. Nothing was changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Everything that is wrong, in the order of the patch; at most [`Rejected::MOST`].
    pub rejections: Vec<Rejection>,
    /// Count of rejections that are not kept.
    pub more: usize,
}

impl Rejected {
    /// Most rejections that are kept.
    pub const MOST: usize = 50;
}

/// File or hunk that does not fit.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Path of the file.
    pub path: PathBuf,
    /// Number of the hunk in its file, from 1, and its header; `None` when it is the file as such.
    pub hunk: Option<(usize, String)>,
    /// The line of the patch where it or its file begins, from 1.
    pub line: usize,
    /// Reason for the rejection.
    pub reason: Reason,
}

/// Reason why a file or hunk was rejected. Lines are those of the file, from 1.
#[derive(Debug, PartialEq, Eq)]
pub enum Reason {
    /// No place in the file has these lines.
    NotFound {
        /// Place in the file that comes nearest.
        nearest: Option<Nearest>,
    },
    /// A hunk that fits in several places.
    Ambiguous {
        /// The first lines of some of them, at most 5.
        lines: Vec<usize>,
    },
    /// A hunk that removes nothing and has no context, so that only a line number says where it belongs.
    NoContext,
    /// A line that a hunk names as standing above it, and that is not there.
    Anchor {
        /// The line, at most 120 characters.
        name: String,
        /// The line of the file after which it was looked for, where another one came before it.
        after: Option<usize>,
    },
    /// A hunk that fits, but not where it says that it belongs.
    Elsewhere {
        /// The first line of the place where it fits.
        line: usize,
        /// The line of the file that it says it comes after; `None` for the end of the file.
        after: Option<usize>,
    },
    /// A hunk whose outcome is in the file already.
    AlreadyApplied {
        /// Line of the file, from 1.
        line: usize,
    },
    /// A hunk that changes lines which an earlier hunk changed.
    Overlaps,
    /// The file is not there.
    Missing,
    /// The file that is to be made is there already.
    Exists,
    /// Something that is no directory stands above it.
    Above {
        /// Path of what is no directory.
        path: PathBuf,
    },
    /// A file of another type than the patch takes it for.
    Kind {
        /// Type of the file, with its article.
        is: &'static str,
        /// Type that the patch changes, with its article.
        wanted: &'static str,
    },
    /// A symbolic link whose target is no path.
    Link,
    /// A file that is binary.
    Binary,
    /// A file longer than [`super::MAX_FILE`], before or afterwards, or files that are too long together.
    TooLarge,
    /// A deletion that does not show all of the file.
    Remains {
        /// Lines that would be left.
        lines: usize,
    },
    /// A file that could not be read.
    Unreadable {
        /// Error of the tree, as text.
        why: String,
    },
}

/// The text that comes nearest to what a hunk expects.
#[derive(Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The first line of `found`.
    pub line: usize,
    /// Lines of the file there: at most 6 of at most 120 characters.
    pub found: String,
    /// The first line in which they differ, and what the hunk has for it.
    pub differs: Option<(usize, String)>,
}

impl std::error::Error for Rejected {}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the patch does not apply, and nothing was changed")?;
        self.rejections.iter().try_for_each(|rejection| write!(f, "\n{rejection}"))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.hunk {
            Some((number, header)) if header.is_empty() => write!(f, ": hunk {number}")?,
            Some((number, header)) => write!(f, ": hunk {number} ({header})")?,
            None => {}
        }
        if self.line > 0 {
            write!(f, ", line {} of the patch", self.line)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { nearest: None } => {
                f.write_str("the file has no such lines; read it again and write the hunk for what it has")
            }
            Self::NotFound { nearest: Some(nearest) } => {
                f.write_str("the file has no such lines")?;
                if let Some((line, wanted)) = &nearest.differs {
                    write!(
                        f,
                        "; the nearest place differs at line {line}, where the hunk has\n  | {wanted}"
                    )?;
                }
                write!(f, "\nthe file has, from line {}:", nearest.line)?;
                nearest.found.lines().try_for_each(|line| write!(f, "\n  | {line}"))
            }
            Self::Ambiguous { lines } => {
                let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
                write!(
                    f,
                    "it fits in several places, such as at lines {}; give it more context",
                    lines.join(", ")
                )
            }
            Self::Anchor { name, after } => {
                let after = after.map(|line| format!(" after line {line}")).unwrap_or_default();
                write!(
                    f,
                    "the file has no line `{name}`{after}, which its @@ line names; copy that line from the file, or \
                     leave it out where the hunk's own lines are in one place only"
                )
            }
            Self::Elsewhere { line, after: Some(after) } => write!(
                f,
                "the file has its lines at line {line}, and not after line {after}, where its @@ line leads; name a line \
                 above them, or none"
            ),
            Self::Elsewhere { line, after: None } => write!(
                f,
                "the file has its lines at line {line}, and not at its end, as `*** End of File` says; leave that out"
            ),
            Self::NoContext => f.write_str("it has no context that says where it belongs; give it some"),
            Self::AlreadyApplied { line } => {
                write!(f, "it is applied already: the file has its result at line {line}; leave it out")
            }
            Self::Overlaps => {
                f.write_str("it changes lines that an earlier hunk changes; make them one hunk")
            }
            Self::Missing => f.write_str("there is no such file; name one that is there, or create it"),
            Self::Exists => f.write_str(
                "the patch creates it, and it is there already; change it, or remove it earlier in the patch",
            ),
            Self::Above { path } => write!(f, "{} is not a directory", path.display()),
            Self::Kind { is, wanted } => write!(f, "it is {is}, and the patch is for {wanted}"),
            Self::Link => f.write_str("a symbolic link's target is one line of at most 4095 bytes"),
            Self::Binary => f.write_str("it is a binary file, and only text is patched"),
            Self::TooLarge => write!(
                f,
                "it is larger than {} MiB, or all files of the patch are larger than {} MiB",
                super::MAX_FILE >> 20,
                super::MAX_FILES >> 20
            ),
            Self::Remains { lines } => {
                write!(f, "the patch deletes it but does not show {lines} of its lines")
            }
            Self::Unreadable { why } => write!(f, "it cannot be read: {why}"),
        }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        Self::Unreadable { why: error.to_string() }
    }
}
