//! Doc comments that do not name their subject: counted for each crate, refused where they are more than a few.
//!
//! A doc comment is a run of `///` or of `//!` lines. It offends when its first word is a pronoun ("It", "Which"). One
//! of a word or two is shown too, though no limit is set for those. A crate is held to the limit once it is enforced
//! in [`CRATES`]; `cargo xtask prose` lists every offender.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Violation, lex};
use crate::error::{TaskError, at};

/// Crates by their directory's name, and whether each is held to the limit. Every crate has a row.
pub(super) const CRATES: [(&str, bool); 8] = [
    ("agent", true),
    ("bench", false),
    ("cli", false),
    ("core", true),
    ("formats", true),
    ("proto", true),
    ("vmm", true),
    ("xtask", true),
];

/// Of a hundred doc comments, fewer than this many may begin with a pronoun.
const LIMIT_PERCENT: usize = 1;
/// Most words of a comment that says too little.
const FEW_WORDS: usize = 2;

const PRONOUNS: [&str; 19] = [
    "he", "his", "it", "its", "one", "she", "that", "their", "these", "they", "this", "those", "what",
    "which", "who", "whom", "whose", "it's", "that's",
];

/// Defect of a doc comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offence {
    Pronoun,
    FewWords,
}

/// The doc comments of one crate.
#[derive(Debug, Default)]
struct Prose {
    comments: usize,
    offenders: Vec<(Offence, PathBuf, usize, String)>,
}

impl Prose {
    fn count(&self, offence: Offence) -> usize {
        self.offenders.iter().filter(|(kind, ..)| *kind == offence).count()
    }

    fn is_over(&self) -> bool {
        let pronouns = self.count(Offence::Pronoun);
        pronouns > 0 && pronouns * 100 >= self.comments * LIMIT_PERCENT
    }

    /// Count and share of an offence.
    fn share(&self, offence: Offence) -> String {
        let count = self.count(offence);
        let permille = (count * 1000).checked_div(self.comments).unwrap_or(0);
        format!("{count} of {} ({}.{} %)", self.comments, permille / 10, permille % 10)
    }
}

/// Violations in the crates of `table` (name, enforced) among the files at `root`, of which `paths` are all.
///
/// # Errors
/// When a source file cannot be read.
pub fn check(root: &Path, paths: &[PathBuf], table: &[(&str, bool)]) -> Result<Vec<Violation>, TaskError> {
    let mut found = Vec::new();
    for (name, prose) in read(root, paths)? {
        let violation = |what: String| Violation { path: directory(&name), line: 0, what };
        match table.iter().find(|(known, _)| *known == name) {
            None => found.push(violation(format!("{name} has no row in the table of crates whose prose is checked"))),
            Some((_, true)) if prose.is_over() => found.push(violation(format!(
                "doc comments begin with a pronoun: {}, where fewer than {LIMIT_PERCENT} % may; `cargo xtask prose` lists them",
                prose.share(Offence::Pronoun)
            ))),
            Some(_) => {}
        }
    }
    Ok(found)
}

/// Counts and offenders of every crate among the files at `root`, of which `paths` are all.
///
/// # Errors
/// When a source file cannot be read.
pub fn describe(root: &Path, paths: &[PathBuf], table: &[(&str, bool)]) -> Result<String, TaskError> {
    let mut out = String::new();
    let all = read(root, paths)?;
    for (offence, wording) in
        [(Offence::Pronoun, "begins with a pronoun"), (Offence::FewWords, "says too little")]
    {
        for (_, path, line, text) in
            all.values().flat_map(|prose| &prose.offenders).filter(|(kind, ..)| *kind == offence)
        {
            let _ = writeln!(out, "{}:{line}: {wording}: {text}", path.display());
        }
    }
    for (name, prose) in &all {
        let enforced = if table.contains(&(name.as_str(), true)) { "enforced" } else { "not enforced" };
        let _ = writeln!(
            out,
            "{name} ({enforced}): a pronoun begins {}; a word or two are {}",
            prose.share(Offence::Pronoun),
            prose.share(Offence::FewWords)
        );
    }
    Ok(out)
}

