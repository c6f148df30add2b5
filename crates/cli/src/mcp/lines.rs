//! The protocol on standard input and output, one message a line. The SDK's own transport passes over what it cannot
//! read, and a client that asked waits for ever; here whoever gave an id is answered.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequest, CallToolRequestMethod, CallToolRequestParams, ErrorCode, ErrorData, JsonObject,
    JsonRpcMessage, JsonRpcVersion2_0, RequestId, RequestMetaObject,
};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::server::LONGEST;

/// Room that a buffer keeps after a long message, bytes.
const ROOM: usize = 64 << 10;
/// Longest id and name of a member that are understood, bytes.
const WORD: usize = 256;
/// Answers under way to what could not be read.
const ANSWERS: usize = 16;

type Incoming = RxJsonRpcMessage<RoleServer>;
type Outgoing = TxJsonRpcMessage<RoleServer>;

/// Lines from a client and lines to it.
pub struct Lines<R, W> {
    input: BufReader<R>,
    line: Vec<u8>,
    /// Outline of a line that is too long to be kept.
    too_long: Option<Outline>,
    /// Whether anything was asked yet.
    begun: bool,
    output: Arc<Mutex<Option<W>>>,
    answers: JoinSet<()>,
}

/// Outcome of reading a line.
enum Read {
    Line,
    TooLong(Outline),
    End,
}

impl<R, W> Lines<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Lines by these streams.
    pub fn new(input: R, output: W) -> Self {
        Self {
            input: BufReader::new(input),
            line: Vec::new(),
            too_long: None,
            begun: false,
            output: Arc::new(Mutex::new(Some(output))),
            answers: JoinSet::new(),
        }
    }

    /// Reads to the end of a line. Nothing is lost when it is dropped: nothing is awaited between taking bytes and
    /// keeping them.
    async fn read(&mut self) -> Read {
        loop {
            let (taken, ends) = match self.input.fill_buf().await {
                Err(_) | Ok([]) => return Read::End,
                Ok(bytes) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
                    match &mut self.too_long {
                        Some(outline) => outline.feed(part),
                        None if self.line.len() + part.len() > LONGEST => {
                            let outline = self.too_long.insert(Outline::default());
                            outline.feed(&std::mem::take(&mut self.line));
                            outline.feed(part);
                        }
                        None => self.line.extend_from_slice(part),
                    }
                    (part.len() + usize::from(end.is_some()), end.is_some())
                }
            };
            self.input.consume(taken);
            if ends {
                return self.too_long.take().map_or(Read::Line, Read::TooLong);
            }
        }
    }

    /// The message of the line that was read, or the answer to it.
    fn message(&mut self) -> Result<Option<Incoming>, ErrorData> {
        let line = self.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.line).trim_ascii();
        let message = match line {
            [] => Ok(None),
            line => match serde_json::from_slice(line) {
                Ok(Object(ToolCall { id, params: Object(params), .. })) => Ok(Some(params.request(id))),
                // It may be something else; if it is nothing at all, this says why.
                Err(_) => serde_json::from_slice(line).map(Some),
            },
        };
        message.map_err(|error| {
            let why = format!("the message cannot be read: {error}");
            let code = if error.is_data() { ErrorCode::INVALID_REQUEST } else { ErrorCode::PARSE_ERROR };
            ErrorData::new(code, why, None)
        })
    }

    /// Answers what cannot be served, if it was a request. Garbage is not answered, so that two programs that do not
    /// understand each other do not go on for ever.
    fn refuse(&mut self, outline: Outline, error: ErrorData) {
        if let (Some(id), true) = (outline.id, outline.asks) {
            let answer = write(Arc::clone(&self.output), JsonRpcMessage::error(error, Some(id)));
            self.answers.spawn(async move { drop(answer.await) });
        }
    }
}

