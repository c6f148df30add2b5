//! Directories, read in order: entries sorted by their bytes, each directory before its entries.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_proto::message::{Bytes, FailureKind, FileEntry, FileKind, FileState};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

use super::{area, file_failure};
use crate::failure::refusal;
use crate::helper::HelperStop;

/// Directories inside each other that are walked: each keeps a descriptor and some of the stack.
pub const MAX_DEPTH: usize = 512;
/// Bytes of a long path that are shown.
const SHOWN: usize = 64;

/// Entry of a directory.
pub struct DirectoryNode {
    /// Name in its directory.
    pub name: CString,
    /// Metadata from the kernel.
    pub stat: Statx,
}

/// Reads the entries of the directory `dir`, sorted. Entries that vanish meanwhile are left out.
///
/// Not inlined: the walk is on the stack once for each level, and this buffer must not be.
#[inline(never)]
pub fn children(dir: BorrowedFd<'_>) -> Result<Vec<DirectoryNode>, Errno> {
    // A directory that was read before would be read on from there.
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut raw = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    let mut nodes = Vec::with_capacity(names.len());
    for name in names {
        match look(dir, &name) {
            Ok(stat) => nodes.push(DirectoryNode { name, stat }),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(nodes)
}

/// Reads the metadata of `name` in `dir`, a link not followed; of `dir` itself where the name is empty.
pub fn look(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// Opens the directory `name` of `dir`; an error if it is none.
pub fn enter(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// Kind of a file.
pub fn kind(stat: &Statx) -> FileKind {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    }
}

/// Permission bits of a file.
pub fn mode(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & 0o7777
}

/// Nanoseconds since 1970 UTC.
pub fn nanoseconds(time: rustix::fs::StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

/// Attributes of a file that are compared with the baseline.
pub fn state(stat: &Statx) -> FileState {
    FileState { kind: kind(stat), mode: mode(stat), size: stat.stx_size }
}

/// Describes `name` of `dir` to the host, under `path`.
pub fn entry(dir: BorrowedFd<'_>, name: impl rustix::path::Arg, path: &[u8], stat: &Statx) -> FileEntry {
    let kind = kind(stat);
    let target = (kind == FileKind::Link)
        .then(|| readlinkat(dir, name, Vec::new()).ok().map(|target| Bytes(target.into_bytes())))
        .flatten();
    FileEntry {
        path: Bytes(path.to_vec()),
        kind,
        mode: mode(stat),
        size: stat.stx_size,
        mtime_ns: nanoseconds(stat.stx_mtime),
        links: stat.stx_nlink,
        target,
    }
}

/// Callback for each entry: its directory, its path, the entry.
pub type Visit<'v> = &'v mut dyn FnMut(BorrowedFd<'_>, &[u8], &DirectoryNode) -> Result<(), HelperStop>;

/// Visits everything below `dir`, whose own path is `path`.
pub fn walk(dir: BorrowedFd<'_>, path: &mut Vec<u8>, visit: Visit<'_>) -> Result<(), HelperStop> {
    deeper(dir, path, visit, 0)
}

fn deeper(dir: BorrowedFd<'_>, path: &mut Vec<u8>, visit: Visit<'_>, depth: usize) -> Result<(), HelperStop> {
    if depth > MAX_DEPTH {
        let beginning = String::from_utf8_lossy(&path[..path.len().min(SHOWN)]);
        let why = format!("{beginning}...: more than {MAX_DEPTH} directories inside each other");
        return Err(refusal(FailureKind::TooLarge, "walk", why).into());
    }
    let nodes = children(dir).map_err(file_failure("list", path))?;
    let len = path.len();
    for node in nodes {
        if len > 0 {
            path.push(b'/');
        }
        path.extend(node.name.as_bytes());
        visit(dir, path, &node)?;
        if kind(&node.stat) == FileKind::Directory {
            match enter(dir, &node.name) {
                Ok(inner) => deeper(inner.as_fd(), path, visit, depth + 1)?,
                // Gone, or no directory by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(file_failure("list", path)(errno).into()),
            }
        }
        path.truncate(len);
    }
    Ok(())
}

/// Removes `name` of `dir` and all below it.
pub fn remove_all(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    // Without recursion: the tree may be deeper than trees are walked. A directory inside another is moved up beside it
    // first.
    let mut next = 0_u64;
    let top = enter(dir, name)?;
    loop {
        let mut moved = false;
        for node in children(top.as_fd())? {
            if kind(&node.stat) != FileKind::Directory {
                rustix::fs::unlinkat(&top, &node.name, AtFlags::empty())?;
                continue;
            }
            let inner = enter(top.as_fd(), &node.name)?;
            for below in children(inner.as_fd())? {
                if kind(&below.stat) != FileKind::Directory {
                    rustix::fs::unlinkat(&inner, &below.name, AtFlags::empty())?;
                    continue;
                }
                loop {
                    let aside = format!(".pyro-{next}");
                    next += 1;
                    let flags = rustix::fs::RenameFlags::NOREPLACE;
                    match rustix::fs::renameat_with(&inner, &below.name, &top, aside, flags) {
                        Err(Errno::EXIST) => {}
                        done => break done?,
                    }
                }
                moved = true;
            }
            rustix::fs::unlinkat(&top, &node.name, AtFlags::REMOVEDIR)?;
        }
        if !moved {
            break;
        }
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Whether `a` comes before `b` in the order of [`walk`].
pub fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.split(|byte| *byte == b'/').cmp(b.split(|byte| *byte == b'/'))
}

/// Opens the directory `path` of the workspace.
pub fn directory(area: &area::WorkspaceArea, path: &[u8]) -> Result<OwnedFd, Errno> {
    area.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deeper_than_trees_are_walked_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root =
            rustix::fs::open(folder.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut dir = root.try_clone().unwrap();
        for _ in 0..MAX_DEPTH + 200 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = enter(dir.as_fd(), "d").unwrap();
            openat(&dir, "f", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
        }
        remove_all(root.as_fd(), b"d").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
