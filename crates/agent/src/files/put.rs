//! A tree from a tar archive: unpacked beside the workspace, and put in place when all of it is there.
//!
//! The host has checked the archive; it is checked again. Refused are absolute paths and `..`, links that lead out of
//! the workspace, hard links to files that the archive does not have, devices, pipes, and more than was announced.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use pyro_proto::message::{Failure, FailureKind, FileKind, Reply, TreePut, TreeTotals};
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Statx, Timespec, Timestamps, UTIME_OMIT, futimens, linkat, mkdirat,
    openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::area::{WorkspaceArea, beneath, join, relative, split};
use super::journal::{self, Journal};
use super::single::{PIECE, fill, io_failure};
use super::stage::Stage;
use super::walk::DirectoryNode;
use super::{file_failure, walk};
use crate::failure::refusal;
use crate::helper::{HelperChannel, HelperStop, InputReader};

/// Directory of the stage in which the archive is unpacked.
const TREE: &[u8] = b"tree";
/// Names in a path; as deep as trees are walked.
const MAX_NAMES: usize = 500;

fn bad(path: &[u8], why: &str) -> Failure {
    refusal(FailureKind::BadArchive, "archive", format!("{}: {why}", String::from_utf8_lossy(path)))
}

pub(super) fn unpack(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    put: &TreePut,
) -> Result<Reply, HelperStop> {
    let dest = relative(&put.dest.0)?;
    let mut stage = Stage::new(area)?;
    mkdirat(stage.dir(), TREE, Mode::from_raw_mode(0o755)).map_err(file_failure("stage", b"the stage"))?;
    let tree = walk::enter(stage.dir(), TREE).map_err(file_failure("stage", b"the stage"))?;
    let amount = Rc::new(Cell::new(TreeTotals::default()));
    let mut reader = InputReader::new(channel, Rc::clone(&amount));
    let unpacked = TreeUnpacking {
        tree: tree.as_fd(),
        put,
        dest_depth: if dest.is_empty() { 0 } else { dest.split(|byte| *byte == b'/').count() as i64 },
        amount,
        open: None,
        buffer: vec![0; PIECE],
        directories: Vec::new(),
    }
    .run(&mut reader);
    // The reader knows better why it could not be read than the archive does.
    if let Some(stop) = reader.stop.take() {
        return Err(stop);
    }
    let amount = unpacked?;
    if let Err(failure) = place(&mut stage, area, &tree, &dest) {
        return Err(stage.undo(failure).into());
    }
    Ok(Reply::Put(amount))
}

/// An archive on its way into `tree`.
struct TreeUnpacking<'a> {
    tree: BorrowedFd<'a>,
    put: &'a TreePut,
    /// Number of directories between the workspace and the unpacked tree.
    dest_depth: i64,
    amount: Rc<Cell<TreeTotals>>,
    /// The directory that was used last: files of one directory come together.
    open: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Buffer for a piece of content; kept, because most files are small and many.
    buffer: Vec<u8>,
    /// Permissions and times of directories, set last because unpacking into a directory changes them.
    directories: Vec<(Vec<u8>, u32, Timespec)>,
}

