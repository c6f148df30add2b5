//! The superblock: shape and features of a file system.

use super::DiskError;
use super::bytes::{crc, join, le16, le32};

/// Offset of the superblock in an image, bytes.
pub(super) const OFFSET: u64 = 1024;
/// Size of the superblock, bytes.
pub(super) const SIZE: usize = 1024;
/// Offset of `s_feature_incompat`, whose bits a reader must know.
pub(super) const INCOMPAT: usize = 0x60;
/// Offset of `s_checksum`, bytes.
pub(super) const CHECKSUM: usize = 0x3fc;

pub(super) const FILETYPE: u32 = 0x2;
pub(super) const RECOVER: u32 = 0x4;
pub(super) const META_BG: u32 = 0x10;
pub(super) const BIT64: u32 = 0x80;
pub(super) const EA_INODE: u32 = 0x400;
pub(super) const CSUM_SEED: u32 = 0x2000;
/// Filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, casefold.
const KNOWN: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x2_0000;
const JOURNAL_DEVICE: u32 = 0x8;
const ENCRYPT: u32 = 0x1_0000;

const HAS_JOURNAL: u32 = 0x4;
pub(super) const LARGE_DIR: u32 = 0x4000;

/// Bits of `s_feature_ro_compat`, which a writer must know.
pub(super) const GDT_CSUM: u32 = 0x10;
pub(super) const BIGALLOC: u32 = 0x200;
pub(super) const METADATA_CSUM: u32 = 0x400;
const SPARSE_SUPER: u32 = 0x1;
const SPARSE_SUPER2: u32 = 0x200;

/// Fields of the superblock that are needed, checked.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// Bytes: 1, 2, 4, … 64 KiB.
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    pub(super) first_data_block: u64,
    pub(super) blocks_per_group: u64,
    pub(super) inodes_per_group: u32,
    /// Bytes: 128 … block size.
    pub(super) inode_size: usize,
    /// Bytes: 32 … 1024.
    pub(super) desc_size: usize,
    pub(super) groups: u64,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
    compat: u32,
    first_meta_bg: u64,
    backup_groups: [u32; 2],
    /// The inode of the journal within this file system, if it has one.
    pub(super) journal: Option<u32>,
    /// Seed of the checksums of metadata.
    pub(super) seed: u32,
}

impl Superblock {
    /// Reads the 1024 bytes at [`OFFSET`] of an image of `bytes` bytes.
    pub(super) fn parse(raw: &[u8], bytes: u64) -> Result<Self, DiskError> {
        if le16(raw, 0x38) != 0xef53 {
            return Err(DiskError::NotExt4);
        }
        let damaged = |what: &str| DiskError::damaged(format!("its superblock has {what}"));
        let dynamic = le32(raw, 0x4c) >= 1;
        let feature = |at| if dynamic { le32(raw, at) } else { 0 };
        let (compat, incompat, ro_compat) = (feature(0x5c), feature(INCOMPAT), feature(0x64));
        check_features(incompat)?;
        let shift = le32(raw, 0x18);
        if shift > 6 {
            return Err(damaged("an impossible block size"));
        }
        let block_size = 1024_u64 << shift;
        let wide = incompat & BIT64 != 0;
        let blocks = join(if wide { le32(raw, 0x150) } else { 0 }, le32(raw, 0x4));
        let first_data_block = u64::from(le32(raw, 0x14));
        let blocks_per_group = u64::from(le32(raw, 0x20));
        let inodes_per_group = le32(raw, 0x28);
        let inode_size = if dynamic { usize::from(le16(raw, 0x58)) } else { 128 };
        let desc_size = match usize::from(le16(raw, 0xfe)) {
            _ if !wide => 32,
            size @ 64..=1024 if size.is_power_of_two() => size,
            _ => return Err(damaged("an impossible size of group descriptors")),
        };
        if first_data_block != u64::from(block_size == 1024)
            && !(first_data_block == 0 && ro_compat & BIGALLOC != 0)
        {
            return Err(damaged("an impossible first block"));
        }
        if blocks <= first_data_block || blocks.checked_mul(block_size).is_none_or(|size| size > bytes) {
            return Err(damaged("more blocks than the image"));
        }
        if blocks_per_group == 0 || inodes_per_group == 0 || blocks_per_group > block_size * 8 * 65536 {
            return Err(damaged("impossible block groups"));
        }
        if !inode_size.is_power_of_two() || inode_size < 128 || inode_size as u64 > block_size {
            return Err(damaged("an impossible inode size"));
        }
        let groups = (blocks - first_data_block).div_ceil(blocks_per_group);
        let inodes = le32(raw, 0);
        if inodes == 0 || u64::from(inodes) > groups.saturating_mul(u64::from(inodes_per_group)) {
            return Err(damaged("more inodes than its groups"));
        }
        let journal = (compat & HAS_JOURNAL != 0).then(|| le32(raw, 0xe0)).filter(|inode| *inode != 0);
        let uuid = raw.get(0x68..0x78).unwrap_or_default();
        let seed = if incompat & CSUM_SEED != 0 { le32(raw, 0x270) } else { crc(!0, uuid) };
        Ok(Self {
            block_size,
            blocks,
            inodes,
            first_data_block,
            blocks_per_group,
            inodes_per_group,
            inode_size,
            desc_size,
            groups,
            incompat,
            ro_compat,
            compat,
            first_meta_bg: u64::from(le32(raw, 0x104)),
            backup_groups: [le32(raw, 0x24c), le32(raw, 0x250)],
            journal,
            seed,
        })
    }

    /// Whether the kernel would replay the journal before anything else.
    pub(super) fn needs_recovery(&self) -> bool {
        self.incompat & RECOVER != 0
    }

    pub(super) fn has(&self, incompat: u32) -> bool {
        self.incompat & incompat != 0
    }

    /// Offset of a group's descriptor, bytes.
    pub(super) fn descriptor(&self, group: u64) -> u64 {
        let per_block = self.block_size / self.desc_size as u64;
        let (index, within) = (group / per_block, group % per_block * self.desc_size as u64);
        let block = if self.has(META_BG) && index >= self.first_meta_bg {
            let first = index * per_block;
            self.first_data_block + first * self.blocks_per_group + u64::from(self.has_backup(first))
        } else {
            // With 1 KiB blocks the boot block comes first, whatever the first data block is said to be.
            self.first_data_block.max(u64::from(self.block_size == 1024)) + 1 + index
        };
        block * self.block_size + within
    }

    /// Whether a group begins with a superblock.
    fn has_backup(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        if group == 0 {
            true
        } else if self.compat & SPARSE_SUPER2 != 0 {
            self.backup_groups.iter().any(|backup| u64::from(*backup) == group)
        } else {
            group == 1 || self.ro_compat & SPARSE_SUPER == 0 || power_of(3) || power_of(5) || power_of(7)
        }
    }
}

fn check_features(incompat: u32) -> Result<(), DiskError> {
    let what = match incompat & !KNOWN {
        0 => return Ok(()),
        unknown if unknown & JOURNAL_DEVICE != 0 => "a whole device as a journal".into(),
        unknown if unknown & ENCRYPT != 0 => "encryption".into(),
        unknown => format!("ext4 features {unknown:#x}"),
    };
    Err(DiskError::Unsupported { what })
}
