//! QEMU's own complaints, recognised where the person can do something about them.

use crate::VmmError;
use crate::death::Reason;

/// Turns the death of a QEMU that never came up into what it died of.
pub(super) fn recognise(error: VmmError, mem_mib: u32) -> VmmError {
    let VmmError::Died { death, .. } = &error else { return error };
    if death.reason != Reason::VmmExit {
        return error;
    }
    let find = |needles: &[&str]| {
        death
            .stderr_tail
            .lines()
            .find(|line| needles.iter().any(|needle| line.contains(needle)))
            .map(|line| strip(line).to_owned())
    };
    if let Some(detail) = find(&["/dev/kvm", "Could not access KVM", "failed to initialize kvm", "KVM not supported"]) {
        return VmmError::Kvm { detail };
    }
    if let Some(detail) = find(&["Cannot allocate memory", "cannot set up guest memory", "unable to map backing store"]) {
        return VmmError::OutOfMemory { mem_mib, detail };
    }
    error
}

/// A line of QEMU's without the program's path at its start.
fn strip(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(_program, rest)| rest).trim()
}
