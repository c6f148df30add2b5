//! Last output of a shell or a service, in files beside the workspace, found by how many bytes came before.
//!
//! ```text
//!   DIR/NAME.<number of its first byte, 16 hexadecimal digits>
//! ```
//!
//! A piece is appended to until it is full, then the next begins and the oldest goes. Its keeper writes; anybody reads
//! meanwhile, and afterwards. What could not be written is missing between two pieces and told as lost.

use std::fs::{DirBuilder, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// How often a reader looks again when pieces go while it reads.
const TRIES: usize = 8;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct SpoolSize {
    /// Bytes of a piece.
    pub piece: u64,
    /// How many pieces; all but one are full.
    pub pieces: usize,
}

impl SpoolSize {
    /// At least the last MiB: a shell's.
    pub const SHELL: Self = Self { piece: 256 << 10, pieces: 5 };
    /// At least the last 16 MiB: each stream of a service.
    pub const SERVICE: Self = Self { piece: 1 << 20, pieces: 17 };
}

/// The writing end.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    name: &'static str,
    room: SpoolSize,
    piece: Option<(File, u64)>,
    /// Bytes that came so far, those that are lost included.
    written: u64,
}

impl Spool {
    /// An empty one; what an earlier one of this name left is removed.
    pub fn create(dir: &Path, name: &'static str, room: SpoolSize) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for (_, path) in pieces(dir, name)? {
            fs::remove_file(path)?;
        }
        Ok(Self { dir: dir.to_owned(), name, room, piece: None, written: 0 })
    }

    /// So many bytes were lost before they came here.
    pub fn skip(&mut self, bytes: u64) {
        self.piece = None;
        self.written += bytes;
    }

    /// Takes the next bytes. After an error they count as lost.
    pub fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.append(bytes);
            let n = *taken.as_ref().unwrap_or(&bytes.len());
            self.written += n as u64;
            if let Err(error) = taken {
                self.piece = None;
                return Err(error);
            }
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.as_ref().is_none_or(|(_, start)| self.written - start >= self.room.piece) {
            let path = self.dir.join(format!("{}.{:016x}", self.name, self.written));
            let file = File::options().append(true).create(true).mode(0o600).open(path)?;
            self.piece = Some((file, self.written));
            let there = pieces(&self.dir, self.name)?;
            for (_, path) in &there[..there.len().saturating_sub(self.room.pieces)] {
                fs::remove_file(path)?;
            }
        }
        let Some((file, start)) = &mut self.piece else { return Ok(0) };
        let n = bytes.len().min((*start + self.room.piece - self.written) as usize);
        file.write_all(&bytes[..n])?;
        Ok(n)
    }
}

/// Bytes read from a spool, and their place in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolRead {
    /// The number of the first byte: later than what was asked for where that is gone.
    pub from: u64,
    /// Bytes, without a gap.
    pub bytes: Vec<u8>,
    /// How many had been written by then.
    pub written: u64,
}

/// Reads at most `most` bytes from byte `cursor` on. What has no file was silent.
pub fn read(dir: &Path, name: &str, cursor: u64, most: usize) -> io::Result<SpoolRead> {
    let mut tries = 0;
    loop {
        match try_read(dir, name, cursor, most) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            read => return read,
        }
    }
}

fn try_read(dir: &Path, name: &str, cursor: u64, most: usize) -> io::Result<SpoolRead> {
    let mut kept: Option<SpoolRead> = None;
    let mut written = 0;
    for (start, path) in pieces(dir, name)? {
        let mut file = File::open(path)?;
        let end = start + file.metadata()?.len();
        written = end;
        if end <= cursor {
            continue;
        }
        let into = kept.get_or_insert_with(|| SpoolRead { from: cursor.max(start), ..SpoolRead::default() });
        let at = into.from + into.bytes.len() as u64;
        // A gap ends it, unless nothing came yet; the rest is for the next reader.
        if at >= start && into.bytes.len() < most {
            file.seek(SeekFrom::Start(at - start))?;
            let left = (most - into.bytes.len()) as u64;
            file.take(left.min(end - at)).read_to_end(&mut into.bytes)?;
        }
    }
    let mut kept = kept.unwrap_or(SpoolRead { from: cursor.min(written), ..SpoolRead::default() });
    kept.written = written;
    Ok(kept)
}

