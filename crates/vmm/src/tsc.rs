//! Frequency of the host's time-stamp counter.
//!
//! A guest under software emulation reads the host's counter through `rdtsc` and cannot calibrate it: on a busy host
//! its comparison with the emulated PIT fails and the boot hangs. So its kernel command line gives the frequency.
//! "cpu MHz" in `/proc/cpuinfo` is the current clock, not the counter's rate, so the rate is measured here, once.

use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

/// Time in ns for which the counter is compared with the clock, in three parts. A reading of the clock is exact to
/// about 100 ns, so the rate is right within some 75 parts in a million. The guest has no other timer to refine it
/// by.
const SPAN_NS: i64 = 4_000_000;

/// Gives the time-stamp counter's frequency in kHz, against `CLOCK_MONOTONIC_RAW`. The first call of a process takes
/// 4 ms of one processor; later ones are free.
pub fn tsc_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> u64 {
    // Three spans, the median: being preempted between the two readings of one end spoils a span.
    let mut rates = [(); 3].map(|()| measure_span(SPAN_NS / 3));
    rates.sort_unstable();
    rates[1]
}

fn measure_span(length: i64) -> u64 {
    let (begin_clock, begin_count) = read_clock_and_counter();
    loop {
        let (clock, count) = read_clock_and_counter();
        let elapsed = clock - begin_clock;
        if elapsed >= length {
            // count/ns * 10^6 = kHz; a few milliseconds of counts fit i128 many times over.
            let counted = i128::from(count.wrapping_sub(begin_count));
            return u64::try_from(counted * 1_000_000 / i128::from(elapsed)).unwrap_or(0);
        }
    }
}

/// Reads the clock (ns) and the counter, as close together as the best of three tries gives.
fn read_clock_and_counter() -> (i64, u64) {
    let mut best = (i64::MAX, 0, 0);
    for _ in 0..3 {
        let before = now_ns();
        // SAFETY: `rdtsc` has no preconditions; user space may execute it on every x86-64 Linux (a process that
        // set PR_TSC_SIGSEGV on itself excepted, and nothing here does).
        let count = unsafe { core::arch::x86_64::_rdtsc() };
        let after = now_ns();
        if after - before < best.0 {
            best = (after - before, before + (after - before) / 2, count);
        }
    }
    (best.1, best.2)
}

fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (one, two) = (measure(), measure());
        assert!(one > 100_000 && one < 20_000_000, "{one} kHz");
        assert!(one.abs_diff(two) * 1000 < one, "{one} and {two} kHz differ by more than 0.1 %");
    }
}
