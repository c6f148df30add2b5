//! Output that goes to a person's own terminal a second time, and leaving that terminal as it was found.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use vte::{Params, Parser, Perform};

/// Bytes of the newest output that somebody who joins is shown.
const LATELY: usize = 4096;
/// Modes that programs switch on and a person's terminal should not keep.
const SWITCHED_OFF: [u16; 14] = [1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004];

/// Output for somebody who joins a terminal, out of everything that was written to it: the screen of a full-screen
/// program that runs, else the last lines. Without questions, which that terminal would answer into the
/// program's input, and without titles and other texts for the terminal itself.
pub fn replay(bytes: &[u8]) -> Vec<u8> {
    let mut again = Replay::default();
    Parser::new().advance(&mut again, bytes);
    let Replay { out, begin, other } = again;
    let tail = match (other, begin) {
        (true, Some(begin)) => &out[begin..],
        (_, begin) => {
            let from = begin.unwrap_or(0).max(out.len().saturating_sub(LATELY));
            // From the start of a line on, unless all of it is one.
            let line = out[from..].iter().position(|byte| *byte == b'\n').map_or(from, |at| from + at + 1);
            &out[if from == begin.unwrap_or(0) || line >= out.len() { from } else { line }..]
        }
    };
    let start = (0..tail.len().min(4)).find(|at| tail[*at] & 0xc0 != 0x80).unwrap_or(0);
    tail[start..].to_vec()
}

#[derive(Default)]
struct Replay {
    out: Vec<u8>,
    /// Offset in `out` at which a full-screen program began, or the last one had ended.
    begin: Option<usize>,
    other: bool,
}

impl Perform for Replay {
    fn print(&mut self, c: char) {
        if c.is_control() {
            return;
        }
        let mut buffer = [0; 4];
        self.out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    }

    fn execute(&mut self, byte: u8) {
        // No bell, no answerback, and no control of eight bits: the byte 0x9b begins what `ESC [` begins.
        if !matches!(byte, 0x05 | 0x07 | 0x80..) {
            self.out.push(byte);
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        let private = intermediates == b"?" && matches!(action, 'h' | 'l');
        // c, n, t, x and what has other intermediates ask something, or are for the terminal as a whole.
        let asks = matches!(action, 'c' | 'n' | 't' | 'x' | 'y' | 'p' | 'q');
        if ignore || asks || !(intermediates.is_empty() || private) {
            return;
        }
        if private && params.iter().any(|param| matches!(param, [47 | 1047 | 1049])) {
            self.other = action == 'h';
            // Of a screen that is left, only that it is left matters.
            self.begin = Some(self.out.len());
            if !self.other {
                return;
            }
        }
        let mut text = String::from("\x1b[");
        text.extend(intermediates.iter().map(|byte| char::from(*byte)));
        for (at, param) in params.iter().enumerate() {
            text.push_str(if at == 0 { "" } else { ";" });
            for (at, part) in param.iter().enumerate() {
                let _ = write!(text, "{}{part}", if at == 0 { "" } else { ":" });
            }
        }
        text.push(action);
        self.out.extend_from_slice(text.as_bytes());
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _: bool, byte: u8) {
        // Z asks who is there, c clears all, \ ends a text that was left out.
        if !matches!(byte, b'Z' | b'c' | b'\\') {
            self.out.push(0x1b);
            self.out.extend_from_slice(intermediates);
            self.out.push(byte);
        }
    }
}

/// Watches what programs switch on in a terminal that they are shown on.
#[derive(Default)]
pub struct Modes {
    parser: Parser,
    seen: ModeTracker,
}

#[derive(Default)]
struct ModeTracker {
    on: BTreeSet<u16>,
    touched: bool,
}

impl Modes {
    /// Takes note of output that goes to the terminal.
    pub fn watch(&mut self, bytes: &[u8]) {
        // Byte by byte: where a piece ends within a character, vte 0.15 may swallow the escape that follows the character.
        bytes.iter().for_each(|byte| self.parser.advance(&mut self.seen, &[*byte]));
    }

