//! Copies out of a VMM the memory pages that a machine changed since it was started from a memory file.
//!
//! In a private mapping, a page that was only read belongs to the file, and one that was written belongs to the
//! process. `/proc/PID/pagemap` tells them apart. So a save copies changed pages and never reads the others, each of
//! which would cost the VMM a fault and the host a page.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const PAGE_SIZE: u64 = 4096;
/// Bytes of a pagemap entry, which describes one page.
const ENTRY_SIZE: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Bit of a page that belongs to a file or is shared.
const OF_FILE: u64 = 1 << 61;
/// Pages whose entries are read at once: 1 MiB of memory.
const PAGES_AT_ONCE: usize = 256;

/// Range of a process's addresses at which a file is mapped, from `offset` in the file on.
#[derive(Debug, PartialEq, Eq)]
struct MappedRange {
    addresses: Range<u64>,
    offset: u64,
}

/// Writes the pages that process `pid` changed in its private mapping of the file `inode` over `into`, a copy of that
/// file of `length` bytes. The machine must be paused. Blocks; gives the number of bytes written.
pub(super) fn copy(pid: u32, inode: u64, length: u64, into: &File) -> io::Result<u64> {
    let ranges = mapped_ranges(&fs::read_to_string(format!("/proc/{pid}/maps"))?, inode);
    if !is_whole(&ranges, length) {
        return Err(io::Error::other("its memory is not mapped as it was"));
    }
    let (pagemap, memory) =
        (File::open(format!("/proc/{pid}/pagemap"))?, File::open(format!("/proc/{pid}/mem"))?);
    let (mut entries, mut bytes) =
        (vec![0; PAGES_AT_ONCE * ENTRY_SIZE], vec![0; PAGES_AT_ONCE * PAGE_SIZE as usize]);
    let mut copied = 0;
    for MappedRange { addresses, offset } in ranges {
        for begin in addresses.clone().step_by(PAGES_AT_ONCE * PAGE_SIZE as usize) {
            let pages = ((addresses.end - begin) / PAGE_SIZE).min(PAGES_AT_ONCE as u64) as usize;
            let entries = &mut entries[..pages * ENTRY_SIZE];
            pagemap.read_exact_at(entries, begin / PAGE_SIZE * ENTRY_SIZE as u64)?;
            for run in changed_runs(entries) {
                let bytes = &mut bytes[..run.len() * PAGE_SIZE as usize];
                let at = begin + run.start as u64 * PAGE_SIZE;
                memory.read_exact_at(bytes, at)?;
                into.write_all_at(bytes, offset + (at - addresses.start))?;
                copied += bytes.len() as u64;
            }
        }
    }
    Ok(copied)
}

/// Finds the private mappings of the file `inode` in the text of `/proc/PID/maps`.
fn mapped_ranges(maps: &str, inode: u64) -> Vec<MappedRange> {
    let part = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let (mode, offset, _device, there) = (words.next()?, words.next()?, words.next()?, words.next()?);
        // Some file systems show another device here than to fstat, so only the inode is compared.
        if !mode.ends_with('p') || there.parse() != Ok(inode) {
            return None;
        }
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some(MappedRange { addresses: hex(from)?..hex(to)?, offset: hex(offset)? })
    };
    maps.lines().filter_map(part).collect()
}

/// Whether the ranges cover the file from beginning to end, each byte once and in order.
fn is_whole(ranges: &[MappedRange], length: u64) -> bool {
    let mut next = 0;
    for MappedRange { addresses, offset } in ranges {
        if *offset != next || addresses.is_empty() {
            return false;
        }
        next += addresses.end - addresses.start;
    }
    next == length
}

/// Finds the runs of pages that belong to the process, as indices of pagemap entries.
fn changed_runs(entries: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, entry) in entries.as_chunks::<ENTRY_SIZE>().0.iter().enumerate() {
        let entry = u64::from_ne_bytes(*entry);
        if entry & SWAPPED == 0 && entry & (PRESENT | OF_FILE) != PRESENT {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_a_process_changed_and_no_more_is_copied() {
        use std::os::fd::AsRawFd;
        const LENGTH: usize = 3 << 20;
        let (file, into) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        file.set_len(LENGTH as u64).unwrap();
        file.write_all_at(b"before", 0).unwrap();
        into.set_len(LENGTH as u64).unwrap();
        let (access, number) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping, where there is room.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, access, libc::MAP_PRIVATE, number, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: that mapping is ours alone, and as long.
        let memory = unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), LENGTH) };
        assert_eq!(&memory[..6], b"before");
        let changed = [5 * PAGE_SIZE as usize, 6 * PAGE_SIZE as usize + 9, (1 << 20) + 1, LENGTH - 1];
        for at in changed {
            memory[at] = 7;
        }
        let inode = file.metadata().unwrap().ino();
        let copied = copy(std::process::id(), inode, LENGTH as u64, &into).unwrap();
        assert_eq!(copied, 4 * PAGE_SIZE, "the first page was only read");
        let mut found = vec![0; LENGTH];
        into.read_exact_at(&mut found, 0).unwrap();
        let places: Vec<_> = (0..LENGTH).filter(|at| found[*at] != 0).collect();
        assert_eq!(places, changed);
        let other = copy(std::process::id(), inode, LENGTH as u64 + PAGE_SIZE, &into).unwrap_err();
        assert_eq!(other.to_string(), "its memory is not mapped as it was");
        // SAFETY: nobody looks at it any more.
        assert_eq!(unsafe { libc::munmap(at, LENGTH) }, 0);
    }

    #[test]
    fn a_file_in_several_parts_is_whole_once() {
        let maps = "7f0000000000-7f0000003000 rw-p 00000000 fd:00 77   /x (deleted)\n\
                    7f0000003000-7f0000004000 rw-p 00003000 fd:00 77   /x (deleted)\n\
                    7f0000004000-7f0000005000 rw-s 00000000 fd:00 77   /x (deleted)\n\
                    7f0000005000-7f0000006000 rw-p 00000000 00:00 0\n";
        let mut ranges = mapped_ranges(maps, 77);
        assert_eq!(ranges.len(), 2, "not what is shared");
        assert!(is_whole(&ranges, 4 * PAGE_SIZE) && !is_whole(&ranges, 5 * PAGE_SIZE));
        ranges.swap(0, 1);
        assert!(!is_whole(&ranges, 4 * PAGE_SIZE));
        assert!(!is_whole(&[], PAGE_SIZE));
    }

    #[test]
    fn own_pages_are_those_in_memory_or_swapped_that_are_no_files() {
        let entries: Vec<u8> = [0, PRESENT, PRESENT | 5, PRESENT | OF_FILE, SWAPPED | 3, PRESENT]
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .collect();
        assert_eq!(changed_runs(&entries), [1..3, 4..6]);
        assert_eq!(changed_runs(&[]), []);
    }
}
