//! Tree that a guest sends, made a file or a directory of the host.
//!
//! It is unpacked in a directory of its own beside the destination that only its owner may enter, and gets its name
//! when all of it is there and was let through. On any failure that directory goes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, ftruncate, futimens,
    linkat, mkdirat, openat, renameat_with, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::beside::Beside;
use super::check::{Check, parent};
use super::error::shown;
use super::read::Reader;
use super::{
    ArchiveError, CHUNK, Content, Entry, Limits, Meter, Progress, Refusal, SkippedLink, Time, Totals,
};
use crate::hostfs::HostPath;

/// Name of the tree while it is unpacked.
const TREE: &str = "tree";
/// Runs of zeros of this many bytes, at a multiple of it, become holes.
const HOLE: usize = 4096;
const ZEROS: [u8; HOLE] = [0; HOLE];

/// A place for a tree.
#[derive(Debug)]
pub struct Sink {
    destination: HostPath,
    name: Option<Vec<u8>>,
    limits: Limits,
}

/// Outcome of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Kind of file at the destination.
    pub artifact: Artifact,
    /// Counts of the whole tree.
    pub totals: Totals,
    /// The first hundred links that were left out.
    pub skipped_links: Vec<SkippedLink>,
}

/// A file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// A regular file.
    File,
    /// A directory with everything below it.
    Directory,
}

impl Sink {
    /// Prepares for a tree at `destination`, which must not exist in a directory that does. `name` is what the stream
    /// calls the file or directory that is exported: everything in it must be that, or below it. `None` when the stream
    /// has the content of a directory without the directory.
    ///
    /// # Errors
    /// When the destination exists, or cannot be made.
    pub fn new(
        destination: impl Into<HostPath>,
        name: Option<&[u8]>,
        limits: Limits,
    ) -> Result<Self, ArchiveError> {
        let sink = Self { destination: destination.into(), name: name.map(<[u8]>::to_vec), limits };
        sink.vacant()?;
        Ok(sink)
    }

    fn fail(&self, doing: &'static str) -> impl Fn(io::Error) -> ArchiveError + use<> {
        let path = self.destination.shown().as_os_str().as_bytes().to_vec();
        move |error| ArchiveError::file(&path, doing)(error)
    }

    fn exists(&self) -> ArchiveError {
        ArchiveError::Exists { path: self.destination.shown().to_path_buf() }
    }

    fn vacant(&self) -> Result<(), ArchiveError> {
        match self.destination.path().symlink_metadata() {
            Ok(_) => Err(self.exists()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.fail("looked at")(error)),
        }
    }

    /// Reads a whole stream and makes the destination of it.
    ///
    /// # Errors
    /// When the stream breaks off or has something that is refused, when the destination has come to exist, or the
    /// disk is full. Then nothing is left.
    pub fn unpack<'p>(
        self,
        stream: &mut dyn Read,
        progress: &'p mut Progress<'p>,
    ) -> Result<Unpacked, ArchiveError> {
        let beside = match self.destination.path().parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let stage = Beside::new(beside).map_err(self.fail("made"))?;
        let meter = Meter { totals: Totals::default(), reported: 0, progress };
        let mut unpacking = Unpacking {
            dir: stage.fd(),
            name: self.name.as_deref(),
            meter,
            artifact: None,
            open: None,
            directories: BTreeMap::new(),
            buffer: vec![0; CHUNK],
        };
        let skipped_links = unpacking.run(stream, Check::new(self.limits))?;
        let root = unpacking.settle()?;
        let Some(artifact) = unpacking.artifact else {
            return Err(ArchiveError::Damaged { entries: 0, why: "it is empty".into() });
        };
        let totals = unpacking.meter.totals;
        unpacking.meter.tell()?;
        self.name_it(&stage.path().join(TREE))?;
        // A directory that may not be written could not have been moved.
        if let Some((fd, (mode, mtime))) = root {
            let done = fchmod(&fd, Mode::from_raw_mode(mode)).and_then(|()| match mtime {
                Some(mtime) => futimens(&fd, &times(mtime)),
                None => Ok(()),
            });
            done.map_err(|error| self.fail("given its permissions")(error.into()))?;
        }
        Ok(Unpacked { artifact, totals, skipped_links })
    }

    fn name_it(&self, tree: &Path) -> Result<(), ArchiveError> {
        match renameat_with(CWD, tree, CWD, self.destination.path(), RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(self.exists()),
            // A file system that cannot promise it.
            Err(Errno::INVAL | Errno::NOSYS) => {
                self.vacant()?;
                fs::rename(tree, self.destination.path()).map_err(self.fail("made"))
            }
            Err(error) => Err(self.fail("made")(error.into())),
        }
    }
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Permissions and time of a directory; `None` when the stream had none for it.
type Settled = (u32, Option<Time>);

