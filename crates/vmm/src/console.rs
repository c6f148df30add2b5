//! Tail of an untrusted stream of text: a guest's console, a VMM's stderr.
//!
//! The tail keeps a bounded number of bytes, and shows them as plain text that cannot drive a terminal.

use std::collections::VecDeque;

/// Kept bytes of a guest's console: several screens, and any kernel panic with its trace.
pub(crate) const CONSOLE_LIMIT: usize = 16 * 1024;

/// Last bytes of a stream, up to a limit.
#[derive(Debug)]
pub struct OutputTail {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl OutputTail {
    /// Makes an empty tail that keeps the last `limit` bytes.
    pub fn new(limit: usize) -> OutputTail {
        OutputTail { bytes: VecDeque::new(), limit }
    }

    /// Adds `data`, dropping the oldest bytes beyond the limit.
    pub fn push(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + data.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.bytes.extend(data);
    }

    /// Renders the kept bytes as lossy UTF-8, without ANSI escape sequences and control characters but newline and
    /// tab.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let mut out = String::with_capacity(bytes.len());
        let mut characters =
            String::from_utf8_lossy(&bytes).chars().collect::<Vec<_>>().into_iter().peekable();
        while let Some(character) = characters.next() {
            match character {
                // A control sequence: ESC [ parameters final. Other escapes lose only their ESC.
                '\u{1b}' if characters.peek() == Some(&'[') => {
                    characters.next();
                    while let Some(parameter) = characters.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)) {
                        debug_assert!(parameter.is_ascii());
                    }
                    characters.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
                '\n' | '\t' => out.push(character),
                _ if character.is_control() => {}
                _ => out.push(character),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(limit: usize, pieces: &[&[u8]]) -> String {
        let mut tail = OutputTail::new(limit);
        pieces.iter().for_each(|piece| tail.push(piece));
        tail.text()
    }

    #[test]
    fn only_the_end_is_kept() {
        assert_eq!(text(5, &[b"abc", b"def"]), "bcdef");
        assert_eq!(text(5, &[b"abc", b"defghijk"]), "ghijk");
        assert_eq!(text(0, &[b"abc"]), "");
    }

    #[test]
    fn a_terminal_is_not_driven() {
        assert_eq!(
            text(99, &[b"\x1b[2J\x1b[1;31mred\x1b[0m\r\n\x07\tplain\x1b]0;title\x07"]),
            "red\n\tplain]0;title"
        );
        assert_eq!(text(99, &[b"cut \x1b["]), "cut ");
        assert_eq!(text(99, &[b"latin \xe9 and c1 \xc2\x9b1m"]), "latin \u{fffd} and c1 1m");
    }

    proptest! {
        #[test]
        fn any_bytes_give_bounded_plain_text(pieces: Vec<Vec<u8>>, limit in 0_usize..300) {
            let mut tail = OutputTail::new(limit);
            let mut all = Vec::new();
            for piece in &pieces {
                tail.push(piece);
                all.extend_from_slice(piece);
            }
            let kept: Vec<u8> = tail.bytes.iter().copied().collect();
            prop_assert_eq!(&kept[..], &all[all.len().saturating_sub(limit)..]);
            prop_assert!(tail.text().chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
        }
    }
}
