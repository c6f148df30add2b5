//! Undo journal of several changes made as one: the former file at each path, so that all can be put back.
//!
//! The journal is on the disk before the first change is made, and removing it makes the changes last: ext4 keeps the
//! order of renames and removals over a crash, so that where the journal is gone all changes are there. Whoever finds a
//! journal restores its records, as often as that takes.
//!
//! ```text
//!   "pyroUNDO" version | records | end mark, number of records, sum
//!   record: kind, permissions, owner, group, inode, birth, length of the path, path
//! ```
//!
//! No former file is removed before the end: it is moved into the stage, where it is known again by its inode and the
//! time at which that was made.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use pyro_proto::message::{Failure, FileKind, MAX_PATH};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Statx, Uid, chownat, mkdirat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::area::{WorkspaceArea, join, split};
use super::scan::add_to_sum;
use super::single::io_failure;
use super::{file_failure, walk};

/// Name of the journal in a stage.
const FILE: &str = "journal";
const MAGIC: &[u8; 12] = b"pyroUNDO\x01\0\0\0";
const END: u8 = 0xff;
/// Links through links that were changed: as many as Linux follows.
const ROUNDS: u32 = 40;
const FIXED: usize = 1 + 3 * 4 + 2 * 8 + 4;

/// Inode number and birth time, which tell an inode from every other that ever was.
type InodeIdentity = (u64, i64);

fn identity(stat: &Statx) -> InodeIdentity {
    let born = stat.stx_btime;
    (stat.stx_ino, born.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(i64::from(born.tv_nsec)))
}

/// Kind of the file that stood at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum RecordKind {
    /// No file.
    Nothing,
    /// No file, and a directory is to be made there: files that others put into it are not ours.
    Unmade,
    /// A directory, which stays or is removed when it is empty.
    Directory,
    /// Any other file.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct UndoRecord {
    what: RecordKind,
    mode: u32,
    uid: u32,
    gid: u32,
    identity: InodeIdentity,
    path: Vec<u8>,
}

/// A journal that is being written.
pub(super) struct Journal {
    to: BufWriter<File>,
    count: u64,
    sum: u64,
}

impl Journal {
    /// Makes an empty journal in the stage `dir`.
    pub(super) fn new(dir: BorrowedFd<'_>) -> Result<Self, Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(dir, FILE, flags, Mode::from_raw_mode(0o600))
            .map_err(file_failure("stage", b"the stage"))?;
        let mut to = BufWriter::with_capacity(64 * 1024, File::from(file));
        to.write_all(MAGIC).map_err(io_failure("stage", b"the stage"))?;
        Ok(Self { to, count: 0, sum: 0 })
    }

    /// Records that the file at `path`, which is `there` now, may change.
    pub(super) fn note(&mut self, path: &[u8], there: Option<&Statx>) -> Result<(), Failure> {
        let what = match there.map(walk::kind) {
            None => RecordKind::Nothing,
            Some(FileKind::Directory) => RecordKind::Directory,
            Some(_) => RecordKind::Other,
        };
        self.record(what, path, there)
    }

    /// Records that a directory is made at `path` if there is none.
    pub(super) fn note_directory(&mut self, path: &[u8], there: Option<&Statx>) -> Result<(), Failure> {
        match there {
            None => self.record(RecordKind::Unmade, path, None),
            there => self.note(path, there),
        }
    }

    fn record(&mut self, what: RecordKind, path: &[u8], there: Option<&Statx>) -> Result<(), Failure> {
        let mut record = Vec::with_capacity(FIXED + path.len());
        record.push(what as u8);
        let (mode, uid, gid) = there.map_or((0, 0, 0), |stat| (walk::mode(stat), stat.stx_uid, stat.stx_gid));
        let (inode, born) = there.map_or((0, 0), identity);
        for word in [mode, uid, gid] {
            record.extend(word.to_le_bytes());
        }
        record.extend(inode.to_le_bytes());
        record.extend(born.to_le_bytes());
        record.extend((path.len() as u32).to_le_bytes());
        record.extend(path);
        self.count += 1;
        self.sum = add_to_sum(self.sum, &record);
        self.to.write_all(&record).map_err(io_failure("stage", b"the stage"))
    }

