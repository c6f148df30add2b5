//! Whatever a program writes to a terminal: text without control, within bounds; a replay that asks nothing; cuts that cut
//! nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyro_formats::plain::{Modes, plain, replay, whole};
use pyro_fuzz::Input;
use vte::{Params, Parser, Perform};

/// Notices what a terminal would answer, or take for itself.
#[derive(Default)]
struct Terminal {
    asked: bool,
    last: Option<char>,
}

impl Perform for Terminal {
    fn print(&mut self, c: char) {
        self.last = Some(c);
    }

    fn execute(&mut self, byte: u8) {
        self.asked |= byte == 5;
    }

    fn csi_dispatch(&mut self, _: &Params, intermediates: &[u8], ignore: bool, action: char) {
        self.asked |= !ignore
            && (matches!(action, 'c' | 'n' | 't' | 'x')
                || intermediates.first().is_some_and(|byte| *byte != b'?'));
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _: bool, byte: u8) {
        self.asked |= intermediates.is_empty() && matches!(byte, b'Z' | b'c');
    }

    fn osc_dispatch(&mut self, _: &[&[u8]], _: bool) {
        self.asked = true;
    }

    fn hook(&mut self, _: &Params, _: &[u8], _: bool, _: char) {
        self.asked = true;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (cols, rows) = match input.byte() {
        255 => (u16::MAX, u16::MAX),
        size => (u16::from(size & 15), u16::from(size >> 4)),
    };
    let bytes = input.rest();

    let text = plain(bytes, cols, rows);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.len() <= (8 << 20) + 40 * bytes.len());

    let again = replay(bytes);
    let mut terminal = Terminal::default();
    Parser::new().advance(&mut terminal, &again);
    assert!(!std::str::from_utf8(&again).unwrap().contains(|c| ('\u{7f}'..='\u{9f}').contains(&c)));
    assert!(!terminal.asked, "{:?}", String::from_utf8_lossy(&again));

    let end = whole(bytes);
    assert!(end <= bytes.len());
    if bytes.len() <= 4096 {
        let (mut parser, mut terminal) = (Parser::new(), Terminal::default());
        parser.advance(&mut terminal, &bytes[..end]);
        parser.advance(&mut terminal, b"X");
        assert_eq!(terminal.last, Some('X'), "{:?}", String::from_utf8_lossy(&bytes[..end]));
    }

    let (mut at_once, mut in_pieces) = (Modes::default(), Modes::default());
    at_once.watch(bytes);
    bytes.chunks(3).for_each(|piece| in_pieces.watch(piece));
    assert_eq!(at_once.undo(), in_pieces.undo());
});
