//! Long output made short: its beginning and its end stay, and what stands between says how much is missing and how to
//! get it. A model's context is dear, and what is left out silently is worse than what is left out.

/// Most bytes of one stream in a result.
pub const STREAM: usize = 16 << 10;
/// Most bytes of a stream of one command in a list of many.
pub const LISTED: usize = 2 << 10;

/// Cuts `text` in its middle to `most` bytes; `rest` says how to get what is missing.
pub fn middle(text: &mut String, most: usize, rest: &str) {
    if text.len() <= most {
        return;
    }
    let head = floor(text, most / 2);
    let tail = ceil(text, text.len() - most / 2);
    let note = format!("\n[... {} bytes left out: {rest} ...]\n", tail - head);
    text.replace_range(head..tail, &note);
}

/// The part of `text` from byte `offset` on, at most `most` bytes, and where the next part begins.
pub fn window(text: &str, offset: u64, most: usize) -> (&str, u64) {
    let from = ceil(text, usize::try_from(offset).unwrap_or(usize::MAX).min(text.len()));
    let to = floor(text, from.saturating_add(most).min(text.len()));
    (&text[from..to], to as u64)
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
    }
}
