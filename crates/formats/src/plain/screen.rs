//! The cells of a terminal. One that keeps its lines grows downwards for ever; a full-screen program's does not.

use std::collections::VecDeque;

use unicode_width::UnicodeWidthChar as _;

/// Widest and highest terminal that is taken seriously.
const MOST_COLS: usize = 1000;
const MOST_ROWS: usize = 500;
/// Cells that may be made without a byte for each.
const PADDING: usize = 256 << 10;
/// Most marks on one character.
const MARKS: usize = 8;

/// Place for a character. The second of a wide character is empty.
#[derive(Clone, Debug, Default)]
struct Cell {
    c: Option<char>,
    marks: Option<Box<str>>,
}

/// Line of cells.
#[derive(Clone, Debug, Default)]
struct Line {
    cells: Vec<Cell>,
    /// Whether the line goes on in the next.
    wrapped: bool,
}

/// A screen, and what has scrolled out of it.
pub struct Screen {
    /// Lines that have scrolled away, and then those of the screen.
    lines: VecDeque<Line>,
    cols: usize,
    rows: usize,
    keeps: bool,
    row: usize,
    col: usize,
    /// A character filled the line's last place: the next one begins a line.
    full: bool,
    saved: (usize, usize),
    /// Lines of the screen that scroll.
    region: (usize, usize),
    budget: usize,
}

impl Screen {
    /// An empty one for an input of so many bytes; `keeps` what scrolls away.
    pub fn new(cols: u16, rows: u16, keeps: bool, bytes: usize) -> Self {
        let rows = usize::from(rows).clamp(1, MOST_ROWS);
        Self {
            lines: VecDeque::from([Line::default()]),
            cols: usize::from(cols).clamp(2, MOST_COLS),
            rows,
            keeps,
            row: 0,
            col: 0,
            full: false,
            saved: (0, 0),
            region: (0, rows - 1),
            budget: bytes.saturating_mul(2).saturating_add(PADDING).min(4 << 20),
        }
    }

