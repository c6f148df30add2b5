//! Why a file of this host could not be locked, published or removed.

use std::io;
use std::path::{Path, PathBuf};

/// A failure with a file or directory of this host.
#[derive(Debug, thiserror::Error)]
pub enum HostFsError {
    /// The file or directory cannot be used.
    #[error("{} cannot be {doing}", .path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The attempted action, as a participle.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The caller cancelled the work.
    #[error("cancelled")]
    Cancelled,
}

impl HostFsError {
    /// `path` cannot be `doing`, a participle.
    pub(crate) fn file(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), doing, source }
    }
}
