//! Image of a file system: its inodes and what is in them.

use std::fs::File;
use std::ops::Range;

use super::blocks::{self, Run};
use super::inode::{self, FLAG_INLINE, Inode, InodeKind, MAP};
use super::volume::Volume;
use super::{Budget, DiskError, Entry, dir, xattr};

/// Bytes of a symbolic link's target, at the most: `PATH_MAX`.
const MAX_TARGET: u64 = 4096;
/// Stretches of zeros that are skipped in one go.
const MAX_HOLES: u64 = 1 << 20;

/// An ext2, ext3 or ext4 file system in a file, as the kernel would find it after replaying its journal.
#[derive(Debug)]
pub struct Ext4 {
    volume: Volume,
}

impl Ext4 {
    /// Opens an image for reading; this and all that is read of it comes out of `budget`. Takes memory for its journal,
    /// where that must be replayed: at the most some 50 MiB.
    ///
    /// # Errors
    /// When it cannot be read, is no ext4 file system, uses features that are not known here, is shorter than it
    /// claims to be, or its journal is damaged. Then and from every other method, when the budget is spent or cancelled.
    pub fn open(image: File, budget: &Budget) -> Result<Self, DiskError> {
        Ok(Self { volume: Volume::open(image, budget.clone())? })
    }

    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The root directory.
    ///
    /// # Errors
    /// When there is none that is sound.
    pub fn root(&self) -> Result<Inode, DiskError> {
        let root = self.inode(inode::ROOT)?;
        match root.kind() {
            InodeKind::Directory => Ok(root),
            _ => Err(DiskError::damaged("its root is not a directory")),
        }
    }

    /// The inode of a number, as an [`Entry`] has it.
    ///
    /// # Errors
    /// When there is none that is sound.
    pub fn inode(&self, number: u32) -> Result<Inode, DiskError> {
        Inode::read(&self.volume, number)
    }

    /// Entries of a directory, sorted by name, without `.` and `..`.
    ///
    /// # Errors
    /// When it is damaged, or has more than 524,288 names.
    pub fn entries(&self, directory: &Inode) -> Result<Vec<Entry>, DiskError> {
        dir::entries(self, directory)
    }

    /// Inode of one name in a directory; `None` when there is no such name.
    ///
    /// # Errors
    /// When the directory is damaged.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>, DiskError> {
        let found = dir::lookup(self, directory, name)?;
        found.map(|number| self.inode(number)).transpose()
    }

    /// Fills `buffer` with the content from byte `offset` on. Returns how much there was: less than `buffer` takes only
    /// at the end.
    ///
    /// # Errors
    /// When it cannot be read or its blocks are damaged.
    pub fn read_at(&self, file: &Inode, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let left = file.size().saturating_sub(offset);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        if has_inline(file) {
            let content = self.inline(file)?;
            buffer.fill(0);
            let from = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            for (into, byte) in buffer.iter_mut().zip(from) {
                *into = *byte;
            }
            return Ok(wanted);
        }
        let size = self.volume.superblock().block_size;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let (block, within) = (at / size, at % size);
            let Run { physical, blocks } = blocks::find(&self.volume, file, block)?;
            let stretch = blocks.saturating_mul(size).saturating_sub(within);
            let end = done + usize::try_from(stretch).unwrap_or(usize::MAX).min(wanted - done);
            let part = buffer.get_mut(done..end).unwrap_or_default();
            match physical {
                Some(first) => self.volume.read_at(part, first * size + within)?,
                None => part.fill(0),
            }
            done = end;
        }
        Ok(wanted)
    }

    /// The next bytes at or after `from` that are not a hole; `None` when only zeros follow up to the end.
    ///
    /// # Errors
    /// When its blocks are damaged, or an absurd number of holes follow each other.
    pub fn next_data(&self, file: &Inode, from: u64) -> Result<Option<Range<u64>>, DiskError> {
        if has_inline(file) {
            // A file may be longer than what its inode can hold; the rest is a hole.
            let end = file.size().min(MAP as u64 + xattr::MAX_VALUE);
            return Ok((from < end).then_some(from..end));
        }
        let size = self.volume.superblock().block_size;
        let mut at = from;
        for _ in 0..MAX_HOLES {
            if at >= file.size() {
                return Ok(None);
            }
            let run = blocks::find(&self.volume, file, at / size)?;
            let end = (at / size).saturating_add(run.blocks).saturating_mul(size);
            if run.physical.is_some() {
                return Ok(Some(at..end.min(file.size())));
            }
            at = end;
        }
        Err(DiskError::TooMany { what: "holes in a row in a file", limit: MAX_HOLES })
    }

    /// Whether blocks with content lie beyond the end of a file.
    pub(super) fn has_data_beyond(&self, file: &Inode) -> Result<bool, DiskError> {
        if has_inline(file) {
            return Ok(false);
        }
        let mut at = file.size().div_ceil(self.volume.superblock().block_size);
        for _ in 0..MAX_HOLES {
            let run = blocks::find(&self.volume, file, at)?;
            if run.physical.is_some() {
                return Ok(true);
            }
            at = at.saturating_add(run.blocks);
            if at >= blocks::MAX_BLOCKS {
                return Ok(false);
            }
        }
        Err(DiskError::TooMany { what: "holes in a row in a file", limit: MAX_HOLES })
    }

    /// Target of a symbolic link: bytes without NUL, 1 to 4096 of them.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn link_target(&self, link: &Inode) -> Result<Vec<u8>, DiskError> {
        let size = link.size();
        if link.kind() != InodeKind::Symlink || size == 0 || size > MAX_TARGET {
            return Err(DiskError::damaged(format!("inode {} is no symbolic link", link.number())));
        }
        let mut target = vec![0; size as usize];
        if size < MAP as u64 && !has_inline(link) {
            target.copy_from_slice(link.map().get(..size as usize).unwrap_or_default());
        } else {
            self.read_at(link, 0, &mut target)?;
        }
        if target.contains(&0) {
            return Err(DiskError::damaged(format!("inode {} is a broken symbolic link", link.number())));
        }
        Ok(target)
    }

    /// An extended attribute by its whole name, such as `trusted.overlay.opaque`.
    ///
    /// # Errors
    /// When the attributes are damaged.
    pub fn attribute(&self, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        xattr::get(self, inode, name)
    }

    /// Names of all extended attributes, `user.`, `trusted.` and so on included.
    ///
    /// # Errors
    /// When the attributes are damaged.
    pub fn attribute_names(&self, inode: &Inode) -> Result<Vec<Vec<u8>>, DiskError> {
        xattr::names(self, inode)
    }

    /// All the content of a file that has it in its inode.
    pub(super) fn inline(&self, file: &Inode) -> Result<Vec<u8>, DiskError> {
        let mut content = file.map().to_vec();
        content.extend(xattr::inline(self, file)?);
        Ok(content)
    }
}

/// Whether the content is in the inode.
pub(super) fn has_inline(file: &Inode) -> bool {
    file.flags & FLAG_INLINE != 0
}
