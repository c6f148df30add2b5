//! Blocks that replaying the journal (JBD2) would write, without writing it.
//!
//! ```text
//!   superblock | descriptor  data data …  revoke  commit | descriptor … commit | what an older lap left
//!   s_start ---^  sequence n                             |  sequence n + 1     ^--- the log ends: other sequence
//! ```
//!
//! Three passes, as in the kernel: where does the log end, which blocks are revoked, which blocks are written. Of a
//! block that is written only the place in the journal is kept, so memory does not grow with the content.
//!
//! Invariant: a transaction counts only when its commit block is sound.

use std::collections::{BTreeMap, HashMap};

use super::DiskError;
use super::blocks;
use super::bytes::{be16, be32, crc, join, put};
use super::inode::Inode;
use super::volume::{Source, Volume};

/// Magic number at the beginning of each block of the log itself.
pub(super) const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_1: u32 = 3;
const SUPERBLOCK_2: u32 = 4;
const REVOKE: u32 = 5;

const HEADER: usize = 12;
const SUPERBLOCK: usize = 1024;
const SUPERBLOCK_CHECKSUM: usize = 0xfc;
const UUID: usize = 16;
/// Bytes at the end of a descriptor or revoke block that hold its checksum.
const TAIL: usize = 4;

const BIT64: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CSUM_V2: u32 = 0x8;
const CSUM_V3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;
const KNOWN: u32 = 0x1 | BIT64 | ASYNC_COMMIT | CSUM_V2 | CSUM_V3;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// Blocks that a replay may write: with 4 KiB blocks, of a journal of 1 GiB.
const MAX_REPLAYED: usize = 1 << 18;
const MAX_REVOKED: usize = 1 << 19;
/// Pieces that the journal's file may be in.
const MAX_RUNS: usize = 1 << 14;
/// Blocks of the journal; `mke2fs` makes none with more.
const MAX_BLOCKS: u64 = 10_240_000;

/// Changes to the journal itself that write a replay down.
#[derive(Debug)]
pub(super) struct Recovery {
    /// The block of the image that holds the journal's superblock.
    pub(super) block: u64,
    /// Content of that block, which says that the log is empty.
    pub(super) superblock: Vec<u8>,
}

/// Reads the journal of an image that was not unmounted.
pub(super) fn recover(volume: &Volume) -> Result<(BTreeMap<u64, Source>, Recovery), DiskError> {
    let Some(number) = volume.superblock().journal else {
        return Err(DiskError::Unsupported { what: "a journal in another file".into() });
    };
    let mut log = Log::open(volume, &Inode::read(volume, number)?)?;
    let mut newest = BTreeMap::new();
    let mut next = be32(&log.raw, 24);
    if log.start != 0 {
        let end = log.find_end()?;
        let revoked = log.revoked(end)?;
        newest = log.replayed(end, &revoked)?;
        next = end.wrapping_add(1);
    }
    let block = log.physical(0)?;
    put(&mut log.raw, 24, next.to_be_bytes());
    put(&mut log.raw, 28, [0; 4]);
    if log.checksums {
        put(&mut log.raw, SUPERBLOCK_CHECKSUM, [0; 4]);
        let checksum = crc(!0, &log.raw);
        put(&mut log.raw, SUPERBLOCK_CHECKSUM, checksum.to_be_bytes());
    }
    Ok((newest, Recovery { block, superblock: log.raw }))
}

/// Whether `a` is not before `b`: sequence numbers wrap.
fn not_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() >= 0
}

/// Visitor of a block of the log: its place, sequence number, type and bytes. Returns how many blocks of data follow
/// it, or `None` to end the walk.
type Step<'a> = &'a mut dyn FnMut(u64, u32, u32, &[u8]) -> Result<Option<u64>, DiskError>;

struct Log<'a> {
    volume: &'a Volume,
    /// The journal's superblock.
    raw: Vec<u8>,
    /// First block of the journal, first block of the image, how many.
    runs: Vec<(u64, u64, u64)>,
    first: u64,
    end: u64,
    start: u64,
    wide: bool,
    version_3: bool,
    checksums: bool,
    seed: u32,
}

