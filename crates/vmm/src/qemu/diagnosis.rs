//! QEMU's own complaints, recognised where the person can do something about them.

use crate::VmmError;
use crate::death::DeathReason;

/// Of a `/dev/kvm` that is missing, forbidden, or unable. A KVM that refuses what every processor has (`failed to set
/// MSR`) makes QEMU abort over an assertion.
const KVM: &[&str] = &[
    "/dev/kvm",
    "Could not access KVM",
    "failed to initialize kvm",
    "failed to set MSR",
    "kvm.c:",
    "ioctl(KVM_",
];

/// Of guest memory that the host does not give.
const MEMORY: &[&str] =
    &["Cannot allocate memory", "cannot set up guest memory", "unable to map backing store"];

/// Turns the death of a QEMU that never came up into what it died of.
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

/// A line of QEMU's without the program's path at its start.
fn strip(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(_program, rest)| rest).trim()
}
