//! Values that are not to be seen, taken out of what is shown or kept: `[REDACTED]` stands where one was.
//!
//! A value is looked for without the white space around it, as `echo $TOKEN` prints it, and also as a terminal shows it
//! (`\r\n` for `\n`), as a message quotes it (`\"` for `"`) and as a shell's line does (`'\''` for `'`). Where values
//! overlap, all of them go.
//!
//! A stream is redacted as it comes, however it is cut. Held back is exactly the end of it that could be the beginning of
//! a value: at most the longest value less one byte, and mostly nothing. A pause does not let go of it, or a value that
//! is printed byte by byte would be seen; only more output does, or the end.
//!
//! Not recognised is a value that was changed before it was printed, such as its base64.

use std::borrow::Cow;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// Text in place of a value.
pub const MARK: &str = "[REDACTED]";
/// Length from which on values are looked for, bytes: too much that is no secret looks like a shorter one.
pub const SHORTEST: usize = 4;

/// Values to look for. Clones share them.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Patterns>>);

struct Patterns {
    search: AhoCorasick,
    values: Vec<Value>,
}

/// Value with the table that tells how much of it a text ends with (Knuth, Morris and Pratt's failure function).
struct Value {
    bytes: Vec<u8>,
    fail: Vec<u32>,
}

/// The values are not shown.
impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.0.as_ref().map_or(0, |patterns| patterns.values.len());
        write!(f, "Redactor({count} values)")
    }
}

/// Error of values that are too long together.
#[derive(Debug, thiserror::Error)]
#[error("these values are too long together to be looked for")]
pub struct TooMuch;

impl Redactor {
    /// Looks for these values; one shorter than [`SHORTEST`] without the white space around it is not looked for.
    ///
    /// # Errors
    /// When they are too long together.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, TooMuch> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for value in values {
            let value = value.trim_matches(|c: char| c.is_ascii_whitespace());
            if value.len() < SHORTEST {
                continue;
            }
            let quoted = format!("{value:?}");
            let forms = [
                value.to_owned(),
                value.replace('\n', "\r\n"),
                quoted[1..quoted.len() - 1].to_owned(),
                value.replace('\'', r#"'"'"'"#),
                value.replace('\'', r"'\''"),
            ];
            all.extend(forms.map(String::into_bytes));
        }
        all.sort_unstable();
        all.dedup();
        if all.is_empty() {
            return Ok(Self(None));
        }
        // A full table would take a KiB for each byte of a value.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let search = AhoCorasick::builder().match_kind(MatchKind::Standard).kind(kind).build(&all);
        let search = search.map_err(|_| TooMuch)?;
        let values = all.into_iter().map(Value::new).collect();
        Ok(Self(Some(Arc::new(Patterns { search, values }))))
    }

    /// Whether there is nothing to look for.
    pub fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// A whole text without the values.
    pub fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.stream();
        let mut clean = Vec::with_capacity(bytes.len());
        stream.push(bytes, &mut clean);
        stream.finish(&mut clean);
        clean
    }

    /// A whole text without the values.
    pub fn text(&self, text: &str) -> String {
        match &self.0 {
            None => text.to_owned(),
            Some(_) => String::from_utf8_lossy(&self.bytes(text.as_bytes())).into_owned(),
        }
    }

    /// The first `end` bytes of a text without the values, also without a part of one that goes on beyond, and whether
    /// there was any. The text should go on for [`Self::reach`] bytes more, or to its end.
    pub fn head<'t>(&self, text: &'t [u8], end: usize) -> (Cow<'t, [u8]>, bool) {
        let end = end.min(text.len());
        let Some(patterns) = &self.0 else { return (Cow::Borrowed(&text[..end]), false) };
        let (mut stream, mut clean) = (self.stream(), Vec::with_capacity(end));
        stream.held.extend_from_slice(text);
        stream.release(patterns, end, &mut clean);
        let any = clean != text[..end];
        (Cow::Owned(clean), any)
    }

    /// Distance that a value which begins in a text can reach beyond its end, bytes.
    pub fn reach(&self) -> usize {
        let longest = self.0.as_ref().and_then(|all| all.values.iter().map(|value| value.bytes.len()).max());
        longest.map_or(0, |longest| longest - 1)
    }

    /// Count of bytes at the end of a text that are the beginning of a value, the longest such: what follows may be its rest.
    pub fn begun(&self, text: &[u8]) -> usize {
        self.0.as_ref().map_or(0, |patterns| patterns.begun(text))
    }

    /// Begins a stream that is redacted as it comes.
    pub fn stream(&self) -> RedactedStream {
        RedactedStream { redactor: self.clone(), held: Vec::new(), covered: 0 }
    }
}

