//! Reading a tar archive, entry by entry: ustar, pax, and GNU's long names.
//!
//! Strict, because what two readers understand differently is how archives are made to pass one and harm the other:
//! numbers, sums, sizes and the end of the archive have to be right. An entry's headers are bounded before they are
//! read.

use std::io::{self, Read};

use super::{ArchiveError, CHUNK, Content, Entry, MODE, Refusal, Time};

const BLOCK: usize = 512;
/// The most that the extra headers of one entry may have, bytes: two paths, and attributes nobody here reads.
const MAX_EXTRA: u64 = 1 << 20;
/// The most that may follow the end of an archive, bytes: programs fill up to 10 KiB, tapes had more.
const MAX_TAIL: u64 = 16 << 20;

/// An archive on its way in.
pub(super) struct Reader<'r> {
    from: &'r mut dyn Read,
    /// Whole entries so far.
    entries: u64,
    /// Bytes of the entry at hand that were not read yet.
    left: u64,
    padding: usize,
}

/// Statements of extra headers about the entry that follows them.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Time>,
    sparse: bool,
}

/// Marks that more came out of a compressed archive than is believed.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} times its size")]
pub(super) struct Grown(pub(super) u64);

impl<'r> Reader<'r> {
    pub(super) fn new(from: &'r mut dyn Read) -> Self {
        Self { from, entries: 0, left: 0, padding: 0 }
    }

    /// The next entry, unchecked; `None` after the last one.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip()?;
        let mut extra = Extra::default();
        let mut extras = 0_u64;
        loop {
            let Some(header) = self.header()? else {
                if extras > 0 {
                    return Err(ArchiveError::Truncated { entries: self.entries });
                }
                self.tail()?;
                return Ok(None);
            };
            let size = self.number(&header[124..136], "size")?;
            match header[156] {
                kind @ (b'x' | b'X' | b'g' | b'L' | b'K' | b'V') => {
                    extras = extras.saturating_add(size).saturating_add(BLOCK as u64);
                    if extras > MAX_EXTRA {
                        return Err(self.damaged("the headers of an entry are too long"));
                    }
                    let mut text = vec![0; size as usize];
                    self.exactly(&mut text)?;
                    self.pad(size)?;
                    match kind {
                        b'x' | b'X' => self.pax(&text, &mut extra)?,
                        b'L' => extra.path = Some(until_nul(&text).to_vec()),
                        b'K' => extra.link = Some(until_nul(&text).to_vec()),
                        // A volume's label, and what holds for all entries: nothing that matters, or a trick.
                        _ => {
                            let mut all = Extra::default();
                            if kind == b'g' {
                                self.pax(&text, &mut all)?;
                            }
                            if all.path.is_some() || all.link.is_some() || all.size.is_some() || all.sparse {
                                return Err(self.damaged("a global header names a path or a size"));
                            }
                        }
                    }
                }
                _ => return self.entry(&header, size, extra).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK], size: u64, extra: Extra) -> Result<Entry, ArchiveError> {
        let ustar = &header[257..263] == b"ustar\0";
        let path = extra.path.unwrap_or_else(|| {
            let (name, prefix) = (until_nul(&header[..100]), until_nul(&header[345..500]));
            if ustar && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
        });
        let link = extra.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let size = extra.size.unwrap_or(size);
        let refused = |refusal| Err(ArchiveError::refused(&path, refusal));
        let content = match header[156] {
            _ if extra.sparse => return refused(Refusal::Sparse),
            b'0' | 0 | b'7' if path.ends_with(b"/") && size == 0 => Content::Directory,
            b'0' | 0 | b'7' => Content::File(size),
            b'1' => Content::HardLink(link),
            b'2' => Content::Symlink(link),
            b'5' => Content::Directory,
            b'3' | b'4' => return refused(Refusal::Device),
            b'6' => return refused(Refusal::Fifo),
            b'S' => return refused(Refusal::Sparse),
            other => return refused(Refusal::Type(char::from(other))),
        };
        if size > 0 && !matches!(content, Content::File(_)) {
            return refused(Refusal::Content);
        }
        let mode = self.number(&header[100..108], "mode")? as u32 & MODE;
        let mtime = match extra.mtime {
            Some(mtime) => mtime,
            None => Time { seconds: self.seconds(&header[136..148])?, nanoseconds: 0 },
        };
        (self.left, self.padding) = (size, padding(size));
        self.entries += 1;
        Ok(Entry { path, content, mode, mtime })
    }

