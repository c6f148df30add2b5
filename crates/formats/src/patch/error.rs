//! Why a patch could not be read or applied, in words that let its author repair it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A patch that cannot be read. Lines are counted from 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// It is too long.
    #[error("the patch has {size} {unit}, and at most {limit} are read")]
    TooLarge {
        /// How much there is.
        size: usize,
        /// Of what.
        unit: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// It changes nothing.
    #[error("there is no unified diff in the patch{}", .looks_like.map(|it| format!(": it looks like {it}")).unwrap_or_default())]
    Empty {
        /// What it looks like, where that is known.
        looks_like: Option<&'static str>,
    },
    /// It is not written as a patch must be.
    #[error("line {line} of the patch: {why}")]
    Malformed {
        /// Where.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It changes a binary file.
    #[error("line {line} of the patch changes {}, a binary file, and only text is patched", .path.display())]
    Binary {
        /// Where.
        line: usize,
        /// Which file.
        path: PathBuf,
    },
    /// It names a file that it may not.
    #[error("line {line} of the patch names {name:?}: {why}")]
    Path {
        /// Where.
        line: usize,
        /// The name, at most 200 characters.
        name: String,
        /// What is wrong with it.
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
    /// How many more there are.
    pub more: usize,
}

impl Rejected {
    /// How many rejections are kept.
    pub const MOST: usize = 50;
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The file.
    pub path: PathBuf,
    /// Which hunk of the file, from 1, and its header; `None` when it is the file as such.
    pub hunk: Option<(usize, String)>,
    /// The line of the patch where it or its file begins, from 1.
    pub line: usize,
    /// Why.
    pub reason: Reason,
}

/// Why a file or hunk was rejected. Lines are those of the file, from 1.
#[derive(Debug, PartialEq, Eq)]
pub enum Reason {
    /// No place in the file has these lines.
    NotFound {
        /// What comes nearest.
        nearest: Option<Nearest>,
    },
    /// Several places have.
    Ambiguous {
        /// The first lines of some of them, at most 5.
        lines: Vec<usize>,
    },
    /// It removes nothing and has no context, so that only a line number says where it belongs.
    NoContext,
    /// What it makes is there already.
    AlreadyApplied {
        /// Where.
        line: usize,
    },
    /// It changes lines that an earlier hunk changed.
    Overlaps,
    /// The file is not there.
    Missing,
    /// The file that is to be made is there already.
    Exists,
    /// Something that is no directory stands above it.
    Above {
        /// What.
        path: PathBuf,
    },
    /// It is not what the patch takes it for.
    Kind {
        /// What it is, with its article.
        is: &'static str,
        /// What the patch changes.
        wanted: &'static str,
    },
    /// It makes a symbolic link that points to nothing that has a name.
    Link,
    /// It is binary.
    Binary,
    /// It is longer than [`super::MAX_FILE`], before or afterwards, or all files together are.
    TooLarge,
    /// It is to be deleted, and the patch does not show all of it.
    Remains {
        /// Lines that would be left.
        lines: usize,
    },
    /// It could not be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// The text that comes nearest to what a hunk expects.
#[derive(Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The first line of `found`.
    pub line: usize,
    /// What the file has there: at most 6 lines of at most 120 characters.
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
        write!(f, "{}: ", self.path.display())?;
        if let Some((number, header)) = &self.hunk {
            write!(f, "hunk {number} ({header}): ")?;
        }
        self.reason.fmt(f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { nearest: None } => f.write_str("the file has no such lines"),
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
            Self::NoContext => f.write_str("it has no context that says where it belongs; give it some"),
            Self::AlreadyApplied { line } => {
                write!(f, "it is applied already: the file has its result at line {line}")
            }
            Self::Overlaps => {
                f.write_str("it changes lines that an earlier hunk changes; make them one hunk")
            }
            Self::Missing => f.write_str("there is no such file"),
            Self::Exists => f.write_str("the patch creates it, and it is there already"),
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
