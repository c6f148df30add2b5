//! What can go wrong with a VMM, as the caller can act on it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::death::Death;
use crate::firecracker::FirecrackerDefect;
use crate::sandbox::{Fault, Step};

/// A failure of, or with, a VMM process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// The VMM's binary does not exist.
    #[error("{} does not exist ({source_of_it})", binary.display())]
    BinaryMissing {
        /// The path that was tried.
        binary: PathBuf,
        /// Where to have it from.
        source_of_it: &'static str,
    },
    /// The VMM's binary exists and could not be started.
    #[error("cannot start {}", binary.display())]
    Spawn {
        /// The path that was tried.
        binary: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The VMM could not be confined, or what it was to be confined with could not be made.
    #[error("cannot {doing}")]
    Sandbox {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host refused something every VMM needs: a socket pair, a descriptor, a thread.
    #[error("cannot {doing}")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// `--version` did not print a version.
    #[error("{} --version printed no version: {output:?}", binary.display())]
    Version {
        /// The binary asked.
        binary: PathBuf,
        /// The start of what it printed instead.
        output: String,
    },
    /// The specification cannot be met by any host.
    #[error("bad machine specification: {0}")]
    Spec(String),
    /// The KVM device cannot be used; `detail` is the VMM's own line.
    #[error("KVM cannot be used: {detail}")]
    Kvm {
        /// The VMM's own words.
        detail: String,
    },
    /// The host would not give the guest's memory.
    #[error("the host has no room for {mem_mib} MiB of guest memory: {detail}")]
    OutOfMemory {
        /// What was asked for, in MiB.
        mem_mib: u32,
        /// The VMM's own words.
        detail: String,
    },
    /// The VMM ended while something was asked of it.
    #[error("the VMM ended during {during}: {death}")]
    Died {
        /// The command or phase that was under way.
        during: &'static str,
        /// Its end.
        death: Box<Death>,
    },
    /// The VMM lives and did not answer in time.
    #[error("the VMM did not finish {command} within {} s", after.as_secs())]
    Deadline {
        /// The command or phase that was under way.
        command: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The VMM refused a command.
    #[error("the VMM refused {command}: {detail}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The VMM's own words.
        detail: String,
    },
    /// The VMM refused a request over its API.
    #[error("the VMM refused {request} (status {status}): {fault}")]
    Api {
        /// The request's method and path.
        request: &'static str,
        /// The HTTP status of the refusal.
        status: u16,
        /// The VMM's own words.
        fault: String,
    },
    /// The VMM's version is known to do this wrong.
    #[error("version {version} of the VMM is not used here: {defect}")]
    KnownBad {
        /// Its version.
        version: String,
        /// What it does wrong.
        defect: FirecrackerDefect,
    },
    /// The guest's byte stream was taken before, and there is only one.
    #[error("the guest's byte stream was taken before")]
    StreamTaken,
    /// The machine was saved while it ran. Pause it first.
    #[error("the machine must be paused to be saved")]
    NotPaused,
}

impl VmmError {
    /// Why `binary`, which is to be had from `source_of_it`, did not come to run.
    pub(crate) fn of_spawn(binary: &Path, source_of_it: &'static str, fault: Fault) -> VmmError {
        let Fault { step, source } = fault;
        if step == Step::Exec || !binary.exists() {
            VmmError::of_run(binary, source_of_it, source)
        } else {
            VmmError::Sandbox { doing: step.to_string(), source }
        }
    }

    /// Why `binary`, which is to be had from `source_of_it`, cannot be run.
    pub(crate) fn of_run(binary: &Path, source_of_it: &'static str, source: io::Error) -> VmmError {
        let binary = binary.to_owned();
        // The kernel says the same when its interpreter or its directory is missing, so it is looked at.
        if binary.exists() {
            VmmError::Spawn { binary, source }
        } else {
            VmmError::BinaryMissing { binary, source_of_it }
        }
    }
}
