//! Calls about a single file or directory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use pyro_proto::frame::{HEADER, MAX_MESSAGE};
use pyro_proto::message::{Failure, FailureKind, FileEntry, FileKind, MAX_ENTRIES, ProbeResult, Reply};
use rustix::fs::{Mode, OFlags, renameat};
use rustix::io::Errno;

use super::area::{WorkspaceArea, relative};
use super::file_failure;
use super::stage::Stage;
use super::walk::{self, DirectoryNode};
use crate::failure::refusal;
use crate::helper::{HelperChannel, HelperStop};

/// Bytes of a file that are read or written at once.
pub(super) const PIECE: usize = 60 * 1024;

/// Entries on their way to the host: sent when they fill a message.
struct ListingSender<'t> {
    channel: &'t mut HelperChannel,
    entries: Vec<FileEntry>,
    bytes: usize,
    sent: u64,
}

/// More entries than a listing may have.
struct ListingFull;

impl ListingSender<'_> {
    fn add(&mut self, entry: FileEntry) -> Result<Result<(), ListingFull>, HelperStop> {
        if self.sent >= MAX_ENTRIES {
            return Ok(Err(ListingFull));
        }
        let bytes = entry.path.0.len() + entry.target.as_ref().map_or(0, |target| target.0.len()) + 64;
        if self.bytes + bytes > MAX_MESSAGE - 1024 {
            self.flush()?;
        }
        self.sent += 1;
        self.bytes += bytes;
        self.entries.push(entry);
        Ok(Ok(()))
    }

    fn flush(&mut self) -> Result<(), HelperStop> {
        self.bytes = 0;
        match std::mem::take(&mut self.entries) {
            none if none.is_empty() => Ok(()),
            entries => self.channel.send_reply(&Reply::Entries(entries)),
        }
    }
}

pub(super) fn list(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    path: &[u8],
    recursive: bool,
) -> Result<Reply, HelperStop> {
    let mut path = relative(path)?;
    let mut listing = ListingSender { channel, entries: Vec::new(), bytes: 0, sent: 0 };
    let dir = match walk::directory(area, &path) {
        Ok(dir) => dir,
        Err(Errno::NOTDIR) => {
            let _ = listing.add(entry_at(area, &path)?)?;
            listing.flush()?;
            return Ok(Reply::Listed { truncated: false });
        }
        Err(errno) => return Err(file_failure("list", &path)(errno).into()),
    };
    let mut truncated = false;
    let mut add = |dir: std::os::fd::BorrowedFd<'_>, path: &[u8], node: &DirectoryNode| {
        if listing.add(walk::entry(dir, &node.name, path, &node.stat))?.is_err() {
            truncated = true;
            // Ends the walk; entries that were sent stay sent.
            return Err(HelperStop::Gone);
        }
        Ok(())
    };
    let walked = if recursive {
        walk::walk(dir.as_fd(), &mut path, &mut add)
    } else {
        let nodes = walk::children(dir.as_fd()).map_err(file_failure("list", &path))?;
        nodes
            .iter()
            .try_for_each(|node| add(dir.as_fd(), &super::area::join(&path, node.name.as_bytes()), node))
    };
    match walked {
        Err(HelperStop::Gone) if truncated => {}
        other => other?,
    }
    listing.flush()?;
    Ok(Reply::Listed { truncated })
}

/// Describes `path`, a link at its end not followed.
fn entry_at(area: &WorkspaceArea, path: &[u8]) -> Result<FileEntry, Failure> {
    let fail = || file_failure("stat", path);
    if path.is_empty() {
        let stat = walk::look(area.workspace.as_fd(), c"").map_err(fail())?;
        return Ok(walk::entry(area.workspace.as_fd(), c"", path, &stat));
    }
    let (parent, name) = area.parent(path).map_err(fail())?;
    let stat = walk::look(parent.as_fd(), name).map_err(fail())?;
    Ok(walk::entry(parent.as_fd(), name, path, &stat))
}

pub(super) fn stat(area: &WorkspaceArea, path: &[u8]) -> Result<Reply, HelperStop> {
    Ok(Reply::Stat(entry_at(area, &relative(path)?)?))
}

/// Whether something is at `path`: below the workspace, or anywhere in the guest if it begins with `/`.
pub(super) fn exists(area: &WorkspaceArea, path: &[u8]) -> Result<Reply, HelperStop> {
    let found = match path.starts_with(b"/") {
        true if path.contains(&0) => return Err(file_failure("probe", path)(Errno::INVAL).into()),
        true => rustix::fs::stat(path).map(drop),
        false => area.open(&relative(path)?, OFlags::PATH).map(drop),
    };
    Ok(Reply::Probed(match found {
        Ok(()) => ProbeResult::Ready,
        Err(errno) => ProbeResult::NotReady(file_failure("probe", path)(errno).message),
    }))
}

