//! Records: the unit in which a session's bytes travel, each ended by the session's tag.
//!
//! ```text
//!   len: u32 LE | !len: u32 LE | payload (1 to 135,168 bytes) | tag: 8 bytes
//! ```
//!
//! A connection can be cut at any byte and the next one glued on. A record is delivered only when the session's tag
//! stands exactly at its end; both nonces went into it, so bytes of another connection cannot put it there. The cost
//! is one comparison a record, not one per byte.

use crate::handshake::{BLOCK, HostHandshake};

/// Most payload bytes in one record: one chunk of a command's output with its headers, and room to spare.
pub const MAX_PAYLOAD: usize = 132 * 1024;
/// Bytes before the payload.
pub const HEADER: usize = 8;
/// Bytes after the payload.
pub const TRAILER: usize = 8;
/// Bytes of the longest record: after as many bytes of padding, any half-read record has ended.
pub const MAX_RECORD: usize = HEADER + MAX_PAYLOAD + TRAILER;

/// The input is not this session's: it was cut, glued to another, or is garbage. The session is over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the byte stream is not this session's ({0})")]
pub struct Desync(pub &'static str);

/// Writes the header of a record with `len` payload bytes (1 to [`MAX_PAYLOAD`]).
pub fn header(len: u32) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..].copy_from_slice(&(!len).to_le_bytes());
    out
}

/// Takes raw input and gives verified payload.
pub struct Decoder {
    tag: [u8; TRAILER],
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Payload bytes at `start` that were verified and not consumed yet.
    ready: usize,
    /// No record was seen yet: the host may still meet a repeated answer to its HELLO.
    first: bool,
}

impl Decoder {
    /// A decoder for records that end in `tag`; `rest` is input that came glued to the handshake.
    pub fn new(tag: [u8; TRAILER], rest: &[u8]) -> Self {
        let mut buffer = vec![0; (2 * MAX_RECORD).max(rest.len())].into_boxed_slice();
        buffer[..rest.len()].copy_from_slice(rest);
        Self { tag, buffer, start: 0, end: rest.len(), ready: 0, first: true }
    }

    /// Where to read more raw input into; never empty while [`Decoder::payload`] gives `None`.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end && self.ready == 0 {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < MAX_RECORD && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// Says that `n` bytes were read into [`Decoder::space`].
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buffer.len());
    }

    /// The verified bytes that are at hand; `None` when more input is needed.
    pub fn payload(&mut self) -> Result<Option<&[u8]>, Desync> {
        if self.ready == 0 && !self.open()? {
            return Ok(None);
        }
        Ok(Some(&self.buffer[self.start..self.start + self.ready]))
    }

    /// Drops `n` of the bytes that [`Decoder::payload`] gave.
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.ready);
        self.start += n;
        self.ready -= n;
        if self.ready == 0 && n > 0 {
            self.start += TRAILER;
        }
    }

    /// Whether the input ended between two records.
    pub fn at_boundary(&self) -> bool {
        self.ready == 0 && self.start == self.end
    }

    fn open(&mut self) -> Result<bool, Desync> {
        loop {
            let input = &self.buffer[self.start..self.end];
            let Some((len, rest)) = input.split_first_chunk::<4>() else { return Ok(false) };
            let Some(inverse) = rest.first_chunk::<4>() else { return Ok(false) };
            let (len, inverse) = (u32::from_le_bytes(*len), u32::from_le_bytes(*inverse));
            if self.first && inverse != !len {
                if input.len() < BLOCK {
                    // Not a record: either one more WELCOME, whole soon, or garbage that will show.
                    return if input.starts_with(b"pyroWELC") {
                        Ok(false)
                    } else {
                        Err(Desync("bad header"))
                    };
                }
                if HostHandshake::is_repeated_welcome(input) {
                    self.start += BLOCK;
                    continue;
                }
            }
            if inverse != !len {
                return Err(Desync("bad header"));
            }
            let len = len as usize;
            if len == 0 || len > MAX_PAYLOAD {
                return Err(Desync("bad length"));
            }
            if input.len() < HEADER + len + TRAILER {
                return Ok(false);
            }
            if input[HEADER + len..HEADER + len + TRAILER] != self.tag {
                return Err(Desync("bad tag"));
            }
            self.first = false;
            self.start += HEADER;
            self.ready = len;
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(tag: [u8; 8], payload: &[u8]) -> Vec<u8> {
        [&header(payload.len() as u32)[..], payload, &tag].concat()
    }

    fn drain(decoder: &mut Decoder, mut input: &[u8], piece: usize) -> Result<Vec<u8>, Desync> {
        let mut out = Vec::new();
        loop {
            while let Some(payload) = decoder.payload()? {
                let n = payload.len().min(7);
                out.extend(&payload[..n]);
                decoder.consume(n);
            }
            if input.is_empty() {
                return Ok(out);
            }
            let space = decoder.space();
            assert!(!space.is_empty());
            let n = space.len().min(input.len()).min(piece);
            space[..n].copy_from_slice(&input[..n]);
            decoder.filled(n);
            input = &input[n..];
        }
    }

    proptest! {
        #[test]
        fn whole_records_arrive(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), piece in 1_usize..400) {
            let tag = [5; 8];
            let wire: Vec<u8> = payloads.iter().flat_map(|p| record(tag, p)).collect();
            let got = drain(&mut Decoder::new(tag, &[]), &wire, piece).unwrap();
            prop_assert_eq!(got, payloads.concat());
        }

        /// Cut anywhere and glued to anything: only records that were whole are delivered.
        #[test]
        fn a_cut_never_delivers_glued_bytes(first in prop::collection::vec(any::<u8>(), 1..200), glued: Vec<u8>, cut in 0_usize..400) {
            let tag = [0xa5; 8];
            prop_assume!(!glued.windows(8).any(|w| w == tag));
            let whole = record(tag, &first);
            let second = record(tag, b"never whole");
            let cut = cut % second.len();
            let rest = [&second[..cut], &glued].concat();
            // The glued bytes may happen to be those that were cut off: then the record is whole.
            prop_assume!(!rest.starts_with(&second));
            let wire = [whole, rest].concat();
            let mut decoder = Decoder::new(tag, &[]);
            let mut out = Vec::new();
            for byte in wire {
                decoder.space()[0] = byte;
                decoder.filled(1);
                match decoder.payload() {
                    Ok(Some(payload)) => { out.extend_from_slice(payload); let n = payload.len(); decoder.consume(n); }
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
            prop_assert_eq!(out, first);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, piece in 1_usize..50) {
            let _ = drain(&mut Decoder::new([1; 8], &[]), &bytes, piece);
        }
    }

    #[test]
    fn lengths_are_bounded() {
        for len in [0, MAX_PAYLOAD as u32 + 1, u32::MAX] {
            let mut decoder = Decoder::new([1; 8], &header(len));
            assert_eq!(decoder.payload(), Err(Desync("bad length")));
        }
    }

    #[test]
    fn the_longest_record_fits() {
        let payload = vec![7; MAX_PAYLOAD];
        let wire = [record([1; 8], &payload), record([1; 8], &payload), record([1; 8], &payload)].concat();
        assert_eq!(drain(&mut Decoder::new([1; 8], &[]), &wire, 10_000).unwrap().len(), 3 * MAX_PAYLOAD);
    }
}
