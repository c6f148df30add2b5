//! Long output made short: its beginning and its end stay, and what stands between says how much is missing and how to
//! get it. A model's context is dear, and what is left out silently is worse than what is left out.

pub use pyro_core::capture::whole_characters;

/// Most bytes of one stream in a result.
pub const STREAM: usize = 16 << 10;
/// Most bytes of a stream of one command in a list of many.
pub const LISTED: usize = 2 << 10;

/// Most bytes that are given up at a cut for a whole line; an eighth of what is kept where that is less.
const NEAR: usize = 4 << 10;

/// Cuts `text` in its middle to `most` bytes, at the ends of lines where there are some, and says whether it was longer;
/// `rest` says, of the first byte that is missing, how to get that and what follows.
pub fn middle(text: &mut String, most: usize, rest: impl FnOnce(usize) -> String) -> bool {
    if text.len() <= most {
        return false;
    }
    let near = NEAR.min(most / 8);
    let head = floor(text, most / 2);
    let line = text[floor(text, head - near)..head].rfind('\n');
    let head = line.map_or(head, |at| floor(text, head - near) + at + 1);
    let tail = ceil(text, text.len() - most / 2);
    let line = text[tail..floor(text, (tail + near).min(text.len()))].find('\n');
    let tail = line.map_or(tail, |at| tail + at + 1);
    let end = if text[..head].ends_with('\n') { "" } else { "\n" };
    let note = format!("{end}[... {} bytes left out: {} ...]\n", tail - head, rest(head));
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
        middle(&mut text, 110, |from| format!("ask for it from {from}"));
        let (head, rest) = text.split_once("\n[... ").unwrap();
        let (note, tail) = rest.split_once(" ...]\n").unwrap();
        assert_eq!((head.len(), tail.len()), (55, 55));
        assert_eq!(note, "290 bytes left out: ask for it from 55");
        let mut short = "ä".repeat(55);
        middle(&mut short, 110, |_| String::new());
        assert_eq!(short, "ä".repeat(55));
    }

    #[test]
    fn a_line_is_not_cut_where_one_ends_near() {
        let whole: String = (0..20_000).map(|at| format!("{at}ä\n")).collect();
        for most in [LISTED, STREAM, STREAM + 1, STREAM + 3] {
            let (mut text, mut from) = (whole.clone(), 0);
            assert!(middle(&mut text, most, |at| {
                from = at;
                "ask".into()
            }));
            let (head, rest) = text.split_once("[... ").unwrap();
            let (count, tail) = rest.split_once(" bytes left out: ask ...]\n").unwrap();
            assert!(head.ends_with('\n') && whole.starts_with(head) && whole.ends_with(&format!("\n{tail}")));
            assert_eq!(
                (head.len(), head.len() + count.parse::<usize>().unwrap() + tail.len()),
                (from, whole.len())
            );
            assert!(head.len() + tail.len() > most - most / 4 - 4, "{most}");
        }
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
        middle(&mut shown, 9, |_| String::new());
        let head = shown.split_once("\n[... ").unwrap().0;
        assert!(head.len() < 4, "the cut is in a character: {head:?}");
        assert!(window(&text, 4, 7).0.starts_with(&text[head.len()..][..2]));
    }
}
