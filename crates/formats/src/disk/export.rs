//! A guest's disk as one raw ext4 image that anything reads: a sparse copy in which the journal is replayed, as the
//! kernel does when it mounts one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::TempPath;

use super::bytes::{crc, join, le16, le32, put};
use super::error::Reading;
use super::superblock::{self, METADATA_CSUM, RECOVER};
use super::volume::Volume;
use super::{Budget, DiskError, Ext4, orphan};
use crate::hostfs::HostPath;
use crate::hostfs::copy_sparse_asking;

/// Prefix of the name of a copy that is not whole yet.
const PREFIX: &str = ".pyro-export-";

/// Outcome of [`export`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// The image's size with its holes, bytes.
    pub size: u64,
    /// Space that the image takes on the host's disk, bytes.
    pub allocated: u64,
    /// Blocks that came out of the journal.
    pub replayed: u64,
    /// Files that were deleted while they were open, and freed now.
    pub orphans: u64,
}

/// Writes a copy of `image` to `to`, readable by the owner only. It shares its blocks with `image` where the file
/// system can do that. Nothing is at `to` before all of it is, on disk; a file that was there stays as it is when
/// this fails, and is replaced when `replace` is set. What is read of the journal and the deleted files comes out of
/// `budget`, the copy of the bytes does not; cancelling ends either.
///
/// # Errors
/// When the image cannot be read or is damaged, `to` is there already and not to be replaced, or cannot be written.
pub fn export(
    image: &File,
    to: impl Into<HostPath>,
    replace: bool,
    budget: &Budget,
) -> Result<Exported, DiskError> {
    let held = to.into();
    let (to, shown) = (held.path(), held.shown());
    let output = |doing| DiskError::output(shown, doing);
    let source = Ext4::open(image.try_clone().map_err(DiskError::read)?, budget)?;
    let exists = to.symlink_metadata().is_ok();
    if exists && !replace {
        return Err(output("written")(io::ErrorKind::AlreadyExists.into()));
    }
    let dir = match to.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let (copy, named) = unnamed(dir).map_err(output("made"))?;
    let go_on = || match budget.is_cancelled() {
        true => Err(io::ErrorKind::Interrupted.into()),
        false => Ok(()),
    };
    copy_sparse_asking(image, &copy, go_on).map_err(|error| match budget.is_cancelled() {
        true => DiskError::Cancelled,
        false => output("written")(error),
    })?;
    let replayed = replay(source.volume(), &copy, shown).map_err(|e| e.reading(|| Reading::Journal))?;
    let recovered = Ext4::open(copy.try_clone().map_err(output("read"))?, budget)?;
    let orphans = orphan::free(&recovered, &copy, shown).map_err(|e| e.reading(|| Reading::Deleted))?;
    copy.sync_all().map_err(output("written"))?;
    name(&copy, named, dir, to, replace).map_err(output("written"))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(output("written"))?;
    let metadata = copy.metadata().map_err(output("read"))?;
    let allocated = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    Ok(Exported { size: metadata.len(), allocated, replayed, orphans })
}

/// A new file in `dir`: without a name, so that nothing is left of it if this process is killed, where the file system can
/// do that.
fn unnamed(dir: &Path) -> io::Result<(File, Option<TempPath>)> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok((file.into(), None)),
        Err(_) => {
            let (file, path) = tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir)?.into_parts();
            Ok((file, Some(path)))
        }
    }
}

/// Gives it its name.
fn name(copy: &File, named: Option<TempPath>, dir: &Path, to: &Path, replace: bool) -> io::Result<()> {
    let link = |to: &Path| {
        let own = format!("/proc/self/fd/{}", copy.as_raw_fd());
        rustix::fs::linkat(CWD, own, CWD, to, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
    };
    let named = match named {
        Some(named) => named,
        None if !replace => return link(to),
        // Nothing but a rename replaces a file, and that takes a name.
        None => tempfile::Builder::new().prefix(PREFIX).make_in(dir, link)?.into_temp_path(),
    };
    let persist = if replace { named.persist(to) } else { named.persist_noclobber(to) };
    persist.map_err(|error| error.error)
}

/// Writes what the journal holds, and that nothing is left in it. Reads from the image only, never from the copy: a
/// journal may write over itself.
fn replay(source: &Volume, copy: &File, to: &Path) -> Result<u64, DiskError> {
    let Some(recovery) = source.recovery() else { return Ok(0) };
    let size = source.superblock().block_size;
    let write =
        |bytes: &[u8], at: u64| copy.write_all_at(bytes, at).map_err(DiskError::output(to, "written"));
    let mut replayed = 0;
    for block in source.replayed() {
        write(&source.block(block)?, block * size)?;
        replayed += 1;
    }
    write(&recovery.superblock, recovery.block * size)?;

    let mut raw = [0; superblock::SIZE];
    source.read_at(&mut raw, superblock::OFFSET)?;
    let incompat = le32(&raw, superblock::INCOMPAT) & !RECOVER;
    put(&mut raw, superblock::INCOMPAT, incompat.to_le_bytes());
    // A kernel counts what is free per group and sums it up only when it unmounts.
    let (mut blocks, mut inodes) = (0_u64, 0_u32);
    let shape = source.superblock();
    let cluster = match shape.ro_compat & superblock::BIGALLOC {
        0 => 0,
        _ => le32(&raw, 0x1c).saturating_sub(le32(&raw, 0x18)).min(31),
    };
    for group in 0..shape.groups {
        let mut descriptor = vec![0; shape.desc_size];
        source.read_at(&mut descriptor, shape.descriptor(group))?;
        let wide = shape.desc_size >= 64;
        let number = |low, high| {
            let high = if wide { le16(&descriptor, high) } else { 0 };
            u32::from(high) << 16 | u32::from(le16(&descriptor, low))
        };
        blocks = blocks.saturating_add(u64::from(number(0xc, 0x2c)) << cluster);
        inodes = inodes.wrapping_add(number(0xe, 0x2e));
    }
    set_free(&mut raw, blocks, inodes);
    seal(&mut raw);
    write(&raw, superblock::OFFSET)?;
    Ok(replayed)
}

/// Sets how many blocks and inodes are free.
pub(super) fn set_free(raw: &mut [u8], blocks: u64, inodes: u32) {
    put(raw, 0xc, (blocks as u32).to_le_bytes());
    if le32(raw, superblock::INCOMPAT) & superblock::BIT64 != 0 {
        put(raw, 0x158, ((blocks >> 32) as u32).to_le_bytes());
    }
    put(raw, 0x10, inodes.to_le_bytes());
}

/// Reads how many blocks and inodes are free.
pub(super) fn free(raw: &[u8]) -> (u64, u32) {
    let high = if le32(raw, superblock::INCOMPAT) & superblock::BIT64 != 0 { le32(raw, 0x158) } else { 0 };
    (join(high, le32(raw, 0xc)), le32(raw, 0x10))
}

/// Makes the checksum of a superblock right.
pub(super) fn seal(raw: &mut [u8]) {
    if le32(raw, 0x64) & METADATA_CSUM != 0 {
        let sum = crc(!0, raw.get(..superblock::CHECKSUM).unwrap_or_default());
        put(raw, superblock::CHECKSUM, sum.to_le_bytes());
    }
}
