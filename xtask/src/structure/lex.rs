//! Just enough of Rust's lexical rules to tell code from comments and literals.

/// Parts of a source text that are not code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    Comment,
    Literal,
}

/// Copy of `source` with comments and the content of literals replaced by spaces; lines stay where they were.
pub(super) fn code(source: &str) -> String {
    without(source, &[Blank::Comment, Blank::Literal])
}

/// Copy of `source` with the content of literals replaced by spaces, comments untouched; lines stay where they were.
pub(super) fn without_literals(source: &str) -> String {
    without(source, &[Blank::Literal])
}

fn without(source: &str, unwanted: &[Blank]) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (blank, end) = match rest {
            [b'/', b'/', ..] => {
                (Blank::Comment, at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()))
            }
            [b'/', b'*', ..] => (Blank::Comment, at + block_comment(rest)),
            [b'"', ..] => (Blank::Literal, at + string(rest)),
            [b'r', ..] if !continues_a_word(bytes, at) && raw_hashes(rest).is_some() => {
                (Blank::Literal, at + raw_string(rest))
            }
            // A byte or C string's prefix: what follows it is looked at next.
            [b'b' | b'c', b'r', ..] if !continues_a_word(bytes, at) && raw_hashes(&rest[1..]).is_some() => {
                (Blank::Literal, at + 1 + raw_string(&rest[1..]))
            }
            [b'\'', ..] if let Some(len) = character(rest) => (Blank::Literal, at + len),
            _ => {
                at += 1;
                continue;
            }
        };
        if unwanted.contains(&blank) {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Words that open an item or a statement, in which a comma ends nothing.
const ITEMS: [&str; 15] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "let",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "unsafe",
    "use",
];