    /// Ends the journal, which counts once it is on the disk.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let mut end = vec![END];
        end.extend(self.count.to_le_bytes());
        end.extend(self.sum.to_le_bytes());
        self.to.write_all(&end).and_then(|()| self.to.flush()).map_err(io_failure("stage", b"the stage"))
    }
}

/// Removes the journal of the stage `dir`: the changes last.
pub(super) fn remove(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    unlinkat(dir, FILE, AtFlags::empty())
}

/// Reads all records; an error where the journal is not whole, and so no change was made.
fn read(mut from: impl Read) -> io::Result<Vec<UndoRecord>> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    if magic != *MAGIC {
        return Err(broken());
    }
    let (mut all, mut sum) = (Vec::new(), 0);
    loop {
        let mut what = [0];
        from.read_exact(&mut what)?;
        let what = match what[0] {
            0 => RecordKind::Nothing,
            1 => RecordKind::Unmade,
            2 => RecordKind::Directory,
            3 => RecordKind::Other,
            END => break,
            _ => return Err(broken()),
        };
        let mut record = vec![0; FIXED];
        record[0] = what as u8;
        from.read_exact(&mut record[1..])?;
        let four = |at: usize| record[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
        let eight = |at: usize| record[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
        let (mode, uid, gid, length) = (four(1), four(5), four(9), four(29) as usize);
        let identity = (eight(13), eight(21) as i64);
        if length > 2 * MAX_PATH {
            return Err(broken());
        }
        record.resize(FIXED + length, 0);
        from.read_exact(&mut record[FIXED..])?;
        sum = add_to_sum(sum, &record);
        all.push(UndoRecord { what, mode, uid, gid, identity, path: record.split_off(FIXED) });
    }
    let mut end = [0; 16];
    from.read_exact(&mut end)?;
    let wanted = [(all.len() as u64).to_le_bytes(), sum.to_le_bytes()].concat();
    if end[..] == wanted[..] { Ok(all) } else { Err(broken()) }
}

/// Restores all records of the journal of the stage `dir`, if there is a whole one. An error names the first path that
/// cannot be restored; all others are.
pub(super) fn restore(area: &WorkspaceArea, dir: BorrowedFd<'_>) -> Result<(), (Vec<u8>, Errno)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(dir, FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|errno| (FILE.into(), errno))?,
    };
    let Ok(records) = read(BufReader::new(File::from(file))) else { return Ok(()) };
    // A path through a link that is gone is only reached once the link is back: again, while there is progress.
    for round in 0.. {
        let (mut changed, mut first) = (false, None);
        let mut done = |was: &UndoRecord, done: Result<bool, Errno>| match done {
            Ok(did) => changed |= did,
            Err(errno) => drop(first.get_or_insert((was.path.clone(), errno))),
        };
        for (number, was) in records.iter().enumerate().rev() {
            done(was, clear(area, dir, was, &format!("not-{round}-{number}")));
        }
        let mut kept = HashMap::new();
        collect(dir, &[], &mut kept, 0).map_err(|errno| (FILE.into(), errno))?;
        for was in &records {
            done(was, put_back(area, dir, was, &mut kept));
        }
        if !changed || round == ROUNDS {
            return first.map_or(Ok(()), Err);
        }
    }
    Ok(())
}

