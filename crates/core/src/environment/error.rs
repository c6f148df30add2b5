//! Failures with environments, said so that a person can act on them.

use std::io;
use std::path::{Path, PathBuf};

use crate::failure::FailureKind;
use crate::hint::Hint;
use crate::hostfs::HostFsError;
use crate::hostfs::process::MissingTool;

/// An environment that cannot be had, built, kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The catalog has no such environment.
    #[error("there is no environment {name:?}")]
    Unknown {
        /// The name as it was given.
        name: String,
        /// Names of the catalog, the most similar first.
        nearest: Vec<String>,
    },
    /// The cache cannot be used.
    #[error("the environment cache {} cannot be {doing}", .path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The attempted action, as a participle.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "the disk that holds {} is full: {} MiB are needed, {} MiB are free",
        .dir.display(), mib(*.needed), mib(*.free)
    )]
    NoSpace {
        /// The directory that was to be filled.
        dir: PathBuf,
        /// Bytes that the work takes, roughly.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The machine has no package sources to build from.
    #[error(
        "this machine has no package source for Debian 12 (bookworm), and environments are built from those"
    )]
    NoSources,
    /// A program is missing.
    #[error("{tool} is not installed")]
    MissingTool {
        /// Name of the program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// Neither root nor a user namespace that could build.
    #[error("environments cannot be built here: namespaces of their own are refused")]
    Privileges {
        /// Answer to the attempt to make a user namespace.
        #[source]
        source: io::Error,
    },
    /// A program of the build failed.
    #[error("{tool} failed while building {name}{}: {}", cause_text(.cause), last_lines(.tail))]
    Build {
        /// Name of the environment.
        name: String,
        /// Name of the program.
        tool: &'static str,
        /// Cause, where the output tells.
        cause: Option<BuildCause>,
        /// The end of what it said; at most a few KiB.
        tail: String,
    },
    /// The result of the build is not as it must be.
    #[error("the build of {name} went wrong: {why}")]
    Unsound {
        /// Name of the environment.
        name: String,
        /// The fault found.
        why: String,
    },
    /// The installed image changed since it was installed.
    #[error("the installed {name} is damaged: {why}")]
    Corrupt {
        /// Name of the environment.
        name: String,
        /// The difference found.
        why: String,
    },
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Why a build failed, where its output tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildCause {
    /// Package sources could not be reached.
    Network,
    /// A package source is not signed as it should be.
    Signature,
    /// The file system refuses what a root file system needs.
    Filesystem,
    /// A package is not in the sources.
    MissingPackage,
}

impl From<HostFsError> for EnvironmentError {
    fn from(error: HostFsError) -> Self {
        match error {
            HostFsError::File { path, doing, source } => Self::Cache { path, doing, source },
            HostFsError::Cancelled => Self::Cancelled,
        }
    }
}

impl From<MissingTool> for EnvironmentError {
    fn from(MissingTool { tool, package }: MissingTool) -> Self {
        Self::MissingTool { tool, package }
    }
}

impl EnvironmentError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        Some(match self {
            Self::Unknown { nearest, .. } if nearest.is_empty() => Hint::ListEnvironments,
            Self::Unknown { nearest, .. } => Hint::DidYouMean { names: nearest.clone() },
            Self::Cache { .. } => Hint::WritableCache,
            Self::NoSpace { dir, .. } => Hint::FreeCacheSpace { dir: dir.display().to_string() },
            Self::NoSources => Hint::AddPackageSource,
            Self::MissingTool { package, .. } => Hint::InstallPackages { packages: vec![(*package).into()] },
            Self::Privileges { .. } => Hint::BuilderPrivileges,
            Self::Build { cause: Some(cause), .. } => match cause {
                BuildCause::Network => Hint::CheckPackageSources,
                BuildCause::Signature => Hint::CheckSignatures,
                BuildCause::Filesystem => Hint::CacheFileSystem,
                BuildCause::MissingPackage => Hint::CompletePackageSources,
            },
            Self::Corrupt { name, .. } => Hint::ReinstallEnvironment { name: name.clone() },
            Self::Build { cause: None, .. } | Self::Unsound { .. } | Self::Cancelled => return None,
        })
    }

    /// Kind of the failure, for programs.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Unknown { .. } => FailureKind::EnvironmentNotFound,
            Self::NoSpace { .. } => FailureKind::NoSpace,
            Self::Cancelled => FailureKind::Cancelled,
            Self::Cache { .. }
            | Self::NoSources
            | Self::MissingTool { .. }
            | Self::Privileges { .. }
            | Self::Build { .. }
            | Self::Unsound { .. }
            | Self::Corrupt { .. } => FailureKind::Unavailable,
        }
    }

    /// Whether the request itself makes no sense, on any machine.
    pub fn is_callers_mistake(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    pub(super) fn cache(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Cache { path: path.to_owned(), doing, source }
    }

    /// Whether this is the disk being full, from whichever step it came.
    pub(super) fn is_full_disk(&self) -> bool {
        match self {
            Self::Cache { source, .. } => is_full(source),
            Self::Build { tail, .. } => {
                tail.contains("No space left on device") || tail.contains("Disk quota exceeded")
            }
            Self::NoSpace { .. } => true,
            _ => false,
        }
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl BuildCause {
    /// Reads it out of what apt, dpkg and mmdebstrap say.
    pub(super) fn recognise(output: &str) -> Option<Self> {
        let says = |words: &[&str]| words.iter().any(|word| output.contains(word));
        if says(&[
            "Could not resolve",
            "Temporary failure resolving",
            "Could not connect",
            "Connection refused",
            "Connection timed out",
            "Network is unreachable",
            "Unable to connect",
            "Connection failed",
            "Failed to fetch",
        ]) && !says(&["NO_PUBKEY", "not signed", "BADSIG"])
        {
            Some(Self::Network)
        } else if says(&[
            "NO_PUBKEY",
            "is not signed",
            "BADSIG",
            "EXPKEYSIG",
            "couldn't be verified",
            "is not valid yet",
            "Release file for",
        ]) {
            Some(Self::Signature)
        } else if says(&["Unable to locate package", "has no installation candidate"]) {
            Some(Self::MissingPackage)
        } else if says(&["Operation not permitted", "Invalid cross-device link"]) {
            Some(Self::Filesystem)
        } else {
            None
        }
    }
}

fn cause_text(cause: &Option<BuildCause>) -> &'static str {
    match cause {
        Some(BuildCause::Network) => ", because the package sources cannot be reached",
        Some(BuildCause::Signature) => ", because a package source is not signed as it should be",
        Some(BuildCause::Filesystem) => {
            ", because the file system of the cache cannot hold a root file system"
        }
        Some(BuildCause::MissingPackage) => ", because the package sources lack a package",
        None => "",
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// The lines that say something went wrong, or the last ones; in one line.
fn last_lines(tail: &str) -> String {
    let lines: Vec<_> = tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let telling: Vec<_> =
        lines.iter().filter(|l| l.starts_with("E: ") || l.contains("rror")).copied().collect();
    let chosen = if telling.is_empty() { &lines } else { &telling };
    let text = chosen[chosen.len().saturating_sub(3)..].join("; ");
    if text.is_empty() { "it said nothing".into() } else { text.chars().take(600).collect() }
}
