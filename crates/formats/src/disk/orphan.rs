//! Files that were deleted while they were open when the VM was killed: they have no name, and still take space. The
//! kernel frees them when it next mounts the disk; an exported image is to be sound without that.
//!
//! ```text
//!   superblock.s_last_orphan -> inode -> inode -> 0        the next one is in the field of the time of deletion
//! ```
//!
//! A file on the list that still has names was being made shorter. Where that was done it leaves the list; where
//! blocks beyond its end are left, the kernel has to finish it.
//!
//! Invariant: no block is freed twice, and nothing is written before all is known to be sound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::blocks::ExtentNode;
use super::bytes::{crc, join, le16, le32, put};
use super::inode::{CLASSIC, FLAG_EXTENTS, FLAG_INLINE, Inode, InodeKind, MAP, position};
use super::superblock::{self, BIGALLOC, EA_INODE, GDT_CSUM, METADATA_CSUM};
use super::volume::Volume;
use super::{DiskError, Ext4, export};

const LAST_ORPHAN: usize = 0xe8;
const DELETED_AT: usize = 0x14;
const GENERATION: usize = 0x64;
/// Orphans that are looked at.
const MAX_ORPHANS: usize = 1 << 16;
/// Blocks that are freed in one step.
const FREED: u64 = 64;
/// Block groups that are changed; with 4 KiB blocks, 512 GiB of disk.
const MAX_GROUPS: usize = 1 << 12;

/// Frees the orphans of a recovered copy. Returns how many.
pub(super) fn free(image: &Ext4, copy: &File, to: &Path) -> Result<u64, DiskError> {
    let volume = image.volume();
    let shape = volume.superblock();
    let mut raw = [0; superblock::SIZE];
    volume.read_at(&mut raw, superblock::OFFSET)?;
    let mut next = le32(&raw, LAST_ORPHAN);
    let other_sums = shape.ro_compat & GDT_CSUM != 0 && shape.ro_compat & METADATA_CSUM == 0;
    // Our own disks have none of these; the kernel frees the orphans of the others.
    if next == 0 || other_sums || shape.ro_compat & BIGALLOC != 0 || shape.has(EA_INODE) {
        return Ok(0);
    }
    let mut changes = OrphanChanges {
        volume,
        groups: BTreeMap::new(),
        writes: Vec::new(),
        attributes: BTreeMap::new(),
        blocks: 0,
        inodes: 0,
    };
    let (mut met, mut kept) = (BTreeSet::new(), Vec::new());
    while next != 0 {
        if !met.insert(next) || met.len() > MAX_ORPHANS {
            return Err(DiskError::damaged("its list of deleted files has no end"));
        }
        let inode = image.inode(next)?;
        next = le32(&inode.raw, DELETED_AT);
        if inode.links() == 0 {
            changes.free_file(&inode)?;
        } else if image.has_data_beyond(&inode)? {
            kept.push(inode);
        } else {
            changes.set_next(&inode, 0)?;
        }
    }
    let first = kept.first().map_or(0, Inode::number);
    for (index, inode) in kept.iter().enumerate() {
        changes.set_next(inode, kept.get(index + 1).map_or(0, Inode::number))?;
    }
    put(&mut raw, LAST_ORPHAN, first.to_le_bytes());
    let (blocks, inodes) = export::free(&raw);
    export::set_free(&mut raw, blocks.saturating_add(changes.blocks), inodes.saturating_add(changes.inodes));
    export::seal(&mut raw);
    let freed = changes.inodes.into();
    changes.finish();
    changes.writes.push((superblock::OFFSET, raw.to_vec()));
    for (at, bytes) in &changes.writes {
        copy.write_all_at(bytes, *at).map_err(DiskError::output(to, "written"))?;
    }
    Ok(freed)
}

/// The descriptor of a block group and its bitmaps.
struct Group {
    at: u64,
    descriptor: Vec<u8>,
    blocks: Vec<u8>,
    inodes: Vec<u8>,
}

impl Group {
    fn read(volume: &Volume, number: u64) -> Result<Self, DiskError> {
        let shape = volume.superblock();
        let at = shape.descriptor(number);
        let mut descriptor = vec![0; shape.desc_size];
        volume.read_at(&mut descriptor, at)?;
        let mut group = Self { at, descriptor, blocks: Vec::new(), inodes: Vec::new() };
        group.blocks = volume.block(group.place(0x0, 0x20))?;
        group.inodes = volume.block(group.place(0x4, 0x24))?;
        Ok(group)
    }

