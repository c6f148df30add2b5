//! The baseline: a manifest of every file's metadata, and the comparison of the present files with it.
//!
//! The manifest lies beside the workspace on its disk, in the order of [`walk`], so that comparing is one walk beside
//! one pass over it, and needs no memory for either. Beside a workspace's own there may be one with a name, for forks
//! of it, which have it on their disks from their first moment.
//!
//! ```text
//!   "pyroBASE" version | records | end mark, number of records, sum
//!   record: kind, bytes shared with the last path, rest of the path, mode, size, mtime, ctime, inode, link target
//! ```

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use pyro_proto::frame::MAX_MESSAGE;
use pyro_proto::message::{
    Bytes, Failure, FailureKind, FileChange, FileChangeKind, FileKind, FileState, Reply,
};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Statx, openat, readlinkat, renameat, unlinkat};
use rustix::time::{ClockId, clock_gettime};

use super::area::WorkspaceArea;
use super::single::io_failure;
use super::walk::{self, DirectoryNode};
use super::{file_failure, stage};
use crate::failure::refusal;
use crate::helper::{HelperChannel, HelperStop};

const MAGIC: &[u8; 12] = b"pyroBASE\x01\0\0\0";
const FILE: &str = "baseline";
const NAMED: &str = "baseline-";
const FRESH: &str = "baseline.new";
/// Longest path or link that a manifest may hold: deeper than trees are walked.
const MAX_TEXT: usize = 512 * 256;
/// Age below which a change counts as racy, nanoseconds: a file changed so shortly before may change once more without
/// a later time to show for it, since the kernel's clock for files ticks every 4 to 10 ms.
const RACY_NS: i64 = 50_000_000;

/// Record of one file in the baseline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct BaselineEntry {
    path: Vec<u8>,
    kind: u8,
    mode: u32,
    size: u64,
    mtime: i64,
    ctime: i64,
    inode: u64,
    target: Vec<u8>,
}

const KINDS: [FileKind; 4] = [FileKind::File, FileKind::Directory, FileKind::Link, FileKind::Other];
const END: u8 = 0xff;

impl BaselineEntry {
    fn state(&self) -> FileState {
        FileState { kind: KINDS[usize::from(self.kind)], mode: self.mode, size: self.size }
    }
}

/// Adds `bytes` to a sum that tells chance from intention only.
pub(super) fn add_to_sum(mut sum: u64, bytes: &[u8]) -> u64 {
    for word in bytes.chunks(8) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        sum = (sum ^ u64::from_le_bytes(padded)).wrapping_mul(0x0100_0000_01b3);
    }
    sum
}

struct BaselineWriter<W> {
    to: W,
    last: Vec<u8>,
    record: Vec<u8>,
    count: u64,
    sum: u64,
}

impl<W: Write> BaselineWriter<W> {
    fn new(mut to: W) -> io::Result<Self> {
        to.write_all(MAGIC)?;
        Ok(Self { to, last: Vec::new(), record: Vec::new(), count: 0, sum: 0 })
    }

    fn add(&mut self, path: &[u8], stat: &Statx, target: &[u8], racy_from: i64) -> io::Result<()> {
        let shared = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        let kind = KINDS.iter().position(|kind| *kind == walk::kind(stat)).unwrap_or(3);
        let ctime = walk::nanoseconds(stat.stx_ctime);
        let ctime = if ctime >= racy_from { i64::MIN } else { ctime };
        let out = &mut self.record;
        out.clear();
        out.push(kind as u8);
        out.extend((shared as u32).to_le_bytes());
        out.extend(((path.len() - shared) as u32).to_le_bytes());
        out.extend((target.len() as u32).to_le_bytes());
        out.extend(walk::mode(stat).to_le_bytes());
        out.extend(stat.stx_size.to_le_bytes());
        out.extend(walk::nanoseconds(stat.stx_mtime).to_le_bytes());
        out.extend(ctime.to_le_bytes());
        out.extend(stat.stx_ino.to_le_bytes());
        out.extend(&path[shared..]);
        out.extend(target);
        self.sum = add_to_sum(self.sum, out);
        self.count += 1;
        self.last.truncate(shared);
        self.last.extend(&path[shared..]);
        self.to.write_all(out)
    }

    fn finish(mut self) -> io::Result<(W, u64)> {
        self.to.write_all(&[END])?;
        self.to.write_all(&self.count.to_le_bytes())?;
        self.to.write_all(&self.sum.to_le_bytes())?;
        self.to.flush()?;
        Ok((self.to, self.count))
    }
}

struct BaselineReader<R> {
    from: R,
    record: Vec<u8>,
    current: BaselineEntry,
    count: u64,
    sum: u64,
}

