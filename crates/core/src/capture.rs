//! Kept part of a stream: its first and its last MiB, whatever its length, cut at the ends of lines where there are some.

/// Bytes kept from the beginning, and as many from the end.
pub const KEPT: usize = 1024 * 1024;
/// Bytes that are given up at a cut, at most, for a whole line.
const NEAR: usize = 4 << 10;

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
        let truncated = ((self.head.len() + self.tail.len()) as u64) < self.total;
        self.tail.rotate_left(self.oldest);
        let (mut bytes, mut tail) = (self.head, self.tail.as_slice());
        if truncated {
            bytes.truncate(head_end(&bytes));
            tail = &tail[tail_start(tail)..];
            let left_out = self.total - (bytes.len() + tail.len()) as u64;
            let end = if bytes.ends_with(b"\n") { "" } else { "\n" };
            bytes.extend(format!("{end}[... {left_out} bytes left out ...]\n").into_bytes());
        }
        bytes.extend(tail);
        Captured { bytes, total: self.total, truncated }
    }
}

/// Where a beginning is cut: after its last line, or if that does not end near, after its last character.
fn head_end(head: &[u8]) -> usize {
    let near = head.len().saturating_sub(NEAR);
    match head[near..].iter().rposition(|byte| *byte == b'\n') {
        Some(at) => near + at + 1,
        None => whole_characters(head).len(),
    }
}

/// The bytes without a last character of which some are missing; as they are if there is nothing else.
pub fn whole_characters(bytes: &[u8]) -> &[u8] {
    let begins = |at: &usize| {
        let tail = std::str::from_utf8(bytes.get(*at..).unwrap_or_default());
        tail.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    // A character has four bytes at most, and the last of them is missing.
    let cut = (bytes.len().saturating_sub(3).max(1)..bytes.len()).find(begins);
    bytes.get(..cut.unwrap_or(bytes.len())).unwrap_or(bytes)
}

/// Where an end is cut: before its first whole line, or if that does not begin near, before its first character.
fn tail_start(tail: &[u8]) -> usize {
    let near = &tail[..tail.len().min(NEAR)];
    match near.iter().position(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        None => {
            let rest = tail.iter().take(4).take_while(|byte| **byte & 0xc0 == 0x80).count();
            if rest < 4 { rest } else { 0 }
        }
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
                let least = KEPT - NEAR;
                prop_assert_eq!(&captured.bytes[..least], &whole[..least]);
                prop_assert_eq!(&captured.bytes[captured.bytes.len() - least..], &whole[whole.len() - least..]);
            }
        }
    }

    /// The beginning and the end of what is kept of a text, and what stands between.
    fn ends(text: &str) -> (String, usize, String) {
        let kept = String::from_utf8(kept(&[text.as_bytes().to_vec()]).bytes).unwrap();
        let (head, rest) = kept.split_once("[... ").unwrap();
        let (count, tail) = rest.split_once(" bytes left out ...]\n").unwrap();
        (head.to_owned(), count.parse().unwrap(), tail.to_owned())
    }

    #[test]
    fn lines_are_not_cut() {
        let text: String = (0..400_000).map(|at| format!("{at}\n")).collect();
        let (head, count, tail) = ends(&text);
        assert!(head.ends_with('\n') && text.starts_with(&head));
        assert!(text.ends_with(&format!("\n{tail}")));
        assert_eq!(head.len() + count + tail.len(), text.len());
        assert!(head.len() > KEPT - NEAR && tail.len() > KEPT - NEAR);
    }

    #[test]
    fn characters_are_not_cut_where_no_line_ends() {
        for first in ["", "a", "ab", "abc"] {
            for character in ["é", "€", "😀"] {
                let text = format!("{first}{}", character.repeat(4 * KEPT / character.len()));
                let (head, count, tail) = ends(&text);
                let head = head.strip_suffix('\n').unwrap();
                assert!(text.starts_with(head) && text.ends_with(&tail));
                assert_eq!(head.len() + count + tail.len(), text.len());
                assert!(head.len() + 4 > KEPT && tail.len() + 4 > KEPT);
            }
        }
    }
}
