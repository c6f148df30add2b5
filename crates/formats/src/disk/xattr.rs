//! Extended attributes: some in the inode, more in a block, long values in inodes of their own.

use super::bytes::{le16, le32};
use super::inode::{CLASSIC, FLAG_EA_INODE, Inode};
use super::{DiskError, Ext4};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// Bytes of one value, at the most: what the kernel allows.
pub(super) const MAX_VALUE: u64 = 64 << 10;
const SYSTEM: u8 = 7;

/// Attribute whose value is not read yet.
struct Raw<'a> {
    index: u8,
    name: &'a [u8],
    /// The region in which the value lies and where, when it is not in an inode.
    region: &'a [u8],
    offset: usize,
    size: u64,
    /// The inode that holds the value, or 0.
    inode: u32,
}

pub(super) fn get(image: &Ext4, inode: &Inode, wanted: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
    let mut value = None;
    each(image, inode, &mut |raw| {
        if full_name(raw).is_some_and(|name| name == wanted) {
            value = Some(read(image, inode, raw)?);
        }
        Ok(value.is_none())
    })?;
    Ok(value)
}

pub(super) fn names(image: &Ext4, inode: &Inode) -> Result<Vec<Vec<u8>>, DiskError> {
    let mut names = Vec::new();
    each(image, inode, &mut |raw| {
        names.extend(full_name(raw));
        Ok(true)
    })?;
    Ok(names)
}

/// Reads inline content beyond the part in the inode's map.
pub(super) fn inline(image: &Ext4, inode: &Inode) -> Result<Vec<u8>, DiskError> {
    let mut value = Vec::new();
    each(image, inode, &mut |raw| {
        let found = raw.index == SYSTEM && raw.name == b"data";
        if found {
            value = read(image, inode, raw)?;
        }
        Ok(!found)
    })?;
    Ok(value)
}

/// The name with its prefix; `None` for what is not an attribute to anybody else.
fn full_name(raw: &Raw<'_>) -> Option<Vec<u8>> {
    let prefix: &[u8] = match raw.index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        SYSTEM if raw.name != b"data" => b"system.",
        _ => return None,
    };
    Some([prefix, raw.name].concat())
}

fn read(image: &Ext4, inode: &Inode, raw: &Raw<'_>) -> Result<Vec<u8>, DiskError> {
    if raw.size > MAX_VALUE {
        return Err(broken(inode));
    }
    if raw.inode == 0 {
        let value = raw.offset.checked_add(raw.size as usize).and_then(|end| raw.region.get(raw.offset..end));
        return value.map(<[u8]>::to_vec).ok_or_else(|| broken(inode));
    }
    let holder = image.inode(raw.inode)?;
    let mut value = vec![0; raw.size as usize];
    // One that holds its content inline would lead back here.
    let sound = holder.flags & FLAG_EA_INODE != 0 && !super::image::has_inline(&holder);
    if !sound || image.read_at(&holder, 0, &mut value)? != value.len() {
        return Err(broken(inode));
    }
    Ok(value)
}

type Take<'a> = &'a mut dyn FnMut(&Raw<'_>) -> Result<bool, DiskError>;

/// Calls `take` with each attribute, those in the inode first, until it says no.
fn each(image: &Ext4, inode: &Inode, take: Take<'_>) -> Result<(), DiskError> {
    let begin = CLASSIC + inode.extra();
    let body = inode.raw.get(begin..).unwrap_or_default();
    if inode.raw.len() > CLASSIC && le32(body, 0) == MAGIC {
        let region = body.get(4..).unwrap_or_default();
        if !scan(image, inode, region, region, take)? {
            return Ok(());
        }
    }
    if inode.attribute_block != 0 {
        let superblock = image.volume().superblock();
        if inode.attribute_block >= superblock.blocks {
            return Err(broken(inode));
        }
        let block = image.volume().block(inode.attribute_block)?;
        if le32(&block, 0) != MAGIC {
            return Err(broken(inode));
        }
        scan(image, inode, &block, block.get(BLOCK_HEADER..).unwrap_or_default(), take)?;
    }
    Ok(())
}

/// `region` is what offsets of values count from, `entries` where the entries begin.
fn scan(
    image: &Ext4,
    inode: &Inode,
    region: &[u8],
    entries: &[u8],
    take: Take<'_>,
) -> Result<bool, DiskError> {
    let mut rest = entries;
    while le32(rest, 0) != 0 {
        image.volume().budget().spend(1)?;
        let [name_length, index, ..] = *rest else { return Err(broken(inode)) };
        let length = ENTRY + usize::from(name_length);
        let Some(name) = rest.get(ENTRY..length) else { return Err(broken(inode)) };
        let raw = Raw {
            index,
            name,
            region,
            offset: le16(rest, 2).into(),
            size: le32(rest, 8).into(),
            inode: le32(rest, 4),
        };
        if !take(&raw)? {
            return Ok(false);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn broken(inode: &Inode) -> DiskError {
    DiskError::damaged(format!("inode {} has broken extended attributes", inode.number()))
}
