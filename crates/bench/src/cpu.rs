//! Processor time of processes, as the kernel counts it.

use std::time::{Duration, Instant};

use super::noise;

/// How many idle VMs are measured, how often, and for how long each time.
#[derive(Clone, Copy)]
pub(super) struct IdlePlan {
    pub(super) count: usize,
    pub(super) rounds: usize,
    pub(super) each: Duration,
}

/// Processor time from one moment on.
pub(super) struct Meter {
    begin: Instant,
    used: f64,
}

impl Meter {
    pub(super) fn begin(pids: &[u32]) -> Result<Self, String> {
        Ok(Self { begin: Instant::now(), used: used(pids)? })
    }

    /// What the processes used since then, percent of one core.
    pub(super) fn percent(&self, pids: &[u32]) -> Result<f64, String> {
        Ok((used(pids)? - self.used) / self.begin.elapsed().as_secs_f64() * 100.0)
    }
}

/// Seconds that these processes used so far. One that ended is an error.
fn used(pids: &[u32]) -> Result<f64, String> {
    let one = |pid: &u32| noise::seconds(*pid).ok_or_else(|| format!("process {pid} ended"));
    pids.iter().map(one).sum()
}