impl<R: Read> BaselineReader<R> {
    fn new(mut from: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { from, record: Vec::new(), current: BaselineEntry::default(), count: 0, sum: 0 })
    }

    /// The next record; `None` after the last.
    fn next(&mut self) -> io::Result<Option<&BaselineEntry>> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let mut kind = [0];
        self.from.read_exact(&mut kind)?;
        if kind[0] == END {
            let mut end = [0; 16];
            self.from.read_exact(&mut end)?;
            let wanted = [self.count.to_le_bytes(), self.sum.to_le_bytes()].concat();
            return if end[..] == wanted[..] { Ok(None) } else { Err(broken()) };
        }
        const FIXED: usize = 1 + 4 * 4 + 8 * 4;
        self.record.resize(FIXED, 0);
        self.record[0] = kind[0];
        self.from.read_exact(&mut self.record[1..])?;
        let u32_at = |at: usize| self.record[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
        let u64_at =
            |at: usize| self.record[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
        let (shared, rest, target) = (u32_at(1) as usize, u32_at(5) as usize, u32_at(9) as usize);
        let now = &mut self.current;
        if usize::from(kind[0]) >= KINDS.len()
            || shared > now.path.len()
            || rest > MAX_TEXT
            || target > MAX_TEXT
            || shared + rest > MAX_TEXT
        {
            return Err(broken());
        }
        now.kind = kind[0];
        now.mode = u32_at(13);
        now.size = u64_at(17);
        now.mtime = u64_at(25) as i64;
        now.ctime = u64_at(33) as i64;
        now.inode = u64_at(41);
        self.record.resize(FIXED + rest + target, 0);
        self.from.read_exact(&mut self.record[FIXED..])?;
        now.path.truncate(shared);
        now.path.extend(&self.record[FIXED..FIXED + rest]);
        now.target.clear();
        now.target.extend(&self.record[FIXED + rest..]);
        self.sum = add_to_sum(self.sum, &self.record);
        self.count += 1;
        Ok(Some(now))
    }
}

/// The file of the baseline of this name.
fn file_of(name: Option<&str>) -> Result<String, Failure> {
    let Some(name) = name else { return Ok(FILE.to_owned()) };
    let plain =
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !plain {
        return Err(refusal(
            FailureKind::BadRequest,
            "baseline",
            format!("{name:?} is no name of a baseline"),
        ));
    }
    Ok(format!("{NAMED}{name}"))
}

/// Removes all baselines but the `kept` ones.
fn forget_all_but(own: &OwnedFd, kept: [&str; 2]) {
    let Ok(dir) = Dir::read_from(own) else { return };
    for entry in dir.flatten() {
        let name = entry.file_name();
        let text = name.to_str().unwrap_or_default();
        if (text == FILE || text.starts_with(NAMED)) && !kept.contains(&text) {
            // A baseline that stays costs some space only.
            let _ = unlinkat(own, name, AtFlags::empty());
        }
    }
}

pub(super) fn take(
    area: &WorkspaceArea,
    name: Option<&str>,
    keep: Option<&str>,
) -> Result<Reply, HelperStop> {
    let (to, keep) = (file_of(name)?, file_of(keep)?);
    let own = stage::own(area.disk.as_fd()).map_err(file_failure("baseline", b"the baseline"))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&own, FRESH, flags, Mode::from_raw_mode(0o600));
    let file = File::from(file.map_err(file_failure("baseline", b"the baseline"))?);
    let failed = || io_failure("baseline", b"the baseline");
    let now = clock_gettime(ClockId::Realtime);
    let racy_from = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec) - RACY_NS;
    let mut writer = BaselineWriter::new(BufWriter::with_capacity(128 * 1024, file)).map_err(failed())?;
    let mut add = |dir: std::os::fd::BorrowedFd<'_>, path: &[u8], node: &DirectoryNode| {
        let target = match walk::kind(&node.stat) {
            FileKind::Link => readlinkat(dir, &node.name, Vec::new()).map(|target| target.into_bytes()),
            _ => Ok(Vec::new()),
        };
        Ok(writer.add(path, &node.stat, &target.unwrap_or_default(), racy_from).map_err(failed())?)
    };
    walk::walk(area.workspace.as_fd(), &mut Vec::new(), &mut add)?;
    let (_, entries) = writer.finish().map_err(failed())?;
    renameat(&own, FRESH, &own, &to).map_err(file_failure("baseline", b"the baseline"))?;
    forget_all_but(&own, [&to, &keep]);
    Ok(Reply::Baseline { entries })
}

/// Differences on their way to the host.
struct ChangeSender<'t> {
    channel: &'t mut HelperChannel,
    found: Vec<FileChange>,
    bytes: usize,
}