/// The pieces that there are, in order.
fn pieces(dir: &Path, name: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let start = entry.file_name().to_str().and_then(|file| {
            let digits = file.strip_prefix(name)?.strip_prefix('.')?;
            u64::from_str_radix(digits, 16).ok()
        });
        found.extend(start.map(|start| (start, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// Removes all of it.
pub fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: SpoolSize = SpoolSize { piece: 7, pieces: 3 };

    #[test]
    fn what_is_gone_is_told_and_the_rest_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path(), "out", SMALL).unwrap();
        let all: Vec<u8> = (0..100).collect();
        spool.push(&all).unwrap();
        let kept = read(dir.path(), "out", 0, 1000).unwrap();
        assert_eq!((kept.from, kept.written), (84, 100));
        assert_eq!(kept.bytes, all[84..]);
        assert_eq!(read(dir.path(), "out", 90, 3).unwrap().bytes, [90, 91, 92]);
        for late in [100, 1000] {
            assert_eq!(
                read(dir.path(), "out", late, 9).unwrap(),
                SpoolRead { from: 100, bytes: vec![], written: 100 }
            );
        }
        let again = Spool::create(dir.path(), "out", SMALL).unwrap();
        assert_eq!(again.written, 0);
        assert_eq!(read(dir.path(), "out", 0, 9).unwrap(), SpoolRead::default());
    }

    #[test]
    fn a_gap_is_told_when_it_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path(), "out", SpoolSize::SHELL).unwrap();
        spool.push(b"before").unwrap();
        spool.skip(10);
        spool.push(b"after").unwrap();
        let first = read(dir.path(), "out", 0, 100).unwrap();
        assert_eq!((first.from, &first.bytes[..], first.written), (0, &b"before"[..], 21));
        let second = read(dir.path(), "out", 6, 100).unwrap();
        assert_eq!((second.from, &second.bytes[..]), (16, &b"after"[..]));
    }

    #[test]
    fn a_name_that_begins_like_another_is_another() {
        let dir = tempfile::tempdir().unwrap();
        Spool::create(dir.path(), "stdout", SMALL).unwrap().push(b"x").unwrap();
        Spool::create(dir.path(), "std", SMALL).unwrap();
        assert_eq!(read(dir.path(), "stdout", 0, 9).unwrap().bytes, b"x");
        assert_eq!(read(dir.path(), "std", 0, 9).unwrap().bytes, b"");
    }

    proptest! {
        /// Whoever reads at any pace, from any cursor, gets each kept byte once, in order.
        #[test]
        fn a_cursor_neither_loses_nor_repeats(sizes in prop::collection::vec(0_usize..20, 0..30), most in 1_usize..12) {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = Spool::create(dir.path(), "out", SMALL).unwrap();
            let (mut all, mut cursor) = (Vec::<u8>::new(), 0);
            for size in sizes {
                let bytes: Vec<u8> = (0..size).map(|at| (all.len() + at) as u8).collect();
                all.extend(&bytes);
                spool.push(&bytes).unwrap();
                let kept = read(dir.path(), "out", cursor, most).unwrap();
                prop_assert!(kept.from >= cursor && (kept.from == cursor || kept.written - kept.from >= 14));
                let from = kept.from as usize;
                prop_assert_eq!(&kept.bytes[..], &all[from..from + kept.bytes.len()]);
                prop_assert!(kept.bytes.len() == most.min(all.len() - from));
                prop_assert_eq!(kept.written, all.len() as u64);
                cursor = kept.from + kept.bytes.len() as u64;
            }
        }
    }
}
