//! Copying a sparse file without filling its holes.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::Sender;

use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

/// Bytes copied at once where the kernel cannot copy by itself.
const CHUNK: u64 = 1 << 20;
/// Bytes that are handed to storage at once.
const STRIDE: u64 = 4 << 20;

/// Makes the empty file `to` a copy of `from` with the same holes: a reflink where the file system has them, else its
/// data extents. Returns the bytes that were copied, 0 for a reflink. Both offsets end at 0.
///
/// # Errors
/// Whatever reading, writing or a full disk gives; `to` is then unusable.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<u64> {
    copy(from, to, |_, _| Ok(()))
}

/// Copies as [`copy_sparse`] does, for a caller that may give up: `go_on` is asked every few MiB, and its error ends the
/// copy. A reflink is made at once.
///
/// # Errors
/// As [`copy_sparse`], and those of `go_on`.
pub fn copy_sparse_asking(
    from: &File,
    to: &File,
    mut go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<u64> {
    copy(from, to, |_, _| go_on())
}

/// Copies as [`copy_sparse`] does, for a caller that brings `to` to storage next: storage gets its work while there
/// is more to copy, and is waited for at the end alone, where errors of writing are reported, too.
///
/// # Errors
/// As [`copy_sparse`].
pub fn copy_sparse_ahead(from: &File, to: &File) -> io::Result<u64> {
    let mut ahead = None;
    copy(from, to, |start, end| {
        // Without a thread for it the sync at the end has more to do.
        let ahead = ahead.get_or_insert_with(|| begin_writing(to).ok());
        let _ = ahead.as_ref().map(|ahead| ahead.send((start, end)));
        Ok(())
    })
}

/// The next stretch of data of a sparse file at or after `from`; `None` when only holes follow. Moves the offset.
///
/// # Errors
/// When the file cannot be sought in.
pub fn next_data(file: &File, from: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

/// Begins to write out the stretches of `file` that it is told, beside the copy, for which a guest may stand still: where
/// storage has as much as it takes, this waits.
fn begin_writing(file: &File) -> io::Result<Sender<(u64, u64)>> {
    let file = file.try_clone()?;
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("write-ahead".into()).spawn(move || {
        for (start, end) in told {
            // Of pages that are dirty this begins the writing, and takes up no error that a sync is to see.
            let _ = rustix::fs::fadvise(&file, start, NonZeroU64::new(end - start), Advice::DontNeed);
        }
    })?;
    Ok(tell)
}

/// Copies, and tells of each stretch that was; an error of `done` ends it.
fn copy(from: &File, to: &File, mut done: impl FnMut(u64, u64) -> io::Result<()>) -> io::Result<u64> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(0);
    }
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let (mut copied, mut at, mut told, mut in_kernel) = (0, 0, 0, true);
    while let Some((start, end)) = next_data(from, at, size)? {
        at = start;
        while at < end {
            let stop = end.min(at + STRIDE);
            copy_range(from, to, at, stop, &mut in_kernel)?;
            copied += stop - at;
            at = stop;
            // Small ones together.
            if at - told >= STRIDE {
                done(told, at)?;
                told = at;
            }
        }
    }
    rustix::fs::seek(from, rustix::fs::SeekFrom::Start(0))?;
    Ok(copied)
}

/// Makes holes of the stretches of `file` that are zeros, as a VMM writes them that saves all of a guest's memory. Returns
/// the bytes given back. A file system without holes gives none.
///
/// # Errors
/// When the file cannot be read. What could not be made a hole stays as it is, which is the same to read.
pub fn dig_holes(file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK as usize];
    let (mut dug, mut at) = (0, 0);
    while let Some((start, end)) = next_data(file, at, size)? {
        // Chunks of the same places every time, so that a stretch of zeros is not missed for where it begins.
        let mut from = start;
        while from < end {
            let to = end.min((from / CHUNK + 1) * CHUNK);
            let chunk = &mut buffer[..(to - from) as usize];
            file.read_exact_at(chunk, from)?;
            for (length, offset) in zero_runs(chunk) {
                let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                if rustix::fs::fallocate(file, flags, from + offset, length).is_ok() {
                    dug += length;
                }
            }
            from = to;
        }
        at = end;
    }
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    Ok(dug)
}

/// Stretches of whole pages of zeros in `chunk`: length and offset, bytes.
fn zero_runs(chunk: &[u8]) -> Vec<(u64, u64)> {
    const PAGE: usize = 4096;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (index, page) in chunk.chunks_exact(PAGE).enumerate() {
        let offset = (index * PAGE) as u64;
        match runs.last_mut() {
            _ if page.iter().any(|byte| *byte != 0) => {}
            Some((length, begin)) if *begin + *length == offset => *length += PAGE as u64,
            _ => runs.push((PAGE as u64, offset)),
        }
    }
    runs
}

fn copy_range(from: &File, to: &File, start: u64, end: u64, in_kernel: &mut bool) -> io::Result<()> {
    let mut at = start;
    while *in_kernel && at < end {
        let (mut source, mut target) = (at, at);
        let want = usize::try_from(end - at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            // Across file systems, or on one that cannot: by hand then.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                *in_kernel = false
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut buffer = vec![0; (end - at).min(CHUNK) as usize];
    while at < end {
        let want = (end - at).min(CHUNK) as usize;
        from.read_exact_at(&mut buffer[..want], at)?;
        to.write_all_at(&buffer[..want], at)?;
        at += want as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_large_hole_costs_nothing() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(16 << 30).unwrap();
        from.write_all_at(b"here", 8 << 30).unwrap();
        assert!(copy_sparse(&from, &to).unwrap() <= 1 << 20);
        assert_eq!(to.metadata().unwrap().len(), 16 << 30);
        assert!(to.metadata().unwrap().blocks() <= 2048);
        let mut back = [0; 4];
        to.read_exact_at(&mut back, 8 << 30).unwrap();
        assert_eq!(&back, b"here");
    }

    #[test]
    fn zeros_become_holes_and_nothing_else_changes() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 5 << 20];
        bytes[0] = 1;
        bytes[(2 << 20) + 100] = 2;
        bytes[(4 << 20) + 4095] = 3;
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        assert_eq!(dig_holes(&file).unwrap(), (5 << 20) - 3 * 4096);
        assert!(file.metadata().unwrap().blocks() * 4 < before, "{before}");
        let mut back = vec![9; bytes.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back == bytes);
        assert_eq!(dig_holes(&file).unwrap(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_copy_is_equal(
            pieces in proptest::collection::vec((0_u64..1_000_000, 1_usize..70_000), 0..6),
            tail in 0_u64..50_000,
            across in proptest::bool::ANY,
        ) {
            // /dev/shm is another file system than that of temporary files, so that copying by hand is tried too.
            let (from, to) = (tempfile::tempfile().unwrap(), if across {
                tempfile::tempfile_in("/dev/shm").unwrap()
            } else {
                tempfile::tempfile().unwrap()
            });
            for (at, len) in &pieces {
                from.write_all_at(&vec![b'x'; *len], *at).unwrap();
            }
            let size = from.metadata().unwrap().len() + tail;
            from.set_len(size).unwrap();
            copy_sparse(&from, &to).unwrap();
            let read = |file: &File| {
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            prop_assert_eq!(to.metadata().unwrap().len(), size);
            prop_assert!(read(&from) == read(&to));
        }
    }
}