/// Copy of `code` (a result of [`code`]) with everything under `#[cfg(test)]` made blank: items, statements, fields
/// and arms; lines stay where they were.
pub(super) fn without_tests(code: &str) -> String {
    const MARKS: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test,"];
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(begin) = MARKS.iter().filter_map(|mark| out[from..].find(mark)).min().map(|at| from + at) {
        let end = begin + end_of_item(&out[begin..]);
        let blank: String = out[begin..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        from = begin + blank.len();
        out.replace_range(begin..end, &blank);
    }
    out
}

/// Length of the item, field or arm at the begin of `rest`, its attributes included.
fn end_of_item(rest: &str) -> usize {
    let begin = attributes(rest);
    let word: String = rest[begin..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // A field's visibility looks like an item's, so the word after it decides.
    let word = if word == "pub" { after_visibility(&rest[begin..]) } else { word };
    let is_item = ITEMS.contains(&word.as_str());
    let (mut depth, mut angles, mut before) = (0_usize, 0_usize, ' ');
    for (at, c) in rest[begin..].char_indices() {
        let at = begin + at;
        match c {
            '{' | '(' | '[' => depth += 1,
            // What encloses the field or arm ends here, and is not part of it.
            '}' | ')' | ']' if depth == 0 => return at,
            '}' | ')' | ']' => depth -= 1,
            '<' => angles += 1,
            '>' if before != '-' && before != '=' => angles = angles.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == '}' || c == ';' || c == ',' && angles == 0 && !is_item) {
            return at + 1;
        }
        before = c;
    }
    rest.len()
}

/// Length of the attributes at the begin of `rest`, the white space after them included.
fn attributes(rest: &str) -> usize {
    let mut at = 0;
    loop {
        at += rest[at..].len() - rest[at..].trim_start().len();
        if !rest[at..].starts_with("#[") {
            return at;
        }
        let mut depth = 0_usize;
        let end = rest[at..].find(|c| {
            match c {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ']' && depth == 0
        });
        let Some(end) = end else { return rest.len() };
        at += end + 1;
    }
}

/// The word after the visibility that `item` begins with.
fn after_visibility(item: &str) -> String {
    let rest = item.trim_start_matches("pub").trim_start();
    let rest = match rest.strip_prefix('(') {
        Some(inner) => inner.split_once(')').map_or("", |(_, rest)| rest).trim_start(),
        None => rest,
    };
    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn continues_a_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// Length of a block comment; they nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// How many hashes a raw string that begins here has; `None` when none begins.
fn raw_hashes(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    (rest.get(1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = raw_hashes(rest).unwrap_or(0);
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let begin = hashes + 2;
    let body = rest.get(begin..).unwrap_or_default();
    body.windows(end.len()).position(|window| window == end).map_or(rest.len(), |at| begin + at + end.len())
}

/// Length of a character literal; `None` when this quote begins a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(&rest[1..rest.len().min(16)])
        .unwrap_or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]).unwrap_or_default());
    let first = text.chars().next()?;
    if first == '\\' {
        // The character after the backslash is escaped, even when it is a quote.
        return rest.iter().skip(3).position(|byte| *byte == b'\'').map(|at| at + 4);
    }
    let end = 1 + first.len_utf8();
    (rest.get(end) == Some(&b'\'')).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::{code, without_literals, without_tests};

    #[test]
    fn comments_and_literals_are_blank() {
        for (source, expected) in [
            ("a // unsafe\nb", "a \nb"),
            ("a /* x /* y */ z\n*/ b", "a \n b"),
            (r#"f("a \" // b") + c"#, "f( ) + c"),
            ("f(r#\"a \" b\"#) c", "f( ) c"),
            (r#"f(br"a\") c"#, "f( ) c"),
            (r#"f(b"x")"#, "f(b )"),
            (r#"f('"', 'a', '\'', '\u{1f}', 'ä') x"#, "f( , , , , ) x"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            (r#"bar"x";"#, "bar ;"),
        ] {
            let code = code(source);
            assert_eq!(code.len(), source.len(), "{source}");
            let mut squeezed = code;
            while squeezed.contains("  ") {
                squeezed = squeezed.replace("  ", " ");
            }
            assert_eq!(squeezed, expected, "{source}");
        }
    }

    #[test]
    fn what_never_ends_is_no_trouble() {
        for source in ["\"abc", "/* abc", "r##\"abc\"#", "'", "'\\", "\"\\", "b", "r"] {
            assert_eq!(code(source).len(), source.len(), "{source}");
        }
    }
    #[test]
    fn literals_can_be_blank_alone() {
        assert_eq!(without_literals("/// It \"is\"\nf(\"/// It\")"), "/// It \"is\"\nf(        )");
    }

    #[test]
    fn what_is_under_a_test_attribute_is_blank_and_no_more() {
        for (source, expected) in [
            ("#[cfg(test)] mod a { fn f() {} } fn g() {}", "fn g() {}"),
            ("#[cfg(test)] use a; use b;", "use b;"),
            ("#[cfg(test)] #[derive(A, B)] struct C { d: [u8; 2], e: F } use b;", "use b;"),
            ("#[cfg(test)] const A: [u8; 2] = [a, b]; use b;", "use b;"),
            ("#[cfg(test)] pub(crate) fn f<A>(a: A) where A: B, C: D { g(a); } use b;", "use b;"),
            ("#[cfg(all(test, unix))] fn f() {} use b;", "use b;"),
            ("#[cfg(not(test))] use b;", "#[cfg(not(test))] use b;"),
            ("struct A { #[cfg(test)] b: M<u8, C>, d: E }", "struct A { d: E }"),
            ("struct A { b: u8, #[cfg(test)] pub d: E } use b;", "struct A { b: u8, } use b;"),
            ("#[cfg(test)] mod tests;\n#[cfg(test)]\nmod more;\nuse b;", "use b;"),
        ] {
            let rest = without_tests(source);
            assert_eq!(rest.len(), source.len(), "{source}");
            assert_eq!(rest.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{source}");
        }
    }
}
