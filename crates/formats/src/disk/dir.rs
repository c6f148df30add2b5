//! Directories. Those with an index are read from front to back too: to a reader that does not know it, the index
//! looks like unused space.

use super::bytes::{le16, le32};
use super::image::has_inline;
use super::inode::{Inode, InodeKind};
use super::{DiskError, Ext4, superblock};

/// Names of one directory, at the most.
const MAX_NAMES: usize = 1 << 19;
/// Bytes of one directory that are looked at, at the most.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes before a name.
const HEADER: usize = 8;
/// Bytes of the parent's number, which an inline directory has in place of `.` and `..`.
const INLINE_HEADER: usize = 4;
/// Bytes of entries that are looked through in one step.
const SCANNED: usize = 1024;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// 1 to 255 bytes, none of them `/` or NUL; never `.` or `..`.
    pub name: Vec<u8>,
    /// The number of its inode.
    pub inode: u32,
}

pub(super) fn entries(image: &Ext4, directory: &Inode) -> Result<Vec<Entry>, DiskError> {
    let mut found = Vec::new();
    each(image, directory, &mut |name, inode| {
        if found.len() == MAX_NAMES {
            return Err(DiskError::TooMany { what: "names in a directory", limit: MAX_NAMES as u64 });
        }
        image.volume().budget().spend(1)?;
        found.push(Entry { name: name.to_vec(), inode });
        Ok(true)
    })?;
    // Stable, so that of two with one name the first stays: it is the one that a lookup finds.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|later, first| later.name == first.name);
    Ok(found)
}

pub(super) fn lookup(image: &Ext4, directory: &Inode, wanted: &[u8]) -> Result<Option<u32>, DiskError> {
    let mut found = None;
    each(image, directory, &mut |name, inode| {
        if name == wanted {
            found = Some(inode);
        }
        Ok(found.is_none())
    })?;
    Ok(found)
}

type Take<'a> = &'a mut dyn FnMut(&[u8], u32) -> Result<bool, DiskError>;

/// Calls `take` with each name and inode until it says no.
fn each(image: &Ext4, directory: &Inode, take: Take<'_>) -> Result<(), DiskError> {
    if directory.kind() != InodeKind::Directory {
        return Err(DiskError::damaged(format!("inode {} is not a directory", directory.number())));
    }
    if has_inline(directory) {
        let mut content = image.inline(directory)?;
        content.truncate(usize::try_from(directory.size()).unwrap_or(usize::MAX));
        // The part in the inode and the rest each end with an entry of their own.
        let (first, rest) = content.split_at(content.len().min(super::inode::MAP));
        let go_on = scan(image, directory, first.get(INLINE_HEADER..).unwrap_or_default(), take)?;
        return if go_on { scan(image, directory, rest, take).map(|_| ()) } else { Ok(()) };
    }
    if directory.size() > MAX_BYTES {
        return Err(DiskError::TooMany { what: "bytes in a directory", limit: MAX_BYTES });
    }
    let size = image.volume().superblock().block_size;
    let mut block = vec![0; size as usize];
    let mut at = 0;
    while let Some(data) = image.next_data(directory, at)? {
        let mut from = data.start;
        while from < data.end {
            let length = image.read_at(directory, from, &mut block)?;
            if length as u64 != size {
                return Err(broken(directory));
            }
            if !scan(image, directory, &block, take)? {
                return Ok(());
            }
            from += size;
        }
        at = data.end;
    }
    Ok(())
}

/// Passes the entries of one block to `take`. Returns whether that wants more.
fn scan(image: &Ext4, directory: &Inode, bytes: &[u8], take: Take<'_>) -> Result<bool, DiskError> {
    let superblock = image.volume().superblock();
    image.volume().budget().spend(bytes.len().div_ceil(SCANNED) as u64)?;
    let mut at = 0;
    while at < bytes.len() {
        let entry = bytes.get(at..).unwrap_or_default();
        let length = match usize::from(le16(entry, 4)) {
            // Longer than 64 KiB less four: the two lowest bits are the highest ones.
            65535 | 0 if bytes.len() >= 65536 => bytes.len(),
            said => said & 0xfffc | (said & 3) << 16,
        };
        if length < HEADER || length > entry.len() {
            return Err(broken(directory));
        }
        let name_length = match entry.get(6) {
            Some(length) if superblock.has(superblock::FILETYPE) => usize::from(*length),
            _ => usize::from(le16(entry, 6)),
        };
        let inode = le32(entry, 0);
        if inode != 0 {
            let name = entry.get(HEADER..length).and_then(|space| space.get(..name_length));
            let Some(name) = name.filter(|name| sound(name)) else { return Err(broken(directory)) };
            if inode > superblock.inodes {
                return Err(broken(directory));
            }
            if name != b"." && name != b".." && !take(name, inode)? {
                return Ok(false);
            }
        }
        at += length;
    }
    Ok(true)
}

fn sound(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

fn broken(directory: &Inode) -> DiskError {
    DiskError::damaged(format!("directory inode {} is broken", directory.number()))
}