    /// Controls that bring the terminal back to where it was: modes off, the cursor shown, no colour.
    pub fn undo(&self) -> String {
        let mut text = String::new();
        for mode in &self.seen.on {
            let _ = write!(text, "\x1b[?{mode}l");
        }
        if self.seen.touched {
            // All lines scroll again, which moves the cursor to the first one.
            text.push_str("\x1b7\x1b[r\x1b8\x1b[?25h\x1b>\x1b(B\x1b[0m");
        }
        text
    }
}

impl Perform for ModeTracker {
    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _: bool, action: char) {
        if intermediates != b"?" {
            return;
        }
        for mode in params.iter().filter_map(|param| param.first().copied()) {
            self.touched |= matches!(mode, 25 | 47 | 1047 | 1049);
            match action {
                'h' if SWITCHED_OFF.contains(&mode) => drop(self.on.insert(mode)),
                'l' => drop(self.on.remove(&mode)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn again(text: &str) -> String {
        String::from_utf8(replay(text.as_bytes())).unwrap()
    }

    #[test]
    fn questions_and_titles_are_not_asked_again() {
        assert_eq!(again("a\x1b[6n\x1b[c\x1b[>0cb\x1b]0;t\x07\x1b]11;?\x07\x1bP+q\x1b\\\x1bZ\x05c"), "abc");
        assert_eq!(again("\x1b[1;31mx\x1b[38:2:1:2:3my"), "\x1b[1;31mx\x1b[38:2:1:2:3my");
    }

    /// Output is watched as it comes, cut anywhere.
    #[test]
    fn a_mode_is_noticed_wherever_the_output_is_cut() {
        let text = b"a\xc7\x8d\x1b\x9f[?1001h\xe2\x82\x1b[?1000h";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut modes = Modes::default();
                [&text[..first], &text[first..second], &text[second..]]
                    .iter()
                    .for_each(|piece| modes.watch(piece));
                assert_eq!(modes.undo(), "\x1b[?1000l\x1b[?1001l", "{first} {second}");
            }
        }
    }

    /// `0x9b c` asks who is there, on a terminal that knows controls of eight bits.
    #[test]
    fn controls_of_eight_bits_are_not_shown_again() {
        assert_eq!(replay(b"a\x9bc\x7f"), b"ac");
        assert_eq!(again("a\u{9b}c\u{85}d"), "acd");
    }

    #[test]
    fn a_full_screen_program_is_shown_from_its_beginning() {
        let lines = "line\r\n".repeat(2000);
        assert_eq!(again(&format!("{lines}\x1b[?1049htext\x1b[2;1H~")), "\x1b[?1049htext\x1b[2;1H~");
        assert_eq!(again(&format!("{lines}\x1b[?1049htext\x1b[?1049l$ ")), "$ ");
    }

    #[test]
    fn the_last_lines_are_whole() {
        let lines = "0123456789\r\n".repeat(2000);
        let shown = again(&format!("{lines}$ "));
        assert!(shown.starts_with("0123456789\r\n") && shown.ends_with("\r\n$ ") && shown.len() <= LATELY);
        assert_eq!(again("$ "), "$ ");
        assert_eq!(again(&"é".repeat(5000)).len(), LATELY);
    }

    #[test]
    fn a_terminal_is_left_as_it_was_found() {
        let mut modes = Modes::default();
        modes.watch(b"hello \x1b[31mred\x1b[0m");
        assert_eq!(modes.undo(), "");
        modes.watch(b"\x1b[?1049h\x1b[?25l\x1b[?1000;10");
        modes.watch(b"06h\x1b[?2004h\x1b[?2004l");
        assert_eq!(
            modes.undo(),
            "\x1b[?1000l\x1b[?1006l\x1b[?1049l\x1b7\x1b[r\x1b8\x1b[?25h\x1b>\x1b(B\x1b[0m"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_replayed(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = replay(&bytes);
        }
    }
}
