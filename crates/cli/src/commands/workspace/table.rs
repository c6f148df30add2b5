//! Tables for people: columns that align, and cells with colour.
//!
//! Invariant: a cell is painted where the table is built, by whoever knows its meaning. Finished text is never searched
//! for words to paint, since names and labels may be such words.

/// Look of a cell on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellStyle {
    /// Green: all is well.
    Green,
    /// Faint: at rest.
    Faint,
    /// Red: something is wrong.
    Red,
}

impl CellStyle {
    /// Escape sequence that begins the style; `\x1b[0m` ends each.
    fn begin(self) -> &'static str {
        match self {
            Self::Green => "\x1b[32m",
            Self::Faint => "\x1b[2m",
            Self::Red => "\x1b[31m",
        }
    }
}

/// Text in a column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Option<CellStyle>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, style: None }
    }
}

impl Cell {
    /// Cell in this style, or in none.
    pub fn styled(text: String, style: Option<CellStyle>) -> Self {
        Self { text, style }
    }

    /// Width on a terminal, characters. The style takes none.
    pub fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// Shortens the text to `width` characters, the last one an ellipsis, where it is longer.
    pub fn cut(&mut self, width: usize) {
        if self.width() > width {
            self.text = self.text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
        }
    }

    /// Text in its style, filled with blanks to `width` characters.
    fn padded(&self, width: usize) -> String {
        let Self { text, style } = self;
        match style {
            Some(style) => {
                let blanks = width.saturating_sub(self.width());
                format!("{}{text}\x1b[0m{:blanks$}", style.begin(), "")
            }
            None => format!("{text:width$}"),
        }
    }
}

/// Lines of a table whose columns are as wide as their widest cell; the last column has no blanks at its end.
pub fn table<C: Into<Cell>>(rows: Vec<Vec<C>>) -> String {
    let rows: Vec<Vec<Cell>> =
        rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| cell.padded(*width));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_where_their_words_do() {
        let rows = [["A", "LONG"], ["äöü", "b"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(rows.to_vec()), "A    LONG\näöü  b\n");
    }

    #[test]
    fn a_style_takes_no_width() {
        let cell = |text: &str, style| Cell::styled(text.into(), style);
        let rows = vec![
            vec![cell("STATE", None), cell("B", None)],
            vec![cell("up", Some(CellStyle::Green)), cell("b", None)],
        ];
        assert_eq!(table(rows), "STATE  B\n\x1b[32mup\x1b[0m     b\n");
    }
}
