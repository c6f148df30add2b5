//! Inodes: what a file is, apart from its name and content.

use super::DiskError;
use super::bytes::{join, le16, le32};
use super::superblock::{self, Superblock};
use super::volume::Volume;

pub(super) const ROOT: u32 = 2;
pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;
pub(super) const FLAG_EA_INODE: u32 = 0x20_0000;
pub(super) const FLAG_INLINE: u32 = 0x1000_0000;
const FLAG_ENCRYPT: u32 = 0x800;
/// Bytes of an inode that every ext4 has.
pub(super) const CLASSIC: usize = 128;
/// Bytes of `i_block`.
pub(super) const MAP: usize = 60;

/// File type of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InodeKind {
    /// A regular file.
    File,
    /// A directory, inline or in blocks.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device: major and minor.
    CharDevice(u32, u32),
    /// A block device: major and minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// Time of an inode, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Part of a second: 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// An inode of one image.
#[derive(Debug, Clone)]
pub struct Inode {
    number: u32,
    kind: InodeKind,
    mode: u16,
    uid: u32,
    gid: u32,
    links: u16,
    size: u64,
    pub(super) flags: u32,
    /// The block of its extended attributes, or 0.
    pub(super) attribute_block: u64,
    /// All of the inode, [`CLASSIC`] bytes at least.
    pub(super) raw: Vec<u8>,
}

impl Inode {
    /// Reads the inode of a number.
    pub(super) fn read(volume: &Volume, number: u32) -> Result<Self, DiskError> {
        let mut raw = vec![0; volume.superblock().inode_size];
        volume.read_at(&mut raw, position(volume, number)?)?;
        Self::parse(volume.superblock(), number, raw)
    }

    fn parse(superblock: &Superblock, number: u32, raw: Vec<u8>) -> Result<Self, DiskError> {
        let mode = le16(&raw, 0);
        let map = raw.get(0x28..0x28 + MAP).unwrap_or_default();
        let kind = match mode & 0xf000 {
            0x1000 => InodeKind::Fifo,
            0x2000 => InodeKind::CharDevice(device(map).0, device(map).1),
            0x4000 => InodeKind::Directory,
            0x6000 => InodeKind::BlockDevice(device(map).0, device(map).1),
            0x8000 => InodeKind::File,
            0xa000 => InodeKind::Symlink,
            0xc000 => InodeKind::Socket,
            _ => return Err(DiskError::damaged(format!("inode {number} is no kind of file"))),
        };
        let flags = le32(&raw, 0x20);
        if flags & FLAG_ENCRYPT != 0 {
            return Err(DiskError::Unsupported { what: "encryption".into() });
        }
        let tall = kind == InodeKind::File || superblock.has(superblock::LARGE_DIR);
        let size = join(if tall { le32(&raw, 0x6c) } else { 0 }, le32(&raw, 4));
        // More than a kernel can map: 2^32 blocks.
        if size > superblock.block_size << 32 {
            return Err(DiskError::damaged(format!("inode {number} is larger than a file can be")));
        }
        Ok(Self {
            number,
            kind,
            mode: mode & 0xfff,
            uid: u32::from(le16(&raw, 0x78)) << 16 | u32::from(le16(&raw, 2)),
            gid: u32::from(le16(&raw, 0x7a)) << 16 | u32::from(le16(&raw, 0x18)),
            links: le16(&raw, 0x1a),
            size,
            flags,
            attribute_block: join(u32::from(le16(&raw, 0x76)), le32(&raw, 0x68)),
            raw,
        })
    }

    /// Number within the image, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Type of the file.
    #[must_use]
    pub fn kind(&self) -> InodeKind {
        self.kind
    }

    /// Permission bits with set-user-id, set-group-id and sticky: 0 to 0o7777.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode.into()
    }

    /// User id of the owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group id of the owner.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Count of hard links; 1 for a directory that has too many subdirectories to count.
    #[must_use]
    pub fn links(&self) -> u32 {
        self.links.into()
    }

    /// Bytes. For a file with holes this is more than it takes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Time of the last change of its content.
    #[must_use]
    pub fn modified(&self) -> Time {
        self.time(0x10, 0x88)
    }

    /// Time of the last change of the inode.
    #[must_use]
    pub fn changed(&self) -> Time {
        self.time(0xc, 0x84)
    }

    /// Time of the last reading, as far as the guest keeps that.
    #[must_use]
    pub fn accessed(&self) -> Time {
        self.time(0x8, 0x8c)
    }

    /// Whether it is what overlayfs leaves in the upper layer of a name that was deleted.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.kind == InodeKind::CharDevice(0, 0)
    }

    /// `i_block`: a map of blocks, a short link's target, a device number, or content.
    pub(super) fn map(&self) -> &[u8] {
        self.raw.get(0x28..0x28 + MAP).unwrap_or_default()
    }

    /// Bytes beyond the classic ones that fields take.
    pub(super) fn extra(&self) -> usize {
        let said = usize::from(le16(&self.raw, CLASSIC));
        said.min(self.raw.len() - CLASSIC)
    }

    fn time(&self, at: usize, more: usize) -> Time {
        let low = i64::from(le32(&self.raw, at).cast_signed());
        let extra = if more + 4 <= CLASSIC + self.extra() { le32(&self.raw, more) } else { 0 };
        Time { seconds: low + (i64::from(extra & 3) << 32), nanoseconds: (extra >> 2).min(999_999_999) }
    }
}

/// Offset of an inode in the image, bytes.
pub(super) fn position(volume: &Volume, number: u32) -> Result<u64, DiskError> {
    let superblock = volume.superblock();
    if number == 0 || number > superblock.inodes {
        return Err(DiskError::damaged(format!("there is no inode {number}")));
    }
    let index = number - 1;
    let group = u64::from(index / superblock.inodes_per_group);
    let mut descriptor = vec![0; superblock.desc_size];
    volume.read_at(&mut descriptor, superblock.descriptor(group))?;
    let high = if superblock.desc_size >= 64 { le32(&descriptor, 0x28) } else { 0 };
    let table = join(high, le32(&descriptor, 0x8));
    let within = u64::from(index % superblock.inodes_per_group) * superblock.inode_size as u64;
    let offset = table.checked_mul(superblock.block_size).and_then(|begin| begin.checked_add(within));
    offset.ok_or_else(|| DiskError::damaged(format!("the inode table of group {group} lies beyond its end")))
}

fn device(map: &[u8]) -> (u32, u32) {
    let (old, new) = (le32(map, 0), le32(map, 4));
    if old != 0 {
        (old >> 8 & 0xff, old & 0xff)
    } else {
        ((new & 0xf_ff00) >> 8, new & 0xff | (new >> 12 & 0xf_ff00))
    }
}
