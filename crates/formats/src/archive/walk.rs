//! A directory of the host, entry by entry, never through a symbolic link.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::check::Check;
use super::write::Writer;
use super::{ArchiveError, CHUNK, Content, Entry, MODE, Meter, Refusal, Time};

/// Puts everything in `dir` through the check and into the writer; without one it is only counted.
pub(super) fn directory(
    dir: impl AsFd,
    check: &mut Check,
    meter: &mut Meter<'_>,
    writer: Option<&mut Writer<'_>>,
) -> Result<(), ArchiveError> {
    let mut walk = Walk { check, meter, writer, links: HashMap::new(), buffer: vec![0; CHUNK] };
    walk.directory(dir.as_fd(), &mut Vec::new())
}

struct Walk<'a, 'm, 'w, 'x> {
    check: &'a mut Check,
    meter: &'a mut Meter<'m>,
    writer: Option<&'x mut Writer<'w>>,
    /// Files with several names, and the first of these.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl Walk<'_, '_, '_, '_> {
    fn directory(&mut self, dir: BorrowedFd<'_>, path: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let fail = |path: &[u8]| {
            let path = path.to_vec();
            move |error: Errno| ArchiveError::file(&path, "read")(error.into())
        };
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(dir).map_err(fail(path))? {
            let name = entry.map_err(fail(path))?.file_name().to_owned();
            if name.as_bytes() != b"." && name.as_bytes() != b".." {
                names.push(name);
            }
            if names.len() as u64 > self.check.limits().entries {
                return Err(ArchiveError::TooMuch { what: "entries", limit: self.check.limits().entries });
            }
        }
        // The same tree is the same stream, wherever it lies.
        names.sort_unstable();
        let above = path.len();
        for name in names {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let stat = match statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                // Gone since it was listed.
                Err(Errno::NOENT) => None,
                other => Some(other.map_err(fail(path))?),
            };
            if let Some(stat) = stat {
                self.entry(dir, &name, path, &stat)?;
            }
            path.truncate(above);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CString,
        path: &mut Vec<u8>,
        stat: &Stat,
    ) -> Result<(), ArchiveError> {
        let fail = |doing| {
            let path = path.clone();
            move |error: Errno| ArchiveError::file(&path, doing)(error.into())
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner =
                    openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty()).map_err(fail("opened"))?;
                let stat = fstat(&inner).map_err(fail("read"))?;
                self.put(path, Content::Directory, &stat)?;
                self.directory(inner.as_fd(), path)
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(fail("read"))?;
                self.put(path, Content::Symlink(target.into_bytes()), stat)
            }
            FileType::RegularFile => {
                let key = (stat.st_dev, stat.st_ino);
                if stat.st_nlink > 1 {
                    if let Some(first) = self.links.get(&key) {
                        let content = Content::HardLink(first.clone());
                        return self.put(path, content, stat);
                    }
                    self.links.insert(key, path.clone());
                }
                if self.writer.is_none() {
                    self.put(path, Content::File(stat.st_size as u64), stat)?;
                    return self.meter.bytes(stat.st_size as usize);
                }
                let file = openat(dir, name, flags, Mode::empty()).map_err(fail("opened"))?;
                let stat = fstat(&file).map_err(fail("read"))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(ArchiveError::Changed { entry: super::error::shown(path) });
                }
                self.file(File::from(file), path, &stat)
            }
            FileType::Fifo | FileType::Socket => {
                self.meter.totals.skipped += 1;
                Ok(())
            }
            _ => Err(ArchiveError::refused(path, Refusal::Device)),
        }
    }

    fn put(&mut self, path: &[u8], content: Content, stat: &Stat) -> Result<(), ArchiveError> {
        let mtime = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
        let entry = Entry { path: path.to_vec(), content, mode: stat.st_mode & MODE, mtime };
        let Some(entry) = self.check.admit(entry)? else { return self.meter.link() };
        if let Some(writer) = &mut self.writer {
            writer.entry(&entry)?;
        }
        self.meter.entry()
    }

    /// Writes as many bytes as the file had when it was opened: it may be one that grows.
    fn file(&mut self, mut file: File, path: &[u8], stat: &Stat) -> Result<(), ArchiveError> {
        let size = stat.st_size as u64;
        self.put(path, Content::File(size), stat)?;
        let mut left = size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match file.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(ArchiveError::Changed { entry: super::error::shown(path) }),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ArchiveError::file(path, "read")(error)),
            };
            if let Some(writer) = &mut self.writer {
                writer.write(&self.buffer[..count])?;
            }
            self.meter.bytes(count)?;
            left -= count as u64;
        }
        match &mut self.writer {
            Some(writer) => writer.pad(size),
            None => Ok(()),
        }
    }
}
