//! Failures of a task, worded for the person at the terminal.

use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::KernelError;
use crate::runtime::BundleError;

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A file could not be used.
    #[error("{} could not be {doing}", .path.display())]
    Io {
        /// File that was used.
        path: PathBuf,
        /// Attempted action, as a participle: `read`.
        doing: &'static str,
        /// Cause, from the operating system.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("{program} could not be started")]
    Spawn {
        /// Name or path of the program.
        program: String,
        /// Cause, from the operating system.
        #[source]
        source: io::Error,
    },
    /// A program failed, and said why itself.
    #[error("{what} failed ({status})")]
    Command {
        /// Purpose of the program, as the subject of a sentence.
        what: String,
        /// Exit status or signal, in words.
        status: String,
    },
    /// There is no place for the cache.
    #[error("there is no place for the build cache: set HOME or PYRO_BUILD_CACHE_DIR")]
    NoCache,
    /// A JSON file could not be written.
    #[error("{} could not be put into words", .path.display())]
    Json {
        /// File that was to be written.
        path: PathBuf,
        /// Cause, from the serializer.
        #[source]
        source: serde_json::Error,
    },
    /// A file is not what it should be.
    #[error("{} {why}", .path.display())]
    Unfit {
        /// File that was read.
        path: PathBuf,
        /// Defect, as the rest of a sentence that begins with the path.
        why: String,
    },
    /// The kernel could not be built.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The runtime could not be made.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Adds file and action to an IO error.
pub fn at<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(io::Error) -> TaskError + 'a {
    move |source| TaskError::Io { path: path.to_owned(), doing, source }
}
