//! Reading the patches that language models are taught to write: files between `*** Begin Patch` and `*** End Patch`,
//! each with what becomes of it, and hunks that say by `@@` lines where they belong instead of by numbers.
//!
//! As with a unified diff, text around it is skipped, and text that may be a part of a change never is.

use std::path::{Path, PathBuf};

use super::error::PatchError;
use super::parse::{self, NO_CHANGE, NO_MARK, bare, counts, is_hunk_header, is_stray, wrong};
use super::{Action, FilePatch, Hunk, LineKind};

const BEGIN: &[u8] = b"*** Begin Patch";
const END: &[u8] = b"*** End Patch";
const MOVE: &[u8] = b"*** Move to:";
const END_OF_FILE: &[u8] = b"*** End of File";

/// Most `@@` lines of one hunk.
const MAX_ANCHORS: usize = 16;

/// Effect on a file, by the line that it begins with.
#[derive(Clone, Copy)]
enum Effect {
    Add,
    Update,
    Delete,
}

const EFFECTS: [(&[u8], Effect); 3] = [
    (b"*** Add File:", Effect::Add),
    (b"*** Update File:", Effect::Update),
    (b"*** Delete File:", Effect::Delete),
];

/// Whether lines are in this dialect: one of its own is among them, and does not just stand around a unified diff.
pub(super) fn is_meant(lines: &[&[u8]]) -> bool {
    let begins = |line: &&[u8]| line.trim_ascii_end() == BEGIN || file(line).is_some();
    let Some(at) = lines.iter().position(begins) else { return false };
    let next = lines[at + 1..].iter().find(|line| !line.trim_ascii().is_empty());
    file(lines[at]).is_some() || !next.is_some_and(|next| is_unified(next))
}

/// Effect and path that a file begins with.
fn file(line: &[u8]) -> Option<(Effect, &[u8])> {
    let effect = |(word, effect): (&[u8], Effect)| Some((effect, line.strip_prefix(word)?.trim_ascii()));
    EFFECTS.into_iter().find_map(effect)
}

/// Whether a unified diff begins so.
fn is_unified(line: &[u8]) -> bool {
    line.starts_with(b"diff --git ") || line.starts_with(b"--- ") || line.starts_with(b"Index: ")
}

/// Reads the lines of a patch in this dialect; see [`parse`](super::parse()).
pub(super) fn parse<'a>(lines: &[&'a [u8]], root: &Path) -> Result<Vec<FilePatch<'a>>, PatchError> {
    let mut parser = Parser { lines, root, at: 0 };
    let mut patches = Vec::new();
    while let Some(line) = parser.peek() {
        match line.trim_ascii_end() {
            BEGIN => parser.envelope(&mut patches)?,
            END => return Err(wrong(parser.at, "`*** End Patch` has no `*** Begin Patch` before it")),
            _ if file(line).is_some() => {
                let why = "a file comes outside of `*** Begin Patch` and `*** End Patch`; put these two around all files";
                return Err(wrong(parser.at, why));
            }
            _ if is_hunk_header(line) || line.starts_with(b"diff --git ") => {
                let why = "a unified diff stands beside `*** Begin Patch`; apply the two one after the other";
                return Err(wrong(parser.at, why));
            }
            _ if !patches.is_empty() && is_stray(line) => {
                let why = "this looks like a line of a hunk, but `*** End Patch` comes before it";
                return Err(wrong(parser.at, why));
            }
            _ => parser.at += 1,
        }
    }
    Ok(patches)
}

struct Parser<'a, 'l> {
    lines: &'l [&'a [u8]],
    /// The tree's own path.
    root: &'l Path,
    /// Index of the next line.
    at: usize,
}

