//! A file or directory as a tar archive.
//!
//! The workspace is alive meanwhile: a file that vanishes is left out, and a file has the size in the archive that it
//! had when it was opened, cut off or filled up with zeros.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use pyro_proto::frame::HEADER;
use pyro_proto::message::{Failure, FileKind, Reply, TreeTotals};
use rustix::fs::{Mode, OFlags, Statx, openat, readlinkat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::area::{WorkspaceArea, relative, split};
use super::file_failure;
use super::single::PIECE;
use super::walk::{self, DirectoryNode};
use crate::helper::{HelperChannel, HelperStop};

/// The archive on its way to the host, in pieces.
struct ArchiveSender<'t> {
    channel: &'t mut HelperChannel,
    buffer: Vec<u8>,
    stop: Option<HelperStop>,
}

impl ArchiveSender<'_> {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.len() > HEADER
            && let Err(stop) = self.channel.send_chunk(&mut self.buffer)
        {
            self.stop = Some(stop);
            return Err(io::Error::other("nobody listens"));
        }
        self.buffer.truncate(HEADER);
        Ok(())
    }
}

impl Write for ArchiveSender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(HEADER + PIECE - self.buffer.len());
        self.buffer.extend(&bytes[..n]);
        if self.buffer.len() == HEADER + PIECE {
            self.send()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Content of a file as exactly `left` bytes, whatever becomes of the file.
struct SizedContent {
    file: File,
    left: u64,
    over: bool,
}

impl Read for SizedContent {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let want = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut n = 0;
        if !self.over {
            n = super::single::retried(|| self.file.read(&mut out[..want]))?;
            self.over = n == 0;
        }
        if self.over {
            out[..want].fill(0);
            n = want;
        }
        self.left -= n as u64;
        Ok(n)
    }
}

struct TreePacking<'t> {
    archive: Builder<ArchiveSender<'t>>,
    sent: TreeTotals,
    skipped: u64,
    /// First name of each file that has several, by its inode and device.
    known: HashMap<(u64, u32, u32), Vec<u8>>,
}

pub(super) fn pack(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    path: &[u8],
) -> Result<Reply, HelperStop> {
    let path = relative(path)?;
    let fail = || file_failure("read", &path);
    let sender = ArchiveSender { channel, buffer: vec![0; HEADER], stop: None };
    let mut packing = TreePacking {
        archive: Builder::new(sender),
        sent: TreeTotals::default(),
        skipped: 0,
        known: HashMap::new(),
    };
    let packed = match split(&path) {
        None => packing.below(area.workspace.as_fd(), &[]),
        Some((_, name)) => {
            let (parent, last) = area.parent(&path).map_err(fail())?;
            let stat = walk::look(parent.as_fd(), last).map_err(fail())?;
            let is_directory = walk::kind(&stat) == FileKind::Directory;
            super::single::exportable(&path, walk::kind(&stat))?;
            packing.add(parent.as_fd(), name, last, &stat).and_then(|()| {
                if !is_directory {
                    return Ok(());
                }
                let dir = walk::enter(parent.as_fd(), last).map_err(fail())?;
                packing.below(dir.as_fd(), name)
            })
        }
    };
    let (sent, skipped) = (packing.sent, packing.skipped);
    // Ends the archive, with the bytes that it may still hold.
    if let Some(stop) = packing.archive.get_mut().stop.take() {
        return Err(stop);
    }
    packed?;
    let mut sender = packing.archive.into_inner().map_err(lost)?;
    sender.send().map_err(lost)?;
    Ok(Reply::Got { sent, skipped })
}

fn lost(_: io::Error) -> HelperStop {
    HelperStop::Gone
}

impl TreePacking<'_> {
    /// Everything in `dir`, under `path`.
    fn below(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), HelperStop> {
        let mut path = path.to_vec();
        walk::walk(dir, &mut path, &mut |dir, path, node: &DirectoryNode| {
            self.add(dir, path, node.name.as_bytes(), &node.stat)
        })
    }

    fn add(&mut self, dir: BorrowedFd<'_>, path: &[u8], name: &[u8], stat: &Statx) -> Result<(), HelperStop> {
        let vanished = |errno| matches!(errno, Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NOTDIR);
        let mut header = Header::new_gnu();
        header.set_mode(walk::mode(stat));
        header.set_uid(stat.stx_uid.into());
        header.set_gid(stat.stx_gid.into());
        header.set_mtime(u64::try_from(stat.stx_mtime.tv_sec).unwrap_or(0));
        header.set_size(0);
        let shown = path_of(path);
        match walk::kind(stat) {
            FileKind::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.time(stat)?;
                let mut named = path.to_vec();
                named.push(b'/');
                self.archive.append_data(&mut header, path_of(&named), io::empty()).map_err(lost)?;
            }
            FileKind::Link => {
                let target = match readlinkat(dir, name, Vec::new()) {
                    Err(errno) if vanished(errno) || errno == Errno::INVAL => return Ok(()),
                    other => other.map_err(file_failure("read", path))?,
                };
                header.set_entry_type(EntryType::Symlink);
                self.time(stat)?;
                self.archive.append_link(&mut header, shown, path_of(target.as_bytes())).map_err(lost)?;
            }
            FileKind::File => {
                let key = (stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor);
                if stat.stx_nlink > 1
                    && let Some(first) = self.known.get(&key)
                {
                    header.set_entry_type(EntryType::Link);
                    self.archive.append_link(&mut header, shown, path_of(first)).map_err(lost)?;
                    self.sent.entries += 1;
                    return Ok(());
                }
                let flags =
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let file = match openat(dir, name, flags, Mode::empty()) {
                    Err(errno) if vanished(errno) => return Ok(()),
                    other => other.map_err(file_failure("read", path))?,
                };
                let now = walk::look(file.as_fd(), c"").map_err(file_failure("read", path))?;
                if walk::kind(&now) != FileKind::File {
                    return Ok(());
                }
                header.set_size(now.stx_size);
                header.set_entry_type(EntryType::Regular);
                self.time(stat)?;
                let content = SizedContent { file: File::from(file), left: now.stx_size, over: false };
                if let Err(error) = self.archive.append_data(&mut header, shown, content) {
                    return Err(self.reason(path, error));
                }
                self.sent.bytes += now.stx_size;
                if stat.stx_nlink > 1 {
                    self.known.insert(key, path.to_vec());
                }
            }
            FileKind::Other => {
                self.skipped += 1;
                return Ok(());
            }
        }
        self.sent.entries += 1;
        Ok(())
    }

    /// Writes the time of the next entry to the nanosecond, which a header has no room for.
    fn time(&mut self, stat: &Statx) -> Result<(), HelperStop> {
        let time = walk::nanoseconds(stat.stx_mtime);
        if time >= 0 && time % 1_000_000_000 == 0 {
            return Ok(());
        }
        let (sign, time) = (if time < 0 { "-" } else { "" }, time.unsigned_abs());
        let text = format!("{sign}{}.{:09}", time / 1_000_000_000, time % 1_000_000_000);
        self.archive.append_pax_extensions([("mtime", text.as_bytes())]).map_err(lost)
    }

    /// Whether it is the host or the file that failed.
    fn reason(&mut self, path: &[u8], error: io::Error) -> HelperStop {
        match self.archive.get_mut().stop.take() {
            Some(stop) => stop,
            None => HelperStop::Failed(file_failed(path, error)),
        }
    }
}

fn file_failed(path: &[u8], error: io::Error) -> Failure {
    super::single::io_failure("read", path)(error)
}

fn path_of(bytes: &[u8]) -> &std::path::Path {
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}
