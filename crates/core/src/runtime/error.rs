//! Failures of a runtime bundle.

use std::io;
use std::path::PathBuf;

use crate::hint::Hint;

/// A bundle that cannot be used, written, or believed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no bundle.
    #[error("there is no runtime in {}", .0.display())]
    Missing(PathBuf),
    /// A file could not be read or written.
    #[error("{} of the runtime could not be {doing}", .path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The attempted action, as a participle.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{} is not a runtime manifest: {why}", .path.display())]
    Manifest {
        /// Path of the file.
        path: PathBuf,
        /// The fault found in the file.
        why: String,
    },
    /// The manifest is of another version of pyro.
    #[error("{} has schema {found}, and this pyro reads schema {}", .path.display(), super::SCHEMA)]
    Schema {
        /// Path of the file.
        path: PathBuf,
        /// Schema number that the file has.
        found: u64,
    },
    /// An artifact is not the file that the manifest describes.
    #[error("{} is not the {name} that its manifest describes: {why}", .path.display())]
    Changed {
        /// Name of the artifact in the manifest.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// How it differs.
        why: String,
    },
    /// An artifact's content is not what an artifact of this name must be.
    #[error("{} is no real {name}: {why}", .path.display())]
    NotReal {
        /// Name of the artifact in the manifest.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// The mark by which the placeholder is known.
        why: String,
    },
    /// An artifact that must be there is not in the manifest.
    #[error("the runtime in {} has no {name}", .root.display())]
    NoArtifact {
        /// Directory of the bundle.
        root: PathBuf,
        /// Name of the artifact in the manifest.
        name: String,
    },
    /// The safety rule.
    #[error("{} claims {claim}, which {why}", .path.display())]
    Unearned {
        /// Path of the manifest.
        path: PathBuf,
        /// Name of the capability.
        claim: &'static str,
        /// Why that cannot be.
        why: String,
    },
    /// The measurement proves nothing about this bundle.
    #[error("the probe proves nothing about this runtime: {0}")]
    Evidence(String),
}

impl RuntimeError {
    /// Action that may help.
    pub fn hint(&self) -> Hint {
        match self {
            Self::Io { doing: "written", .. } => Hint::CheckDirectory,
            Self::Evidence(_) => Hint::ProbeWrittenRuntime,
            Self::Missing(_)
            | Self::Io { .. }
            | Self::Manifest { .. }
            | Self::Schema { .. }
            | Self::Changed { .. }
            | Self::NotReal { .. }
            | Self::NoArtifact { .. }
            | Self::Unearned { .. } => Hint::MakeRuntime,
        }
    }
}
