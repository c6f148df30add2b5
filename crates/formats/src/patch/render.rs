//! Writing what changed as a patch that `git apply` takes.
//!
//! Text is what is UTF-8 without NUL: a patch travels as a string in JSON, and one that had to be mended for that would
//! no longer apply. The rest is named in git's words (`Binary files a/x and b/x differ`), which git itself refuses to
//! apply; leave such parts out of what is meant for it.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use similar::algorithms::DiffHook;

use super::names::quote;
use super::{MAX_FILE, NodeKind};

/// Lines of context around a change.
const CONTEXT: usize = 3;
/// Time for which the shortest way between two files is looked for; after that it is one that is right but longer.
const DEADLINE: Duration = Duration::from_secs(1);

/// State of a path before or after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side<'a> {
    /// Type of the file.
    pub kind: NodeKind,
    /// Permission bits; git keeps whether the owner may execute the file.
    pub mode: u32,
    /// Content, or the target of a symbolic link; `None` for a file that was not read because it is too long.
    pub bytes: Option<&'a [u8]>,
}

/// A part of a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text; empty when nothing differs that git knows of, such as other permission bits or a directory.
    pub patch: String,
    /// Whether a file is named as binary in it, which `git apply` refuses.
    pub binary: bool,
}

/// Writes the difference between two states of `path`, relative and without `..`; `None` is one in which it is not
/// there. A file that became a link, or a link that changed, is a deletion and a creation.
///
/// Files longer than [`MAX_FILE`] are binary. Takes seconds at most, also for files that have nothing in common.
pub fn render(path: &Path, old: Option<Side<'_>>, new: Option<Side<'_>>) -> Rendered {
    let known = |side: &Side<'_>| matches!(side.kind, NodeKind::File | NodeKind::Symlink);
    let (old, new) = (old.filter(known), new.filter(known));
    let name = path.as_os_str().as_bytes();
    match (old, new) {
        (Some(one), Some(two)) if one.kind != two.kind || one.kind == NodeKind::Symlink => {
            if one.kind == two.kind && one.bytes == two.bytes {
                return Rendered::default();
            }
            let (gone, come) = (part(name, Some(one), None), part(name, None, Some(two)));
            Rendered { patch: gone.patch + &come.patch, binary: gone.binary || come.binary }
        }
        (old, new) => part(name, old, new),
    }
}