impl<R, W> Transport<RoleServer> for Lines<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(&mut self, item: Outgoing) -> impl Future<Output = io::Result<()>> + Send + 'static {
        write(Arc::clone(&self.output), item)
    }

    async fn receive(&mut self) -> Option<Incoming> {
        loop {
            // A client that does not listen is not read either.
            while self.answers.len() >= ANSWERS {
                self.answers.join_next().await;
            }
            match self.read().await {
                Read::End => return None,
                Read::TooLong(outline) => {
                    let why = format!("the message is longer than {LONGEST} bytes");
                    self.refuse(outline, ErrorData::invalid_request(why, None));
                }
                Read::Line => {
                    let message = self.message();
                    let refused = message.as_ref().err().map(|_| Outline::of(&self.line));
                    self.line.clear();
                    self.line.shrink_to(ROOM);
                    match (message, refused) {
                        // What is told before anything was asked is told to nobody.
                        (Ok(Some(message)), _) if self.begun || asks(&message) => {
                            self.begun = true;
                            return Some(message);
                        }
                        (Err(error), Some(outline)) => self.refuse(outline, error),
                        _ => {}
                    }
                }
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        while self.answers.join_next().await.is_some() {}
        drop(self.output.lock().await.take());
        Ok(())
    }
}

/// Most of what is asked, where nothing about it is unusual. The SDK's own reading takes a message for each of many kinds
/// in turn, which costs four times as much, and as much memory again as the message is long.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCall {
    #[serde(rename = "jsonrpc")]
    _version: JsonRpcVersion2_0,
    id: RequestId,
    #[serde(rename = "method")]
    _method: CallToolRequestMethod,
    params: Object<ToolCallParams>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCallParams {
    name: String,
    arguments: Option<JsonObject>,
    #[serde(rename = "_meta")]
    meta: Option<JsonObject>,
}

impl ToolCallParams {
    fn request(self, id: RequestId) -> Incoming {
        let mut params = CallToolRequestParams::new(self.name);
        params.arguments = self.arguments;
        let mut request = CallToolRequest::new(params);
        if let Some(meta) = self.meta {
            request.extensions.insert(RequestMetaObject::from(meta));
        }
        JsonRpcMessage::request(request.into(), id)
    }
}

/// A struct that was written as an object: serde would take an array of its fields for it too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

fn asks(message: &Incoming) -> bool {
    matches!(message, JsonRpcMessage::Request(_))
}

async fn write<W: AsyncWrite + Unpin>(output: Arc<Mutex<Option<W>>>, message: Outgoing) -> io::Result<()> {
    let mut line = serde_json::to_vec(&message)?;
    line.push(b'\n');
    let mut output = output.lock().await;
    let output = output.as_mut().ok_or(io::ErrorKind::NotConnected)?;
    output.write_all(&line).await?;
    output.flush().await
}

/// Request that a message is, as far as it is seen without a parser. It is fed byte by byte and keeps next to nothing,
/// because the message may be too long, too deep, or not text.
#[derive(Default)]
struct Outline {
    id: Option<RequestId>,
    /// Whether it has a method: an answer has none.
    asks: bool,
    depth: u64,
    quoted: bool,
    escaped: bool,
    /// The member's name, and its value so far.
    name: Vec<u8>,
    word: Vec<u8>,
}

impl Outline {
    fn of(line: &[u8]) -> Self {
        let mut outline = Self::default();
        outline.feed(line);
        outline
    }

    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.quoted {
                self.keep(byte);
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.quoted = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => {
                    self.quoted = true;
                    self.keep(byte);
                }
                b':' if self.depth == 1 => self.name = std::mem::take(&mut self.word),
                b',' if self.depth == 1 => self.member(),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    if self.depth == 1 {
                        self.member();
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                _ if byte.is_ascii_whitespace() => {}
                _ => self.keep(byte),
            }
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
            b"\"id\"" if value.len() <= WORD => self.id = serde_json::from_slice(&value).ok(),
            b"\"method\"" => self.asks = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(line: &str) -> (Option<RequestId>, bool) {
        let whole = Outline::of(line.as_bytes());
        let mut parts = Outline::default();
        line.bytes().for_each(|byte| parts.feed(&[byte]));
        assert_eq!((&whole.id, whole.asks), (&parts.id, parts.asks), "{line}");
        (whole.id, whole.asks)
    }

    #[test]
    fn a_request_is_known_by_its_outline() {
        let number = |id| Some(RequestId::Number(id));
        let word = |id: &str| Some(RequestId::String(id.into()));
        for (line, id, asks) in [
            (r#"{"jsonrpc":"2.0","id":7,"method":"x"}"#, number(7), true),
            (r#" { "method" : "x" , "params" : { "id" : 8 } , "id" : "a\"}" } "#, word("a\"}"), true),
            (r#"{"params":{"a":["{",{"id":1}],"method":"y"},"id":-9,"method":5}"#, number(-9), true),
            (r#"{"method":"\ud800","id":1}"#, number(1), true),
            (r#"{"id":1,"result":{"method":"x"}}"#, number(1), false),
            (r#"{"method":"x","params":"\"id\":5,"}"#, None, true),
            (r#"{"method":"x","id":{"id":4}}"#, None, true),
            (r#"{"method":"x","id":true}"#, None, true),
            (r#"[{"method":"x","id":1}]"#, None, false),
            (r#"id:1,method}}}}]],{"id":2"#, None, false),
            ("", None, false),
        ] {
            assert_eq!(outline(line), (id, asks), "{line}");
        }
        let deep =
            format!(r#"{{"method":"x","params":{}{},"id":3}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(outline(&deep), (number(3), true));
        let long = format!(r#"{{"method":"x","id":"{}"}}"#, "a".repeat(WORD));
        assert_eq!(outline(&long), (None, true));
    }

    /// Calls of tools that are read at once are as the SDK reads them; of all others the SDK's word counts.
    #[test]
    fn a_call_is_read_as_the_sdk_reads_it() {
        let call = |id: &str, method: &str, params: &str, more: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}{more}}}"#)
        };
        let exec = r#"{"name":"workspace_exec","arguments":{"workspace_id":"a","command":"é\n\u0000"}}"#;
        let mut direct = 0;
        for line in [
            call("1", "tools/call", exec, ""),
            call("\"a\"", "tools/call", exec, ""),
            call("1", "tools/call", r#"{"name":"x"}"#, ""),
            call("1", "tools/call", r#"{"name":"x","arguments":null}"#, ""),
            call("1", "tools/call", r#"{"arguments":{},"name":"x"}"#, ""),
            call("1", "tools/call", r#"{"name":"x","arguments":[]}"#, ""),
            call("1", "tools/call", r#"{"name":"x","name":"y"}"#, ""),
            call("1", "tools/call", r#"{"name":7}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":{"progressToken":5}}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":{"progressToken":"5","more":{}}}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":null}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":5}"#, ""),
            call("1", "tools/call", r#"["x",{}]"#, ""),
            r#"["2.0",1,"tools/call",{"name":"x"}]"#.to_owned(),
            call("1", "tools/call", r#"{"name":"x","more":1}"#, ""),
            call("1", "tools/call", exec, r#","result":{}"#),
            call("1", "tools/call", exec, r#","more":{}"#),
            call("null", "tools/call", exec, ""),
            call("1.5", "tools/call", exec, ""),
            call("1", "tools/list", "{}", ""),
            call("1", "tools/call", exec, "").replace("2.0", "1.0"),
            call("1", "tools/call", exec, "").replace(r#""id":1,"#, ""),
        ] {
            direct += usize::from(serde_json::from_str::<Object<ToolCall>>(&line).is_ok());
            // What a request carries beside its parameters is only seen when it is written again.
            let shown = |message: Result<Incoming, String>| {
                message.map(|m| (format!("{m:?}"), serde_json::to_string(&m).unwrap()))
            };
            let sdks = serde_json::from_str::<Incoming>(&line).map_err(|error| error.to_string());
            let mut lines = Lines::new(&b""[..], tokio::io::sink());
            lines.line = line.clone().into_bytes();
            let ours = lines.message().map(Option::unwrap);
            let ours = ours.map_err(|error| error.message.replace("the message cannot be read: ", ""));
            assert_eq!(shown(ours), shown(sdks), "{line}");
        }
        assert_eq!(direct, 8);
    }

    async fn conversation(input: &[u8]) -> (Vec<String>, String) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut lines = Lines::new(input, ours);
        let mut got = Vec::new();
        while let Some(message) = lines.receive().await {
            got.push(serde_json::to_string(&message).unwrap());
        }
        lines.close().await.unwrap();
        let mut said = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut theirs, &mut said).await.unwrap();
        (got, said)
    }

    #[tokio::test]
    async fn who_asks_is_answered_and_who_does_not_is_not() {
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let wrong = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"\ud800"}}"#;
        let told = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let input = format!("{told}\n\n{{\nnonsense\n\u{feff}{ping}\r\n{wrong}\n{told}\n{ping}");
        let (got, said) = conversation(input.as_bytes()).await;
        assert_eq!(got.len(), 2, "{got:?}");
        assert!(got[0].contains("ping") && got[1].contains("initialized"), "{got:?}");
        let answer: serde_json::Value = serde_json::from_str(said.trim_end()).unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&2.into(), &(-32700).into()), "{said}");
    }
}
