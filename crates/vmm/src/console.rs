//! The last of a stream of text from something that is not trusted: a guest's console, a VMM's stderr.
//!
//! Keeps a bounded number of bytes whatever comes, and shows them as plain text that cannot drive a terminal.

use std::collections::VecDeque;

/// The last bytes of a stream.
#[derive(Debug)]
pub struct Tail {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Tail {
    /// An empty tail that keeps the last `limit` bytes.
    pub fn new(limit: usize) -> Tail {
        Tail { bytes: VecDeque::new(), limit }
    }

    /// Adds `data`, dropping the oldest bytes beyond the limit.
    pub fn push(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + data.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.bytes.extend(data);
    }

    /// What is kept, as text: lossy UTF-8, ANSI escape sequences and all control characters but newline and tab
    /// removed.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let mut out = String::with_capacity(bytes.len());
        let mut characters = String::from_utf8_lossy(&bytes).chars().collect::<Vec<_>>().into_iter().peekable();
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
