//! Outline of a message: as much as is seen without a parser. It is fed byte by byte and keeps next to nothing, because the
//! message may be too long, too deep, or not text; and it tells how much a parser would have to make of it.

use rmcp::model::{ErrorCode, ErrorData, RequestId};

/// Longest message from a client, bytes: a file of 64 MiB, every byte of it escaped, is longer; a sync is for those.
pub const LONGEST: usize = 128 << 20;
/// Most values of a message, with those in others and the names of members. A tool takes a few dozen, and a value costs some
/// fifty bytes where `[],` is three.
pub const VALUES: u64 = 16_384;
/// Longest id and name of a member that are understood, bytes.
const WORD: usize = 256;

/// Message as it is seen so far.
#[derive(Default)]
pub struct Outline {
    id: Id,
    /// Whether it has a result or an error: an answer, which is not answered.
    answers: bool,
    /// First two bytes that are no blanks.
    first: [u8; 2],
    length: usize,
    values: u64,
    depth: u64,
    quoted: bool,
    escaped: bool,
    /// The member's name, and its value so far.
    name: Vec<u8>,
    word: Vec<u8>,
}

#[derive(Default)]
enum Id {
    #[default]
    Missing,
    /// Something that is no id, or too long for one.
    Wrong,
    Given(RequestId),
}

