//! No text of core or of its decoders names a verb or flag of the command line: an error crosses to surfaces that have
//! neither. What to do about one is a `Hint`, which each surface words itself.
#![expect(clippy::unwrap_used, reason = "a failure to set a test up is a failure of the test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Files whose texts have flags of other programs in them, and which.
const OTHERS: [(&str, &str); 5] = [
    ("core/src/environment/debian.rs", "scripts that run in a build: dpkg-query, mmdebstrap"),
    ("core/src/runtime/evidence.rs", "`/init --version`, a command of the guest's"),
    ("formats/src/patch/dialect.rs", "`diff --git`, a line of a patch in another format"),
    ("formats/src/patch/unified.rs", "`diff --git` and `diff --cc`, lines of a patch"),
    ("formats/src/patch/render.rs", "`diff --git`, a line of a patch"),
];

const VERBS: [&str; 8] = ["run", "env", "workspace", "doctor", "demo", "bench", "mcp", "keeper"];

/// The string literals of `source`, comments and tests left out, each with its line.
fn literals(source: &str) -> Vec<(usize, &str)> {
    let bytes = source.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    let find = |from: usize, what: &str| source[from..].find(what).map_or(source.len(), |it| from + it);
    while at < bytes.len() {
        at = match &bytes[at..] {
            [b'/', b'/', ..] => find(at, "\n"),
            [b'#', ..] if source[at..].starts_with("#[cfg(test)]\nmod ") => break,
            // A quote as a character.
            [b'\'', b'"', b'\'', ..] => at + 3,
            [b'\'', b'\\', b'"' | b'\'', b'\'', ..] => at + 4,
            [b'r', b'#', b'"', ..] => {
                let end = find(at + 3, "\"#");
                found.push((source[..at].lines().count(), &source[at + 3..end]));
                end + 2
            }
            [b'"', ..] => {
                let mut end = at + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                found.push((source[..=at].lines().count(), &source[at + 1..end.min(bytes.len())]));
                end + 1
            }
            _ => at + 1,
        };
    }
    found
}

/// The verb or flag in a text; an argument that is handed to a program is all of its literal.
fn named(text: &str) -> Option<String> {
    let text = &text.replace("\\\n", " ");
    let is_argument = text.starts_with("--") && !text.contains(char::is_whitespace);
    let words = text.split(|c: char| c.is_whitespace() || "`()\"',;|".contains(c));
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let is_flag = word.strip_prefix("--").is_some_and(|name| name.starts_with(char::is_alphabetic));
        if is_flag && !is_argument {
            return Some(word.to_owned());
        }
        let is_pyro = word == "pyro";
        let next = words.peek().copied().unwrap_or_default();
        if is_pyro && VERBS.contains(&next) {
            return Some(next.to_owned());
        }
    }
    let quoted = text.split('`').skip(1).step_by(2);
    let mut verbs = quoted.filter(|span| {
        let mut words = span.split_whitespace();
        words.next().is_some_and(|first| VERBS.contains(&first)) && words.next().is_some()
    });
    verbs.next().map(str::to_owned)
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            sources(&path, into);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            into.push(path);
        }
    }
}

#[test]
fn no_text_names_a_verb_or_flag() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for room in ["core/src", "formats/src"] {
        sources(&crates.join(room), &mut files);
    }
    assert!(files.len() > 100, "{}", files.len());
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(crates).unwrap().to_str().unwrap();
        let names = literals(&text).into_iter().filter_map(|(line, text)| Some((line, named(text)?)));
        let lines: Vec<_> = names.map(|(line, name)| format!("{path}:{line}: {name}")).collect();
        // A file that needs no exception has none.
        assert!(!(lines.is_empty() && OTHERS.iter().any(|(other, _)| *other == path)), "{path}");
        if !OTHERS.iter().any(|(other, _)| *other == path) {
            found.extend(lines);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_verb_or_flag_is_found() {
    for text in [
        "`pyro workspace start` brings it back",
        "pyro doctor shows it",
        "stop it with --force",
        "(--mem-mib)",
        "--backend auto uses another",
        "use `workspace sync push`",
        "a `--x=Y`",
        "`pyro \\\n   doctor` shows it",
    ] {
        assert!(named(text).is_some(), "{text}");
    }
    for text in [
        "--mode=root",
        "--",
        "a -- b",
        "this version of pyro",
        "a workspace starts",
        "--- a/f",
        "`workspace`",
    ] {
        assert_eq!(named(text), None, "{text}");
    }
    let source =
        "f(\"a\\\"b\", '\"', r#\"c \"d\" e\"#); // \"f\"\ng(\"h\");\n#[cfg(test)]\nmod tests { i(\"j\") }";
    assert_eq!(literals(source), [(1, "a\\\"b"), (1, "c \"d\" e"), (2, "h")]);
}