impl<'a> Log<'a> {
    fn open(volume: &'a Volume, file: &Inode) -> Result<Self, DiskError> {
        let damaged = |what: &str| DiskError::damaged(format!("its journal {what}"));
        let size = volume.superblock().block_size;
        let mut log = Self {
            volume,
            raw: Vec::new(),
            runs: runs(volume, file)?,
            first: 0,
            end: 0,
            start: 0,
            wide: false,
            version_3: false,
            checksums: false,
            seed: 0,
        };
        log.raw = log.read(0)?;
        log.raw.truncate(SUPERBLOCK);
        let raw = &log.raw;
        let kind = be32(raw, 4);
        if be32(raw, 0) != MAGIC || !matches!(kind, SUPERBLOCK_1 | SUPERBLOCK_2) {
            return Err(damaged("has no superblock"));
        }
        let features = if kind == SUPERBLOCK_2 { be32(raw, 40) } else { 0 };
        if features & FAST_COMMIT != 0 {
            return Err(DiskError::Unsupported { what: "fast commits in its journal".into() });
        }
        let (version_2, version_3) = (features & CSUM_V2 != 0, features & CSUM_V3 != 0);
        // Data of an unchecked asynchronous commit may never have reached the disk.
        if features & !KNOWN != 0 || (features & ASYNC_COMMIT != 0 && !version_2 && !version_3) {
            return Err(DiskError::Unsupported { what: format!("journal features {features:#x}") });
        }
        if version_2 && version_3 {
            return Err(damaged("has two kinds of checksums"));
        }
        (log.wide, log.version_3, log.checksums) = (features & BIT64 != 0, version_3, version_2 || version_3);
        log.seed = crc(!0, raw.get(48..48 + UUID).unwrap_or_default());
        if log.checksums {
            let mut copy = raw.clone();
            put(&mut copy, SUPERBLOCK_CHECKSUM, [0; 4]);
            if crc(!0, &copy) != be32(raw, SUPERBLOCK_CHECKSUM) {
                return Err(damaged("has a wrong checksum"));
            }
        }
        (log.end, log.first, log.start) = (be32(raw, 16).into(), be32(raw, 20).into(), be32(raw, 28).into());
        let length = log.runs.last().map_or(0, |(logical, _, blocks)| logical + blocks);
        let starts = log.start == 0 || (log.first..log.end).contains(&log.start);
        if u64::from(be32(raw, 12)) != size
            || log.end > length
            || log.first == 0
            || log.first >= log.end
            || !starts
        {
            return Err(damaged("has an impossible shape"));
        }
        Ok(log)
    }

    fn physical(&self, logical: u64) -> Result<u64, DiskError> {
        let index = self.runs.partition_point(|(first, ..)| *first <= logical);
        let run = index.checked_sub(1).and_then(|index| self.runs.get(index));
        match run {
            Some((first, physical, blocks)) if logical - first < *blocks => Ok(physical + (logical - first)),
            _ => Err(DiskError::damaged("its journal ends early")),
        }
    }

    fn read(&self, logical: u64) -> Result<Vec<u8>, DiskError> {
        self.volume.block(self.physical(logical)?)
    }

    /// The block `count` after `at`, in the circle that the log is.
    fn advance(&self, at: u64, count: u64) -> u64 {
        self.first + (at - self.first + count) % (self.end - self.first)
    }

    /// Calls `step` with each block of the log that is not data.
    fn walk(&self, step: Step<'_>) -> Result<(), DiskError> {
        let mut at = self.start;
        let mut sequence = be32(&self.raw, 24);
        let mut walked = 0;
        while walked <= self.end - self.first {
            let block = self.read(at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                return Ok(());
            }
            let kind = be32(&block, 4);
            let Some(data) = step(at, sequence, kind, &block)? else { return Ok(()) };
            if kind == COMMIT {
                sequence = sequence.wrapping_add(1);
            }
            at = self.advance(at, 1 + data);
            walked += 1 + data;
        }
        Err(DiskError::damaged("its journal runs into itself"))
    }

