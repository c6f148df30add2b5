//! Reading a patch. What its author meant is found from the shape of the lines; the counts in `@@` headers are believed
//! only where they agree with it, for language models count badly.
//!
//! Text around a patch (prose, mail headers, code fences) is skipped. Text that may be a part of a hunk never is: a
//! line that is lost silently would be a change that is lost silently.

use super::error::PatchError;
use super::names::{self, NOTHING};
use super::{Action, FilePatch, Hunk, Line, LineKind, MAX_LINES, MAX_PATCH};

/// Reads a unified diff of any number of files.
///
/// # Errors
/// When it is too long, has no diff in it, is malformed, names a path that is not below the tree, or changes a binary
/// file. One such fault refuses all of it.
pub fn parse(patch: &[u8]) -> Result<Vec<FilePatch<'_>>, PatchError> {
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
    let mut parser = Parser { lines, at: 0, git: false, dos: false };
    let mut patches: Vec<FilePatch<'_>> = Vec::new();
    while let Some(line) = parser.peek() {
        if bare(line).starts_with(b"diff --git ") {
            (parser.git, parser.dos) = (true, line.ends_with(b"\r"));
            patches.extend(parser.git_file()?);
        } else if parser.names_follow() {
            (parser.git, parser.dos) = (false, line.ends_with(b"\r"));
            patches.push(parser.plain_file()?);
        } else if is_hunk_header(line) {
            return Err(parser.wrong("a hunk comes before the two lines that name its file (--- and +++)"));
        } else if line.starts_with(b"diff --cc ") || line.starts_with(b"diff --combined ") {
            return Err(
                parser.wrong("this is the combined diff of a merge; make one against a single parent")
            );
        } else if line.starts_with(b"--- ") && parser.line(parser.at + 1).starts_with(b"+++ ") {
            parser.at += 2;
            return Err(
                parser.wrong("a hunk header such as @@ -1,3 +1,4 @@ has to follow the names of a file")
            );
        } else if let Some(name) = binary_note(line) {
            return Err(PatchError::Binary { line: parser.at + 1, path: parser.path(parser.at, name)? });
        } else if !patches.is_empty() && is_stray(line) {
            return Err(parser.wrong("this looks like a line of a hunk, but the hunk has ended before it"));
        } else {
            parser.at += 1;
        }
    }
    if patches.is_empty() {
        let codex = parser.lines.iter().any(|line| line.starts_with(b"*** Begin Patch"));
        let looks_like = codex.then_some("the patch format of another tool (*** Begin Patch)");
        return Err(PatchError::Empty { looks_like });
    }
    Ok(patches)
}

/// Statements of git's extended header.
#[derive(Default)]
struct Extended {
    created: bool,
    deleted: bool,
    old_mode: Option<u32>,
    new_mode: Option<u32>,
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    copy: bool,
    /// The names of `---` and `+++`.
    names: Option<(Vec<u8>, Vec<u8>)>,
    /// The line that said that it is binary.
    binary: Option<usize>,
}

