//! The kernel's clock since boot, which nobody sets.

use serde::{Deserialize, Serialize};

/// Moment of the kernel's clock since boot, in which the host may have been suspended. Comparable within one boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootClock {
    /// Id of the boot.
    pub boot_id: String,
    /// Time since the boot, seconds.
    pub seconds: f64,
}

impl BootClock {
    /// Reads the clock; `None` on a host whose `/proc` does not tell. Blocks for a moment.
    pub fn now() -> Option<Self> {
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let seconds = uptime.split_whitespace().next()?.parse().ok()?;
        Some(Self { boot_id: boot_id()?, seconds })
    }

    /// Seconds from `earlier` until this moment; `None` when the host booted between the two.
    pub fn seconds_since(&self, earlier: &Self) -> Option<f64> {
        (self.boot_id == earlier.boot_id).then_some(self.seconds - earlier.seconds)
    }
}

/// Id of this host's boot; `None` where `/proc` does not tell. Blocks for a moment.
pub(crate) fn boot_id() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_within_a_boot_only() {
        let (first, second) = (BootClock::now().unwrap(), BootClock::now().unwrap());
        assert!(second.seconds_since(&first).unwrap() >= 0.0);
        let elsewhere = BootClock { boot_id: "another".into(), ..second };
        assert_eq!(elsewhere.seconds_since(&first), None);
    }
}