    /// Content of the entry at hand; nothing at its end.
    pub(super) fn content<'b>(&mut self, buffer: &'b mut [u8]) -> Result<&'b [u8], ArchiveError> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.exactly(&mut buffer[..want])?;
        self.left -= want as u64;
        Ok(&buffer[..want])
    }

    /// Goes to the end of the entry at hand.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        if self.left > 0 {
            let mut buffer = vec![0; CHUNK];
            while !self.content(&mut buffer)?.is_empty() {}
        }
        let padding = std::mem::take(&mut self.padding);
        self.exactly(&mut [0; BLOCK][..padding])
    }

    fn pad(&mut self, size: u64) -> Result<(), ArchiveError> {
        self.exactly(&mut [0; BLOCK][..padding(size)])
    }

    /// The next header, its sum verified; `None` where the archive ends.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut header = [0; BLOCK];
        self.exactly(&mut header)?;
        if header == [0; BLOCK] {
            return Ok(None);
        }
        if !sum_is_right(&header) {
            return Err(self.damaged("a header's sum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads what follows the first block of zeros: there is at least one more in archives that are whole, and whoever
    /// sends it wants to be rid of the rest.
    fn tail(&mut self) -> Result<(), ArchiveError> {
        let mut second = [0; BLOCK];
        self.exactly(&mut second)?;
        if second != [0; BLOCK] {
            return Err(self.damaged("it goes on after its end"));
        }
        let mut buffer = vec![0; CHUNK];
        let mut tail = 0;
        loop {
            match self.from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => tail += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
            if tail > MAX_TAIL {
                return Err(self.damaged("it goes on after its end"));
            }
        }
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.from.read_exact(buffer).map_err(|error| self.broken(error))
    }

    fn broken(&self, error: io::Error) -> ArchiveError {
        let entries = self.entries;
        if let Some(Grown(ratio)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return ArchiveError::Bomb { ratio: *ratio };
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::Truncated { entries },
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                ArchiveError::Damaged { entries, why: error.to_string() }
            }
            _ => ArchiveError::Stream { source: error },
        }
    }

    fn damaged(&self, why: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged { entries: self.entries, why: why.into() }
    }

    fn number(&self, field: &[u8], what: &str) -> Result<u64, ArchiveError> {
        number(field)
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| self.damaged(format!("the {what} of an entry is not a number")))
    }

    fn seconds(&self, field: &[u8]) -> Result<i64, ArchiveError> {
        number(field).ok_or_else(|| self.damaged("the time of an entry is not a number"))
    }

    /// Reads records of the form `LENGTH KEY=VALUE\n`; a key that comes again counts.
    fn pax(&self, mut text: &[u8], extra: &mut Extra) -> Result<(), ArchiveError> {
        let wrong = || self.damaged("an extended header is wrong");
        while !text.is_empty() && text[0] != 0 {
            let space = text.iter().take(20).position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length: usize = decimal(&text[..space]).and_then(|n| n.try_into().ok()).ok_or_else(wrong)?;
            let record = text
                .get(space + 1..length)
                .and_then(|record| record.strip_suffix(b"\n"))
                .ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => extra.path = Some(value.to_vec()),
                b"linkpath" => extra.link = Some(value.to_vec()),
                b"size" => extra.size = Some(decimal(value).ok_or_else(wrong)?),
                b"mtime" => extra.mtime = Some(time(value).ok_or_else(wrong)?),
                _ if key.starts_with(b"GNU.sparse.") => extra.sparse = true,
                _ => {}
            }
            text = &text[length..];
        }
        Ok(())
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.iter().position(|byte| *byte == 0).map_or(field, |end| &field[..end])
}

/// Whether a header's sum is right: of its bytes, with the sum's own taken for spaces.
pub(super) fn sum_is_right(header: &[u8; BLOCK]) -> bool {
    let own = 148..156;
    let sum = |byte: fn(u8) -> i64| -> i64 {
        let bytes = header.iter().enumerate();
        bytes.map(|(at, value)| if own.contains(&at) { 32 } else { byte(*value) }).sum()
    };
    // Old programs added signed bytes.
    let stated = number(&header[own.clone()]);
    stated.is_some_and(|stated| stated == sum(i64::from) || stated == sum(|byte| i64::from(byte as i8)))
}

/// A number of a header: octal digits, or binary when its first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let start = if first & 0x40 != 0 { -1_i128 << 6 } else { 0 };
        let value = i128::from(first & 0x3f) | start;
        let wide = field[1..]
            .iter()
            .try_fold(value, |value, byte| value.checked_mul(256)?.checked_add(i128::from(*byte)));
        return wide.and_then(|value| i64::try_from(value).ok());
    }
    let digits = until_nul(field).trim_ascii();
    digits.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Seconds, with a sign and a fraction or without; more than nine digits of it say nothing.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = dot.map_or((text, &[][..]), |at| (&text[..at], &text[at + 1..]));
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanoseconds = 0_u32;
    for at in 0..9 {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit.is_ascii_digit().then_some(digit - b'0')?);
    }
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}