impl TreeUnpacking<'_> {
    fn run(mut self, reader: &mut InputReader<'_>) -> Result<TreeTotals, Failure> {
        let broken =
            |error: io::Error| refusal(FailureKind::BadArchive, "archive", format!("it is broken: {error}"));
        let mut archive = tar::Archive::new(&mut *reader);
        for entry in archive.entries().map_err(broken)? {
            self.entry(entry.map_err(broken)?, &broken)?;
        }
        // To the very end: a call that is cut off before it must change nothing.
        let mut rest = archive.into_inner();
        let mut buffer = vec![0; PIECE];
        while fill(&mut rest, &mut buffer).map_err(broken)? == buffer.len() {}
        for (path, mode, mtime) in self.directories.iter().rev() {
            let fail = || file_failure("unpack", path);
            let dir = beneath(self.tree, path, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
                .map_err(fail())?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(*mode)).map_err(fail())?;
            futimens(&dir, &times(*mtime)).map_err(fail())?;
        }
        Ok(self.amount.get())
    }

    fn entry<R: Read>(
        &mut self,
        mut entry: tar::Entry<'_, R>,
        broken: &impl Fn(io::Error) -> Failure,
    ) -> Result<(), Failure> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let path = inside(&raw)?;
        let mode = entry.header().mode().map_err(broken)? & 0o7777;
        let mtime = mtime(&mut entry).map_err(broken)?;
        let mut amount = self.amount.get();
        amount.entries += 1;
        amount.bytes = amount.bytes.saturating_add(entry.size());
        if amount.entries > self.put.max_entries || amount.bytes > self.put.max_bytes {
            let why = format!(
                "more than {} entries or {} bytes in the archive",
                self.put.max_entries, self.put.max_bytes
            );
            return Err(refusal(FailureKind::TooLarge, "archive", why));
        }
        self.amount.set(amount);
        let fail = || file_failure("unpack", &path);
        let Some((above, name)) = split(&path) else {
            // The tree's own root: the destination keeps its permissions.
            return if kind.is_dir() { Ok(()) } else { Err(bad(&raw, "has no name")) };
        };
        let parent = self.enter(above)?;
        match kind {
            EntryType::Directory => {
                match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) => {
                        drop(walk::enter(parent.as_fd(), name).map_err(|_| bad(&raw, "is twice in it"))?)
                    }
                    done => done.map_err(fail())?,
                }
                self.directories.push((path, mode, mtime));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let file = create(parent.as_fd(), name, mode, &raw)?;
                let size = entry.size();
                if copy(&mut entry, &file, &mut self.buffer, &path, broken)? != size {
                    return Err(bad(&raw, "the archive ends inside of it"));
                }
                futimens(&file, &times(mtime)).map_err(fail())?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.stays_inside(&raw, above, &target)?;
                clear(parent.as_fd(), name, &raw)?;
                symlinkat(&target[..], &parent, name).map_err(fail())?;
                utimensat(&parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(fail())?;
            }
            EntryType::Link => {
                let target = inside(&entry.link_name_bytes().unwrap_or_default())?;
                let nowhere = || bad(&raw, "is a hard link to what is no earlier file of the archive");
                let (other, old) = split(&target).ok_or_else(nowhere)?;
                let other =
                    beneath(self.tree, other, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
                        .map_err(|_| nowhere())?;
                let stat = walk::look(other.as_fd(), old).map_err(|_| nowhere())?;
                if walk::kind(&stat) != FileKind::File {
                    return Err(nowhere());
                }
                if target != path {
                    clear(parent.as_fd(), name, &raw)?;
                    linkat(&other, old, &parent, name, AtFlags::empty()).map_err(fail())?;
                }
            }
            _ => return Err(bad(&raw, "is neither file, directory nor link")),
        }
        Ok(())
    }

    /// The directory `path` of the tree, made if the archive did not; no link is followed on the way.
    fn enter(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Failure> {
        let fail = || file_failure("unpack", path);
        if let Some((last, dir)) = &self.open
            && last == path
        {
            return Ok(Rc::clone(dir));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = match beneath(self.tree, path, flags, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOENT) => {
                let (above, name) = split(path).ok_or_else(|| bad(path, "has no name"))?;
                let parent = self.enter(above)?;
                mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(fail())?;
                walk::enter(parent.as_fd(), name).map_err(fail())?
            }
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                return Err(bad(path, "is used as a directory and is none"));
            }
            other => other.map_err(fail())?,
        };
        let dir = Rc::new(dir);
        self.open = Some((path.to_vec(), Rc::clone(&dir)));
        Ok(dir)
    }

    /// Refuses a link in the directory `above` that leads out of the workspace, however the directories on its way may
    /// be links themselves.
    fn stays_inside(&self, path: &[u8], above: &[u8], target: &[u8]) -> Result<(), Failure> {
        let out = || bad(path, "is a link that leads out of the workspace");
        if target.is_empty() || target.contains(&0) {
            return Err(bad(path, "is a link to nowhere"));
        }
        let mut depth = self.dest_depth
            + above.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count() as i64;
        let below = match target.strip_prefix(b"/workspace") {
            Some(below) if below.is_empty() || below.starts_with(b"/") => {
                depth = 0;
                below
            }
            _ if target.starts_with(b"/") => return Err(out()),
            _ => target,
        };
        for name in below.split(|byte| *byte == b'/') {
            depth += match name {
                b"" | b"." => 0,
                b".." => -1,
                _ => 1,
            };
            if depth < 0 {
                return Err(out());
            }
        }
        Ok(())
    }
}