struct Unpacking<'a, 'p> {
    dir: BorrowedFd<'a>,
    name: Option<&'a [u8]>,
    meter: Meter<'p>,
    artifact: Option<Artifact>,
    /// The directory that was used last: files of one directory come together.
    open: Option<(Vec<u8>, OwnedFd)>,
    /// Permissions and times of directories, set last because unpacking into a directory changes it.
    directories: BTreeMap<Vec<u8>, Settled>,
    buffer: Vec<u8>,
}

impl Unpacking<'_, '_> {
    fn run(&mut self, stream: &mut dyn Read, mut check: Check) -> Result<Vec<SkippedLink>, ArchiveError> {
        let mut reader = Reader::new(stream);
        if self.name.is_none() {
            self.root()?;
        }
        while let Some(mut entry) = reader.next()? {
            let raw = entry.path.clone();
            entry.path = self.below(&entry.path)?;
            if let Content::HardLink(target) = &mut entry.content {
                let nowhere = || Refusal::HardLink { target: shown(target) };
                *target = self.below(target).map_err(|_| ArchiveError::refused(&raw, nowhere()))?;
            }
            if entry.path.is_empty() {
                self.meter.entry()?;
                match &entry.content {
                    Content::Directory => {
                        self.root()?;
                        self.directories.insert(Vec::new(), (entry.mode, Some(entry.mtime)));
                    }
                    Content::File(size) if self.artifact.is_none() => {
                        self.artifact = Some(Artifact::File);
                        // Counted as any other, under the name that it has here.
                        check.admit(Entry { path: TREE.into(), ..entry.clone() })?;
                        self.file(self.dir, TREE.as_bytes(), &entry, *size, &mut reader)?;
                    }
                    Content::Symlink(_) => return Err(ArchiveError::refused(&raw, Refusal::Link)),
                    _ => return Err(ArchiveError::refused(&raw, Refusal::Twice)),
                }
                continue;
            }
            let Some(entry) = check.admit(entry)? else {
                self.meter.link()?;
                continue;
            };
            if self.artifact == Some(Artifact::File) {
                return Err(ArchiveError::refused(&raw, Refusal::Through));
            }
            self.root()?;
            self.meter.entry()?;
            self.entry(&entry, &mut reader)?;
        }
        check.finish()?;
        Ok(check.skipped.0)
    }

    /// A path as it is below what is exported; empty for that itself.
    fn below(&self, raw: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        if raw.is_empty() || raw.starts_with(b"/") {
            let refusal = if raw.is_empty() { Refusal::Path } else { Refusal::Absolute };
            return Err(ArchiveError::refused(raw, refusal));
        }
        let plain = raw.strip_prefix(b"./").unwrap_or(raw);
        let plain = plain.strip_suffix(b"/").unwrap_or(plain);
        let Some(name) = self.name else {
            return Ok(if plain == b"." { Vec::new() } else { plain.to_vec() });
        };
        match plain.strip_prefix(name) {
            Some(b"") => Ok(Vec::new()),
            Some([b'/', rest @ ..]) if !rest.is_empty() => Ok(rest.to_vec()),
            _ => Err(ArchiveError::refused(raw, Refusal::Stranger)),
        }
    }

    /// Makes the directory that is exported, if it is not there yet.
    fn root(&mut self) -> Result<(), ArchiveError> {
        if self.artifact.is_none() {
            mkdirat(self.dir, TREE, Mode::RWXU).map_err(failed(b"", "made"))?;
            self.artifact = Some(Artifact::Directory);
            self.directories.insert(Vec::new(), (0o755, None));
        }
        match self.artifact {
            Some(Artifact::File) => Err(ArchiveError::refused(b".", Refusal::Twice)),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Entry, reader: &mut Reader<'_>) -> Result<(), ArchiveError> {
        let path = &entry.path;
        let above = self.enter(parent(path))?;
        let name = last(path);
        match &entry.content {
            Content::Directory => {
                match mkdirat(&above, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(path, "made")(error)),
                }
                self.directories.insert(path.clone(), (entry.mode, Some(entry.mtime)));
                Ok(())
            }
            Content::File(size) => self.file(above.as_fd(), name, entry, *size, reader),
            Content::Symlink(target) => {
                symlinkat(&target[..], &above, name).map_err(failed(path, "made"))?;
                utimensat(&above, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed(path, "given its time"))
            }
            Content::HardLink(target) => {
                vacate(above.as_fd(), name, path)?;
                let other = self.enter(parent(target))?;
                linkat(&other, last(target), &above, name, AtFlags::empty()).map_err(failed(path, "linked"))
            }
        }
    }