impl<'a> Parser<'a, '_> {
    fn peek(&self) -> Option<&'a [u8]> {
        self.lines.get(self.at).copied()
    }

    /// Index and bytes of the next line that is not blank.
    fn next_text(&self) -> Option<(usize, &'a [u8])> {
        let at = (self.at..self.lines.len()).find(|at| !self.lines[*at].trim_ascii().is_empty())?;
        Some((at, self.lines[at]))
    }

    /// All from `*** Begin Patch`, which is next, to its end.
    fn envelope(&mut self, patches: &mut Vec<FilePatch<'a>>) -> Result<(), PatchError> {
        let before = patches.len();
        self.at += 1;
        while let Some((at, line)) = self.next_text() {
            self.at = at;
            if line.trim_ascii_end() == END {
                self.at += 1;
                return match patches.len() > before {
                    true => Ok(()),
                    false => Err(wrong(at, "there is no file between `*** Begin Patch` and this line")),
                };
            }
            let Some((effect, name)) = file(line) else {
                let why = "this belongs to no file; a file begins with `*** Add File: PATH`, `*** Update File: PATH` or \
                           `*** Delete File: PATH`, and its changes follow";
                return Err(wrong(at, why));
            };
            let path = parse::path(at, name, self.root)?;
            let dos = line.ends_with(b"\r");
            self.at += 1;
            let (action, hunks) = match effect {
                Effect::Add => (Action::Create(path), self.new_file(dos)?),
                Effect::Delete => (Action::Remove(path), Vec::new()),
                Effect::Update => {
                    let target = self.target()?;
                    let hunks = self.hunks(dos)?;
                    let action = match target {
                        Some(to) if to != path => Action::Rename { from: path, to },
                        _ if hunks.is_empty() => {
                            let why = "the file has no change; lines with `-` and `+` have to follow, or `*** Move to: PATH`";
                            return Err(wrong(at, why));
                        }
                        _ => Action::Modify(path),
                    };
                    (action, hunks)
                }
            };
            patches.push(FilePatch {
                action,
                old_mode: None,
                new_mode: None,
                hunks,
                line: at + 1,
                exact: true,
            });
        }
        let last = self.lines.len().saturating_sub(1);
        Err(wrong(last, "the patch ends without `*** End Patch`; it may have been cut off"))
    }

    /// The path of a `*** Move to:` line, when that is next.
    fn target(&mut self) -> Result<Option<PathBuf>, PatchError> {
        let Some(name) = self.peek().and_then(|line| line.strip_prefix(MOVE)) else { return Ok(None) };
        let path = parse::path(self.at, name.trim_ascii(), self.root)?;
        self.at += 1;
        Ok(Some(path))
    }

    /// Content of a new file, as a hunk; none for an empty one.
    fn new_file(&mut self, dos: bool) -> Result<Vec<Hunk<'a>>, PatchError> {
        let start = self.at;
        while self.peek().is_some_and(|line| matches!(line.first(), Some(b'+' | b'\\'))) {
            self.at += 1;
        }
        let end = self.at;
        if let Some((_, line)) = self.next_text()
            && !line.starts_with(b"*** ")
        {
            return Err(wrong(end, "each line of a new file begins with `+`, an empty one too"));
        }
        let lines = parse::marked(&self.lines[start..end], dos);
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let (header, anchors) = (String::new(), Vec::new());
        let (line, old_start, at_end, whole) = (start + 1, Some(0), false, true);
        Ok(vec![Hunk { header, line, old_start, anchors, at_end, whole, lines }])
    }

    fn hunks(&mut self, dos: bool) -> Result<Vec<Hunk<'a>>, PatchError> {
        let mut hunks: Vec<Hunk<'a>> = Vec::new();
        while let Some((at, line)) = self.next_text() {
            self.at = at;
            if line.starts_with(b"*** ") && line.trim_ascii_end() != END_OF_FILE {
                break;
            }
            // The first hunk may do without.
            let bare = hunks.is_empty() && matches!(line.first(), Some(b' ' | b'+' | b'-'));
            if !bare && !is_hunk_header(line) {
                let why = match hunks.last() {
                    Some(last) if last.at_end => {
                        "nothing of a hunk follows `*** End of File`; begin another one with `@@`"
                    }
                    _ => NO_MARK,
                };
                return Err(wrong(at, why));
            }
            hunks.push(self.hunk(dos)?);
        }
        Ok(hunks)
    }

    fn hunk(&mut self, dos: bool) -> Result<Hunk<'a>, PatchError> {
        let (start, mut anchors, mut old_start, mut header) = (self.at, Vec::new(), None, Vec::new());
        while let Some((at, line)) = self.next_text().filter(|(_, line)| is_hunk_header(line)) {
            let line = bare(line);
            match counts(line) {
                // Someone mixed the formats: the number says where to look first, as in a unified diff.
                Some(range) => old_start = Some(range.start),
                None => anchors.extend(anchor(line)),
            }
            if anchors.len() > MAX_ANCHORS {
                return Err(wrong(at, format!("a hunk has at most {MAX_ANCHORS} `@@` lines")));
            }
            header.extend_from_slice(if header.is_empty() { b"" } else { b" " });
            header.extend_from_slice(line);
            self.at = at + 1;
        }
        let first = self.at;
        let body = |line: &&[u8]| matches!(bare(line).first(), None | Some(b' ' | b'-' | b'+' | b'\\'));
        let mut end = first + self.lines[first..].iter().take_while(|line| body(line)).count();
        let stop = end;
        // Blank lines at the end belong to what follows.
        while end > first && bare(self.lines[end - 1]).is_empty() {
            end -= 1;
        }
        self.at = stop;
        let at_end = self.peek().is_some_and(|line| line.trim_ascii_end() == END_OF_FILE);
        match self.peek() {
            _ if at_end => self.at += 1,
            None => {}
            Some(line) if is_hunk_header(line) || line.starts_with(b"*** ") => {}
            Some(_) => return Err(wrong(stop, NO_MARK)),
        }
        let lines = parse::marked(&self.lines[first..end], dos);
        if lines.iter().all(|line| line.kind == LineKind::Context) {
            return Err(wrong(start, NO_CHANGE));
        }
        let (header, line, whole) = (parse::shown(&header), start + 1, true);
        Ok(Hunk { header, line, old_start, anchors, at_end, whole, lines })
    }
}

/// The line that an `@@` line names, if it does.
fn anchor(header: &[u8]) -> Option<&[u8]> {
    let text = header.strip_prefix(b"@@")?;
    let text = text.strip_prefix(b" ").unwrap_or(text).trim_ascii_end();
    let text = match text.strip_suffix(b"@@") {
        Some(rest) if rest.is_empty() || rest.ends_with(b" ") => rest.trim_ascii_end(),
        _ => text,
    };
    (!text.is_empty() && text != b"...").then_some(text)
}