impl ChangeSender<'_> {
    fn add(
        &mut self,
        path: &[u8],
        kind: FileChangeKind,
        before: Option<FileState>,
        after: Option<FileState>,
    ) -> Result<(), HelperStop> {
        let bytes = path.len() + 64;
        if self.bytes + bytes > MAX_MESSAGE - 1024 {
            self.flush()?;
        }
        self.bytes += bytes;
        self.found.push(FileChange { path: Bytes(path.to_vec()), kind, before, after });
        Ok(())
    }

    fn flush(&mut self) -> Result<(), HelperStop> {
        self.bytes = 0;
        match std::mem::take(&mut self.found) {
            none if none.is_empty() => Ok(()),
            found => self.channel.send_reply(&Reply::Changes(found)),
        }
    }
}

fn damaged(error: io::Error) -> Failure {
    refusal(FailureKind::Internal, "baseline", format!("the baseline cannot be read: {error}"))
}

pub(super) fn compare(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    baseline: Option<&str>,
) -> Result<Reply, HelperStop> {
    let from = file_of(baseline)?;
    let own = stage::own(area.disk.as_fd()).map_err(file_failure("baseline", b"the baseline"))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        openat(&own, &from, flags, Mode::empty()).map_err(file_failure("baseline", b"the baseline"))?;
    let mut before =
        BaselineReader::new(BufReader::with_capacity(128 * 1024, File::from(file))).map_err(damaged)?;
    let mut changes = ChangeSender { channel, found: Vec::new(), bytes: 0 };
    let mut entries = 0;
    // Whether `before.current` is still to be compared.
    let mut pending = before.next().map_err(damaged)?.is_some();
    let mut visit = |dir: std::os::fd::BorrowedFd<'_>, path: &[u8], node: &DirectoryNode| {
        entries += 1;
        let after = walk::state(&node.stat);
        while pending {
            let old = &before.current;
            match if old.path == path { Ordering::Equal } else { walk::order(&old.path, path) } {
                Ordering::Less => changes.add(&old.path, FileChangeKind::Deleted, Some(old.state()), None)?,
                Ordering::Equal => {
                    if let Some(kind) = differs(old, dir, node) {
                        changes.add(path, kind, Some(old.state()), Some(after))?;
                    }
                    pending = before.next().map_err(damaged)?.is_some();
                    return Ok(());
                }
                Ordering::Greater => break,
            }
            pending = before.next().map_err(damaged)?.is_some();
        }
        changes.add(path, FileChangeKind::Added, None, Some(after))
    };
    walk::walk(area.workspace.as_fd(), &mut Vec::new(), &mut visit)?;
    while pending {
        let old = &before.current;
        changes.add(&old.path, FileChangeKind::Deleted, Some(old.state()), None)?;
        pending = before.next().map_err(damaged)?.is_some();
    }
    changes.flush()?;
    Ok(Reply::Scanned { entries })
}

fn differs(
    old: &BaselineEntry,
    dir: std::os::fd::BorrowedFd<'_>,
    node: &DirectoryNode,
) -> Option<FileChangeKind> {
    let (was, is) = (old.state(), walk::state(&node.stat));
    if was.kind != is.kind {
        return Some(FileChangeKind::Type);
    }
    match is.kind {
        FileKind::File => {
            let same = old.mtime == walk::nanoseconds(node.stat.stx_mtime)
                && old.ctime == walk::nanoseconds(node.stat.stx_ctime)
                && old.inode == node.stat.stx_ino;
            match (was.size == is.size, same) {
                (true, true) => None,
                (true, false) => Some(FileChangeKind::Touched),
                (false, _) => Some(FileChangeKind::Modified),
            }
        }
        FileKind::Link => {
            let target = readlinkat(dir, &node.name, Vec::new()).map(|target| target.into_bytes());
            (target.as_ref() != Ok(&old.target)).then_some(FileChangeKind::Modified)
        }
        FileKind::Directory | FileKind::Other => (was.mode != is.mode).then_some(FileChangeKind::Mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest() -> Vec<u8> {
        let stat = walk::look(rustix::fs::CWD, c"/").unwrap();
        let mut writer = BaselineWriter::new(Vec::new()).unwrap();
        for (path, target) in [("a", ""), ("a/b", "to"), ("a/c", ""), ("b", "elsewhere")] {
            writer.add(path.as_bytes(), &stat, target.as_bytes(), i64::MAX).unwrap();
        }
        let (bytes, count) = writer.finish().unwrap();
        assert_eq!(count, 4);
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut reader = BaselineReader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(noted) = reader.next()? {
            all.push((noted.path.clone(), noted.target.clone()));
        }
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read() {
        let texts = |path: &str, target: &str| (path.as_bytes().to_vec(), target.as_bytes().to_vec());
        let wanted = [texts("a", ""), texts("a/b", "to"), texts("a/c", ""), texts("b", "elsewhere")];
        assert_eq!(read(&manifest()).unwrap(), wanted);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let whole = manifest();
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            assert!(read(&flipped).is_err(), "flipped at {at}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes: Vec<u8>) {
            let _ = read(&[&MAGIC[..], &bytes].concat());
        }
    }
}