impl Outline {
    /// Outline of a whole message.
    pub fn of(message: &[u8]) -> Self {
        let mut outline = Self::default();
        outline.feed(message);
        outline
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len());
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            // What is quoted in what is in a member is passed over as fast as can be: nearly all of a long message.
            if self.quoted && !self.escaped && self.depth != 1 {
                let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
                if plain > 0 {
                    rest = rest.get(plain..).unwrap_or_default();
                    continue;
                }
            }
            self.take(*byte);
            rest = after;
        }
    }

    fn take(&mut self, byte: u8) {
        if self.quoted {
            self.keep(byte);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.quoted = false,
                _ => {}
            }
            return;
        }
        if byte.is_ascii_whitespace() {
            return;
        }
        // A mark of the bytes' order may stand before it all.
        if byte.is_ascii()
            && let Some(free) = self.first.iter_mut().find(|first| **first == 0)
        {
            *free = byte;
        }
        match byte {
            b'"' => {
                self.quoted = true;
                self.keep(byte);
            }
            b':' => {
                self.values += 1;
                if self.depth == 1 {
                    self.name = std::mem::take(&mut self.word);
                }
            }
            b',' => {
                self.values += 1;
                if self.depth == 1 {
                    self.member();
                }
            }
            b'{' | b'[' => {
                self.values += 1;
                self.depth += 1;
            }
            b'}' | b']' => {
                if self.depth == 1 {
                    self.member();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            _ => self.keep(byte),
        }
    }

    /// Keeps a byte of the message's own members, and not of what is in them.
    fn keep(&mut self, byte: u8) {
        // One more than is understood, so that what is cut is not.
        if self.depth == 1 && self.word.len() <= WORD {
            self.word.push(byte);
        }
    }

    fn member(&mut self) {
        let (name, value) = (std::mem::take(&mut self.name), std::mem::take(&mut self.word));
        match name.as_slice() {
            b"\"id\"" => {
                let id = (value.len() <= WORD).then(|| serde_json::from_slice(&value).ok()).flatten();
                self.id = id.map_or(Id::Wrong, Id::Given);
            }
            b"\"result\"" | b"\"error\"" => self.answers = true,
            _ => {}
        }
    }

    /// Bytes so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Why the message is more than is read, if it is.
    pub fn excess(&self) -> Option<ErrorData> {
        let why = if self.length > LONGEST {
            format!("the message is longer than {LONGEST} bytes")
        } else if self.values > VALUES {
            format!("the message has more than {VALUES} values")
        } else {
            return None;
        };
        Some(ErrorData::new(ErrorCode::INVALID_REQUEST, why, None))
    }

    /// Whether several messages are in it, or are meant to be.
    pub fn is_batch(&self) -> bool {
        self.first == *b"[{"
    }

    /// The id for an answer to what cannot be served: `null` (nothing, inside) where it has none that can be used. Nothing at
    /// all where nobody asked: garbage is not answered, so that two programs that do not understand each other do not go on
    /// for ever.
    pub fn asker(&self) -> Option<Option<RequestId>> {
        match &self.id {
            _ if self.is_batch() => Some(None),
            _ if self.answers => None,
            Id::Missing => None,
            Id::Wrong => Some(None),
            Id::Given(id) => Some(Some(id.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(line: &str) -> Option<Option<RequestId>> {
        let whole = Outline::of(line.as_bytes());
        let mut parts = Outline::default();
        line.bytes().for_each(|byte| parts.feed(&[byte]));
        assert_eq!((whole.asker(), whole.values), (parts.asker(), parts.values), "{line}");
        whole.asker()
    }

    #[test]
    fn a_request_is_known_by_its_outline() {
        let number = |id| Some(Some(RequestId::Number(id)));
        let word = |id: &str| Some(Some(RequestId::String(id.into())));
        let null = Some(None);
        for (line, asker) in [
            (r#"{"jsonrpc":"2.0","id":7,"method":"x"}"#, number(7)),
            (r#" { "method" : "x" , "params" : { "id" : 8 } , "id" : "a\"}" } "#, word("a\"}")),
            (r#"{"params":{"a":["{",{"id":1}],"method":"y"},"id":-9,"method":5}"#, number(-9)),
            (r#"{"method":"\ud800","id":1}"#, number(1)),
            (r#"{"id":1}"#, number(1)),
            (r#"{"id":1,"result":{"method":"x"}}"#, None),
            (r#"{"id":null,"error":{"code":1}}"#, None),
            (r#"{"method":"x","params":"\"id\":5,"}"#, None),
            (r#"{"method":"x","id":{"id":4}}"#, null.clone()),
            (r#"{"method":"x","id":[4]}"#, null.clone()),
            (r#"{"method":"x","id":true}"#, null.clone()),
            (r#"{"method":"x","id":null}"#, null.clone()),
            (r#"{"method":"x","id":1.5}"#, null.clone()),
            (r#"{"method":"x","id":1e400}"#, null.clone()),
            (r#"{"method":"x","id":99999999999999999999}"#, null.clone()),
            (r#"[{"method":"x","id":1}]"#, null.clone()),
            (r#" [ {"#, null.clone()),
            ("[1,2]", None),
            (r#"id:1,method}}}}]],{"id":2"#, None),
            ("", None),
        ] {
            assert_eq!(outline(line), asker, "{line}");
        }
        let deep =
            format!(r#"{{"method":"x","params":{}{},"id":3}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(outline(&deep), number(3));
        let long = format!(r#"{{"method":"x","id":"{}"}}"#, "a".repeat(WORD));
        assert_eq!(outline(&long), null);
    }

    #[test]
    fn a_parser_makes_no_more_of_it_than_is_counted() {
        fn count(value: &serde_json::Value) -> u64 {
            1 + match value {
                serde_json::Value::Array(all) => all.iter().map(count).sum(),
                serde_json::Value::Object(all) => all.values().map(count).sum(),
                _ => 0,
            }
        }
        for text in [
            "[]",
            "{}",
            "[1]",
            "[1,2,3]",
            "[[],[],[[]]]",
            r#"{"a":1,"b":[2,{"c":"[,:{"}]}"#,
            r#"["\"[,",5]"#,
            r#"{"a":{"b":{"c":{}}}}"#,
            "[{},{},{}]",
            "[null,true,1.5e5]",
        ] {
            let real = count(&serde_json::from_str(text).unwrap());
            let seen = Outline::of(text.as_bytes()).values + 1;
            assert!(seen >= real && seen <= 2 * real + 1, "{text}: {seen} of {real}");
        }
        let many = |count: u64| Outline::of(format!("[{}0]", "0,".repeat(count as usize - 1)).as_bytes());
        assert!(many(VALUES).excess().is_none());
        assert!(many(VALUES + 1).excess().unwrap().message.contains("16384 values"));
        // Text is no value, however much of it looks like some.
        assert!(Outline::of(format!(r#"["{}"]"#, "[],{}:".repeat(1 << 16)).as_bytes()).excess().is_none());
    }
}
