//! Terminal output as a person would have read it: control taken out, what was drawn over left out.
//!
//! A small terminal, fed by the `vte` parser. Lines that scroll away are kept, so that a log reads as a log; progress
//! that goes back to the start of its line leaves its last state; what a full-screen program (`vim`, `less`) drew is
//! gone when it is, as on a real terminal, and is the screen while it is not.
//!
//! Invariant: what it takes of memory is bounded by its input, whatever that asks for.

mod cut;
mod replay;
mod screen;

pub use cut::whole;
pub use replay::{Modes, replay};

use screen::Screen;
use vte::{Params, Parser, Perform};

/// `bytes` of a terminal with so many columns and rows, as text.
pub fn plain(bytes: &[u8], cols: u16, rows: u16) -> String {
    let mut terminal = Terminal {
        main: Screen::new(cols, rows, true, bytes.len()),
        other: None,
        cols,
        rows,
        budget: bytes.len(),
        last: None,
    };
    Parser::new().advance(&mut terminal, bytes);
    let mut text = terminal.main.text();
    if let Some(screen) = terminal.other {
        if !(text.is_empty() || text.ends_with('\n')) {
            text.push('\n');
        }
        // It is drawn with blanks up to its edge.
        let shown = screen.text();
        for line in shown.trim_end().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

struct Terminal {
    main: Screen,
    /// The screen of a full-screen program.
    other: Option<Screen>,
    cols: u16,
    rows: u16,
    budget: usize,
    last: Option<char>,
}

impl Terminal {
    fn screen(&mut self) -> &mut Screen {
        self.other.as_mut().unwrap_or(&mut self.main)
    }

    fn mode(&mut self, params: &Params, on: bool) {
        for param in params {
            // 47 and 1047 are 1049's ancestors.
            if matches!(param, [47 | 1047 | 1049]) {
                self.other = match self.other.take() {
                    _ if !on => None,
                    Some(screen) => Some(screen),
                    None => Some(Screen::new(self.cols, self.rows, false, self.budget)),
                };
            }
        }
    }
}

impl Perform for Terminal {
    fn print(&mut self, c: char) {
        // The parser takes DEL for a character; terminals take it for nothing.
        if c.is_control() {
            return;
        }
        self.last = Some(c);
        self.screen().print(c);
    }

    fn execute(&mut self, byte: u8) {
        let screen = self.screen();
        match byte {
            b'\n' | 0x0b | 0x0c => screen.line_feed(),
            b'\r' => screen.column(0),
            0x08 => screen.left(1),
            b'\t' => screen.tab(),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        if ignore {
            return;
        }
        match (intermediates, action) {
            ([b'?'], 'h') => return self.mode(params, true),
            ([b'?'], 'l') => return self.mode(params, false),
            ([], _) => {}
            _ => return,
        }
        let mut given = params.iter().map(|param| param.first().copied().unwrap_or_default());
        let (first, second) = (given.next().unwrap_or_default(), given.next().unwrap_or_default());
        let n = usize::from(first.max(1));
        let m = usize::from(second.max(1));
        let last = self.last;
        let screen = self.screen();
        match action {
            'A' => screen.up(n),
            'B' | 'e' => screen.down(n),
            'C' | 'a' => screen.right(n),
            'D' => screen.left(n),
            'E' => {
                screen.down(n);
                screen.column(0);
            }
            'F' => {
                screen.up(n);
                screen.column(0);
            }
            'G' | '`' => screen.column(n - 1),
            'd' => screen.row(n - 1),
            'H' | 'f' => {
                screen.row(n - 1);
                screen.column(m - 1);
            }
            'J' => screen.erase_display(first),
            'K' => screen.erase_line(first),
            'P' => screen.delete(n),
            'X' => screen.erase(n),
            '@' => screen.insert(n),
            'L' => screen.insert_lines(n),
            'M' => screen.delete_lines(n),
            'S' => screen.scroll(n),
            'T' => screen.scroll_down(n),
            'r' => screen.region(usize::from(first), usize::from(second)),
            's' => screen.save(),
            'u' => screen.restore(),
            'b' => {
                if let Some(c) = last {
                    (0..n.min(usize::from(u16::MAX))).for_each(|_| screen.repeat(c));
                }
            }
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _: bool, byte: u8) {
        if !intermediates.is_empty() {
            return;
        }
        let screen = self.screen();
        match byte {
            b'7' => screen.save(),
            b'8' => screen.restore(),
            b'D' => screen.line_feed(),
            b'E' => {
                screen.column(0);
                screen.line_feed();
            }
            b'M' => screen.reverse_line_feed(),
            b'c' => self.other = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &str) -> String {
        plain(bytes.as_bytes(), 40, 10)
    }

    #[test]
    fn colour_and_titles_go() {
        assert_eq!(read("\x1b]0;title\x07\x1b[1;32mok\x1b[0m\r\n$ "), "ok\n$ ");
        assert_eq!(read("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\x1b(B\x1b[?2004h"), "link");
        assert_eq!(read("\x1bP1$r0m\x1b\\a\x07\x00b"), "ab");
        assert_eq!(read("a\x7fb\u{85}c"), "abc");
    }

    #[test]
    fn progress_leaves_its_last_state() {
        assert_eq!(read("10%\r20%\r100%\r\ndone\r\n"), "100%\ndone\n");
        assert_eq!(read("Fetching 1 of 10\r\x1b[Kok\r\n"), "ok\n");
        assert_eq!(read("a: 1\r\nb: 1\r\n\x1b[2A\x1b[2Ka: 9\r\n\x1b[2Kb: 9\r\nend\r\n"), "a: 9\nb: 9\nend\n");
        assert_eq!(read("|\x08/\x08-\x08ok"), "ok");
    }

    #[test]
    fn typing_reads_as_the_line_that_was_entered() {
        assert_eq!(read("$ lss\x08\x1b[K -l\r\nx\r\n"), "$ ls -l\nx\n");
        // Readline at the right margin of a terminal that wraps by itself.
        let long = format!("{} \r{}", "a".repeat(40), "bb");
        assert_eq!(read(&format!("{long}\r\nnext")), format!("{}bb\nnext", "a".repeat(40)));
        // Inserting in the middle.
        assert_eq!(read("ac\x08\x1b[1@b"), "abc");
        assert_eq!(read("abbc\x08\x08\x1b[P"), "abc");
    }

    #[test]
    fn long_lines_stay_whole() {
        let line = "x".repeat(130);
        assert_eq!(read(&format!("{line}\r\n{line}")), format!("{line}\n{line}"));
        assert_eq!(read(&format!("{}\r\nb", "x".repeat(40))), format!("{}\nb", "x".repeat(40)));
    }

    #[test]
    fn full_screen_programs_leave_nothing() {
        let vim = "\x1b[?1049h\x1b[H\x1b[2Jtext\r\n~\r\n~\x1b[10;1H:q\r\x1b[?1049l";
        assert_eq!(read(&format!("$ vim f\r\n{vim}$ ")), "$ vim f\n$ ");
    }

    #[test]
    fn a_full_screen_program_is_its_screen_while_it_runs() {
        let less = "$ less f\r\n\x1b[?1049h\x1b[H\x1b[2Jone\x1b[3;5Hthree\x1b[10;1H:";
        assert_eq!(read(less), "$ less f\none\n\n    three\n\n\n\n\n\n\n:\n");
        // Scrolling in a region, as editors do.
        let scrolled = "\x1b[?1049h1\r\n2\r\n3\r\nbar\x1b[1;3r\x1b[3;1H\n4";
        assert_eq!(read(scrolled), "2\n3\n4\nbar\n");
        let inserted = "\x1b[?1049h1\r\n2\r\n3\x1b[1;1H\x1b[Lnew\x1b[3;1H\x1b[M";
        assert_eq!(read(inserted), "new\n1\n3\n");
    }

    /// Bytes that vim and less really wrote, on a terminal of 60 columns and 12 lines.
    #[test]
    fn vim_and_less_read_well() {
        let all: &[u8] = include_bytes!("data/vim-and-less.typescript");
        assert_eq!(plain(all, 60, 12), "$ vim f\n$ less f\n$ ");
        let edited = all.windows(9).position(|part| part == b"hello vim").unwrap_or_default();
        let lines = "$ vim f\n  1 first line\n  2 second line     with a tab\n  3 hello vim\n";
        assert_eq!(plain(&all[..edited + 9], 60, 12), format!("{lines}{}", "~\n".repeat(8)));
    }

    #[test]
    fn a_cleared_screen_keeps_what_was_said_before() {
        assert_eq!(read("before\r\n\x1b[H\x1b[2J\x1b[3Jafter\r\n"), "before\nafter\n");
    }

    #[test]
    fn wide_and_combining_characters_keep_their_places() {
        assert_eq!(read("日本\r\nab\x08\x08é"), "日本\néb");
        assert_eq!(read("e\u{301}x\rE"), "Ex");
        assert_eq!(read("日本\r\x1b[2Cx"), "日x ");
        assert_eq!(read("e\u{301}x"), "e\u{301}x");
    }

    #[test]
    fn greed_is_refused() {
        let bomb = "\x1b[65535;65535Hx\n\x1b[65535b\x1b[65535L\x1b[65535@".repeat(3000);
        assert!(plain(bomb.as_bytes(), u16::MAX, u16::MAX).len() < 8 << 20);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400), cols in 0_u16..50, rows in 0_u16..20) {
            let text = plain(&bytes, cols, rows);
            prop_assert!(!text.contains('\x1b'));
        }

        /// As those of programs that make full use of a terminal.
        #[test]
        fn any_control_is_obeyed(parts in prop::collection::vec("(\x1b\\[[?]?[0-9;]{0,6}[@-~])|[a-c\r\n\t\x08日]|\x1b[78DEMc]|\x1b\\[\\?1049[hl]", 0..80)) {
            let text = plain(parts.concat().as_bytes(), 7, 4);
            prop_assert!(!text.contains('\x1b'));
        }
    }
}