impl Patterns {
    /// Count of bytes at the end of `text` that are the beginning of a value, and not all of it.
    fn begun(&self, text: &[u8]) -> usize {
        self.values.iter().map(|value| value.begun(text)).max().unwrap_or_default()
    }
}

impl Value {
    fn new(bytes: Vec<u8>) -> Self {
        let mut fail = vec![0_u32; bytes.len()];
        let mut length = 0_usize;
        for at in 1..bytes.len() {
            while length > 0 && bytes[at] != bytes[length] {
                length = fail[length - 1] as usize;
            }
            length += usize::from(bytes[at] == bytes[length]);
            fail[at] = u32::try_from(length).unwrap_or(u32::MAX);
        }
        Self { bytes, fail }
    }

    /// Count of bytes at the end of `text` that are the beginning of this value, and not all of it.
    fn begun(&self, text: &[u8]) -> usize {
        let tail = &text[text.len() - text.len().min(self.bytes.len() - 1)..];
        let mut length = 0_usize;
        for byte in tail {
            while length > 0 && *byte != self.bytes[length] {
                length = self.fail[length - 1] as usize;
            }
            length += usize::from(*byte == self.bytes[length]);
        }
        length
    }
}

/// Stream on its way through a [`Redactor`].
#[derive(Debug)]
pub struct RedactedStream {
    redactor: Redactor,
    /// The end of what came, which could be the beginning of a value.
    held: Vec<u8>,
    /// Bytes of `held` that belong to a value that was replaced already.
    covered: usize,
}

impl RedactedStream {
    /// Takes the next bytes, and adds to `clean` what can be shown now.
    pub fn push(&mut self, bytes: &[u8], clean: &mut Vec<u8>) {
        let Some(patterns) = self.redactor.0.clone() else {
            clean.extend_from_slice(bytes);
            return;
        };
        self.held.extend_from_slice(bytes);
        let begun = patterns.begun(&self.held);
        self.release(&patterns, self.held.len() - begun, clean);
    }

    /// Ends the stream: what was held back was no value.
    pub fn finish(&mut self, clean: &mut Vec<u8>) {
        if let Some(patterns) = self.redactor.0.clone() {
            self.release(&patterns, self.held.len(), clean);
        }
    }

