//! How a Rust file may look.

use std::path::Path;

use super::{Violation, lex};

const MOST_LINES: usize = 600;
/// Where `unsafe` may stand: what deals with processes and system calls nobody has wrapped.
const UNSAFE_ROOMS: [&str; 2] = ["crates/vmm", "crates/agent"];
/// Rooms whose code is called by somebody else's program; what the agent's own main does is its business.
const LIBRARIES: [&str; 4] = ["crates/proto/src", "crates/vmm/src", "crates/core/src", "crates/agent/src"];
const PROGRAMS: [&str; 1] = ["crates/agent/src/main.rs"];

/// Words of code that no library has, each with the action it stands for.
const CALLERS_BUSINESS: [(&str, &str); 14] = [
    ("println!", "prints"),
    ("print!", "prints"),
    ("eprintln!", "prints"),
    ("eprint!", "prints"),
    ("dbg!", "prints"),
    ("io::stdout", "prints"),
    ("io::stderr", "prints"),
    ("process::exit", "ends the process"),
    ("env::var", "reads the environment"),
    ("env::var_os", "reads the environment"),
    ("env::vars", "reads the environment"),
    ("env::vars_os", "reads the environment"),
    ("env::temp_dir", "reads the environment"),
    ("home_dir", "reads the home directory"),
];

/// Checks one file.
pub(super) fn check(path: &Path, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut violation =
        |line: usize, what: String| found.push(Violation { path: path.to_owned(), line, what });
    if !text.starts_with("//!") {
        violation(1, "does not open with //! saying what the file owns".into());
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        violation(0, format!("has {lines} lines, where {MOST_LINES} are the most"));
    }
    let code = lex::code(text);
    let may_be_unsafe = UNSAFE_ROOMS.iter().any(|room| path.starts_with(room));
    for (number, line) in (1..).zip(code.lines()) {
        if !may_be_unsafe && has_word(line, "unsafe") {
            violation(number, format!("unsafe outside of {}", UNSAFE_ROOMS.join(" and ")));
        }
        let plain: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if ["#[allow(", "#![allow("].iter().any(|attribute| plain.contains(attribute)) {
            violation(
                number,
                "allow, where expect with a reason would notice when it is no longer needed".into(),
            );
        }
        if ["#[ignore]", "#[ignore="].iter().any(|attribute| plain.contains(attribute)) {
            violation(number, "a test that is not run".into());
        }
    }
    let is_test = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
    let is_library = LIBRARIES.iter().any(|dir| path.starts_with(dir))
        && !PROGRAMS.iter().any(|file| path == Path::new(file));
    if is_library && !is_test {
        for (number, line) in (1..).zip(lex::without_tests(&code).lines()) {
            for (name, what) in CALLERS_BUSINESS {
                if has_word(line, name) {
                    violation(number, format!("a library that {what}: {name}"));
                }
            }
        }
    }
    found
}

/// Whether `word` stands in `line` by itself.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(|c| part_of_word(c) && !word.ends_with('!'))
    })
}
