//! Wire format of QEMU's machine protocol (QMP): one JSON object a line, both ways.
//!
//! No IO: bytes in, messages out; commands in, bytes out. A guest cannot write here, but a QEMU that it took over
//! could, so lines are bounded and nothing is assumed of their contents.

use serde_json::{Map, Value, json};

/// Longest accepted line in bytes. QEMU's own answers stay far below.
const LINE_LIMIT: usize = 1 << 20;

/// Message from QEMU.
#[derive(Debug, PartialEq)]
pub(super) enum QmpMessage {
    /// Answer of a command that succeeded.
    Return { id: u64, value: Value },
    /// Answer of a command that failed; `detail` is QEMU's message.
    Error { id: Option<u64>, detail: String },
    /// Event, sent without a command.
    Event { name: String, data: Map<String, Value> },
    /// Greeting, or an object that a newer QEMU sends.
    Other,
}

/// Violation of the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QmpError {
    #[error("a line longer than {LINE_LIMIT} bytes")]
    TooLong,
    #[error("a line that is no JSON object")]
    NotJson,
}

/// Decoder of a byte stream, cut anywhere, into messages.
#[derive(Debug, Default)]
pub(super) struct QmpDecoder {
    pending: Vec<u8>,
    /// Bytes at the start of `pending` that hold no line end.
    searched: usize,
}

impl QmpDecoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` until more bytes come.
    pub(super) fn next(&mut self) -> Result<Option<QmpMessage>, QmpError> {
        loop {
            let Some(offset) = self.pending[self.searched..].iter().position(|&byte| byte == b'\n') else {
                self.searched = self.pending.len();
                return if self.searched > LINE_LIMIT { Err(QmpError::TooLong) } else { Ok(None) };
            };
            let end = self.searched + offset;
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.searched = 0;
            if line.len() > LINE_LIMIT {
                return Err(QmpError::TooLong);
            }
            if !line.trim_ascii().is_empty() {
                return parse(&line).map(Some);
            }
        }
    }
}

fn parse(line: &[u8]) -> Result<QmpMessage, QmpError> {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(line) else { return Err(QmpError::NotJson) };
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(error) = object.get("error") {
        let detail = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        return Ok(QmpMessage::Error { id, detail });
    }
    if let (Some(id), Some(value)) = (id, object.remove("return")) {
        return Ok(QmpMessage::Return { id, value });
    }
    if let Some(Value::String(name)) = object.remove("event") {
        let data = match object.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        return Ok(QmpMessage::Event { name, data });
    }
    Ok(QmpMessage::Other)
}

/// Encodes one command as a line; `Null` arguments are left out.
pub(super) fn encode(id: u64, command: &str, arguments: &Value) -> Vec<u8> {
    let mut object = json!({ "execute": command, "id": id });
    if !arguments.is_null() {
        object["arguments"] = arguments.clone();
    }
    let mut line = object.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRANSCRIPT: &str = concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#,
        "\r\n",
        r#"{"return": {}, "id": 1}"#,
        "\r\n\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "completed"}}"#,
        "\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
        "\r\n",
        r#"{"id": 2, "error": {"class": "GenericError", "desc": "no"}}"#,
        "\r\n",
    );

    fn all(decoder: &mut QmpDecoder) -> Vec<QmpMessage> {
        std::iter::from_fn(|| decoder.next().unwrap()).collect()
    }

    fn expected() -> Vec<QmpMessage> {
        let Value::Object(data) = json!({ "status": "completed" }) else { unreachable!() };
        vec![
            QmpMessage::Other,
            QmpMessage::Return { id: 1, value: json!({}) },
            QmpMessage::Event { name: "MIGRATION".into(), data },
            QmpMessage::Event { name: "STOP".into(), data: Map::new() },
            QmpMessage::Error { id: Some(2), detail: "no".into() },
        ]
    }

    #[test]
    fn a_transcript_is_read_however_it_is_cut() {
        for cut in 0..TRANSCRIPT.len() {
            let mut decoder = QmpDecoder::default();
            let (one, two) = TRANSCRIPT.as_bytes().split_at(cut);
            decoder.push(one);
            let mut messages = all(&mut decoder);
            decoder.push(two);
            messages.extend(all(&mut decoder));
            assert_eq!(messages, expected(), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut decoder = QmpDecoder::default();
        decoder.push(&vec![b'x'; LINE_LIMIT]);
        assert_eq!(decoder.next(), Ok(None));
        decoder.push(b"x");
        assert_eq!(decoder.next(), Err(QmpError::TooLong));
    }

    #[test]
    fn commands_are_one_line() {
        let line = encode(7, "getfd", &json!({ "fdname": "a\nb" }));
        assert_eq!(line, b"{\"arguments\":{\"fdname\":\"a\\nb\"},\"execute\":\"getfd\",\"id\":7}\n");
        assert_eq!(encode(8, "stop", &Value::Null), b"{\"execute\":\"stop\",\"id\":8}\n");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(lines in proptest::collection::vec("\\PC{0,60}|\\{\"(id|return|error|event|data)\": ?[0-9\"{}a-z]{0,9}\\}", 0..9)) {
            let mut decoder = QmpDecoder::default();
            decoder.push(lines.join("\n").as_bytes());
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
