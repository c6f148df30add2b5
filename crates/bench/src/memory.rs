//! What processes take of the host's memory, from `/proc`.

use std::fs;

/// The proportional set size of a process, MiB: its own pages, and its share of those it has in common with others.
pub(super) fn pss_mib(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    text.lines().find_map(|line| kib(line, "Pss:")).map(mib).ok_or_else(|| format!("{path} has no Pss"))
}

/// The same of a process and all that it started.
pub(super) fn pss_of_all_mib(pid: u32) -> Result<f64, String> {
    let (mut sum, mut todo) = (0.0, vec![pid]);
    while let Some(pid) = todo.pop() {
        sum += pss_mib(pid)?;
        todo.extend(children(pid));
    }
    Ok(sum)
}

/// A process, the one that it started, and so on: of `pyro` in a run, its VMM is the last.
pub(super) fn chain(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    while let Some(next) = children(all[all.len() - 1]).first() {
        all.push(*next);
    }
    all
}

fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    all
}

/// The proportional set size of a VMM without the mappings of guest RAM, which are those of its size, MiB.
pub(super) fn pss_beside_guest_mib(pid: u32, mem_mib: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    beside(&smaps, u64::from(mem_mib) * 1024).ok_or_else(|| format!("{path} shows no guest RAM"))
}

/// Of the text of `smaps`; `None` where no mapping has the size of guest RAM.
fn beside(smaps: &str, guest_kib: u64) -> Option<f64> {
    let (mut sum, mut is_guest, mut seen) = (0, false, false);
    for line in smaps.lines() {
        if let Some(size) = kib(line, "Size:") {
            is_guest = size == guest_kib;
            seen |= is_guest;
        } else if let Some(pss) = kib(line, "Pss:")
            && !is_guest
        {
            sum += pss;
        }
    }
    seen.then_some(mib(sum))
}

/// This process's resident memory, and the most there ever was since [`forget_peak`], MiB.
pub(super) fn resident_and_peak_mib() -> Result<(f64, f64), String> {
    let path = "/proc/self/status";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let field = |name: &str| text.lines().find_map(|line| kib(line, name)).map(mib);
    field("VmRSS:").zip(field("VmHWM:")).ok_or_else(|| format!("{path} has no VmRSS and VmHWM"))
}

/// Of the whole host, memory that belongs to no process and is not given back for the asking, MiB: shared memory, memfds
/// among it, and the kernel's own.
pub(super) fn kernels_mib() -> Result<f64, String> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let field = |name: &str| text.lines().find_map(|line| kib(line, name)).map(mib);
    let all = ["Shmem:", "SUnreclaim:", "KernelStack:", "PageTables:"].into_iter().map(field);
    all.sum::<Option<f64>>().ok_or_else(|| format!("{path} lacks a line"))
}

/// Lets this process's peak begin anew. Where that cannot be done, growth below an earlier peak goes unseen.
pub(super) fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn kib(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_is_left_out() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0\nSize:     2048 kB\nRss: 9 kB\nPss:    1024 kB\nPss_Dirty:  7 kB\n\
                     7f02-7f03 rw-p 0 00:00 0\nSize:  1048576 kB\nPss:  500000 kB\n\
                     7f04-7f05 r--p 0 00:00 0\nSize:     4 kB\nPss:    512 kB\n";
        assert_eq!(beside(smaps, 1_048_576), Some(1.5));
        assert_eq!(beside(smaps, 4096), None);
    }

    #[test]
    fn this_process_has_memory() {
        let own = std::process::id();
        assert!(pss_mib(own).unwrap() > 0.0);
        assert!(pss_of_all_mib(own).unwrap() > 0.0);
        assert!(kernels_mib().unwrap() > 0.0);
        forget_peak();
        let (resident, peak) = resident_and_peak_mib().unwrap();
        assert!(resident > 0.0 && peak > 0.0);
    }
}
