//! Writing a tar archive: ustar headers, and a pax header before those that need one (long names, large files, times
//! with fractions). Owners are root, names of owners are none.

use std::io::Write;

use super::{ArchiveError, Content, Entry};

const BLOCK: usize = 512;
/// Sizes from here on have no room in a header, bytes.
const OCTAL: u64 = 1 << 33;

/// An archive on its way out. Content is written by the caller, between [`Writer::entry`] and [`Writer::pad`].
pub(super) struct Writer<'w> {
    to: &'w mut dyn Write,
}

impl<'w> Writer<'w> {
    pub(super) fn new(to: &'w mut dyn Write) -> Self {
        Self { to }
    }

    /// Writes an entry's headers.
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let mut path = entry.path.clone();
        let (kind, size, link): (u8, u64, &[u8]) = match &entry.content {
            Content::File(size) => (b'0', *size, b""),
            Content::Directory => {
                path.push(b'/');
                (b'5', 0, b"")
            }
            Content::Symlink(target) => (b'2', 0, target),
            Content::HardLink(target) => (b'1', 0, target),
        };
        let mut extra = Vec::new();
        if path.len() > 100 {
            record(&mut extra, "path", &path);
        }
        if link.len() > 100 {
            record(&mut extra, "linkpath", link);
        }
        if size >= OCTAL {
            record(&mut extra, "size", size.to_string().as_bytes());
        }
        let time = entry.mtime;
        let plain = time.nanoseconds == 0 && (0..OCTAL as i64).contains(&time.seconds);
        if !plain {
            let text = match (time.seconds, time.nanoseconds) {
                (seconds, 0) => seconds.to_string(),
                (seconds, nanoseconds) if seconds >= 0 => format!("{seconds}.{nanoseconds:09}"),
                (seconds, nanoseconds) => {
                    format!(
                        "-{}.{:09}",
                        seconds.saturating_add(1).unsigned_abs(),
                        1_000_000_000 - nanoseconds
                    )
                }
            };
            record(&mut extra, "mtime", text.as_bytes());
        }
        if !extra.is_empty() {
            self.write(&header(b"PaxHeader", b"", b'x', extra.len() as u64, 0o644, 0))?;
            self.write(&extra)?;
            self.pad(extra.len() as u64)?;
        }
        let seconds = u64::try_from(time.seconds).unwrap_or(0).min(OCTAL - 1);
        let header_size = if size < OCTAL { size } else { 0 };
        self.write(&header(&path, link, kind, header_size, entry.mode, seconds))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.to.write_all(bytes).map_err(|source| ArchiveError::Stream { source })
    }

    /// Fills up the last block of content that has `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
        self.write(&[0; BLOCK][..padding])
    }

    /// Ends the archive.
    pub(super) fn finish(&mut self) -> Result<(), ArchiveError> {
        self.write(&[0; 2 * BLOCK])?;
        self.to.flush().map_err(|source| ArchiveError::Stream { source })
    }
}

/// Appends `LENGTH KEY=VALUE\n`, the length counting itself.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn header(path: &[u8], link: &[u8], kind: u8, size: u64, mode: u32, seconds: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], most: usize| {
        let bytes = &bytes[..bytes.len().min(most)];
        header[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, path, 100);
    put(100, format!("{mode:07o}\0").as_bytes(), 8);
    put(108, b"0000000\0", 8);
    put(116, b"0000000\0", 8);
    put(124, format!("{size:011o}\0").as_bytes(), 12);
    put(136, format!("{seconds:011o}\0").as_bytes(), 12);
    put(148, b"        ", 8);
    put(156, &[kind], 1);
    put(157, link, 100);
    put(257, b"ustar\x0000", 8);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