    /// Lets go of the first `end` bytes. A value that began in them may go on in the rest.
    fn release(&mut self, patterns: &Patterns, end: usize, clean: &mut Vec<u8>) {
        if end == 0 {
            return;
        }
        let mut hidden: Vec<(usize, usize)> = Vec::new();
        if self.covered > 0 {
            hidden.push((0, self.covered));
        }
        let announced = hidden.len();
        for found in patterns.search.find_overlapping_iter(&self.held) {
            let (mut start, mut stop) = (found.start(), found.end());
            // They come by their ends: a longer one may swallow several before it.
            while let Some((before, last)) = hidden.last().copied()
                && start < last
            {
                (start, stop) = (start.min(before), stop.max(last));
                hidden.pop();
            }
            hidden.push((start, stop));
        }
        let mut at = 0;
        self.covered = 0;
        for (index, (start, stop)) in hidden.iter().copied().enumerate() {
            if start >= end {
                break;
            }
            clean.extend_from_slice(&self.held[at..start]);
            if index > 0 || announced == 0 {
                clean.extend_from_slice(MARK.as_bytes());
            }
            at = stop.min(end);
            self.covered = stop.saturating_sub(end);
        }
        clean.extend_from_slice(&self.held[at..end]);
        self.held.drain(..end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redact(values: &[&str], pieces: &[&[u8]]) -> String {
        let mut stream = Redactor::new(values.iter().copied()).unwrap().stream();
        let mut clean = Vec::new();
        pieces.iter().for_each(|piece| stream.push(piece, &mut clean));
        stream.finish(&mut clean);
        String::from_utf8(clean).unwrap()
    }

    #[test]
    fn a_value_is_found_wherever_it_is_cut() {
        let text = b"token=hunter2hunter2; again hunter2hunter2 and hunter2hunter";
        let wanted = "token=[REDACTED]; again [REDACTED] and hunter2hunter";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(redact(&["hunter2hunter2"], &pieces), wanted, "{first} {second}");
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(redact(&["hunter2hunter2"], &bytes), wanted);
    }

    #[test]
    fn a_text_may_go_on_to_be_a_value() {
        let redactor = Redactor::new(["hunter2hunter2"]).unwrap();
        let may = |text: &str| redactor.begun(text.as_bytes()) > 0;
        assert!(may("x hunt") && may("h") && may("hunter2hunter2"), "one may follow another");
        assert!(!may("x hunt ") && !may("") && !may("hunterx"));
        assert_eq!(redactor.begun(b"x hunt"), 4);
        assert_eq!(Redactor::default().begun(b"hunt"), 0);
    }

    #[test]
    fn nothing_is_held_back_but_the_beginning_of_a_value() {
        let mut stream = Redactor::new(["hunter2"]).unwrap().stream();
        let mut clean = Vec::new();
        stream.push(b"$ whoami\nroot\n# ", &mut clean);
        assert_eq!(clean, b"$ whoami\nroot\n# ");
        stream.push(b"hunte", &mut clean);
        assert_eq!(clean, b"$ whoami\nroot\n# ");
        stream.push(b"d", &mut clean);
        assert_eq!(clean, b"$ whoami\nroot\n# hunted");
    }

    #[test]
    fn a_part_of_a_text_shows_no_part_of_a_value() {
        let (text, redactor) = (b"a hunter2 b", Redactor::new(["hunter2"]).unwrap());
        assert_eq!(redactor.reach(), 6);
        for end in 0..=text.len() + 3 {
            let (clean, any) = redactor.head(text, end);
            let wanted: &[u8] = match end {
                0..=2 => &text[..end],
                3..=9 => b"a [REDACTED]",
                10 => b"a [REDACTED] ",
                _ => b"a [REDACTED] b",
            };
            assert_eq!((&*clean, any), (wanted, end > 2), "{end}");
        }
        let idle = Redactor::default();
        assert_eq!((idle.reach(), idle.head(b"abc", 2)), (0, (Cow::Borrowed(&b"ab"[..]), false)));
    }

    #[test]
    fn overlapping_values_go_whole() {
        assert_eq!(redact(&["abcd", "cdef"], &[b"xabcdefx"]), "x[REDACTED]x");
        assert_eq!(redact(&["abcd", "cdef"], &[b"xabc", b"de", b"fx"]), "x[REDACTED]x");
        assert_eq!(redact(&["abcd", "abcdefgh"], &[b"abcde", b"fgh", b"abcde"]), "[REDACTED][REDACTED]e");
        assert_eq!(redact(&["bcde", "abcdefgh"], &[b"abcdefgi"]), "a[REDACTED]fgi");
        assert_eq!(redact(&["aaaa"], &[b"aaaaaaaaa"]), "[REDACTED]");
    }

    #[test]
    fn a_value_is_known_in_other_clothes() {
        assert_eq!(redact(&["hunter2\n"], &[b"hunter2 "]), "[REDACTED] ");
        assert_eq!(redact(&["line1\nline2"], &[b"line1\r\nline2\r\n"]), "[REDACTED]\r\n");
        let text = format!("{:?}", "pass\"word\\");
        assert_eq!(redact(&["pass\"word\\"], &[text.as_bytes()]), "\"[REDACTED]\"");
        assert_eq!(redact(&["abc", "  x "], &[b"abc x"]), "abc x");
        assert!(!format!("{:?}", Redactor::new(["hunter2"]).unwrap()).contains("hunter2"));
    }

    /// All bytes of all values, found the slow way, replaced run by run.
    fn slowly(values: &[String], text: &str) -> String {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for start in 0..text.len() {
            let longest = values
                .iter()
                .filter(|value| text[start..].starts_with(value.as_str()))
                .map(|value| start + value.len())
                .max();
            let Some(stop) = longest else { continue };
            match runs.last_mut() {
                Some((_, last)) if start < *last => *last = stop.max(*last),
                _ => runs.push((start, stop)),
            }
        }
        let (mut clean, mut at) = (String::new(), 0);
        for (start, stop) in runs {
            clean.push_str(&text[at..start]);
            clean.push_str(MARK);
            at = stop;
        }
        clean + &text[at..]
    }

    proptest! {
        /// However it is cut, the same comes out, and it is what the slow way finds.
        #[test]
        fn cuts_make_no_difference(
            values in prop::collection::vec("[ab]{4,7}", 1..4),
            text in "[abc]{0,60}",
            cuts in prop::collection::vec(0_usize..61, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let given: Vec<&str> = values.iter().map(String::as_str).collect();
            prop_assert_eq!(redact(&given, &pieces), slowly(&values, &text));
        }
    }
}
