//! Just enough of Rust's lexical rules to tell code from comments and literals.

/// `source` with comments and the content of literals replaced by spaces; lines stay where they were.
pub(super) fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = match rest {
            [b'/', b'/', ..] => at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => at + block_comment(rest),
            [b'"', ..] => at + string(rest),
            [b'r', ..] if !continues_a_word(bytes, at) && raw_hashes(rest).is_some() => at + raw_string(rest),
            // A byte or C string's prefix: what follows it is looked at next.
            [b'b' | b'c', b'r', ..] if !continues_a_word(bytes, at) && raw_hashes(&rest[1..]).is_some() => {
                at + 1 + raw_string(&rest[1..])
            }
            [b'\'', ..] => match character(rest) {
                Some(len) => at + len,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
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
    use super::code;

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
}