/// The path of an entry below the tree's root.
fn inside(raw: &[u8]) -> Result<Vec<u8>, Failure> {
    if raw.starts_with(b"/") {
        return Err(bad(raw, "is an absolute path"));
    }
    let path =
        relative(raw).map_err(|failure| refusal(FailureKind::BadArchive, "archive", failure.message))?;
    if path.split(|byte| *byte == b'/').count() > MAX_NAMES {
        return Err(bad(&raw[..80.min(raw.len())], "is too deep"));
    }
    Ok(path)
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: mtime }
}

/// The time of an entry's content: with fractions of a second where the archive has them.
fn mtime<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Timespec> {
    let whole = entry.header().mtime()?;
    let mut exact = None;
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if extension.key_bytes() == b"mtime" {
                exact = extension.value().ok().and_then(decimal);
            }
        }
    }
    Ok(exact.unwrap_or(Timespec { tv_sec: i64::try_from(whole).unwrap_or(0), tv_nsec: 0 }))
}

/// Seconds with an optional fraction; negative ones have a fraction that counts away from zero.
fn decimal(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().any(|byte| !byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits = format!("{fraction:0<9}");
    let nanoseconds: i64 = digits.get(..9)?.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some(Timespec { tv_sec: seconds.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanoseconds });
    }
    Some(Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
}

/// Makes way for an entry that comes a second time.
fn clear(parent: BorrowedFd<'_>, name: &[u8], raw: &[u8]) -> Result<(), Failure> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(_) => Err(bad(raw, "is twice in it")),
    }
}

/// A new file with these permissions: a helper has no mask that would take some away.
fn create(parent: BorrowedFd<'_>, name: &[u8], mode: u32, raw: &[u8]) -> Result<File, Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = || openat(parent, name, flags, Mode::from_raw_mode(mode));
    let made = match make() {
        Err(Errno::EXIST) => {
            clear(parent, name, raw)?;
            make()
        }
        other => other,
    };
    made.map(File::from).map_err(file_failure("unpack", raw))
}

/// Writes an entry's content; pieces that are all zero become holes.
fn copy(
    from: &mut impl Read,
    mut to: &File,
    buffer: &mut [u8],
    path: &[u8],
    broken: &impl Fn(io::Error) -> Failure,
) -> Result<u64, Failure> {
    let (mut size, mut hole) = (0_u64, false);
    loop {
        let n = fill(&mut *from, buffer).map_err(broken)?;
        if n == 0 {
            break;
        }
        size += n as u64;
        hole = n == PIECE && is_zero(buffer);
        let done =
            if hole { to.seek(SeekFrom::Current(n as i64)).map(drop) } else { to.write_all(&buffer[..n]) };
        done.map_err(io_failure("unpack", path))?;
    }
    if hole {
        to.set_len(size).map_err(io_failure("unpack", path))?;
    }
    Ok(size)
}

/// Whether all of it is zero: compared with itself, one byte further, by a `memcmp` that takes many at once.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|first| *first == 0)
        && bytes[..bytes.len().saturating_sub(1)] == bytes[bytes.len().min(1)..]
}