fn read(root: &Path, paths: &[PathBuf]) -> Result<BTreeMap<String, Prose>, TaskError> {
    let mut all: BTreeMap<String, Prose> = BTreeMap::new();
    for path in paths {
        let Some(name) = crate_of(path) else { continue };
        let full = root.join(path);
        let text = fs::read_to_string(&full).map_err(at(&full, "read"))?;
        let prose = all.entry(name.to_owned()).or_default();
        for (line, comment) in comments(&text) {
            prose.comments += 1;
            let offence = if begins_with_pronoun(&comment) {
                Offence::Pronoun
            } else if (1..=FEW_WORDS).contains(&comment.split_whitespace().count()) {
                Offence::FewWords
            } else {
                continue;
            };
            let first = comment.lines().next().unwrap_or_default().to_owned();
            prose.offenders.push((offence, path.clone(), line, first));
        }
    }
    Ok(all)
}

/// Name of the crate whose `src` holds the Rust file `path`.
fn crate_of(path: &Path) -> Option<&str> {
    let mut parts = path.iter().map(|part| part.to_str().unwrap_or_default());
    let name = match parts.next()? {
        "crates" => parts.next()?,
        "xtask" => "xtask",
        _ => return None,
    };
    (parts.next()? == "src" && path.extension()? == "rs").then_some(name)
}

fn directory(name: &str) -> PathBuf {
    if name == "xtask" { name.into() } else { Path::new("crates").join(name) }
}

/// The doc comments of `source`: number of the first line, and text without the marks.
fn comments(source: &str) -> Vec<(usize, String)> {
    let source_lines = source.lines();
    let bare = lex::without_literals(source);
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut mark_before = None;
    for (number, (line, bare)) in (1..).zip(source_lines.zip(bare.lines())) {
        // A comment's line has no literal, so only where the lines agree does it begin outside of one.
        let is = |mark: &str| bare.trim_start().starts_with(mark) && line.trim_start().starts_with(mark);
        let mark = match () {
            () if is("////") => None,
            () if is("///") => Some("///"),
            () if is("//!") => Some("//!"),
            () => None,
        };
        if let Some(mark) = mark {
            let text = line.trim_start().trim_start_matches(mark).trim();
            match found.last_mut().filter(|_| mark_before == Some(mark)) {
                Some((_, comment)) => {
                    comment.push('\n');
                    comment.push_str(text);
                }
                None => found.push((number, text.to_owned())),
            }
        }
        mark_before = mark;
    }
    found
}

fn begins_with_pronoun(comment: &str) -> bool {
    // A name in backticks is a name, whatever it is called; emphasis and quotes change nothing.
    let word = comment.trim_start_matches(|c: char| c.is_whitespace() || "*_\"'([".contains(c));
    let end = word.find(|c: char| !c.is_alphanumeric() && !"-'_".contains(c)).unwrap_or(word.len());
    PRONOUNS.contains(&word[..end].to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_lines_is_a_comment() {
        let source = "//! A.\n//! B.\n\n/// C `x`\n///\n/// D.\nfn f() {}\n//// no\n// no\nconst S: &str = \"\n/// no\n\";\n    //! E\n    /// F\n";
        let found = comments(source);
        let found: Vec<_> = found.iter().map(|(line, text)| (*line, text.as_str())).collect();
        assert_eq!(found, [(1, "A.\nB."), (4, "C `x`\n\nD."), (13, "E"), (14, "F")]);
    }

    #[test]
    fn a_pronoun_is_a_word_of_its_own() {
        for comment in [
            "It is.",
            "it is",
            "Its end.",
            "*Which*.",
            "One of them.",
            "That.",
            "It's",
            "Whose, if any",
            "\"This\"",
        ] {
            assert!(begins_with_pronoun(comment), "{comment}");
        }
        for comment in
            ["Item.", "`It` is a type.", "One-shot timer.", "Thing", "Whatever", "A thing that is.", ""]
        {
            assert!(!begins_with_pronoun(comment), "{comment}");
        }
    }
}