/// Moves a file that did not stand at its path before into the stage, as `aside`; says whether there was one.
fn clear(area: &WorkspaceArea, dir: BorrowedFd<'_>, was: &UndoRecord, aside: &str) -> Result<bool, Errno> {
    let found = area.parent(&was.path).and_then(|(parent, last)| {
        let stat = walk::look(parent.as_fd(), last)?;
        Ok((parent, last, stat))
    });
    let (parent, last, stat) = match found {
        // The directory above is not ours either, or is gone.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => return Ok(false),
        other => other?,
    };
    let is_directory = walk::kind(&stat) == FileKind::Directory;
    match was.what {
        RecordKind::Directory if is_directory => return Ok(false),
        RecordKind::Other if identity(&stat) == was.identity => return Ok(false),
        RecordKind::Unmade if is_directory => {
            return match unlinkat(&parent, last, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::NOENT) => Ok(false),
                done => done.map(|()| true),
            };
        }
        _ => {}
    }
    renameat_with(&parent, last, dir, aside, RenameFlags::NOREPLACE).map(|()| true)
}

/// Files in the stage by their identity: a file with several names is there as often.
type StagedFiles = HashMap<InodeIdentity, Vec<Vec<u8>>>;

fn collect(dir: BorrowedFd<'_>, path: &[u8], kept: &mut StagedFiles, depth: usize) -> Result<(), Errno> {
    for node in walk::children(dir)? {
        let inner = join(path, node.name.as_bytes());
        if walk::kind(&node.stat) == FileKind::Directory {
            // As deep as a tree that is put in place.
            if depth < walk::MAX_DEPTH {
                collect(walk::enter(dir, &node.name)?.as_fd(), &inner, kept, depth + 1)?;
            }
        } else {
            kept.entry(identity(&node.stat)).or_default().push(inner);
        }
    }
    Ok(())
}

/// Puts the former file of a path back; says whether that was necessary.
fn put_back(
    area: &WorkspaceArea,
    dir: BorrowedFd<'_>,
    was: &UndoRecord,
    kept: &mut StagedFiles,
) -> Result<bool, Errno> {
    if matches!(was.what, RecordKind::Nothing | RecordKind::Unmade) {
        return Ok(false);
    }
    let (parent, last) = area.parent(&was.path)?;
    let there = match walk::look(parent.as_fd(), last) {
        Err(Errno::NOENT) => None,
        other => Some(other?),
    };
    let mode = Mode::from_raw_mode(was.mode);
    let set = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::fchmod(openat(&parent, last, flags, Mode::empty())?, mode)
    };
    match (was.what, there) {
        (RecordKind::Directory, None) => {
            mkdirat(&parent, last, Mode::RWXU)?;
            let (uid, gid) = (Uid::from_raw(was.uid), Gid::from_raw(was.gid));
            chownat(&parent, last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            set().map(|()| true)
        }
        (RecordKind::Other, Some(stat)) if identity(&stat) != was.identity => Err(Errno::EXIST),
        (_, Some(stat)) => match walk::kind(&stat) {
            FileKind::File | FileKind::Directory if walk::mode(&stat) != was.mode => set().map(|()| true),
            _ => Ok(false),
        },
        (_, None) => {
            let name = kept.get_mut(&was.identity).and_then(Vec::pop).ok_or(Errno::NOENT)?;
            renameat_with(dir, name, &parent, last, RenameFlags::NOREPLACE).map(|()| true)
        }
    }
}

/// Describes the file at `path`, a link not followed; `None` also where the path cannot be reached.
pub(super) fn standing(area: &WorkspaceArea, path: &[u8]) -> Option<Statx> {
    let (parent, last) = area.parent(path).ok()?;
    walk::look(parent.as_fd(), last).ok()
}

/// Notes the directories above `path` that are not there and are made for it, the outermost first.
pub(super) fn note_above(journal: &mut Journal, area: &WorkspaceArea, path: &[u8]) -> Result<(), Failure> {
    let Some((above, _)) = split(path).filter(|(above, _)| !above.is_empty()) else { return Ok(()) };
    note_above(journal, area, above)?;
    journal.note_directory(above, standing(area, above).as_ref())
}
