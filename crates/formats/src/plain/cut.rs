//! Where terminal output may be cut so that no control and no character is.

/// Longest control that is waited for.
const LONGEST: usize = 4096;

#[derive(Clone, Copy, PartialEq)]
enum At {
    Ground,
    Escape,
    Csi,
    /// Until BEL or ST: titles, links, pictures.
    Text,
    TextEscape,
}

/// How many of `bytes` there are before a control or a UTF-8 character that is not finished. One that is longer than it
/// may be is none. `bytes` must begin between two.
pub fn whole(bytes: &[u8]) -> usize {
    let (mut at, mut begin) = (At::Ground, 0);
    for (index, byte) in bytes.iter().enumerate() {
        at = match (at, *byte) {
            // Begins anew, wherever it comes, but for the end of a text.
            (At::Text, 0x1b) => At::TextEscape,
            (_, 0x1b) => {
                begin = index;
                At::Escape
            }
            // Cancelled.
            (_, 0x18 | 0x1a) => At::Ground,
            (At::Ground, _) => At::Ground,
            (At::Escape, b'[') => At::Csi,
            (At::Escape, b']' | b'P' | b'X' | b'^' | b'_') => At::Text,
            (At::Escape, 0x00..=0x2f) => At::Escape,
            (At::Csi, 0x00..=0x3f) => At::Csi,
            (At::Escape | At::Csi, _) => At::Ground,
            (At::Text, 0x07) => At::Ground,
            (At::Text, _) => At::Text,
            (At::TextEscape, b'\\') => At::Ground,
            (At::TextEscape, b'[') => At::Csi,
            (At::TextEscape, _) => At::Ground,
        };
    }
    if at != At::Ground && bytes.len() - begin <= LONGEST {
        return begin;
    }
    bytes.len() - unfinished(bytes)
}

/// How many bytes at the end begin a UTF-8 character that is not whole.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    (1..=tail.len())
        .find(|n| match std::str::from_utf8(&tail[tail.len() - n..]) {
            Err(error) => error.error_len().is_none() && error.valid_up_to() == 0,
            Ok(_) => false,
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain::plain;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_cut_in_the_middle() {
        let text = "a\x1b[31mb\x1b]0;t\x07c\x1b]8;;x\x1b\\dé日\x1b(B";
        let ends: Vec<usize> = (0..=text.len()).map(|n| whole(&text.as_bytes()[..n])).collect();
        let whole: Vec<usize> = (0..=text.len()).filter(|n| ends[*n] == *n).collect();
        let parts: Vec<&str> = whole.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
        let expected =
            ["a", "\x1b[31m", "b", "\x1b]0;t\x07", "c", "\x1b]8;;x\x1b\\", "d", "é", "日", "\x1b(B"];
        assert_eq!(parts, expected);
    }

    #[test]
    fn what_is_no_control_and_no_character_is_not_waited_for() {
        assert_eq!(whole(b"ab\xff"), 3);
        assert_eq!(whole(b"ab\xe6\x97"), 2);
        assert_eq!(whole(&[b"\x1b]".to_vec(), vec![b'x'; LONGEST]].concat()), LONGEST + 2);
    }

    proptest! {
        /// Read in pieces or at once, plain lines say the same.
        #[test]
        fn pieces_say_what_the_whole_says(parts in prop::collection::vec("(\x1b\\[[0-9;]{0,5}m)|[a-zé日]{1,4}|\r\n|\x1b\\]0;t\x07", 0..30), step in 1_usize..9) {
            let bytes = parts.concat().into_bytes();
            let (mut text, mut done) = (String::new(), 0);
            let mut end = 0;
            while done < bytes.len() {
                end = (end + step).min(bytes.len());
                let n = whole(&bytes[done..end]);
                text += &plain(&bytes[done..done + n], 500, 50);
                done += n;
            }
            prop_assert_eq!(text, plain(&bytes, 500, 50));
        }
    }
}