/// Moves the content of `tree` below the directory `dest` of the workspace.
fn place(stage: &mut Stage<'_>, area: &WorkspaceArea, tree: &OwnedFd, dest: &[u8]) -> Result<(), Failure> {
    stage.begin(|journal, area| {
        let into = match walk::directory(area, dest) {
            Err(Errno::NOENT) => None,
            other => Some(other.map_err(file_failure("place", dest))?),
        };
        journal::note_above(journal, area, &join(dest, b"."))?;
        note(journal, tree.as_fd(), into.as_ref().map(OwnedFd::as_fd), dest)
    })?;
    stage.make_directories(dest)?;
    let into = walk::directory(area, dest).map_err(file_failure("place", dest))?;
    merge(stage, tree.as_fd(), TREE, into.as_fd(), dest)?;
    stage.finish()
}

/// Describes the file in an entry's place; refuses a file that the entry cannot be merged with.
fn meets(node: &DirectoryNode, into: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Statx>, Failure> {
    let fail = file_failure("place", path);
    let there = match walk::look(into, &node.name) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(&fail)?,
    };
    match (walk::kind(&node.stat), walk::kind(&there)) {
        (FileKind::Directory, FileKind::Directory) => Ok(Some(there)),
        (FileKind::Directory, _) => Err(fail(Errno::NOTDIR)),
        (_, FileKind::Directory) => Err(fail(Errno::ISDIR)),
        _ => Ok(Some(there)),
    }
}

/// Notes the paths that [`merge`] will change; those below a new directory need no note.
fn note(
    journal: &mut Journal,
    from: BorrowedFd<'_>,
    into: Option<BorrowedFd<'_>>,
    path: &[u8],
) -> Result<(), Failure> {
    for node in walk::children(from).map_err(file_failure("place", path))? {
        let inner = join(path, node.name.as_bytes());
        let there = into.map_or(Ok(None), |into| meets(&node, into, &inner))?;
        journal.note(&inner, there.as_ref())?;
        if let (Some(into), Some(FileKind::Directory)) = (into, there.as_ref().map(walk::kind)) {
            let from = walk::enter(from, &node.name).map_err(file_failure("place", &inner))?;
            let into = walk::enter(into, &node.name).map_err(file_failure("place", &inner))?;
            note(journal, from.as_fd(), Some(into.as_fd()), &inner)?;
        }
    }
    Ok(())
}

fn merge(
    stage: &Stage<'_>,
    from: BorrowedFd<'_>,
    name: &[u8],
    into: BorrowedFd<'_>,
    path: &[u8],
) -> Result<(), Failure> {
    for node in walk::children(from).map_err(file_failure("place", path))? {
        let last = node.name.as_bytes();
        let (inner_name, inner_path) = (join(name, last), join(path, last));
        let fail = || file_failure("place", &inner_path);
        match meets(&node, into, &inner_path)? {
            Some(there) if walk::kind(&there) == FileKind::Directory => {
                let inner = walk::enter(from, last).map_err(fail())?;
                let target = walk::enter(into, last).map_err(fail())?;
                merge(stage, inner.as_fd(), &inner_name, target.as_fd(), &inner_path)?;
                stage.set_mode(target.as_fd(), &inner_path, walk::mode(&node.stat))?;
            }
            _ => stage.place(&inner_name, into, last, &inner_path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_told_from_all_else() {
        for length in 0..200 {
            assert!(is_zero(&vec![0; length]));
            for at in 0..length {
                let mut bytes = vec![0; length];
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {length}");
            }
            assert!(length == 0 || !is_zero(&vec![7; length]));
        }
    }

    #[test]
    fn times_have_fractions() {
        let time = |text| decimal(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.0000000019"), Some((12, 1)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.25"), Some((-1, 750_000_000)));
        for nonsense in ["", "x", "1.x", "1.2.3", "1,5", "9999999999999999999999"] {
            assert_eq!(time(nonsense), None, "{nonsense}");
        }
    }
}