/// The mode as git keeps it.
fn git_mode(side: &Side<'_>) -> &'static str {
    match side.kind {
        NodeKind::Symlink => "120000",
        _ if side.mode & 0o100 != 0 => "100755",
        _ => "100644",
    }
}

fn text(side: Option<Side<'_>>) -> Option<&str> {
    let Some(side) = side else { return Some("") };
    let bytes = side.bytes.filter(|bytes| bytes.len() <= MAX_FILE && !bytes.contains(&0))?;
    std::str::from_utf8(bytes).ok()
}

fn part(name: &[u8], old: Option<Side<'_>>, new: Option<Side<'_>>) -> Rendered {
    let one = quote(&[b"a/", name].concat());
    let two = quote(&[b"b/", name].concat());
    let mut patch = format!("diff --git {one} {two}\n");
    let mut differs = true;
    match (&old, &new) {
        (None, None) => return Rendered::default(),
        (None, Some(new)) => patch += &format!("new file mode {}\n", git_mode(new)),
        (Some(old), None) => patch += &format!("deleted file mode {}\n", git_mode(old)),
        (Some(old), Some(new)) => {
            let (old, new) = (git_mode(old), git_mode(new));
            differs = old != new;
            if differs {
                patch += &format!("old mode {old}\nnew mode {new}\n");
            }
        }
    }
    // Of two files that were not read nothing is known but that somebody asks for their difference.
    let same = matches!((old, new), (Some(old), Some(new)) if old.bytes.is_some() && old.bytes == new.bytes);
    let one = if old.is_some() { one } else { "/dev/null".into() };
    let two = if new.is_some() { two } else { "/dev/null".into() };
    let (Some(before), Some(after)) = (text(old), text(new)) else {
        if !same {
            patch += &format!("Binary files {one} and {two} differ\n");
        }
        let patch = if same && !differs { String::new() } else { patch };
        return Rendered { patch, binary: !same };
    };
    if before == after {
        return Rendered { patch: if differs { patch } else { String::new() }, binary: false };
    }
    // git marks the end of a name that has spaces.
    let end = |name: &str| if name.contains(' ') && !name.starts_with('"') { "\t\n" } else { "\n" };
    patch += &format!("--- {one}{}+++ {two}{}", end(&one), end(&two));
    hunks(&mut patch, before, after);
    Rendered { patch, binary: false }
}

/// Lines with their ends, so that a last line without one differs from the same with one.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// Runs of lines that both sides have: where in each, and how many.
struct Common(Vec<(usize, usize, usize)>);

impl DiffHook for Common {
    type Error = std::convert::Infallible;

    fn equal(&mut self, old: usize, new: usize, len: usize) -> Result<(), Self::Error> {
        self.0.push((old, new, len));
        Ok(())
    }
}

impl Common {
    /// Ranges that lie between, of each side.
    fn gaps(self, old: usize, new: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let (mut one, mut two, mut gaps) = (0, 0, Vec::new());
        for (old, new, len) in self.0.into_iter().chain([(old, new, 0)]) {
            if one < old || two < new {
                gaps.push((one..old, two..new));
            }
            (one, two) = (old + len, new + len);
        }
        gaps
    }
}

fn hunks<'t>(out: &mut String, before: &'t str, after: &'t str) {
    let (old, new) = (lines(before), lines(after));
    // Numbers in place of lines: each line is hashed once instead of compared often.
    let mut known: HashMap<&str, u32> = HashMap::new();
    let mut number = |lines: &[&'t str]| -> Vec<u32> {
        let number = |line: &&'t str| {
            let next = known.len() as u32;
            *known.entry(line).or_insert(next)
        };
        lines.iter().map(number).collect()
    };
    let (one, two) = (number(&old), number(&new));
    let deadline = Some(Instant::now() + DEADLINE);
    let mut common = Common(Vec::new());
    let Ok(()) = similar::algorithms::myers::diff_deadline(
        &mut common,
        &one,
        0..one.len(),
        &two,
        0..two.len(),
        deadline,
    );
    let mut changes = common.gaps(old.len(), new.len()).into_iter().peekable();
    while let Some(first) = changes.next() {
        let mut group = vec![first];
        // Changes whose context would touch share a hunk.
        while let Some((next, _)) = changes.peek() {
            let end = group.last().map_or(0, |(before, _)| before.end);
            if next.start.saturating_sub(end) > 2 * CONTEXT {
                break;
            }
            group.extend(changes.next());
        }
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
        let lead = first.0.start.min(CONTEXT);
        let trail = (old.len() - last.0.end).min(CONTEXT);
        let (from, to) = (first.0.start - lead, last.0.end + trail);
        let (new_from, new_to) = (first.1.start - lead, last.1.end + trail);
        out.push_str(&format!("@@ -{} +{} @@\n", side(from, to), side(new_from, new_to)));
        let mut at = from;
        for (removed, added) in group {
            old[at..removed.start].iter().for_each(|text| line(out, ' ', text));
            at = removed.end;
            old[removed].iter().for_each(|text| line(out, '-', text));
            new[added].iter().for_each(|text| line(out, '+', text));
        }
        old[at..to].iter().for_each(|text| line(out, ' ', text));
    }
}

/// Writes one side of a hunk's header: a range that is empty names the line before it.
fn side(from: usize, to: usize) -> String {
    match to - from {
        0 => format!("{from},0"),
        1 => (from + 1).to_string(),
        count => format!("{},{count}", from + 1),
    }
}

fn line(out: &mut String, mark: char, text: &str) {
    out.push(mark);
    out.push_str(text);
    if !text.ends_with('\n') {
        out.push_str("\n\\ No newline at end of file\n");
    }
}
