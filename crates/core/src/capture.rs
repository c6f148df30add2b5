//! Kept part of a stream: its first and its last MiB, whatever its length.

/// Bytes kept from the beginning, and as many from the end.
pub const KEPT: usize = 1024 * 1024;

/// Collects a stream in bounded memory.
#[derive(Default)]
pub struct Capture {
    head: Vec<u8>,
    /// The last bytes after `head`: a ring once it holds [`KEPT`].
    tail: Vec<u8>,
    oldest: usize,
    total: u64,
}

/// Both ends of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The bytes; where some are missing, one line in the middle says how many.
    pub bytes: Vec<u8>,
    /// How many there were in all.
    pub total: u64,
    /// Whether some are missing.
    pub truncated: bool,
}

impl Capture {
    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = (KEPT - self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        bytes = &bytes[room..];
        bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let room = (KEPT - self.tail.len()).min(bytes.len());
        self.tail.extend_from_slice(&bytes[..room]);
        bytes = &bytes[room..];
        while !bytes.is_empty() {
            let n = bytes.len().min(KEPT - self.oldest);
            self.tail[self.oldest..self.oldest + n].copy_from_slice(&bytes[..n]);
            self.oldest = (self.oldest + n) % KEPT;
            bytes = &bytes[n..];
        }
    }

    /// Ends the stream; gives its two ends.
    pub fn finish(mut self) -> Captured {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let truncated = kept < self.total;
        let mut bytes = self.head;
        if truncated {
            bytes.extend(format!("\n[... {} bytes left out ...]\n", self.total - kept).into_bytes());
        }
        self.tail.rotate_left(self.oldest);
        bytes.extend(self.tail);
        Captured { bytes, total: self.total, truncated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(pieces: &[Vec<u8>]) -> Captured {
        let mut capture = Capture::default();
        pieces.iter().for_each(|piece| capture.push(piece));
        capture.finish()
    }

    #[test]
    fn short_streams_are_whole() {
        let captured = kept(&[b"a".to_vec(), vec![], b"bc".to_vec()]);
        assert_eq!(captured, Captured { bytes: b"abc".to_vec(), total: 3, truncated: false });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn long_streams_keep_both_ends(sizes in prop::collection::vec(0_usize..900_000, 1..9)) {
            let mut next = 0_u64;
            let pieces: Vec<Vec<u8>> = sizes.iter().map(|size| (0..*size).map(|_| { next += 1; (next % 251) as u8 }).collect()).collect();
            let whole = pieces.concat();
            let captured = kept(&pieces);
            prop_assert_eq!(captured.total, whole.len() as u64);
            if whole.len() <= 2 * KEPT {
                prop_assert_eq!(captured.bytes, whole);
            } else {
                prop_assert!(captured.truncated);
                prop_assert_eq!(&captured.bytes[..KEPT], &whole[..KEPT]);
                prop_assert_eq!(&captured.bytes[captured.bytes.len() - KEPT..], &whole[whole.len() - KEPT..]);
            }
        }
    }
}
