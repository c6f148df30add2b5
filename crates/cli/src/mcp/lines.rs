//! The protocol on standard input and output, one message a line. The SDK's own transport passes over what it cannot
//! read, and a client that asked waits for ever; here whoever gave an id is answered, and so are batches.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rmcp::RoleServer;
use rmcp::model::{
    ClientNotification, ClientRequest, ErrorData, JsonRpcMessage, ProtocolVersion, RequestId, ServerResult,
};
use rmcp::service::TxJsonRpcMessage;
use rmcp::transport::Transport;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::asked::{Asked, Batch};
use super::message::{self, Incoming};
use super::outline::Outline;

/// Room that a buffer keeps after a long message, bytes.
const ROOM: usize = 64 << 10;
/// Answers under way to what could not be read.
const ANSWERS: usize = 16;

type Outgoing = TxJsonRpcMessage<RoleServer>;

/// Lines from a client and lines to it.
pub struct Lines<R, W> {
    input: BufReader<R>,
    /// What was read of a line, unless it is too much to be kept.
    line: Vec<u8>,
    outline: Outline,
    /// Messages of lines that were read.
    heard: VecDeque<Incoming>,
    /// Whether anything was asked yet.
    begun: bool,
    /// The protocol's revision, once it is agreed on.
    revision: Option<ProtocolVersion>,
    asked: Asked,
    output: Arc<Mutex<Option<W>>>,
    answers: JoinSet<()>,
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
            outline: Outline::default(),
            heard: VecDeque::new(),
            begun: false,
            revision: None,
            asked: Asked::default(),
            output: Arc::new(Mutex::new(Some(output))),
            answers: JoinSet::new(),
        }
    }

    /// Reads to the end of a line, and says whether there was one. Nothing is lost when it is dropped: nothing is awaited
    /// between taking bytes and keeping them.
    async fn read(&mut self) -> bool {
        loop {
            let (taken, ends) = match self.input.fill_buf().await {
                Err(_) | Ok([]) => return false,
                Ok(bytes) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
                    self.outline.feed(part);
                    match self.outline.excess() {
                        Some(_) => self.line = Vec::new(),
                        None => self.line.extend_from_slice(part),
                    }
                    (part.len() + usize::from(end.is_some()), end.is_some())
                }
            };
            self.input.consume(taken);
            if ends {
                return true;
            }
        }
    }

    /// Hears the line that was read.
    fn hear(&mut self) {
        let outline = std::mem::take(&mut self.outline);
        let mut line = std::mem::take(&mut self.line);
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        match (outline.excess(), text) {
            (Some(error), _) => self.refuse(&outline, error),
            (None, []) => {}
            (None, [b'[', ..]) => self.hear_batch(text, &outline),
            (None, text) => match message::read(text) {
                Ok(message) => {
                    if let Err((id, error)) = self.take(message, None) {
                        self.tell(JsonRpcMessage::error(error, id));
                    }
                }
                Err(error) => self.refuse(&outline, error),
            },
        }
        line.clear();
        line.shrink_to(ROOM);
        self.line = line;
    }

    /// Hears several messages, whose answers are one line.
    fn hear_batch(&mut self, text: &[u8], outline: &Outline) {
        let each = match message::batch(text, self.revision.as_ref()) {
            Ok(each) => each,
            Err(error) if message::is_unreadable(&error) => return self.refuse(outline, error),
            Err(error) => return self.tell(JsonRpcMessage::error(error, None)),
        };
        let batch = self.asked.begin_batch();
        for one in each {
            let refused = match message::read(one) {
                Ok(JsonRpcMessage::Request(request))
                    if matches!(request.request, ClientRequest::InitializeRequest(_)) =>
                {
                    let why = "initialize is no part of a batch: send it by itself";
                    Some((Some(request.id), ErrorData::invalid_request(why, None)))
                }
                Ok(message) => self.take(message, Some(batch)).err(),
                Err(error) => message::asker_in_batch(one).map(|id| (id, error)),
            };
            if let Some((id, error)) = refused {
                let answer: Outgoing = JsonRpcMessage::error(error, id);
                self.asked.add(batch, serde_json::to_vec(&answer).unwrap_or_default());
            }
        }
        if let Some(line) = self.asked.end_batch(batch) {
            self.answer(line);
        }
    }

    /// Takes a message, to be heard in its turn.
    fn take(
        &mut self,
        message: Incoming,
        batch: Option<Batch>,
    ) -> Result<(), (Option<RequestId>, ErrorData)> {
        match &message {
            JsonRpcMessage::Request(request) => {
                if !self.asked.ask(&request.id, batch) {
                    let why = format!("the id {} is that of a request under way", request.id);
                    return Err((None, ErrorData::invalid_request(why, None)));
                }
                self.begun = true;
            }
            JsonRpcMessage::Notification(told) => {
                // What is given up is not answered.
                if let ClientNotification::CancelledNotification(cancelled) = &told.notification
                    && let Some(id) = &cancelled.params.request_id
                    && let Some(line) = self.asked.give_up(id)
                {
                    self.answer(line);
                }
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
        }
        // What is told before anything was asked is told to nobody.
        if self.begun {
            self.heard.push_back(message);
        }
        Ok(())
    }

    /// Answers what cannot be served, if somebody asked.
    fn refuse(&mut self, outline: &Outline, error: ErrorData) {
        if let Some(id) = outline.asker() {
            self.tell(JsonRpcMessage::error(error, id));
        }
    }

    fn tell(&mut self, answer: Outgoing) {
        self.answer(serde_json::to_vec(&answer).unwrap_or_default());
    }

    fn answer(&mut self, line: Vec<u8>) {
        let answer = write(Arc::clone(&self.output), line);
        self.answers.spawn(async move { drop(answer.await) });
    }

    /// The line that a message makes now: none, for one that waits for others of its batch.
    fn line_of(&mut self, item: &Outgoing) -> io::Result<Option<Vec<u8>>> {
        let written = serde_json::to_vec(item)?;
        let id = match item {
            JsonRpcMessage::Response(response) => {
                if let ServerResult::InitializeResult(agreed) = &response.result {
                    self.revision = Some(agreed.protocol_version.clone());
                }
                Some(&response.id)
            }
            JsonRpcMessage::Error(error) => error.id.as_ref(),
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
        };
        Ok(match id {
            Some(id) => self.asked.answer(id, written),
            None => Some(written),
        })
    }
}