    /// The sequence number of the first transaction that does not count.
    fn find_end(&self) -> Result<u32, DiskError> {
        let mut end = be32(&self.raw, 24);
        // A wrong checksum may stand in what an older lap left, which its time gives away.
        let (mut doubtful, mut committed) = (false, (0, 0));
        self.walk(&mut |_, sequence, kind, block| match kind {
            DESCRIPTOR => {
                doubtful |= !self.tail_is_right(block);
                Ok(Some(self.tags(block).count() as u64))
            }
            REVOKE => {
                doubtful |= !self.tail_is_right(block);
                Ok(Some(0))
            }
            COMMIT => {
                let time = (join(be32(block, 48), be32(block, 52)), be32(block, 56));
                if doubtful && time >= committed {
                    return Err(DiskError::damaged(format!(
                        "transaction {sequence} of its journal is broken"
                    )));
                }
                if doubtful || !self.commit_is_right(block) {
                    return Ok(None);
                }
                committed = time;
                end = sequence.wrapping_add(1);
                Ok(Some(0))
            }
            _ => Ok(None),
        })?;
        Ok(end)
    }

    /// Blocks that are not to be written by transactions up to the one given.
    fn revoked(&self, end: u32) -> Result<HashMap<u64, u32>, DiskError> {
        let mut revoked: HashMap<u64, u32> = HashMap::new();
        self.walk(&mut |_, sequence, kind, block| {
            if not_before(sequence, end) {
                return Ok(None);
            }
            if kind == REVOKE {
                let used = be32(block, 12) as usize;
                let space = block.len() - if self.checksums { TAIL } else { 0 };
                if used > space {
                    return Err(DiskError::damaged("its journal revokes more than it can"));
                }
                let records = block.get(HEADER + 4..used).unwrap_or_default();
                self.volume.budget().spend(records.len() as u64 / 4)?;
                for record in records.chunks_exact(if self.wide { 8 } else { 4 }) {
                    let number = if self.wide {
                        join(be32(record, 0), be32(record, 4))
                    } else {
                        be32(record, 0).into()
                    };
                    revoked.insert(number, sequence);
                }
                if revoked.len() > MAX_REVOKED {
                    return Err(DiskError::TooMany {
                        what: "revoked blocks in its journal",
                        limit: MAX_REVOKED as u64,
                    });
                }
            }
            Ok(Some(if kind == DESCRIPTOR { self.tags(block).count() as u64 } else { 0 }))
        })?;
        Ok(revoked)
    }

    /// Finds where the newest content of each block lies.
    fn replayed(&self, end: u32, revoked: &HashMap<u64, u32>) -> Result<BTreeMap<u64, Source>, DiskError> {
        let mut newest = BTreeMap::new();
        self.walk(&mut |at, sequence, kind, block| {
            if not_before(sequence, end) {
                return Ok(None);
            }
            if kind != DESCRIPTOR {
                return Ok(Some(0));
            }
            let mut count = 0;
            for tag in self.tags(block) {
                count += 1;
                self.volume.budget().spend(1)?;
                if revoked.get(&tag.block).is_some_and(|last| not_before(*last, sequence)) {
                    continue;
                }
                let from = self.advance(at, count);
                if self.checksums && !self.data_is_right(&tag, sequence, &self.read(from)?) {
                    return Err(DiskError::damaged(format!(
                        "transaction {sequence} of its journal is broken"
                    )));
                }
                if tag.block >= self.volume.superblock().blocks {
                    return Err(DiskError::damaged("its journal writes beyond the end"));
                }
                let escaped = tag.flags & TAG_ESCAPED != 0;
                newest.insert(tag.block, Source { block: self.physical(from)?, escaped });
                if newest.len() > MAX_REPLAYED {
                    return Err(DiskError::TooMany {
                        what: "blocks in its journal",
                        limit: MAX_REPLAYED as u64,
                    });
                }
            }
            Ok(Some(count))
        })?;
        Ok(newest)
    }

