//! Long output made short: its beginning and its end stay, and what stands between says how much is missing and how to
//! get it. A model's context is dear, and what is left out silently is worse than what is left out.

/// Most bytes of one stream in a result.
pub const STREAM: usize = 16 << 10;
/// Most bytes of a stream of one command in a list of many.
pub const LISTED: usize = 2 << 10;

/// Cuts `text` in its middle to `most` bytes, and says whether it was longer; `rest` says how to get what is missing.
pub fn middle(text: &mut String, most: usize, rest: &str) -> bool {
    if text.len() <= most {
        return false;
    }
    let head = floor(text, most / 2);
    let tail = ceil(text, text.len() - most / 2);
    let note = format!("\n[... {} bytes left out: {rest} ...]\n", tail - head);
    text.replace_range(head..tail, &note);
    true
}

/// The part of `text` from byte `offset` on, or from the beginning of the character that has it, at most `most` bytes; and
/// where the next part begins.
pub fn window(text: &str, offset: u64, most: usize) -> (&str, u64) {
    let from = floor(text, usize::try_from(offset).unwrap_or(usize::MAX).min(text.len()));
    let to = floor(text, from.saturating_add(most).min(text.len()));
    (&text[from..to], to as u64)
}

/// As [`window`] of a stream's length, followed by how much is left; `more` says, of the next part's byte, how to get that.
pub fn part(text: &str, offset: u64, more: impl FnOnce(u64) -> String) -> String {
    let (part, next) = window(text, offset, STREAM);
    match text.len() as u64 - next {
        0 => part.to_owned(),
        left => format!("{part}\n[... {left} bytes more: {} ...]", more(next)),
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

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_stay_and_the_note_counts() {
        let mut text = "a".repeat(100) + &"ä".repeat(100) + &"z".repeat(100);
        middle(&mut text, 110, "ask for it");
        let (head, rest) = text.split_once("\n[... ").unwrap();
        let (note, tail) = rest.split_once(" ...]\n").unwrap();
        assert_eq!((head.len(), tail.len()), (55, 55));
        assert_eq!(note, "290 bytes left out: ask for it");
        let mut short = "ä".repeat(55);
        middle(&mut short, 110, "");
        assert_eq!(short, "ä".repeat(55));
    }

    #[test]
    fn a_character_is_not_cut() {
        let text = "aäöü€😀\u{10ffff}".repeat(3).into_bytes();
        for end in 2..=text.len() {
            let whole = whole_characters(&text[..end]);
            assert!(std::str::from_utf8(whole).is_ok() && end - whole.len() < 4, "{end}");
        }
        // What is no text is not cut, nor what would be nothing.
        for bytes in [&b"a\xff"[..], b"a\x80\x80", b"\xf0\x9f", b"\xf0", b"", b"\xff\xff\xff"] {
            assert_eq!(whole_characters(bytes), bytes);
        }
    }

    #[test]
    fn windows_meet_and_end() {
        let text = "aäöü".repeat(50);
        let (mut at, mut all) = (0, String::new());
        while at < text.len() as u64 {
            let (part, next) = window(&text, at, 7);
            assert!(next > at && part.len() <= 7);
            all.push_str(part);
            at = next;
        }
        assert_eq!(all, text);
        assert_eq!(window(&text, u64::MAX, 7), ("", text.len() as u64));
        // Whoever was shown a beginning goes on without losing a character.
        let mut shown = text.clone();
        middle(&mut shown, 9, "");
        let head = shown.split_once("\n[... ").unwrap().0;
        assert!(head.len() < 4, "the cut is in a character: {head:?}");
        assert!(window(&text, 4, 7).0.starts_with(&text[head.len()..][..2]));
    }
}
