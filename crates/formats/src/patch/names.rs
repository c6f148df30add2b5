//! File names in patches: quoted as git quotes them, with prefixes or without, and checked before they are believed.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use super::MAX_PATH;

/// Name of a file that is not there.
pub(super) const NOTHING: &[u8] = b"/dev/null";

/// The bytes of a name that git writes after a key word. `None` when quotes do not end.
pub(super) fn exact_name(rest: &[u8]) -> Option<Vec<u8>> {
    match rest.first() {
        Some(b'"') => unquote(rest).map(|(name, _)| name),
        _ => Some(rest.to_vec()),
    }
}

/// The name of a `---` or `+++` line, without a time stamp after a tab. `None` when quotes do not end.
pub(super) fn name(rest: &[u8]) -> Option<Vec<u8>> {
    match rest.iter().position(|byte| *byte == b'\t') {
        Some(end) if rest.first() != Some(&b'"') => Some(rest[..end].to_vec()),
        // White space at the end is a slip: git marks names that have spaces with a tab.
        _ => exact_name(rest.trim_ascii_end()),
    }
}

/// The two names of `diff --git X Y`. Without quotes they can only be told apart when both are the same but for their
/// prefixes, which is when nothing else in the patch names them.
pub(super) fn two_names(rest: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if rest.first() == Some(&b'"') {
        let (old, used) = unquote(rest)?;
        let second = rest.get(used..)?.trim_ascii_start();
        return Some((old, exact_name(second)?));
    }
    if rest.last() == Some(&b'"') {
        let quote = rest.windows(2).position(|pair| pair == b" \"")?;
        return Some((rest[..quote].to_vec(), unquote(&rest[quote + 1..])?.0));
    }
    let same = |old: &[u8], new: &[u8]| {
        old == new || past_slash(old).is_some_and(|rest| Some(rest) == past_slash(new))
    };
    let candidates = rest.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let mut splits = candidates.map(|at| (&rest[..at], &rest[at + 1..]));
    splits.find(|(old, new)| same(old, new)).map(|(old, new)| (old.to_vec(), new.to_vec()))
}

fn past_slash(name: &[u8]) -> Option<&[u8]> {
    name.iter().position(|byte| *byte == b'/').map(|at| &name[at + 1..])
}

/// Reads a C-style quoted string: its bytes, and how many of `text` it took.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut out = Vec::new();
    let mut at = 1;
    loop {
        let byte = *text.get(at)?;
        at += 1;
        match byte {
            b'"' => return Some((out, at)),
            b'\\' => {
                let escaped = *text.get(at)?;
                at += 1;
                out.push(match escaped {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'"' | b'\\' => escaped,
                    b'0'..=b'3' => {
                        let digits = text.get(at - 1..at + 2)?;
                        at += 2;
                        u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?
                    }
                    _ => return None,
                });
            }
            _ => out.push(byte),
        }
    }
}

/// Writes a name as git does: as it is, or in quotes when it has bytes that need them.
pub(super) fn quote(name: &[u8]) -> String {
    use std::fmt::Write as _;
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let mut out = String::with_capacity(name.len() + 2);
    if name.iter().all(plain) {
        out.extend(name.iter().map(|byte| char::from(*byte)));
        return out;
    }
    out.push('"');
    for byte in name {
        match byte {
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            11 => out.push_str("\\v"),
            12 => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            _ if plain(byte) => out.push(char::from(*byte)),
            _ => {
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
    out.push('"');
    out
}

/// Takes the prefixes off a pair of names, where there are any. Neither is [`NOTHING`].
pub(super) fn without_prefixes<'n>(old: &'n [u8], new: &'n [u8]) -> (&'n [u8], &'n [u8]) {
    // What git writes: a/ and b/, the other way round with -R, and the letters of diff.mnemonicPrefix.
    let usual = |pair: (u8, u8)| matches!(pair, (b'a', b'b') | (b'b', b'a'));
    let letters = |letter: u8| matches!(letter, b'i' | b'w' | b'c' | b'o' | b'1' | b'2');
    match (letter(old), letter(new)) {
        (Some((one, old)), Some((two, new))) if usual((one, two)) => (old, new),
        (Some((one, old)), Some((two, new))) if one != two && letters(one) && letters(two) && old == new => {
            (old, new)
        }
        (Some((b'a', rest)), _) if rest == new => (rest, new),
        (_, Some((b'b', rest))) if rest == old => (old, rest),
        // One of them has the tree's own path before it.
        (Some((b'a', rest)), None) if is_below(new, rest) => (rest, new),
        (None, Some((b'b', rest))) if is_below(old, rest) => (old, rest),
        _ => (old, new),
    }
}

/// Whether an absolute name ends in `/` and `rest`.
fn is_below(name: &[u8], rest: &[u8]) -> bool {
    name.first() == Some(&b'/') && name.strip_suffix(rest).is_some_and(|above| above.ends_with(b"/"))
}

/// Takes the prefix off a name whose partner is [`NOTHING`].
pub(super) fn without_one_prefix(name: &[u8]) -> &[u8] {
    match letter(name) {
        Some((b'a' | b'b', rest)) => rest,
        _ => name,
    }
}

/// `x/rest` as `x` and `rest`.
fn letter(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        [letter, b'/', rest @ ..] if !rest.is_empty() => Some((*letter, rest)),
        _ => None,
    }
}

/// `a/x` or `b/x` as `x`: for patches that have one prefix on both sides.
pub(super) fn without_prefix(path: &Path) -> Option<&Path> {
    path.strip_prefix("a").or_else(|_| path.strip_prefix("b")).ok().filter(|rest| *rest != Path::new(""))
}

/// Makes a relative path of a name, which may be absolute when it is below `root`.
pub(super) fn path(name: &[u8], root: &Path) -> Result<PathBuf, &'static str> {
    if name.is_empty() {
        return Err("the name is empty");
    }
    if name.len() > MAX_PATH {
        return Err("the path is too long");
    }
    if name.contains(&0) {
        return Err("the name has a NUL byte");
    }
    let mut path = PathBuf::new();
    let name = PathBuf::from(OsString::from_vec(name.to_vec()));
    let below = match name.strip_prefix(root) {
        Err(_) if name.is_absolute() => {
            return Err("the path is absolute and not below the workspace's directory");
        }
        Err(_) => &name,
        Ok(below) => below,
    };
    for component in below.components() {
        match component {
            Component::Normal(part) if part.as_bytes().len() > 255 => {
                return Err("a part of the path is longer than 255 bytes");
            }
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err("the path goes up with `..`"),
            Component::RootDir | Component::Prefix(_) => return Err("the path is absolute"),
        }
    }
    match name.as_os_str().as_bytes().last() {
        _ if path == Path::new("") => Err("the path names the directory itself"),
        Some(b'/') => Err("the path names a directory"),
        _ => Ok(path),
    }
}