    fn tags<'b>(&self, block: &'b [u8]) -> Tags<'b> {
        let size = match (self.version_3, self.checksums, self.wide) {
            (true, ..) => 16,
            (false, checksums, wide) => 8 + if checksums { 2 } else { 0 } + if wide { 4 } else { 0 },
        };
        let end = block.len() - if self.checksums { TAIL } else { 0 };
        let rest = block.get(HEADER..end).unwrap_or_default();
        Tags { rest, size, wide: self.wide, version_3: self.version_3 }
    }

    /// Whether the checksum at the end of a descriptor or revoke block is right.
    fn tail_is_right(&self, block: &[u8]) -> bool {
        !self.checksums || self.sum_without(block, block.len() - TAIL) == be32(block, block.len() - TAIL)
    }

    fn commit_is_right(&self, block: &[u8]) -> bool {
        !self.checksums || self.sum_without(block, 16) == be32(block, 16)
    }

    /// The checksum of a block with zeros in place of the checksum that it holds.
    fn sum_without(&self, block: &[u8], at: usize) -> u32 {
        let mut copy = block.to_vec();
        put(&mut copy, at, [0; 4]);
        crc(self.seed, &copy)
    }

    fn data_is_right(&self, tag: &Tag, sequence: u32, data: &[u8]) -> bool {
        let sum = crc(crc(self.seed, &sequence.to_be_bytes()), data);
        if self.version_3 { tag.checksum == sum } else { tag.checksum == sum & 0xffff }
    }
}

/// Statement of a descriptor about one block of data.
struct Tag {
    block: u64,
    flags: u32,
    checksum: u32,
}

struct Tags<'b> {
    rest: &'b [u8],
    size: usize,
    wide: bool,
    version_3: bool,
}

impl Iterator for Tags<'_> {
    type Item = Tag;

    fn next(&mut self) -> Option<Tag> {
        let raw = self.rest.get(..self.size)?;
        let high = if self.wide { be32(raw, 8) } else { 0 };
        let (flags, checksum) = if self.version_3 {
            (be32(raw, 4), be32(raw, 12))
        } else {
            (be16(raw, 6).into(), be16(raw, 4).into())
        };
        let skip = self.size + if flags & TAG_SAME_UUID == 0 { UUID } else { 0 };
        self.rest = if flags & TAG_LAST != 0 { &[] } else { self.rest.get(skip..).unwrap_or_default() };
        Some(Tag { block: join(high, be32(raw, 0)), flags, checksum })
    }
}

/// The pieces that the journal's file is in.
fn runs(volume: &Volume, file: &Inode) -> Result<Vec<(u64, u64, u64)>, DiskError> {
    let blocks = file.size() / volume.superblock().block_size;
    if blocks > MAX_BLOCKS {
        return Err(DiskError::TooMany { what: "blocks in its journal", limit: MAX_BLOCKS });
    }
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    let mut at = 0;
    while at < blocks {
        let run = blocks::find(volume, file, at)?;
        let Some(physical) = run.physical else {
            return Err(DiskError::damaged("its journal has holes"));
        };
        let length = run.blocks.min(blocks - at);
        match runs.last_mut() {
            Some((first, begin, count)) if *first + *count == at && *begin + *count == physical => {
                *count += length;
            }
            _ => runs.push((at, physical, length)),
        }
        if runs.len() > MAX_RUNS {
            return Err(DiskError::TooMany { what: "pieces of its journal", limit: MAX_RUNS as u64 });
        }
        at += length;
    }
    // Blocks of the log are read as often as they come, so each may come once: the work is then bounded by what the guest
    // wrote, and not by the numbers that it wrote.
    let mut places: Vec<(u64, u64)> = runs.iter().map(|(_, begin, count)| (*begin, *count)).collect();
    places.sort_unstable();
    if places.iter().zip(places.iter().skip(1)).any(|((begin, count), (next, _))| begin + count > *next) {
        return Err(DiskError::damaged("its journal has a block in two places"));
    }
    Ok(runs)
}
