//! Where the `@@` lines of a hunk lead: to a class, to a function within it.

use super::error::Reason;

/// Most lines that one anchor may mean. Beyond that it says nothing.
const MOST: usize = 1000;

/// Closeness of an anchor to a line.
#[derive(Clone, Copy)]
enum Closeness {
    /// Leaves white space at the end out.
    Trailing,
    /// Leaves white space at both ends out.
    Indented,
    /// Takes an anchor for the beginning of a line, up to a word's end.
    Begins,
}

const CLOSENESS: [Closeness; 3] = [Closeness::Trailing, Closeness::Indented, Closeness::Begins];

/// Finds the lines of `file`, from 0 and in their order, at which what a hunk is about may begin; none without anchors.
///
/// The first anchor means every line that is like it after `after`, where the last hunk ended, or else before; each
/// further one means the next line that is like it, as seen from those. What is found before `after` may just as well be
/// meant from there on.
///
/// # Errors
/// When an anchor is in no line, or in too many.
pub(super) fn starts(file: &[&[u8]], anchors: &[&[u8]], after: usize) -> Result<Vec<usize>, Reason> {
    let Some((first, nested)) = anchors.split_first() else { return Ok(Vec::new()) };
    let after = after.min(file.len());
    let mut starts = all(file, first, after, file.len());
    if starts.is_empty() {
        starts = all(file, first, 0, after);
    }
    let missing = |anchor: &[u8], after| Reason::Anchor { name: name(anchor), after };
    let Some(mut above) = starts.first().copied() else { return Err(missing(first, None)) };
    if starts.len() > MOST {
        return Err(Reason::Ambiguous { lines: starts.iter().take(5).map(|at| at + 1).collect() });
    }
    for anchor in nested {
        starts = next(file, anchor, &starts);
        above = *starts.first().ok_or_else(|| missing(anchor, Some(above + 1)))?;
    }
    if above < after && !starts.contains(&after) {
        starts.push(after);
        starts.sort_unstable();
    }
    Ok(starts)
}

/// All lines that are like `anchor` in the closest way in which any is; one more than [`MOST`] at most.
fn all(file: &[&[u8]], anchor: &[u8], from: usize, to: usize) -> Vec<usize> {
    let found = |closeness| -> Vec<usize> {
        (from..to).filter(|at| says(file[*at], anchor, closeness)).take(MOST + 1).collect()
    };
    CLOSENESS.into_iter().map(found).find(|found| !found.is_empty()).unwrap_or_default()
}

/// For each of `starts` the next line that is like `anchor`, each once.
fn next(file: &[&[u8]], anchor: &[u8], starts: &[usize]) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    // What no line from here on is like, none further on is: the file is gone through once for each closeness.
    let mut closeness = CLOSENESS.into_iter().peekable();
    for start in starts {
        if found.last().is_some_and(|last| last > start) {
            continue;
        }
        while let Some(wanted) = closeness.peek() {
            match (start + 1..file.len()).find(|at| says(file[*at], anchor, *wanted)) {
                Some(at) => {
                    found.push(at);
                    break;
                }
                None => drop(closeness.next()),
            }
        }
    }
    found
}

fn says(line: &[u8], anchor: &[u8], closeness: Closeness) -> bool {
    match closeness {
        Closeness::Trailing => line.trim_ascii_end() == anchor.trim_ascii_end(),
        Closeness::Indented => line.trim_ascii() == anchor.trim_ascii(),
        Closeness::Begins => {
            let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
            let anchor = anchor.trim_ascii();
            line.trim_ascii_start()
                .strip_prefix(anchor)
                .is_some_and(|rest| !(anchor.last().is_some_and(word) && rest.first().is_some_and(word)))
        }
    }
}

/// An anchor, cut to what can be shown.
fn name(anchor: &[u8]) -> String {
    String::from_utf8_lossy(anchor.trim_ascii()).chars().take(120).collect()
}
