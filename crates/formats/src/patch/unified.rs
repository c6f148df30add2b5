//! Reading a unified diff. What its author meant is found from the shape of the lines; the counts in `@@` headers are
//! believed only where they agree with it, for language models count badly.
//!
//! Text around a patch (prose, mail headers, code fences) is skipped. Text that may be a part of a hunk never is: a
//! line that is lost silently would be a change that is lost silently.

use std::path::{Path, PathBuf};

use super::error::PatchError;
use super::names::{self, NOTHING};
use super::parse::{self, NO_CHANGE, NO_MARK, Range, bare, counts, is_hunk_header, is_stray};
use super::{Action, FilePatch, Hunk, LineKind};

/// Reads the lines of a unified diff; see [`parse`](super::parse()).
pub(super) fn parse<'a>(lines: Vec<&'a [u8]>, root: &Path) -> Result<Vec<FilePatch<'a>>, PatchError> {
    let mut parser = Parser { lines, root, at: 0, git: false, dos: false };
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
        let context = parser.lines.iter().any(|line| line.starts_with(b"***************"));
        let looks_like = context.then_some("a context diff (diff -c)");
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

struct Parser<'a, 'r> {
    lines: Vec<&'a [u8]>,
    /// The tree's own path.
    root: &'r Path,
    /// Index of the next line.
    at: usize,
    /// Whether the file at hand began with `diff --git`; then so does the next one.
    git: bool,
    /// Whether the file's own lines end in a carriage return, because the patch went through a program with other line
    /// ends; then so do those of its hunks.
    dos: bool,
}

impl<'a> Parser<'a, '_> {
    fn peek(&self) -> Option<&'a [u8]> {
        self.lines.get(self.at).copied()
    }

    fn line(&self, at: usize) -> &'a [u8] {
        self.lines.get(at).copied().unwrap_or_default()
    }

    fn wrong(&self, why: impl Into<String>) -> PatchError {
        parse::wrong(self.at, why)
    }

    fn path(&self, line: usize, name: &[u8]) -> Result<PathBuf, PatchError> {
        parse::path(line, name, self.root)
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
                    Some((one, two)) if one == two && name.ends_with(&one) && !is_absolute(name) => one,
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
                return Err(parse::wrong(start, "a rename or copy has one name only"));
            }
        };
        let Some((old, new)) = named else {
            return Err(parse::wrong(start, "the file has no name"));
        };
        let exact = is_absolute(&old) || is_absolute(&new);
        let (old, new) = (self.path(start, &old)?, self.path(start, &new)?);
        if let Some(line) = extended.binary {
            return Err(PatchError::Binary { line: line + 1, path: new });
        }
        for mode in [extended.old_mode, extended.new_mode].into_iter().flatten() {
            if !matches!(mode & 0o170000, 0o100000 | 0o120000) {
                let why = format!("mode {mode:o} is neither a file's nor a symbolic link's");
                return Err(parse::wrong(start, why));
            }
        }
        let (created, deleted) = (extended.created, extended.deleted);
        let action = if created && deleted {
            return Err(parse::wrong(start, "a file is both created and deleted"));
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
        Ok((!nothing).then_some(FilePatch { action, old_mode, new_mode, hunks, line: start + 1, exact }))
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
            return Err(parse::wrong(start + 2, "the file has no hunk (@@)"));
        }
        let exact;
        let action = match (old == NOTHING, new == NOTHING) {
            (true, true) => {
                return Err(parse::wrong(start, "both names are /dev/null"));
            }
            (true, false) => {
                let new = names::without_one_prefix(&new);
                exact = is_absolute(new);
                Action::Create(self.path(start + 1, new)?)
            }
            (false, true) => {
                let old = names::without_one_prefix(&old);
                exact = is_absolute(old);
                Action::Delete(self.path(start, old)?)
            }
            (false, false) => {
                let (old, new) = names::without_prefixes(&old, &new);
                exact = is_absolute(old) || is_absolute(new);
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
        Ok(FilePatch { action, old_mode: None, new_mode: None, hunks, line: start + 1, exact })
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
            let end = self.end(range.as_ref())?;
            let lines = parse::marked(&self.lines[self.at..end], self.dos);
            self.at = end;
            if lines.iter().all(|line| line.kind == LineKind::Context) {
                return Err(parse::wrong(start, NO_CHANGE));
            }
            let old_start = range.map(|range| range.start);
            hunks.push(Hunk {
                header: parse::shown(header),
                line: start + 1,
                old_start,
                anchors: Vec::new(),
                at_end: false,
                whole: false,
                lines,
            });
        }
    }

    /// Finds the hunk's end. Lines without a mark are context where the counts have it so, and nothing else can be
    /// meant: no end without them, or one that leaves changes out.
    fn end(&self, range: Option<&Range>) -> Result<usize, PatchError> {
        if let Some(end) = range.and_then(|range| self.end_by_counts(range, false)) {
            return Ok(end);
        }
        let unmarked = range.and_then(|range| self.end_by_counts(range, true));
        match (self.end_by_shape(), unmarked) {
            (Ok(end), Some(far)) => {
                let change = |at: usize| matches!(self.line(at).first(), Some(b'+' | b'-'));
                Ok(if (end..far).any(change) { far } else { end })
            }
            (shape, unmarked) => unmarked.map_or(shape, Ok),
        }
    }

    /// Finds the hunk's end when its counts are right: no line too few, and none that looks like one more; `None`
    /// when they are wrong. With `unmarked`, a line without a mark counts as context.
    fn end_by_counts(&self, range: &Range, unmarked: bool) -> Option<usize> {
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
                Some(_) if unmarked && !begins_another(self.line(at)) => {
                    (old, new) = (old.checked_sub(1)?, new.checked_sub(1)?);
                }
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
            || begins_another(next);
        if clean {
            return Ok(end);
        }
        Err(parse::wrong(stop, NO_MARK))
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
}

/// Whether a line begins something that is no part of a hunk.
fn begins_another(line: &[u8]) -> bool {
    [&b"@@"[..], b"diff ", b"Index: ", b"```", b"~~~", b"From ", b"Only in ", b"*** ", b"==="]
        .iter()
        .any(|word| line.starts_with(word))
}

fn is_absolute(name: &[u8]) -> bool {
    name.first() == Some(&b'/')
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