    /// Text of all lines, without what is empty at the ends.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at, line) in self.lines.iter().enumerate() {
            for cell in &line.cells {
                text.extend(cell.c);
                text.push_str(cell.marks.as_deref().unwrap_or_default());
            }
            if !line.wrapped && at + 1 < self.lines.len() {
                text.push('\n');
            }
        }
        text
    }

    /// The index of the screen's first line.
    fn top(&self) -> usize {
        self.lines.len().saturating_sub(self.rows)
    }

    /// The cursor's line, made where it is not there yet.
    fn line(&mut self) -> &mut Line {
        let last = self.lines.len() - 1;
        self.row = self.row.min(last);
        &mut self.lines[self.row]
    }

    fn afford(&mut self, cells: usize) -> bool {
        let may = cells <= self.budget;
        self.budget -= if may { cells } else { 0 };
        may
    }

    /// Makes the places before the cursor. Where that is too much, the cursor goes back to what there is.
    fn pad(&mut self) {
        let (col, len) = (self.col, self.line().cells.len());
        if col <= len {
            return;
        }
        if self.afford(col - len) {
            self.line().cells.resize(col, Cell { c: Some(' '), marks: None });
        } else {
            self.col = len;
        }
    }

    /// A character, wherever the line ends.
    pub fn print(&mut self, c: char) {
        let width = c.width().unwrap_or(0).min(2);
        if width == 0 {
            self.mark(c);
            return;
        }
        if self.full || self.col + width > self.cols {
            self.line().wrapped = true;
            self.next_line();
            self.col = 0;
        }
        self.pad();
        let col = self.col;
        self.split(col);
        self.split(col + width);
        let cells = &mut self.line().cells;
        cells.resize(cells.len().max(col + width), Cell { c: Some(' '), marks: None });
        cells[col] = Cell { c: Some(c), marks: None };
        if width == 2 {
            cells[col + 1] = Cell::default();
        }
        self.full = col + width >= self.cols;
        self.col = if self.full { self.cols - 1 } else { col + width };
    }

    /// A character that no byte stands for.
    pub fn repeat(&mut self, c: char) {
        if self.afford(1) {
            self.print(c);
        }
    }

    /// A wide character that is cut becomes blanks.
    fn split(&mut self, at: usize) {
        let cells = &mut self.line().cells;
        if at > 0 && cells.get(at).is_some_and(|cell| cell.c.is_none()) {
            cells[at - 1] = Cell { c: Some(' '), marks: None };
            cells[at].c = Some(' ');
        }
    }

    fn mark(&mut self, c: char) {
        let before = if self.full { self.col } else { self.col.saturating_sub(1) };
        let cells = &mut self.line().cells;
        let at = if cells.get(before).is_some_and(|cell| cell.c.is_none()) { before - 1 } else { before };
        if let Some(cell) = cells.get_mut(at) {
            let mut marks = cell.marks.take().map_or_else(String::new, String::from);
            if marks.chars().count() < MARKS {
                marks.push(c);
            }
            cell.marks = Some(marks.into());
        }
    }

    /// Down by one, scrolling at the end of what scrolls.
    pub fn line_feed(&mut self) {
        self.line().wrapped = false;
        self.next_line();
    }

    fn next_line(&mut self) {
        self.full = false;
        let (top, (_, last)) = (self.top(), self.region);
        if self.row == top + last && (!self.keeps || last + 1 < self.rows) {
            self.scroll(1);
        } else if self.row + 1 < self.lines.len() {
            self.row += 1;
        } else if self.keeps || self.lines.len() < self.rows {
            self.lines.push_back(Line::default());
            self.row = self.lines.len() - 1;
        }
    }

    pub fn reverse_line_feed(&mut self) {
        if self.row == self.top() + self.region.0 { self.scroll_down(1) } else { self.up(1) }
    }

    pub fn column(&mut self, col: usize) {
        self.full = false;
        self.col = col.min(self.cols - 1);
    }

    /// Moves the cursor to a line of the screen; those before it are made.
    pub fn row(&mut self, row: usize) {
        self.full = false;
        let wanted = self.top() + row.min(self.rows - 1);
        while self.lines.len() <= wanted && self.afford(1) {
            self.lines.push_back(Line::default());
        }
        self.row = wanted.min(self.lines.len() - 1);
    }

    pub fn up(&mut self, n: usize) {
        self.full = false;
        self.row = self.row.saturating_sub(n).max(self.top());
    }

    pub fn down(&mut self, n: usize) {
        let at = self.row - self.top();
        self.row(at.saturating_add(n));
    }

    pub fn left(&mut self, n: usize) {
        self.column(self.col.saturating_sub(n));
    }

    pub fn right(&mut self, n: usize) {
        self.column(self.col.saturating_add(n));
    }

    pub fn tab(&mut self) {
        self.column((self.col / 8 + 1) * 8);
    }

    pub fn save(&mut self) {
        self.saved = (self.row - self.top(), self.col);
    }

    pub fn restore(&mut self) {
        let (row, col) = self.saved;
        self.row(row);
        self.column(col);
    }

    /// Erases to the end, from the start, or all of the line.
    pub fn erase_line(&mut self, how: u16) {
        let col = self.col;
        match how {
            0 => {
                self.split(col);
                let line = self.line();
                line.cells.truncate(col);
                line.wrapped = false;
            }
            1 => self.blank(0, col + 1),
            _ => *self.line() = Line::default(),
        }
    }

    /// Erases to the end, from the start, or all of the screen. Where lines are kept, a cleared screen begins below
    /// them.
    pub fn erase_display(&mut self, how: u16) {
        match how {
            0 => {
                self.erase_line(0);
                self.lines.truncate(self.row + 1);
            }
            1 => {
                let (top, row) = (self.top(), self.row);
                (top..row).for_each(|at| self.lines[at] = Line::default());
                self.erase_line(1);
            }
            2 if self.keeps => {
                while self.lines.back().is_some_and(|line| line.cells.is_empty()) && self.lines.len() > 1 {
                    self.lines.pop_back();
                }
                if !self.lines[self.lines.len() - 1].cells.is_empty() {
                    self.lines.push_back(Line::default());
                }
                self.row = self.lines.len() - 1;
                self.column(0);
            }
            2 => self.lines.iter_mut().for_each(|line| *line = Line::default()),
            _ => {}
        }
    }

    fn blank(&mut self, from: usize, to: usize) {
        self.split(from);
        self.split(to);
        let cells = &mut self.line().cells;
        let to = to.min(cells.len());
        cells[from.min(to)..to].fill(Cell { c: Some(' '), marks: None });
    }

    pub fn erase(&mut self, n: usize) {
        self.blank(self.col, self.col.saturating_add(n).min(self.cols));
    }

    pub fn delete(&mut self, n: usize) {
        let col = self.col;
        self.split(col);
        self.split(col.saturating_add(n));
        let cells = &mut self.line().cells;
        let end = col.saturating_add(n).min(cells.len());
        cells.drain(col.min(end)..end);
    }

    pub fn insert(&mut self, n: usize) {
        let (col, cols) = (self.col, self.cols);
        let n = n.min(cols - col);
        self.split(col);
        if col < self.line().cells.len() && self.afford(n) {
            let cells = &mut self.line().cells;
            cells.splice(col..col, std::iter::repeat_n(Cell { c: Some(' '), marks: None }, n));
            cells.truncate(cols);
        }
    }

    /// Lines of the screen that scroll, the first one 1; none for all.
    pub fn region(&mut self, first: usize, last: usize) {
        let last = if last == 0 { self.rows } else { last.min(self.rows) };
        let first = first.max(1);
        if first < last {
            self.region = (first - 1, last - 1);
            self.row(0);
            self.column(0);
        }
    }

    /// Takes `n` lines away at `from` and adds as many at the end of the region.
    fn shift(&mut self, from: usize, n: usize, up: bool) {
        let end = self.top() + self.region.1;
        if from > end || n == 0 {
            return;
        }
        while self.lines.len() <= end {
            if !self.afford(1) {
                return;
            }
            self.lines.push_back(Line::default());
        }
        for _ in 0..n.min(end - from + 1) {
            let (gone, made) = if up { (from, end) } else { (end, from) };
            self.lines.remove(gone);
            self.lines.insert(made, Line::default());
        }
    }

    pub fn scroll(&mut self, n: usize) {
        self.shift(self.top() + self.region.0, n, true);
    }

    pub fn scroll_down(&mut self, n: usize) {
        self.shift(self.top() + self.region.0, n, false);
    }

    pub fn insert_lines(&mut self, n: usize) {
        self.shift(self.row, n, false);
        self.column(0);
    }

    pub fn delete_lines(&mut self, n: usize) {
        self.shift(self.row, n, true);
        self.column(0);
    }
}
