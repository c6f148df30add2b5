//! How much of the host's cores other processes used while something was measured.
//!
//! Of the busy time of all cores, what is not this process's or of children that it reaped. A load average says less:
//! it counts our own work too, and minutes that are over.

use std::fs;
use std::time::Instant;

/// Ticks in a second, in which the kernel tells times to user space on every x86-64.
const TICKS: f64 = 100.0;

/// The clocks at one moment.
pub(super) struct Noise {
    begin: Instant,
    busy: u64,
    own: u64,
}

impl Noise {
    /// Begins to listen; `None` where `/proc` does not say.
    pub(super) fn begin() -> Option<Self> {
        let (busy, own) = read()?;
        Some(Self { begin: Instant::now(), busy, own })
    }

    /// How many cores others used since then, on average.
    pub(super) fn others(&self) -> Option<f64> {
        let (busy, own) = read()?;
        let others = busy.saturating_sub(self.busy) as f64 - own.saturating_sub(self.own) as f64;
        let cores = others / TICKS / self.begin.elapsed().as_secs_f64();
        Some((cores.max(0.0) * 100.0).round() / 100.0)
    }
}

fn read() -> Option<(u64, u64)> {
    let host = fs::read_to_string("/proc/stat").ok()?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    Some((busy(&host)?, used(&own)?))
}

/// Seconds of processor time that a process used so far; `None` where it is not there.
pub(super) fn seconds(pid: u32) -> Option<f64> {
    Some(used(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)? as f64 / TICKS)
}

/// Of `/proc/stat`: user, nice, system, interrupts, and what a hypervisor beneath gave to others.
fn busy(stat: &str) -> Option<u64> {
    let cpu: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))?
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    [0, 1, 2, 5, 6, 7].into_iter().map(|at| cpu.get(at).copied()).sum()
}

/// Of `/proc/PID/stat`: user and system time of the process and of the children it has waited for. Its name, in
/// parentheses, may hold anything.
fn used(stat: &str) -> Option<u64> {
    let rest = stat.rsplit_once(") ")?.1;
    let times: Vec<u64> = rest.split(' ').skip(11).take(4).map_while(|word| word.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_understood() {
        let host = "cpu  100 10 20 9999 99 3 4 5 50 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy(host), Some(142));
        assert_eq!(busy("cpu 1 2"), None);
        let own = "77 (a) b) S 1 77 77 0 -1 4194304 100 200 0 0 7 8 9 10 20 0 1 0 123";
        assert_eq!(used(own), Some(34));
        assert_eq!(used("77 (a) S 1"), None);
    }

    #[test]
    fn this_host_is_read() {
        assert!(Noise::begin().unwrap().others().unwrap() >= 0.0);
        assert!(seconds(std::process::id()).unwrap() >= 0.0);
        assert_eq!(seconds(u32::MAX), None);
    }
}