    fn place(&self, low: usize, high: usize) -> u64 {
        // A descriptor of 32 bytes has no upper halves: beyond the end there are zeros.
        join(le32(&self.descriptor, high), le32(&self.descriptor, low))
    }

    /// Adds to a counter that is in two halves.
    fn count(&mut self, low: usize, high: usize, change: i64) {
        let wide = self.descriptor.len() >= 64;
        let old = u32::from(le16(&self.descriptor, low)) | u32::from(le16(&self.descriptor, high)) << 16;
        let new = i64::from(old).saturating_add(change).clamp(0, u32::MAX.into()) as u32;
        put(&mut self.descriptor, low, (new as u16).to_le_bytes());
        if wide {
            put(&mut self.descriptor, high, ((new >> 16) as u16).to_le_bytes());
        }
    }

    /// Puts a checksum in two halves.
    fn put_sum(&mut self, low: usize, high: usize, sum: u32) {
        put(&mut self.descriptor, low, (sum as u16).to_le_bytes());
        if self.descriptor.len() >= 64 {
            put(&mut self.descriptor, high, ((sum >> 16) as u16).to_le_bytes());
        }
    }

    fn seal(&mut self, volume: &Volume, number: u64) {
        let shape = volume.superblock();
        let bits =
            |count: u64, bitmap: &[u8]| crc(shape.seed, bitmap.get(..(count / 8) as usize).unwrap_or(bitmap));
        let (blocks, inodes) =
            (bits(shape.blocks_per_group, &self.blocks), bits(shape.inodes_per_group.into(), &self.inodes));
        self.put_sum(0x18, 0x38, blocks);
        self.put_sum(0x1a, 0x3a, inodes);
        put(&mut self.descriptor, 0x1e, [0; 2]);
        let sum = crc(crc(shape.seed, &(number as u32).to_le_bytes()), &self.descriptor);
        put(&mut self.descriptor, 0x1e, (sum as u16).to_le_bytes());
    }
}

/// Changes that free the orphans, made only when all are known to be sound.
struct OrphanChanges<'a> {
    volume: &'a Volume,
    groups: BTreeMap<u64, Group>,
    writes: Vec<(u64, Vec<u8>)>,
    /// Blocks of extended attributes that other files use, too.
    attributes: BTreeMap<u64, Vec<u8>>,
    blocks: u64,
    inodes: u32,
}