    fn file(
        &mut self,
        above: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        size: u64,
        reader: &mut Reader<'_>,
    ) -> Result<(), ArchiveError> {
        let path = &entry.path;
        vacate(above, name, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(above, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed(path, "made"))?;
        let file = File::from(file);
        let mut at = 0;
        loop {
            let bytes = reader.content(&mut self.buffer)?;
            if bytes.is_empty() {
                break;
            }
            write_sparse(&file, at, bytes).map_err(ArchiveError::file(path, "written"))?;
            at += bytes.len() as u64;
            self.meter.bytes(bytes.len())?;
        }
        ftruncate(&file, size).map_err(failed(path, "written"))?;
        fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(failed(path, "given its permissions"))?;
        futimens(&file, &times(entry.mtime)).map_err(failed(path, "given its time"))
    }

    /// Opens a directory of the tree, making what the stream left out.
    fn enter(&mut self, path: &[u8]) -> Result<OwnedFd, ArchiveError> {
        let again = |dir: &OwnedFd| dir.try_clone().map_err(ArchiveError::file(path, "opened"));
        if let Some((last, dir)) = &self.open
            && last == path
        {
            return again(dir);
        }
        let open = |above: BorrowedFd<'_>, name: &[u8]| {
            openat(above, name, OFlags::RDONLY | DIRECTORY, Mode::empty())
        };
        let mut dir = open(self.dir, TREE.as_bytes()).map_err(failed(path, "opened"))?;
        let mut at = 0;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at += name.len() + usize::from(at > 0);
            dir = match open(dir.as_fd(), name) {
                Err(Errno::NOENT) => {
                    mkdirat(&dir, name, Mode::RWXU).map_err(failed(path, "made"))?;
                    self.directories.insert(path[..at].to_vec(), (0o755, None));
                    open(dir.as_fd(), name).map_err(failed(path, "opened"))?
                }
                other => other.map_err(failed(path, "opened"))?,
            };
        }
        let clone = again(&dir)?;
        self.open = Some((path.to_vec(), dir));
        Ok(clone)
    }

    /// Gives directories their permissions and times, the innermost first; the outermost is returned, for it is to be
    /// moved yet.
    fn settle(&mut self) -> Result<Option<(OwnedFd, Settled)>, ArchiveError> {
        self.open = None;
        let mut root = None;
        for (path, settled) in std::mem::take(&mut self.directories).into_iter().rev() {
            let dir = self.enter(&path)?;
            self.open = None;
            if path.is_empty() {
                root = Some((dir, settled));
                continue;
            }
            let (mode, mtime) = settled;
            fchmod(&dir, Mode::from_raw_mode(mode)).map_err(failed(&path, "given its permissions"))?;
            if let Some(mtime) = mtime {
                futimens(&dir, &times(mtime)).map_err(failed(&path, "given its time"))?;
            }
        }
        Ok(root)
    }
}

fn failed(path: &[u8], doing: &'static str) -> impl Fn(Errno) -> ArchiveError {
    let path = path.to_vec();
    move |error| ArchiveError::file(&path, doing)(error.into())
}

fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Makes way for a file that comes a second time.
fn vacate(above: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), ArchiveError> {
    match unlinkat(above, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(path, "replaced")(error)),
    }
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

/// Writes `bytes` at `at` of a file that has nothing there, but for the zeros that can be holes.
fn write_sparse(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    // `at` is a multiple of CHUNK, for only the last piece of a file is shorter.
    let mut start = None;
    for (index, block) in bytes.chunks(HOLE).enumerate() {
        let offset = index * HOLE;
        let zeros = block == ZEROS;
        if zeros {
            if let Some(start) = start.take() {
                file.write_all_at(&bytes[start..offset], at + start as u64)?;
            }
        } else {
            start.get_or_insert(offset);
        }
    }
    match start {
        Some(start) => file.write_all_at(&bytes[start..], at + start as u64),
        None => Ok(()),
    }
}