struct Parser<'a> {
    lines: Vec<&'a [u8]>,
    /// Index of the next line.
    at: usize,
    /// Whether the file at hand began with `diff --git`; then so does the next one.
    git: bool,
    /// Whether the file's own lines end in a carriage return, because the patch went through a program with other line
    /// ends; then so do those of its hunks.
    dos: bool,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a [u8]> {
        self.lines.get(self.at).copied()
    }

    fn line(&self, at: usize) -> &'a [u8] {
        self.lines.get(at).copied().unwrap_or_default()
    }

    fn wrong(&self, why: impl Into<String>) -> PatchError {
        PatchError::Malformed { line: self.at + 1, why: why.into() }
    }

    fn path(&self, line: usize, name: &[u8]) -> Result<std::path::PathBuf, PatchError> {
        names::path(name).map_err(|why| {
            let name = String::from_utf8_lossy(name).chars().take(200).collect();
            PatchError::Path { line: line + 1, name, why }
        })
    }

    /// Whether `---` and `+++` lines come next and are really that.
    fn names_follow(&self) -> bool {
        self.names_at(self.at)
    }

    fn names_at(&self, at: usize) -> bool {
        let (old, new) = (bare(self.line(at)), bare(self.line(at + 1)));
        old.starts_with(b"--- ") && new.starts_with(b"+++ ") && {
            let hunk = self.line(at + 2);
            is_hunk_header(hunk) || hunk.is_empty() || at + 2 >= self.lines.len()
        }
    }

    /// A file that begins with `diff --git`. `None` when nothing changes.
    fn git_file(&mut self) -> Result<Option<FilePatch<'a>>, PatchError> {
        let start = self.at;
        let given = bare(self.line(start)).strip_prefix(b"diff --git ").and_then(names::two_names);
        self.at += 1;
        let mut extended = self.extended_header(given.as_ref())?;
        let hunks = self.hunks()?;
        let from_diff = |(old, new): &(Vec<u8>, Vec<u8>)| {
            let (old, new) = names::without_prefixes(old, new);
            (old.to_vec(), new.to_vec())
        };
        let named = match (&extended.names, &given) {
            (Some((old, new)), _) if old == NOTHING || new == NOTHING => {
                extended.created |= old == NOTHING;
                extended.deleted |= new == NOTHING;
                let name = if old == NOTHING { new } else { old };
                // The first line tells whether there are prefixes; without it they are taken for granted.
                let bare = match given.as_ref().map(from_diff) {
                    Some((one, two)) if one == two && name.ends_with(&one) => one,
                    _ => names::without_one_prefix(name).to_vec(),
                };
                Some((bare.clone(), bare))
            }
            (Some(names), _) => Some(from_diff(names)),
            (None, given) => given.as_ref().map(from_diff),
        };
        let named = match (extended.from.take(), extended.to.take()) {
            (Some(from), Some(to)) => Some((from, to)),
            (None, None) => named,
            _ => {
                return Err(PatchError::Malformed {
                    line: start + 1,
                    why: "a rename or copy has one name only".into(),
                });
            }
        };
        let Some((old, new)) = named else {
            return Err(PatchError::Malformed { line: start + 1, why: "the file has no name".into() });
        };
        let (old, new) = (self.path(start, &old)?, self.path(start, &new)?);
        if let Some(line) = extended.binary {
            return Err(PatchError::Binary { line: line + 1, path: new });
        }
        for mode in [extended.old_mode, extended.new_mode].into_iter().flatten() {
            if !matches!(mode & 0o170000, 0o100000 | 0o120000) {
                let why = format!("mode {mode:o} is neither a file's nor a symbolic link's");
                return Err(PatchError::Malformed { line: start + 1, why });
            }
        }
        let (created, deleted) = (extended.created, extended.deleted);
        let action = if created && deleted {
            return Err(PatchError::Malformed {
                line: start + 1,
                why: "a file is both created and deleted".into(),
            });
        } else if created {
            Action::Create(new)
        } else if deleted {
            Action::Delete(old)
        } else if extended.copy {
            Action::Copy { from: old, to: new }
        } else if old != new {
            Action::Rename { from: old, to: new }
        } else {
            Action::Modify(new)
        };
        let nothing = matches!(action, Action::Modify(_)) && hunks.is_empty() && extended.new_mode.is_none();
        let Extended { old_mode, new_mode, .. } = extended;
        Ok((!nothing).then_some(FilePatch { action, old_mode, new_mode, hunks, line: start + 1 }))
    }

    /// Whether the `---` and `+++` lines that come next are those of the file whose names are known otherwise. A patch
    /// that somebody put together may have a part without `diff --git` after one with it.
    fn names_belong(&self, given: Option<&(Vec<u8>, Vec<u8>)>, extended: &Extended) -> bool {
        let (from, to) = match (&extended.from, &extended.to, given) {
            (Some(from), Some(to), _) => (from.as_slice(), to.as_slice()),
            (_, _, Some((old, new))) => names::without_prefixes(old, new),
            _ => return true,
        };
        let same = |at: usize, known: &[u8]| {
            let rest = bare(self.line(at)).get(4..).unwrap_or_default();
            names::name(rest)
                .is_none_or(|name| name == NOTHING || name.trim_ascii_end().ends_with(known.trim_ascii_end()))
        };
        same(self.at, from) && same(self.at + 1, to)
    }

    fn extended_header(&mut self, given: Option<&(Vec<u8>, Vec<u8>)>) -> Result<Extended, PatchError> {
        let mut extended = Extended::default();
        while let Some(line) = self.peek() {
            let line = bare(line);
            if self.names_follow() {
                if self.names_belong(given, &extended) {
                    extended.names = Some(self.names()?);
                }
                break;
            }
            let after = |word: &str| line.strip_prefix(word.as_bytes());
            let name = |rest: &[u8]| {
                names::exact_name(rest).ok_or_else(|| self.wrong("the quotes of a name do not end"))
            };
            if let Some(mode) = after("old mode ") {
                extended.old_mode = Some(self.mode(mode)?);
            } else if let Some(mode) = after("new mode ") {
                extended.new_mode = Some(self.mode(mode)?);
            } else if let Some(mode) = after("new file mode ") {
                (extended.created, extended.new_mode) = (true, Some(self.mode(mode)?));
            } else if let Some(mode) = after("deleted file mode ") {
                (extended.deleted, extended.old_mode) = (true, Some(self.mode(mode)?));
            } else if let Some(rest) = after("rename from ") {
                extended.from = Some(name(rest)?);
            } else if let Some(rest) = after("rename to ") {
                extended.to = Some(name(rest)?);
            } else if let Some(rest) = after("copy from ") {
                (extended.copy, extended.from) = (true, Some(name(rest)?));
            } else if let Some(rest) = after("copy to ") {
                (extended.copy, extended.to) = (true, Some(name(rest)?));
            } else if let Some(rest) = after("index ") {
                // `index 1234..5678 120000` is how an unchanged mode is told.
                if let Some(mode) = rest.split(|byte| *byte == b' ').nth(1).filter(|mode| !mode.is_empty()) {
                    let mode = self.mode(mode)?;
                    extended.old_mode.get_or_insert(mode);
                }
            } else if line == b"GIT binary patch" || binary_note(line).is_some() {
                extended.binary = Some(self.at);
                self.at += 1;
                break;
            } else if !line.starts_with(b"similarity index ") && !line.starts_with(b"dissimilarity index ") {
                break;
            }
            self.at += 1;
        }
        Ok(extended)
    }

    fn mode(&self, text: &[u8]) -> Result<u32, PatchError> {
        let text = text.trim_ascii();
        let digits = std::str::from_utf8(text).ok().filter(|text| text.len() <= 6 && !text.starts_with('+'));
        digits.and_then(|text| u32::from_str_radix(text, 8).ok()).ok_or_else(|| {
            self.wrong(format!("{:?} is not a file mode such as 100644", String::from_utf8_lossy(text)))
        })
    }

    /// The names of the `---` and `+++` lines that come next.
    fn names(&mut self) -> Result<(Vec<u8>, Vec<u8>), PatchError> {
        let mut names = [Vec::new(), Vec::new()];
        for name in &mut names {
            let rest = bare(self.line(self.at)).get(4..).unwrap_or_default();
            *name = names::name(rest).ok_or_else(|| self.wrong("the quotes of a name do not end"))?;
            self.at += 1;
        }
        let [old, new] = names;
        Ok((old, new))
    }

    /// A file that begins with its `---` line.
    fn plain_file(&mut self) -> Result<FilePatch<'a>, PatchError> {
        let start = self.at;
        let (old, new) = self.names()?;
        let hunks = self.hunks()?;
        if hunks.is_empty() {
            return Err(PatchError::Malformed { line: start + 3, why: "the file has no hunk (@@)".into() });
        }
        let action = match (old == NOTHING, new == NOTHING) {
            (true, true) => {
                return Err(PatchError::Malformed {
                    line: start + 1,
                    why: "both names are /dev/null".into(),
                });
            }
            (true, false) => Action::Create(self.path(start + 1, names::without_one_prefix(&new))?),
            (false, true) => Action::Delete(self.path(start, names::without_one_prefix(&old))?),
            (false, false) => {
                let (old, new) = names::without_prefixes(&old, &new);
                let (from, to) = (self.path(start, old)?, self.path(start + 1, new)?);
                // `diff -u x.orig x` changes x; only git's header can tell of a rename.
                let backup =
                    old.strip_prefix(new).is_some_and(|rest| matches!(rest, b".orig" | b".old" | b"~"));
                match from == to || backup {
                    true => Action::Modify(to),
                    false => Action::Rename { from, to },
                }
            }
        };
        Ok(FilePatch { action, old_mode: None, new_mode: None, hunks, line: start + 1 })
    }

    fn hunks(&mut self) -> Result<Vec<Hunk<'a>>, PatchError> {
        let mut hunks = Vec::new();
        loop {
            // Blank lines between hunks are slips, unless a file or prose follows.
            let next = (self.at..self.lines.len()).find(|at| !bare(self.line(*at)).is_empty());
            match next {
                Some(at) if is_hunk_header(self.line(at)) => self.at = at,
                _ => return Ok(hunks),
            }
            let (start, header) = (self.at, bare(self.line(self.at)));
            let range = counts(header);
            if range.is_none() && header != b"@@" && !header.starts_with(b"@@ ") {
                return Err(self.wrong("this is not a hunk header such as @@ -1,3 +1,4 @@"));
            }
            self.at += 1;
            let counted = range.as_ref().and_then(|range| self.end_by_counts(range));
            let end = match counted {
                Some(end) => end,
                None => self.end_by_shape()?,
            };
            let lines = self.hunk_lines(end);
            self.at = end;
            if lines.iter().all(|line| line.kind == LineKind::Context) {
                return Err(PatchError::Malformed {
                    line: start + 1,
                    why: "the hunk neither adds nor removes a line".into(),
                });
            }
            let header = String::from_utf8_lossy(header).chars().take(200).collect();
            hunks.push(Hunk { header, line: start + 1, old_start: range.map(|range| range.start), lines });
        }
    }

    /// Finds the hunk's end when its counts are right: no line too few, and none that looks like one more; `None`
    /// when they are wrong.
    fn end_by_counts(&self, range: &Range) -> Option<usize> {
        let (mut old, mut new, mut at) = (range.old, range.new, self.at);
        while old > 0 || new > 0 {
            if at >= self.lines.len() || (!self.git && self.another_file(at)) || self.is_signature(at) {
                return None;
            }
            match bare(self.line(at)).first() {
                None | Some(b' ') => (old, new) = (old.checked_sub(1)?, new.checked_sub(1)?),
                Some(b'-') => old = old.checked_sub(1)?,
                Some(b'+') => new = new.checked_sub(1)?,
                Some(b'\\') => {}
                Some(_) => return None,
            }
            at += 1;
        }
        while self.line(at).starts_with(b"\\ ") {
            at += 1;
        }
        let next = (at..self.lines.len()).find(|at| !bare(self.line(*at)).is_empty());
        let more = next.is_some_and(|next| {
            let line = self.line(next);
            (is_stray(line) || (next == at && is_body(line)))
                && !self.names_at(next)
                && !self.is_signature(next)
        });
        (!more).then_some(at)
    }

    /// Finds the hunk's end by what its lines look like.
    fn end_by_shape(&self) -> Result<usize, PatchError> {
        let mut at = self.at;
        while at < self.lines.len() && !self.names_at(at) && !self.is_signature(at) {
            let line = bare(self.line(at));
            if !matches!(line.first(), None | Some(b' ' | b'-' | b'+' | b'\\')) {
                break;
            }
            at += 1;
        }
        let (stop, mut end) = (at, at);
        // Blank lines at the end belong to what follows; as context they would say nothing.
        while end > self.at
            && self.line(end - 1).trim_ascii().is_empty()
            && !self.line(end - 1).starts_with(b" ")
        {
            end -= 1;
        }
        let next = bare(self.line(stop));
        let clean = stop >= self.lines.len()
            || end < stop
            || self.names_at(stop)
            || self.is_signature(stop)
            || [&b"@@"[..], b"diff ", b"Index: ", b"```", b"~~~", b"From ", b"Only in ", b"*** ", b"==="]
                .iter()
                .any(|word| next.starts_with(word));
        if clean {
            return Ok(end);
        }
        Err(PatchError::Malformed {
            line: stop + 1,
            why: "a line of a hunk begins with a space (context), `-` (removed), `+` (added) or `\\`; put a space \
                  before context"
                .into(),
        })
    }

    /// Whether another file's `---` and `+++` come here, and not a removed `-- x` and an added `++ y`.
    fn another_file(&self, at: usize) -> bool {
        self.names_at(at) && is_hunk_header(self.line(at + 2)) && {
            let name =
                |at: usize| names::name(bare(self.line(at)).get(4..).unwrap_or_default()).unwrap_or_default();
            let (old, new) = (name(at), name(at + 1));
            let (one, two) = names::without_prefixes(&old, &new);
            one == two || old == NOTHING || new == NOTHING || (one.len() < old.len() && two.len() < new.len())
        }
    }

    /// The `-- ` and version that a mail of `git format-patch` ends with.
    fn is_signature(&self, at: usize) -> bool {
        let mut rest = (at + 2..self.lines.len()).map(|at| self.line(at).trim_ascii());
        bare(self.line(at)) == b"-- "
            && self.line(at + 1).first().is_some_and(u8::is_ascii_digit)
            && rest.find(|line| !line.is_empty()).is_none_or(|line| line.starts_with(b"From "))
    }

    fn hunk_lines(&self, end: usize) -> Vec<Line<'a>> {
        let mut lines: Vec<Line<'a>> = Vec::with_capacity(end - self.at);
        for at in self.at..end {
            let line = self.line(at);
            let line = if self.dos { bare(line) } else { line };
            let (kind, text) = match line.split_first() {
                Some((b' ', text)) => (LineKind::Context, text),
                Some((b'-', text)) => (LineKind::Remove, text),
                Some((b'+', text)) => (LineKind::Add, text),
                Some((b'\\', _)) => {
                    if let Some(last) = lines.last_mut() {
                        last.newline = false;
                    }
                    continue;
                }
                // An empty line, or one that is a carriage return: context whose space somebody trimmed.
                _ => (LineKind::Context, line),
            };
            lines.push(Line { kind, text, newline: true });
        }
        lines
    }
}

