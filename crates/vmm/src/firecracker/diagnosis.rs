//! Recognises Firecracker's errors that the user can remedy.

use crate::VmmError;
use crate::death::DeathReason;

/// Messages about a `/dev/kvm` that is missing, forbidden or unable.
const KVM: &[&str] =
    &["/dev/kvm", "KVM object", "Kvm(", "KVM capabilities", "Cannot create the VM", "create a VM"];

/// Messages about guest memory that the host refuses at once. Firecracker reserves nothing: a guest that is too large
/// for the host starts, and ends when it touches memory that the host lacks.
const MEMORY: &[&str] = &["Cannot allocate memory", "os error 12"];

/// Replaces the failure of a launch by its cause, where a message tells it; gives `error` back otherwise.
pub(super) fn recognise(error: VmmError, mem_mib: u32) -> VmmError {
    let words = match &error {
        VmmError::Died { death, .. } if matches!(death.reason, DeathReason::VmmExit | DeathReason::Crash) => {
            &death.stderr_tail
        }
        VmmError::Api { fault, .. } => fault,
        _ => return error,
    };
    let find = |needles: &[&str]| {
        let line = words.lines().rfind(|line| needles.iter().any(|needle| line.contains(needle)));
        line.map(|line| strip(line).to_owned())
    };
    if let Some(detail) = find(MEMORY) {
        return VmmError::OutOfMemory { mem_mib, detail };
    }
    if let Some(detail) = find(KVM) {
        return VmmError::Kvm { detail };
    }
    error
}

/// Removes time and thread from a line of the log: `2026-01-01T00:00:00.0 [id:main] words`.
fn strip(line: &str) -> &str {
    line.split_once("] ").map_or(line, |(_when, words)| words).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::death::{Death, ProcessExit};

    fn recognised(words: &str) -> VmmError {
        let death = Death {
            exit: ProcessExit::Code(1),
            reason: DeathReason::VmmExit,
            console_tail: String::new(),
            stderr_tail: words.into(),
        };
        recognise(VmmError::Died { during: "its launch", death: Box::new(death) }, 512)
    }

    #[test]
    fn what_a_person_can_mend_is_recognised() {
        let kvm = "2026-01-01T00:00:00 [x:main] Error creating KVM object: Permission denied (os error 13)";
        match recognised(kvm) {
            VmmError::Kvm { detail } => {
                assert_eq!(detail, "Error creating KVM object: Permission denied (os error 13)");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            recognised("x [x:main] cannot map: Cannot allocate memory (os error 12)"),
            VmmError::OutOfMemory { mem_mib: 512, .. }
        ));
        assert!(matches!(recognised("x [x:main] no such drive"), VmmError::Died { .. }));
    }
}