impl<R, W> Transport<RoleServer> for Lines<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(&mut self, item: Outgoing) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let line = self.line_of(&item);
        let output = Arc::clone(&self.output);
        async move {
            match line? {
                Some(line) => write(output, line).await,
                None => Ok(()),
            }
        }
    }

    async fn receive(&mut self) -> Option<Incoming> {
        loop {
            if let Some(message) = self.heard.pop_front() {
                return Some(message);
            }
            // A client that does not listen is not read either.
            while self.answers.len() >= ANSWERS {
                self.answers.join_next().await;
            }
            if !self.read().await {
                return None;
            }
            self.hear();
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        while self.answers.join_next().await.is_some() {}
        drop(self.output.lock().await.take());
        Ok(())
    }
}

async fn write<W: AsyncWrite + Unpin>(output: Arc<Mutex<Option<W>>>, mut line: Vec<u8>) -> io::Result<()> {
    line.push(b'\n');
    let mut output = output.lock().await;
    let output = output.as_mut().ok_or(io::ErrorKind::NotConnected)?;
    output.write_all(&line).await?;
    output.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// A conversation in a revision: what was heard, and what was said without anybody's doing.
    async fn hears(revision: &ProtocolVersion, input: &str) -> (usize, Vec<serde_json::Value>) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut lines = Lines::new(input.as_bytes(), ours);
        (lines.revision, lines.begun) = (Some(revision.clone()), true);
        let mut got = 0;
        while let Some(message) = lines.receive().await {
            got += 1;
            if let JsonRpcMessage::Request(request) = message {
                let answer = ServerResult::EmptyResult(rmcp::model::EmptyResult {});
                lines.send(JsonRpcMessage::response(answer, request.id)).await.unwrap();
            }
        }
        lines.close().await.unwrap();
        let mut said = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut theirs, &mut said).await.unwrap();
        (got, said.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn ping(id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)
    }

    const TOLD: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

    #[tokio::test]
    async fn a_batch_is_answered_in_one_line() {
        let hello = r#"{"jsonrpc":"2.0","id":9,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
        for (batch, heard, codes) in [
            (format!("[{},{TOLD},{}]", ping("1"), ping("\"a\"")), 3, vec![0, 0]),
            (format!(" [ {} ] ", ping("1")), 1, vec![0]),
            (format!("[{TOLD},{TOLD}]"), 2, vec![]),
            (
                format!("[{},5,[],{},{}]", ping("1"), ping("1.5"), ping("null")),
                1,
                vec![-32600, -32600, -32600, -32600, 0],
            ),
            (format!("[{},{}]", ping("1"), ping("1")), 1, vec![-32600, 0]),
            (format!("[{hello},{}]", ping("1")), 1, vec![-32600, 0]),
            (r#"[{"jsonrpc":"2.0","id":1,"result":{}},{"id":1,"error":5}]"#.to_owned(), 1, vec![]),
        ] {
            let (got, said) = hears(&message::BATCHES, &format!("{batch}\n")).await;
            assert_eq!(got, heard, "{batch}: {said:?}");
            let answers: Vec<_> = said.iter().flat_map(|line| line.as_array().unwrap().clone()).collect();
            assert_eq!(said.len(), usize::from(!codes.is_empty()), "{said:?}");
            let told: Vec<i64> =
                answers.iter().map(|one| one["error"]["code"].as_i64().unwrap_or(0)).collect();
            assert_eq!(told, codes, "{batch}: {said:?}");
        }
    }

    #[tokio::test]
    async fn a_batch_that_cannot_be_is_refused_whole() {
        let one = ping("1");
        let many = format!("[{}]", vec![one.as_str(); 257].join(","));
        let batch = format!("[{one}]");
        let later = ProtocolVersion::V_2025_06_18;
        for (revision, line, code) in [
            (&later, batch.as_str(), -32600),
            (&message::BATCHES, "[]", -32600),
            (&message::BATCHES, many.as_str(), -32600),
            (&message::BATCHES, "[{\"id\":1,}]", -32700),
            (&later, "[{", -32700),
        ] {
            let (got, said) = hears(revision, &format!("{line}\n")).await;
            assert_eq!((got, said.len()), (0, 1), "{line:.40}");
            assert_eq!(
                (&said[0]["id"], &said[0]["error"]["code"]),
                (&serde_json::Value::Null, &code.into()),
                "{said:?}"
            );
        }
        assert_eq!(hears(&later, "[INFO] something\n").await, (0, vec![]), "a log's line is no batch");
    }

    #[tokio::test]
    async fn an_id_that_is_none_is_told_so() {
        for id in ["null", "1.5", "true", "[1]", "{\"a\":1}", "1e400", "99999999999999999999", "-0.5"] {
            let (got, said) = hears(&message::BATCHES, &format!("{}\n", ping(id))).await;
            assert_eq!((got, said.len()), (0, 1), "{id}");
            let code = if id == "1e400" { -32700 } else { -32600 };
            assert_eq!(
                (&said[0]["id"], &said[0]["error"]["code"]),
                (&serde_json::Value::Null, &code.into()),
                "{id}: {said:?}"
            );
        }
        for id in ["0", "-1", "\"\"", "\"1.5\"", "1.0", "9007199254740993"] {
            let (got, said) = hears(&message::BATCHES, &format!("{}\n", ping(id))).await;
            assert_eq!((got, said.len()), (1, 1), "{id}");
            assert!(said[0].get("error").is_none(), "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_message_of_too_many_values_is_refused_while_it_is_read() {
        let params = "[],".repeat(crate::mcp::outline::VALUES as usize);
        let line = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"ping","params":[{params}0]}}"#);
        let (got, said) = hears(&message::BATCHES, &format!("{line}\n{}\n", ping("8"))).await;
        assert_eq!(got, 1);
        assert!(said.iter().any(|one| one["id"] == 7 && one["error"]["code"] == -32600), "{said:?}");
        assert!(said.iter().any(|one| one["id"] == 8 && one.get("error").is_none()), "{said:?}");
    }
}
