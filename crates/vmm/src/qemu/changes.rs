//! What a machine changed in its memory since it was started from a file, taken out of the VMM.
//!
//! In a private mapping of a file a page that was only read is the file's own, and one that was written to is the
//! process's. `/proc/PID/pagemap` says which is which. So a save copies what changed and never looks at the rest, which
//! would cost the VMM a fault, and the host a page, for each.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;
/// Bytes of an entry of a pagemap, which says what a page is.
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Of a file, or shared.
const OF_FILE: u64 = 1 << 61;
/// Entries looked at, and pages copied, at once: 1 MiB of memory.
const STEP: usize = 256;

/// A part of a file in a process's memory.
#[derive(Debug, PartialEq, Eq)]
struct MappedRange {
    addresses: Range<u64>,
    offset: u64,
}

/// Writes over `into`, which holds what the file with this inode held when the process mapped it, private and whole, what
/// the process has made of it: `length` bytes. Nothing may run on that memory meanwhile. Blocks. How much it was, bytes.
pub(super) fn copy(pid: u32, inode: u64, length: u64, into: &File) -> io::Result<u64> {
    let parts = parts(&fs::read_to_string(format!("/proc/{pid}/maps"))?, inode);
    if !is_whole(&parts, length) {
        return Err(io::Error::other("its memory is not mapped as it was"));
    }
    let (pagemap, memory) =
        (File::open(format!("/proc/{pid}/pagemap"))?, File::open(format!("/proc/{pid}/mem"))?);
    let (mut entries, mut bytes) = (vec![0; STEP * ENTRY], vec![0; STEP * PAGE as usize]);
    let mut copied = 0;
    for MappedRange { addresses, offset } in parts {
        for begin in addresses.clone().step_by(STEP * PAGE as usize) {
            let pages = ((addresses.end - begin) / PAGE).min(STEP as u64) as usize;
            let entries = &mut entries[..pages * ENTRY];
            pagemap.read_exact_at(entries, begin / PAGE * ENTRY as u64)?;
            for run in runs(entries) {
                let bytes = &mut bytes[..run.len() * PAGE as usize];
                let at = begin + run.start as u64 * PAGE;
                memory.read_exact_at(bytes, at)?;
                into.write_all_at(bytes, offset + (at - addresses.start))?;
                copied += bytes.len() as u64;
            }
        }
    }
    Ok(copied)
}

/// Where the file with this inode is mapped private, in the text of `/proc/PID/maps`.
fn parts(maps: &str, inode: u64) -> Vec<MappedRange> {
    let part = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let (mode, offset, _device, there) = (words.next()?, words.next()?, words.next()?, words.next()?);
        // The device is not compared: some file systems show another one here than to fstat.
        if !mode.ends_with('p') || there.parse() != Ok(inode) {
            return None;
        }
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some(MappedRange { addresses: hex(from)?..hex(to)?, offset: hex(offset)? })
    };
    maps.lines().filter_map(part).collect()
}

/// Whether they are the file from its beginning to its end, each byte once.
fn is_whole(parts: &[MappedRange], length: u64) -> bool {
    let mut next = 0;
    for MappedRange { addresses, offset } in parts {
        if *offset != next || addresses.is_empty() {
            return false;
        }
        next += addresses.end - addresses.start;
    }
    next == length
}

/// The runs of pages that are the process's own.
fn runs(entries: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, entry) in entries.as_chunks::<ENTRY>().0.iter().enumerate() {
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
        let changed = [5 * PAGE as usize, 6 * PAGE as usize + 9, (1 << 20) + 1, LENGTH - 1];
        for at in changed {
            memory[at] = 7;
        }
        let inode = file.metadata().unwrap().ino();
        let copied = copy(std::process::id(), inode, LENGTH as u64, &into).unwrap();
        assert_eq!(copied, 4 * PAGE, "the first page was only read");
        let mut found = vec![0; LENGTH];
        into.read_exact_at(&mut found, 0).unwrap();
        let places: Vec<_> = (0..LENGTH).filter(|at| found[*at] != 0).collect();
        assert_eq!(places, changed);
        let other = copy(std::process::id(), inode, LENGTH as u64 + PAGE, &into).unwrap_err();
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
        let mut parts = parts(maps, 77);
        assert_eq!(parts.len(), 2, "not what is shared");
        assert!(is_whole(&parts, 4 * PAGE) && !is_whole(&parts, 5 * PAGE));
        parts.swap(0, 1);
        assert!(!is_whole(&parts, 4 * PAGE));
        assert!(!is_whole(&[], PAGE));
    }

    #[test]
    fn own_pages_are_those_in_memory_or_swapped_that_are_no_files() {
        let entries: Vec<u8> = [0, PRESENT, PRESENT | 5, PRESENT | OF_FILE, SWAPPED | 3, PRESENT]
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .collect();
        assert_eq!(runs(&entries), [1..3, 4..6]);
        assert_eq!(runs(&[]), []);
    }
}