impl OrphanChanges<'_> {
    fn group(&mut self, number: u64) -> Result<&mut Group, DiskError> {
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&number) {
            return Err(DiskError::TooMany {
                what: "block groups with deleted files",
                limit: MAX_GROUPS as u64,
            });
        }
        Ok(match self.groups.entry(number) {
            std::collections::btree_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(Group::read(self.volume, number)?)
            }
        })
    }

    fn free_file(&mut self, inode: &Inode) -> Result<(), DiskError> {
        let shape = self.volume.superblock();
        let index = inode.number() - 1;
        let group = self.group((index / shape.inodes_per_group).into())?;
        clear(&mut group.inodes, u64::from(index % shape.inodes_per_group))?;
        group.count(0xe, 0x2e, 1);
        if inode.kind() == InodeKind::Directory {
            group.count(0x10, 0x30, -1);
        }
        self.inodes += 1;
        let mapped = match inode.kind() {
            InodeKind::File | InodeKind::Directory => true,
            InodeKind::Symlink => inode.size() >= MAP as u64 || inode.flags & FLAG_EXTENTS != 0,
            _ => false,
        };
        if mapped && inode.flags & FLAG_INLINE == 0 {
            self.free_content(inode)?;
        }
        if inode.attribute_block != 0 {
            self.free_attributes(inode.attribute_block)?;
        }
        // As if it had never been used: of zeros no checksum is asked.
        self.writes.push((position(self.volume, inode.number())?, vec![0; inode.raw.len()]));
        Ok(())
    }

    fn free_content(&mut self, inode: &Inode) -> Result<(), DiskError> {
        if inode.flags & FLAG_EXTENTS == 0 {
            for index in 0..12 {
                self.free_mapped(le32(inode.map(), index * 4).into(), 0)?;
            }
            for level in 1..=3 {
                self.free_mapped(le32(inode.map(), (11 + level) * 4).into(), level)?;
            }
            return Ok(());
        }
        let mut open = Vec::new();
        let mut node = ExtentNode::root(inode)?;
        loop {
            if node.depth == 0 {
                for (_, first, blocks, _) in node.extents() {
                    self.free_blocks(first, blocks)?;
                }
            } else {
                for (_, block) in node.children() {
                    // Freed before it is read: a block that is met again ends this.
                    self.free_blocks(block, 1)?;
                    open.push((block, node.depth));
                }
            }
            let Some((block, above)) = open.pop() else { return Ok(()) };
            node = ExtentNode::below(self.volume, inode, block, above)?;
        }
    }

    /// A block, and with `level` above 0 what the pointers in it lead to.
    fn free_mapped(&mut self, block: u64, level: usize) -> Result<(), DiskError> {
        if block == 0 {
            return Ok(());
        }
        self.free_blocks(block, 1)?;
        if level > 0 {
            let table = self.volume.block(block)?;
            for pointer in table.chunks_exact(4) {
                self.free_mapped(le32(pointer, 0).into(), level - 1)?;
            }
        }
        Ok(())
    }

    fn free_attributes(&mut self, block: u64) -> Result<(), DiskError> {
        if block >= self.volume.superblock().blocks {
            return Err(outside());
        }
        // Many files may share a block.
        let mut content = match self.attributes.remove(&block) {
            Some(content) => content,
            None => self.volume.block(block)?,
        };
        let users = le32(&content, 4);
        if users <= 1 {
            return self.free_blocks(block, 1);
        }
        put(&mut content, 4, (users - 1).to_le_bytes());
        if self.volume.superblock().ro_compat & METADATA_CSUM != 0 {
            put(&mut content, 16, [0; 4]);
            let sum = crc(crc(self.volume.superblock().seed, &block.to_le_bytes()), &content);
            put(&mut content, 16, sum.to_le_bytes());
        }
        self.attributes.insert(block, content);
        Ok(())
    }

    fn free_blocks(&mut self, first: u64, count: u64) -> Result<(), DiskError> {
        let shape = self.volume.superblock();
        let end = first.checked_add(count).filter(|end| *end <= shape.blocks);
        let Some(end) = end.filter(|_| first >= shape.first_data_block) else {
            return Err(outside());
        };
        self.volume.budget().spend(1 + count / FREED)?;
        for block in first..end {
            let index = block - shape.first_data_block;
            let group = self.group(index / shape.blocks_per_group)?;
            clear(&mut group.blocks, index % shape.blocks_per_group)?;
            group.count(0xc, 0x2c, 1);
            self.blocks += 1;
        }
        Ok(())
    }

    /// Sets the next orphan of one that keeps its names.
    fn set_next(&mut self, inode: &Inode, next: u32) -> Result<(), DiskError> {
        let mut raw = inode.raw.clone();
        put(&mut raw, DELETED_AT, next.to_le_bytes());
        let shape = self.volume.superblock();
        if shape.ro_compat & METADATA_CSUM != 0 {
            let tall = inode.extra() >= 4;
            put(&mut raw, 0x7c, [0; 2]);
            if tall {
                put(&mut raw, CLASSIC + 2, [0; 2]);
            }
            let generation = le32(&raw, GENERATION).to_le_bytes();
            let sum = crc(crc(crc(shape.seed, &inode.number().to_le_bytes()), &generation), &raw);
            put(&mut raw, 0x7c, (sum as u16).to_le_bytes());
            if tall {
                put(&mut raw, CLASSIC + 2, ((sum >> 16) as u16).to_le_bytes());
            }
        }
        self.writes.push((position(self.volume, inode.number())?, raw));
        Ok(())
    }

    /// Turns the changed groups into writes.
    fn finish(&mut self) {
        let size = self.volume.superblock().block_size;
        for (block, content) in std::mem::take(&mut self.attributes) {
            self.writes.push((block * size, content));
        }
        for (number, mut group) in std::mem::take(&mut self.groups) {
            if self.volume.superblock().ro_compat & METADATA_CSUM != 0 {
                group.seal(self.volume, number);
            }
            self.writes.push((group.place(0x0, 0x20) * size, group.blocks.clone()));
            self.writes.push((group.place(0x4, 0x24) * size, group.inodes.clone()));
            self.writes.push((group.at, group.descriptor));
        }
    }
}

fn outside() -> DiskError {
    DiskError::damaged("a deleted file has blocks beyond the end")
}

fn clear(bitmap: &mut [u8], bit: u64) -> Result<(), DiskError> {
    let mask = 1 << (bit % 8);
    match bitmap.get_mut((bit / 8) as usize) {
        Some(byte) if *byte & mask != 0 => {
            *byte &= !mask;
            Ok(())
        }
        _ => Err(DiskError::damaged("a deleted file has what is free already")),
    }
}
