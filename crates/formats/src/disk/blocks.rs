//! From a place in a file to a place in the image: extents, and the block maps of ext2 and ext3.

use super::DiskError;
use super::bytes::{join, le16, le32};
use super::inode::{FLAG_EXTENTS, Inode};
use super::volume::Volume;

/// Levels of a tree of extents below the inode, at the most.
const MAX_DEPTH: u16 = 5;
const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
/// Extents and their indexes alike.
const RECORD: usize = 12;
/// An extent of more blocks than this is one that was allocated and never written.
const UNWRITTEN: u64 = 32768;
const DIRECT: u64 = 12;
/// Blocks that a file can have.
pub(super) const MAX_BLOCKS: u64 = 1 << 32;

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first block of the image that holds it; `None` for zeros.
    pub(super) physical: Option<u64>,
    /// Length, 1 block at least. Of zeros there may follow more.
    pub(super) blocks: u64,
}

/// Finds the run that holds block `logical` of a file.
pub(super) fn find(volume: &Volume, inode: &Inode, logical: u64) -> Result<Run, DiskError> {
    if logical >= MAX_BLOCKS {
        return Ok(Run { physical: None, blocks: u64::MAX - logical });
    }
    volume.budget().spend(1)?;
    let run = if inode.flags & FLAG_EXTENTS != 0 {
        find_extent(volume, inode, logical)?
    } else {
        find_mapped(volume, inode, logical)?
    };
    let fits = |first: u64| {
        first >= volume.superblock().first_data_block
            && first.checked_add(run.blocks).is_some_and(|end| end <= volume.superblock().blocks)
    };
    if run.physical.is_some_and(|first| !fits(first)) {
        return Err(outside(inode));
    }
    Ok(run)
}

fn outside(inode: &Inode) -> DiskError {
    DiskError::damaged(format!("inode {} has blocks beyond the end", inode.number()))
}

/// Node of a tree of extents, its header checked.
pub(super) struct ExtentNode {
    bytes: Vec<u8>,
    entries: usize,
    /// Levels below it; 0 for one that holds extents.
    pub(super) depth: u16,
}

impl ExtentNode {
    /// The one in the inode.
    pub(super) fn root(inode: &Inode) -> Result<Self, DiskError> {
        Self::parse(inode, inode.map().to_vec(), None)
    }

    /// Reads a node below one of depth `above`.
    pub(super) fn below(volume: &Volume, inode: &Inode, block: u64, above: u16) -> Result<Self, DiskError> {
        if block < volume.superblock().first_data_block || block >= volume.superblock().blocks {
            return Err(outside(inode));
        }
        Self::parse(inode, volume.block(block)?, above.checked_sub(1))
    }

    fn parse(inode: &Inode, bytes: Vec<u8>, depth: Option<u16>) -> Result<Self, DiskError> {
        let entries = usize::from(le16(&bytes, 2));
        let found = le16(&bytes, 6);
        let fits = entries <= (bytes.len() - HEADER) / RECORD && found <= MAX_DEPTH;
        // The depth counts down at each level, so that no tree can lead back into itself.
        if le16(&bytes, 0) != MAGIC || !fits || depth.is_some_and(|depth| depth != found) {
            let what = format!("inode {} has a broken tree of extents", inode.number());
            return Err(DiskError::damaged(what));
        }
        Ok(Self { bytes, entries, depth: found })
    }

    fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.get(HEADER..).unwrap_or_default().chunks_exact(RECORD).take(self.entries)
    }

    /// Children of a node that has indexes only: first block of the file and the node's block.
    pub(super) fn children(&self) -> impl Iterator<Item = (u64, u64)> {
        self.records().map(|raw| (le32(raw, 0).into(), join(le16(raw, 8).into(), le32(raw, 4))))
    }

    /// Extents of a node of depth 0: first block of the file, first block of the image, blocks, and whether there is
    /// content.
    pub(super) fn extents(&self) -> impl Iterator<Item = (u64, u64, u64, bool)> {
        self.records().map(|raw| {
            let length = u64::from(le16(raw, 4));
            let written = length <= UNWRITTEN;
            let blocks = if written { length } else { length - UNWRITTEN };
            (le32(raw, 0).into(), join(le16(raw, 6).into(), le32(raw, 8)), blocks, written)
        })
    }
}

fn find_extent(volume: &Volume, inode: &Inode, logical: u64) -> Result<Run, DiskError> {
    let mut node = ExtentNode::root(inode)?;
    // Where what this node knows of ends.
    let mut end = MAX_BLOCKS;
    while node.depth > 0 {
        let mut child = None;
        for (first, block) in node.children() {
            if first <= logical {
                child = Some(block);
            } else {
                end = end.min(first);
                break;
            }
        }
        let Some(block) = child else {
            return Ok(Run { physical: None, blocks: end - logical });
        };
        node = ExtentNode::below(volume, inode, block, node.depth)?;
    }
    let mut found = None;
    for (first, physical, blocks, written) in node.extents() {
        if first <= logical {
            found = Some((first, physical, blocks, written));
        } else {
            end = end.min(first);
            break;
        }
    }
    match found {
        Some((first, physical, blocks, written)) if logical < first + blocks => {
            let skipped = logical - first;
            // Never none: `end` may be no further than an earlier index said.
            let blocks = (blocks - skipped).min(end.saturating_sub(logical)).max(1);
            Ok(Run { physical: written.then_some(physical + skipped), blocks })
        }
        _ => Ok(Run { physical: None, blocks: end.saturating_sub(logical).max(1) }),
    }
}

fn find_mapped(volume: &Volume, inode: &Inode, logical: u64) -> Result<Run, DiskError> {
    let pointers = volume.superblock().block_size / 4;
    if logical < DIRECT {
        return Ok(run_in(inode.map(), logical, DIRECT));
    }
    let mut within = logical - DIRECT;
    for levels in 1..=3_u32 {
        let covered = pointers.pow(levels);
        if within >= covered {
            within -= covered;
            continue;
        }
        let mut block = u64::from(le32(inode.map(), (DIRECT as usize + levels as usize - 1) * 4));
        for level in (0..levels).rev() {
            let below = pointers.pow(level);
            if block == 0 {
                return Ok(Run { physical: None, blocks: below * pointers - within % (below * pointers) });
            }
            if block < volume.superblock().first_data_block || block >= volume.superblock().blocks {
                return Err(outside(inode));
            }
            let table = volume.block(block)?;
            let index = within / below % pointers;
            if level == 0 {
                return Ok(run_in(&table, index, pointers));
            }
            block = le32(&table, index as usize * 4).into();
        }
    }
    Ok(Run { physical: None, blocks: MAX_BLOCKS - logical })
}

/// The run that begins at pointer `index` of the first `count` of a table.
fn run_in(table: &[u8], index: u64, count: u64) -> Run {
    let pointer = |index: u64| u64::from(le32(table, index as usize * 4));
    let first = pointer(index);
    let more = (index + 1..count).take_while(|next| match first {
        0 => pointer(*next) == 0,
        _ => pointer(*next) == first + (next - index),
    });
    Run { physical: (first != 0).then_some(first), blocks: 1 + more.count() as u64 }
}
