//! Small ext4 images with everything in them, changed by an input and put back afterwards.
//!
//! An input is a list of changes and not an image: so each byte of it lands in a structure, and an execution costs some
//! kilobytes of copying and not some megabytes. Checksums of the journal are made right again after the changes, as whoever
//! writes a hostile image would; those of metadata are read by nobody here.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use flate2::read::GzDecoder;

use crate::Input;

/// Unit in which images are changed, bytes: the block size of most of them.
pub const BLOCK: usize = 1024;
/// Blocks at the journal's beginning in which its transactions lie.
const LOG: usize = 32;
const MAGIC: u32 = 0xc03b_3998;

/// An image nobody has changed.
struct Pristine {
    bytes: Vec<u8>,
    /// Blocks in which there is more than the content of files.
    used: Vec<usize>,
    /// The journal's first block, where it has one.
    log: Option<usize>,
}

fn pristine() -> &'static [Pristine] {
    static IMAGES: OnceLock<Vec<Pristine>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let packed: [&[u8]; 5] = [
            include_bytes!("../images/modern.gz"),
            include_bytes!("../images/narrow.gz"),
            include_bytes!("../images/mapped.gz"),
            include_bytes!("../images/inline.gz"),
            include_bytes!("../images/values.gz"),
        ];
        packed.into_iter().map(Pristine::new).collect()
    })
}

impl Pristine {
    fn new(packed: &[u8]) -> Self {
        let mut bytes = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        let blocks = || bytes.chunks_exact(BLOCK).enumerate();
        let used = blocks()
            .filter(|(_, block)| block.iter().any(|byte| !matches!(byte, 0 | b'n' | b'v' | b'x')))
            .map(|(index, _)| index)
            .collect();
        let log = blocks()
            .find(|(_, block)| be32(block, 0) == MAGIC && matches!(be32(block, 4), 3 | 4))
            .map(|(index, _)| index);
        Self { bytes, used, log }
    }
}

/// Images with a journal to replay.
pub const WITH_JOURNAL: usize = 3;
/// All of them.
pub const ALL: usize = 5;

/// One image, changed until this is dropped.
pub struct Changed {
    index: usize,
    file: File,
    /// Places that are to be put back: where, and how many bytes.
    touched: Vec<(usize, usize)>,
}

impl Changed {
    /// Reads a list of changes to image `index`: where, as a choice among the blocks that say something (of the journal alone
    /// with `journal`), and what is written there.
    pub fn new(index: usize, journal: bool, input: &mut Input<'_>) -> Self {
        thread_local! {
            static FILES: Vec<File> = pristine()
                .iter()
                .map(|image| {
                    let file = tempfile::tempfile_in("/dev/shm").unwrap();
                    file.set_len(image.bytes.len() as u64).unwrap();
                    for (at, block) in image.bytes.chunks_exact(BLOCK).enumerate() {
                        if block.iter().any(|byte| *byte != 0) {
                            file.write_all_at(block, (at * BLOCK) as u64).unwrap();
                        }
                    }
                    file
                })
                .collect();
        }
        let file = FILES.with(|files| files[index].try_clone().unwrap());
        let image = &pristine()[index];
        let log = image.log.filter(|_| journal);
        let mut changed = Self { index, file, touched: Vec::new() };
        let seal = input.byte() & 7 != 0;
        while !input.is_empty() && changed.touched.len() < 64 {
            let (block, word) = (usize::from(input.byte()), input.pair());
            let block = match log {
                Some(log) => log + block % LOG,
                None => image.used[block % image.used.len()],
            };
            // Ten bits of a place and how much of it: structures begin at the beginning of their blocks.
            let (at, size) =
                (usize::from(word) % BLOCK, [1, 2, 4, 4, 8, 12, 16, 64][usize::from(word >> 13)]);
            let bytes = input.take(size);
            let at = block * BLOCK + at;
            let bytes = &bytes[..bytes.len().min(image.bytes.len() - at)];
            changed.write(at, bytes);
        }
        if let Some(log) = image.log.filter(|_| seal && !changed.touched.is_empty()) {
            changed.seal(log);
        }
        changed
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.touched.push((at, bytes.len()));
        self.file.write_all_at(bytes, at as u64).unwrap();
    }

    /// The image, which cannot be written to by this.
    pub fn open(&self) -> File {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).unwrap()
    }

    /// Makes the checksums of the log right.
    fn seal(&mut self, first: usize) {
        let begin = first * BLOCK;
        let mut log = vec![0; LOG * BLOCK];
        self.file.read_exact_at(&mut log, begin as u64).unwrap();
        let features = be32(&log, 40);
        let (wide, version_3) = (features & 2 != 0, features & 0x10 != 0);
        if features & 0x18 == 0 {
            return;
        }
        put(&mut log, 0xfc, 0);
        let sum = crc(!0, &log[..1024]);
        put(&mut log, 0xfc, sum);
        let seed = crc(!0, &log[48..64]);
        let mut at = 1;
        while at < LOG {
            let (head, data) = log.split_at_mut((at + 1) * BLOCK);
            let block = &mut head[at * BLOCK..];
            at += 1;
            if be32(block, 0) != MAGIC {
                continue;
            }
            match be32(block, 4) {
                1 => {
                    let sequence = be32(block, 8);
                    let size = if version_3 {
                        16
                    } else if wide {
                        14
                    } else {
                        10
                    };
                    let (mut tag, mut count) = (12, 0);
                    while tag + size <= BLOCK - 4 {
                        let flags =
                            if version_3 { be32(block, tag + 4) } else { be32(block, tag + 4) & 0xffff };
                        if let Some(content) = data.get(count * BLOCK..(count + 1) * BLOCK) {
                            let sum = crc(crc(seed, &sequence.to_be_bytes()), content);
                            if version_3 {
                                put(block, tag + 12, sum);
                            } else {
                                block[tag + 4..tag + 6].copy_from_slice(&(sum as u16).to_be_bytes());
                            }
                        }
                        count += 1;
                        tag += size + if flags & 2 == 0 { 16 } else { 0 };
                        if flags & 8 != 0 {
                            break;
                        }
                    }
                    seal_tail(seed, block);
                    at += count;
                }
                5 => seal_tail(seed, block),
                2 => {
                    put(block, 16, 0);
                    let sum = crc(seed, block);
                    put(block, 16, sum);
                }
                _ => {}
            }
        }
        self.write(begin, &log);
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let image = &pristine()[self.index].bytes;
        for (at, size) in &self.touched {
            self.file.write_all_at(&image[*at..at + size], *at as u64).unwrap();
        }
    }
}

fn seal_tail(seed: u32, block: &mut [u8]) {
    put(block, BLOCK - 4, 0);
    let sum = crc(seed, block);
    put(block, BLOCK - 4, sum);
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// CRC-32C as ext4 has it: a seed, and no inversion at either end.
fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}
