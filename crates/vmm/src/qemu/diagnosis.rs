//! Recognises errors on QEMU's stderr that the user can remedy.

use crate::VmmError;
use crate::death::DeathReason;

/// Messages about a `/dev/kvm` that is missing, forbidden or unable. QEMU aborts over an assertion when KVM refuses a
/// register that every processor has (`failed to set MSR`).
const KVM: &[&str] = &[
    "/dev/kvm",
    "Could not access KVM",
    "failed to initialize kvm",
    "failed to set MSR",
    "kvm.c:",
    "ioctl(KVM_",
];

/// Messages about guest memory that the host cannot give.
const MEMORY: &[&str] =
    &["Cannot allocate memory", "cannot set up guest memory", "unable to map backing store"];

/// Replaces the end of a QEMU during its launch by its cause, where a message tells it; gives `error` back otherwise.
pub(super) fn recognise(error: VmmError, mem_mib: u32) -> VmmError {
    let VmmError::Died { death, .. } = &error else { return error };
    if !matches!(death.reason, DeathReason::VmmExit | DeathReason::Crash) {
        return error;
    }
    let find = |needles: &[&str]| {
        death
            .stderr_tail
            .lines()
            .find(|line| needles.iter().any(|needle| line.contains(needle)))
            .map(|line| strip(line).to_owned())
    };
    if let Some(detail) = find(KVM) {
        return VmmError::Kvm { detail };
    }
    if let Some(detail) = find(MEMORY) {
        return VmmError::OutOfMemory { mem_mib, detail };
    }
    error
}

/// Removes the program's path from the start of a line of QEMU's.
fn strip(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(_program, rest)| rest).trim()
}
