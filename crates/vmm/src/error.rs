//! Errors of a VMM process, one variant for each case that a caller can act on.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::death::Death;
use crate::firecracker::FirecrackerDefect;
use crate::sandbox::{SpawnFault, SpawnStep};

/// A failure of, or with, a VMM process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// No file exists at the path of the VMM's binary.
    #[error("{} does not exist ({obtained_from})", binary.display())]
    BinaryMissing {
        /// Path that was tried.
        binary: PathBuf,
        /// Package or bundle that the binary comes with, as a remedy for the user.
        obtained_from: &'static str,
    },
    /// The VMM's binary exists and could not be started.
    #[error("cannot start {}", binary.display())]
    Spawn {
        /// Path that was tried.
        binary: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// A part of the VMM's sandbox could not be made or put on.
    #[error("cannot {doing}")]
    Sandbox {
        /// Action that failed, as a verb phrase that follows "cannot".
        doing: String,
        /// Error of the system call.
        source: io::Error,
    },
    /// The host refused something every VMM needs: a socket pair, a descriptor, a thread.
    #[error("cannot {doing}")]
    Host {
        /// Action that failed, as a verb phrase that follows "cannot".
        doing: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
    /// Output of `--version` holds no version.
    #[error("{} --version printed no version: {output:?}", binary.display())]
    Version {
        /// Path of the binary that was run.
        binary: PathBuf,
        /// First 200 characters of the output.
        output: String,
    },
    /// The specification cannot be met by any host.
    #[error("bad machine specification: {0}")]
    Spec(String),
    /// The KVM device cannot be used; `detail` is the VMM's own line.
    #[error("KVM cannot be used: {detail}")]
    Kvm {
        /// Message of the VMM, unchanged.
        detail: String,
    },
    /// The host would not give the guest's memory.
    #[error("the host has no room for {mem_mib} MiB of guest memory: {detail}")]
    OutOfMemory {
        /// Guest memory of the machine, in MiB.
        mem_mib: u32,
        /// Message of the VMM, unchanged.
        detail: String,
    },
    /// The VMM ended during a command or a launch.
    #[error("the VMM ended during {during}: {death}")]
    Died {
        /// Command or phase that was under way.
        during: &'static str,
        /// Exit status, cause and last output of the VMM.
        death: Box<Death>,
    },
    /// The VMM lives and did not answer in time.
    #[error("the VMM did not finish {command} within {} s", after.as_secs())]
    Deadline {
        /// Command or phase that was under way.
        command: &'static str,
        /// Time waited for the answer.
        after: Duration,
    },
    /// The VMM refused a command.
    #[error("the VMM refused {command}: {detail}")]
    Refused {
        /// Name of the refused command.
        command: &'static str,
        /// Message of the VMM, unchanged.
        detail: String,
    },
    /// The VMM refused a request over its API.
    #[error("the VMM refused {request} (status {status}): {fault}")]
    Api {
        /// The request's method and path.
        request: &'static str,
        /// The HTTP status of the refusal.
        status: u16,
        /// Message of the VMM, unchanged.
        fault: String,
    },
    /// The operation is known to fail with this version of the VMM.
    #[error("version {version} of the VMM is not used here: {defect}")]
    KnownBad {
        /// Version of the VMM, as `1.12.1`.
        version: String,
        /// Known defect that makes the operation fail.
        defect: FirecrackerDefect,
    },
    /// The guest's only byte stream was taken by an earlier `connect`.
    #[error("the guest's byte stream was taken before")]
    StreamTaken,
    /// A save was asked for while the machine ran; pause it first.
    #[error("the machine must be paused to be saved")]
    NotPaused,
}

impl VmmError {
    /// Error for a spawn of `binary` that failed with `fault`; `obtained_from` is where the binary can be had from.
    pub(crate) fn of_spawn(binary: &Path, obtained_from: &'static str, fault: SpawnFault) -> VmmError {
        let SpawnFault { step, source } = fault;
        if step == SpawnStep::Exec || !binary.exists() {
            VmmError::of_run(binary, obtained_from, source)
        } else {
            VmmError::Sandbox { doing: step.to_string(), source }
        }
    }

    /// Error for an exec of `binary` that failed with `source`; `obtained_from` is where the binary can be had from.
    pub(crate) fn of_run(binary: &Path, obtained_from: &'static str, source: io::Error) -> VmmError {
        let binary = binary.to_owned();
        // ENOENT also stands for a missing interpreter or directory, so the file itself is checked.
        if binary.exists() {
            VmmError::Spawn { binary, source }
        } else {
            VmmError::BinaryMissing { binary, obtained_from }
        }
    }
}