pub(super) fn read(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    path: &[u8],
    mut offset: u64,
    limit: u64,
) -> Result<Reply, HelperStop> {
    let path = relative(path)?;
    if i64::try_from(offset).is_err() {
        return Err(refusal(FailureKind::BadRequest, "read", format!("no file has a byte {offset}")).into());
    }
    let fail = || file_failure("read", &path);
    // Neither a pipe without a writer nor a terminal may hold this up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = area.open(&path, flags).map_err(fail())?;
    let stat = walk::look(file.as_fd(), c"").map_err(fail())?;
    regular(&path, walk::kind(&stat))?;
    channel.send_reply(&Reply::Stat(walk::entry(file.as_fd(), c"", &path, &stat)))?;
    let file = File::from(file);
    let end = offset.saturating_add(limit).min(i64::MAX as u64);
    let mut buffer = vec![0; HEADER + PIECE];
    while offset < end {
        let want = PIECE.min(usize::try_from(end - offset).unwrap_or(PIECE));
        let n = retried(|| file.read_at(&mut buffer[HEADER..HEADER + want], offset))
            .map_err(io_failure("read", &path))?;
        if n == 0 {
            break;
        }
        channel.send_chunk(&mut buffer[..HEADER + n])?;
        offset += n as u64;
    }
    Ok(Reply::Done)
}

pub(super) fn write(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    path: &[u8],
    mode: Option<u32>,
    parents: bool,
) -> Result<Reply, HelperStop> {
    let path = relative(path)?;
    let fail = || file_failure("write", &path);
    let target = area.followed(&path).map_err(fail())?;
    // Before the content comes, which may be long.
    match area.parent(&target) {
        Err(Errno::NOENT) if parents => {}
        other => drop(other.map_err(fail())?),
    }
    let mut stage = Stage::new(area)?;
    let (mut file, name) = stage.file()?;
    let mut buffer = vec![0; PIECE];
    loop {
        match channel.read(&mut buffer)? {
            0 => break,
            n => file.write_all(&buffer[..n]).map_err(io_failure("write", &path))?,
        }
    }
    let (parent, last) =
        if parents { area.parent_made(&target) } else { area.parent(&target) }.map_err(fail())?;
    set_owner_and_mode(&file, parent.as_fd(), last, mode, &path)?;
    // All of it is on the disk before it has its name, and the name before this is answered.
    rustix::fs::fsync(&file).map_err(fail())?;
    renameat(stage.dir(), &name, &parent, last).map_err(fail())?;
    rustix::fs::fsync(&parent).map_err(fail())?;
    let stat = walk::look(parent.as_fd(), last).map_err(fail())?;
    Ok(Reply::Stat(walk::entry(parent.as_fd(), last, &path, &stat)))
}

/// Gives `file`, which is to take the place of `last` in `parent`, its permissions and owner.
pub(super) fn set_owner_and_mode(
    file: &File,
    parent: std::os::fd::BorrowedFd<'_>,
    last: &[u8],
    mode: Option<u32>,
    path: &[u8],
) -> Result<(), Failure> {
    let fail = || file_failure("write", path);
    let mut given = mode;
    match walk::look(parent, last) {
        Ok(stat) => {
            if walk::kind(&stat) != FileKind::Link {
                regular(path, walk::kind(&stat))?;
                given = given.or(Some(walk::mode(&stat)));
            }
            let (uid, gid) =
                (rustix::fs::Uid::from_raw(stat.stx_uid), rustix::fs::Gid::from_raw(stat.stx_gid));
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(fail())?;
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(fail()(errno)),
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(given.unwrap_or(0o644) & 0o7777)).map_err(fail())
}

/// Refuses any kind but a regular file.
pub(super) fn regular(path: &[u8], kind: FileKind) -> Result<(), Failure> {
    match kind {
        FileKind::File => Ok(()),
        FileKind::Directory => Err(file_failure("file", path)(Errno::ISDIR)),
        _ => {
            let why = format!("{}: is no regular file", String::from_utf8_lossy(path));
            Err(refusal(FailureKind::NotRegular, "file", why))
        }
    }
}

/// Refuses any kind but files, directories and links.
pub(super) fn exportable(path: &[u8], kind: FileKind) -> Result<(), Failure> {
    if kind == FileKind::Other { regular(path, kind) } else { Ok(()) }
}

/// [`file_failure`] for an error of the standard library.
pub(super) fn io_failure(stage: &'static str, path: &[u8]) -> impl Fn(io::Error) -> Failure {
    move |error| file_failure(stage, path)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

pub(super) fn retried<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Reads until `out` is full or the input is over.
pub(super) fn fill(mut from: impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match retried(|| from.read(&mut out[done..]))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}
