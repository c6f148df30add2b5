//! Reading a patch in either of its two formats, and what both have in common.

use std::path::{Path, PathBuf};

use super::error::PatchError;
use super::{FilePatch, Line, LineKind, MAX_LINES, MAX_PATCH, dialect, names, unified};

/// Reads a patch of any number of files: a unified diff, or what stands between `*** Begin Patch` and `*** End Patch`.
/// Files are named by their path below the tree, or by one that begins with `root`, the tree's own absolute path.
///
/// # Errors
/// When it is too long, has no change in it, is malformed, names a path that is not below the tree, or changes a binary
/// file. One such fault refuses all of it.
pub fn parse<'a>(patch: &'a [u8], root: &Path) -> Result<Vec<FilePatch<'a>>, PatchError> {
    if patch.len() > MAX_PATCH {
        return Err(PatchError::TooLarge { size: patch.len(), unit: "bytes", limit: MAX_PATCH });
    }
    let lines: Vec<&[u8]> = patch
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .collect();
    if lines.len() > MAX_LINES {
        return Err(PatchError::TooLarge { size: lines.len(), unit: "lines", limit: MAX_LINES });
    }
    match dialect::is_meant(&lines) {
        true => dialect::parse(&lines, root),
        false => unified::parse(lines, root),
    }
}

/// Error about the line with the index `at`.
pub(super) fn wrong(at: usize, why: impl Into<String>) -> PatchError {
    PatchError::Malformed { line: at + 1, why: why.into() }
}

/// Path that the line with the index `at` names.
pub(super) fn path(at: usize, name: &[u8], root: &Path) -> Result<PathBuf, PatchError> {
    names::path(name, root).map_err(|why| {
        let name = String::from_utf8_lossy(name).chars().take(200).collect();
        PatchError::Path { line: at + 1, name, why }
    })
}

/// Header of a hunk, cut to what can be shown.
pub(super) fn shown(header: &[u8]) -> String {
    String::from_utf8_lossy(header).chars().take(200).collect()
}

/// Words about a line of a hunk that has no mark.
pub(super) const NO_MARK: &str = "a line of a hunk begins with a space (context), `-` (removed), `+` (added) or `\\`; put a space before context";
/// Words about a hunk of context alone.
pub(super) const NO_CHANGE: &str = "the hunk neither adds nor removes a line";

/// The lines of a hunk by their marks. With `dos`, a carriage return at their ends is none of theirs.
pub(super) fn marked<'a>(lines: &[&'a [u8]], dos: bool) -> Vec<Line<'a>> {
    let mut marked: Vec<Line<'a>> = Vec::with_capacity(lines.len());
    for line in lines {
        let line = if dos { bare(line) } else { line };
        let (kind, text) = match line.split_first() {
            Some((b' ', text)) => (LineKind::Context, text),
            Some((b'-', text)) => (LineKind::Remove, text),
            Some((b'+', text)) => (LineKind::Add, text),
            Some((b'\\', _)) => {
                if let Some(last) = marked.last_mut() {
                    last.newline = false;
                }
                continue;
            }
            // An empty line, or one that is a carriage return, is context whose space somebody trimmed. Any other is
            // taken for context only where the hunk's counts have it so.
            _ => {
                let unmarked = !bare(line).is_empty();
                marked.push(Line { kind: LineKind::Context, text: line, newline: true, unmarked });
                continue;
            }
        };
        marked.push(Line { kind, text, newline: true, unmarked: false });
    }
    marked
}

/// Ranges in a hunk's header.
pub(super) struct Range {
    /// The first line of the old file.
    pub(super) start: u64,
    /// Lines of the old file.
    pub(super) old: u64,
    /// Lines of the new file.
    pub(super) new: u64,
}

/// Reads `@@ -START[,COUNT] +START[,COUNT] @@`.
pub(super) fn counts(header: &[u8]) -> Option<Range> {
    let pair = |text: &str| -> Option<(u64, u64)> {
        let (start, count) = text.split_once(',').unwrap_or((text, "1"));
        let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
        Some((number(start)?, number(count)?))
    };
    let text = std::str::from_utf8(header.get(..header.len().min(100))?);
    let text = match text {
        Ok(text) => text,
        // A function's name after the second @@ may be in any encoding.
        Err(error) => std::str::from_utf8(&header[..error.valid_up_to()]).ok()?,
    };
    let mut words = text.strip_prefix("@@ ")?.split_ascii_whitespace();
    let (start, old) = pair(words.next()?.strip_prefix('-')?)?;
    let (_, new) = pair(words.next()?.strip_prefix('+')?)?;
    Some(Range { start, old, new })
}

/// A line without its carriage return.
pub(super) fn bare(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether a line begins as the header of a hunk does.
pub(super) fn is_hunk_header(line: &[u8]) -> bool {
    let line = bare(line);
    line == b"@@" || line.starts_with(b"@@ ")
}

/// Whether a line can hardly be anything but one of a hunk. Prose has rulers, and items of lists.
pub(super) fn is_stray(line: &[u8]) -> bool {
    match bare(line) {
        [b'+', b'+', b'+', b' ', ..] | [b'-', b'-', ..] => false,
        [b'+' | b'-', b' ', third, ..] => *third == b' ',
        [b'+' | b'-', second, ..] => *second != b' ',
        _ => false,
    }
}
