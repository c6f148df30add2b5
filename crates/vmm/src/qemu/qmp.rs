//! The wire format of QEMU's machine protocol: one JSON object a line, both ways.
//!
//! No IO: bytes in, messages out; commands in, bytes out. The guest cannot write here, but a QEMU that it took over
//! could, so lines are bounded and nothing is assumed about what they hold.

use serde_json::{Map, Value, json};

/// The longest line that is believed. QEMU's own answers stay far below.
const LINE_LIMIT: usize = 1 << 20;

/// What QEMU says.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// A command succeeded.
    Return { id: u64, value: Value },
    /// A command failed; QEMU's words.
    Error { id: Option<u64>, detail: String },
    /// Something happened.
    Event { name: String, data: Map<String, Value> },
    /// The greeting, or something from a newer QEMU that nobody waits for.
    Other,
}

/// What cannot have come from a QEMU in its right mind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QmpError {
    #[error("a line longer than {LINE_LIMIT} bytes")]
    TooLong,
    #[error("a line that is no JSON object")]
    NotJson,
}

/// Takes bytes as they come and gives messages.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    pending: Vec<u8>,
    /// How much of `pending` was searched for a line's end already.
    searched: usize,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes come.
    pub(super) fn next(&mut self) -> Result<Option<Message>, QmpError> {
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

fn parse(line: &[u8]) -> Result<Message, QmpError> {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(line) else { return Err(QmpError::NotJson) };
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(error) = object.get("error") {
        let detail = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        return Ok(Message::Error { id, detail });
    }
    if let (Some(id), Some(value)) = (id, object.remove("return")) {
        return Ok(Message::Return { id, value });
    }
    if let Some(Value::String(name)) = object.remove("event") {
        let data = match object.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        return Ok(Message::Event { name, data });
    }
    Ok(Message::Other)
}

/// One command as a line.
pub(super) fn encode(id: u64, command: &str, arguments: &Value) -> Vec<u8> {
    let mut object = json!({ "execute": command, "id": id });
    if !arguments.is_null() {
        object["arguments"] = arguments.clone();
    }
    let mut line = object.to_string().into_bytes();
    line.push(b'\n');
    line
}