/// Ranges in a hunk's header.
struct Range {
    start: u64,
    old: u64,
    new: u64,
}

/// Reads `@@ -START[,COUNT] +START[,COUNT] @@`.
fn counts(header: &[u8]) -> Option<Range> {
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
fn bare(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_hunk_header(line: &[u8]) -> bool {
    let line = bare(line);
    line == b"@@" || line.starts_with(b"@@ ")
}

/// Whether a line can hardly be anything but one of a hunk. Prose has rulers, and items of lists.
fn is_stray(line: &[u8]) -> bool {
    match bare(line) {
        [b'+', b'+', b'+', b' ', ..] | [b'-', b'-', ..] => false,
        [b'+' | b'-', b' ', third, ..] => *third == b' ',
        [b'+' | b'-', second, ..] => *second != b' ',
        _ => false,
    }
}

/// Whether a line begins as one of a hunk does, where no prose may be.
fn is_body(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'+' | b'-' | b' '))
}

/// The file that a note of `diff` calls binary, with its prefix.
fn binary_note(line: &[u8]) -> Option<&[u8]> {
    let line = bare(line);
    let names = line.strip_prefix(b"Binary files ").or_else(|| line.strip_prefix(b"Files "))?;
    let names = names.strip_suffix(b" differ")?;
    let and = names.windows(5).position(|word| word == b" and ")?;
    let (old, new) = (&names[..and], &names[and + 5..]);
    let (one, two) = names::without_prefixes(old, new);
    Some(match (old, new) {
        (NOTHING, new) => names::without_one_prefix(new),
        (old, NOTHING) => names::without_one_prefix(old),
        _ => {
            if one == two {
                two
            } else {
                new
            }
        }
    })
}
