//! Where terminal output may be cut so that no control and no character is.

/// Longest control that is waited for.
const LONGEST: usize = 4096;

/// Place of a byte in a control; the states are those of the `vte` parser, which reads the pieces.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Ground,
    Escape,
    Intermediate,
    Csi,
    /// Title or link, until BEL or ST.
    Osc,
    DcsEntry,
    DcsParam,
    DcsIntermediate,
    DcsContent,
    /// Text for nobody, until ST.
    Ignored,
}

/// Count of `bytes` before a control or a UTF-8 character that is not finished. One that is longer than it may be is
/// none. `bytes` must begin between two.
pub fn whole(bytes: &[u8]) -> usize {
    // Where the control at hand began, and where the last one ended.
    let (mut at, mut begin, mut ended) = (At::Ground, 0, 0);
    for (index, byte) in bytes.iter().enumerate() {
        let next = match (at, *byte) {
            (_, 0x1b) => At::Escape,
            // Cancelled.
            (_, 0x18 | 0x1a) => At::Ground,
            (At::Escape, b'[') => At::Csi,
            (At::Escape, b']') => At::Osc,
            (At::Escape, b'P') => At::DcsEntry,
            (At::Escape, b'X' | b'^' | b'_') => At::Ignored,
            (At::Escape | At::Intermediate, 0x20..=0x2f) => At::Intermediate,
            (At::Escape | At::Intermediate, 0x30..=0x7e) => At::Ground,
            (At::Csi, 0x40..=0x7e) => At::Ground,
            (At::Osc, 0x07) => At::Ground,
            (At::DcsEntry | At::DcsParam | At::DcsIntermediate, 0x40..=0x7e) => At::DcsContent,
            (At::DcsEntry | At::DcsParam, 0x20..=0x2f) => At::DcsIntermediate,
            (At::DcsEntry, 0x30..=0x3f) => At::DcsParam,
            (At::DcsParam, 0x3c..=0x3f) | (At::DcsIntermediate, 0x30..=0x3f) => At::Ignored,
            (At::DcsContent, 0x9c) => At::Ground,
            (at, _) => at,
        };
        match (at == At::Ground, next == At::Ground) {
            (true, false) => begin = index,
            (false, true) => ended = index + 1,
            _ => {}
        }
        at = next;
    }
    if at == At::Ground {
        bytes.len() - unfinished(&bytes[ended..])
    } else if bytes.len() - begin <= LONGEST {
        begin
    } else {
        bytes.len()
    }
}

/// Count of bytes at the end that begin a UTF-8 character that is not whole.
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

    /// Controls that another one breaks off, and texts that only ST ends.
    #[test]
    fn a_control_goes_on_until_the_parser_ends_it() {
        let whole_is = |text: &[u8], expected: usize| assert_eq!(whole(text), expected, "{text:?}");
        whole_is(b"a\x1b\xc5", 1);
        whole_is(b"a\x1b\x1b", 1);
        whole_is(b"a\x1b[3\x1b[1", 1);
        whole_is(b"a\x1b([", 4);
        whole_is(b"a\x1bPq#\x07b", 1);
        whole_is(b"a\x1b]0;t\x1b]0;u", 1);
        whole_is(b"a\x1bPq\xe6\x9c", 6);
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
