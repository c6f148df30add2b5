//! The kernel's log: where a guest reports trouble that no session can carry.

use std::io::Write;

/// Writes `text` to the kernel's log, of whose end the host keeps a copy: for trouble that no session can carry.
pub fn note(text: &str) {
    if let Ok(mut console) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // Level 3, an error: shown even on a quiet console.
        let _ = console.write_all(format!("<3>pyro-agent: {text}\n").as_bytes());
    }
}
