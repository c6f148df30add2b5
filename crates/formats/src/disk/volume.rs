//! The bytes of an image as they are once its journal has been replayed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::bytes::put;
use super::error::Reading;
use super::journal::{self, Recovery};
use super::superblock::{self, Superblock};
use super::{Budget, DiskError};

/// Place in the journal of a block's newest content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    /// The block of the image that holds it.
    pub(super) block: u64,
    /// Whether the first four bytes are the journal's magic number, which the journal itself may not hold.
    pub(super) escaped: bool,
}

/// An image for reading.
#[derive(Debug)]
pub(super) struct Volume {
    file: File,
    superblock: Superblock,
    newest: BTreeMap<u64, Source>,
    recovery: Option<Recovery>,
    budget: Budget,
}

impl Volume {
    pub(super) fn open(file: File, budget: Budget) -> Result<Self, DiskError> {
        let bytes = file.metadata().map_err(DiskError::read)?.len();
        let mut raw = [0; superblock::SIZE];
        if bytes < superblock::OFFSET + superblock::SIZE as u64 {
            return Err(DiskError::NotExt4);
        }
        file.read_exact_at(&mut raw, superblock::OFFSET).map_err(DiskError::read)?;
        let superblock = Superblock::parse(&raw, bytes)?;
        let mut volume = Self { file, superblock, newest: BTreeMap::new(), recovery: None, budget };
        if volume.superblock.needs_recovery() {
            let (newest, recovery) =
                journal::recover(&volume).map_err(|error| error.reading(|| Reading::Journal))?;
            volume.newest = newest;
            volume.recovery = Some(recovery);
            volume.read_at(&mut raw, superblock::OFFSET)?;
            let before = (volume.superblock.block_size, volume.superblock.blocks);
            volume.superblock = Superblock::parse(&raw, bytes)?;
            if before != (volume.superblock.block_size, volume.superblock.blocks) {
                return Err(DiskError::damaged("its journal changes the size of the file system"));
            }
        }
        Ok(volume)
    }

    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Work that whoever reads this may still ask for.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Changes to the journal, where one was replayed.
    pub(super) fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// The blocks that the replay writes.
    pub(super) fn replayed(&self) -> impl Iterator<Item = u64> {
        self.newest.keys().copied()
    }

    /// Fills `buffer` from `offset`, bytes.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let size = self.superblock.block_size;
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.superblock.blocks * size) {
            return Err(DiskError::damaged("something lies beyond its end"));
        }
        self.budget.spend_reading(buffer.len())?;
        let (first, last) = (offset / size, (offset + buffer.len() as u64).div_ceil(size));
        self.file.read_exact_at(buffer, offset).map_err(DiskError::read)?;
        for (block, source) in self.newest.range(first..last) {
            self.budget.spend_reading(size as usize)?;
            let begin = (block * size).max(offset);
            let end = ((block + 1) * size).min(offset + buffer.len() as u64);
            let mut content = vec![0; size as usize];
            self.file.read_exact_at(&mut content, source.block * size).map_err(DiskError::read)?;
            if source.escaped {
                put(&mut content, 0, journal::MAGIC.to_be_bytes());
            }
            let into = buffer.get_mut((begin - offset) as usize..(end - offset) as usize);
            let from = content.get((begin - block * size) as usize..(end - block * size) as usize);
            if let (Some(into), Some(from)) = (into, from) {
                into.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Reads one block, as the replay leaves it.
    pub(super) fn block(&self, block: u64) -> Result<Vec<u8>, DiskError> {
        let mut buffer = vec![0; self.superblock.block_size as usize];
        let offset = block.checked_mul(self.superblock.block_size);
        self.read_at(&mut buffer, offset.unwrap_or(u64::MAX))?;
        Ok(buffer)
    }
}
