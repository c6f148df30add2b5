//! A client over HTTP that is as small as it can be: one connection for each request, so that what is sent and what
//! comes back can be seen whole.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::{LONG, World};

use super::client::REVISION;

pub const TOKEN: &str = "0123456789abcdef-token";

/// A server over HTTP.
pub struct Server {
    pub child: Child,
    pub address: String,
}

/// What it answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Server {
    pub fn start(world: &World, args: &[&str]) -> Self {
        let mut all = vec!["mcp", "serve", "--transport", "http"];
        if !args.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(args);
        let mut child = world.command(&all).env("PYRO_MCP_TOKEN", TOKEN).spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        err.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("no address: {line}")).to_owned();
        std::thread::spawn(move || std::io::copy(&mut err, &mut std::io::stderr()));
        Self { child, address }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends a request with these headers in place of those of a well-behaved client, and reads all of the answer.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = self.begin(method, path, headers, body.len());
        // One that refuses a long message does not read it.
        let _ = stream.write_all(body);
        Reply::read(stream)
    }

    /// Sends the head of a request.
    pub fn begin(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> TcpStream {
        let bearer = format!("Bearer {TOKEN}");
        let mut all = BTreeMap::from([
            ("host", self.address.as_str()),
            ("authorization", &bearer),
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("connection", "close"),
        ]);
        for (name, value) in headers {
            match value.is_empty() {
                true => drop(all.remove(name)),
                false => drop(all.insert(name, value)),
            }
        }
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in all {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {length}\r\n\r\n"));
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// Sends one message.
    pub fn post(&self, headers: &[(&str, &str)], message: &Value) -> Reply {
        self.request("POST", "/mcp", headers, message.to_string().as_bytes())
    }

    /// A client with a session of its own.
    pub fn session(&self) -> Session<'_> {
        self.session_in(REVISION)
    }

    /// A client with a session of this revision.
    pub fn session_in(&self, revision: &'static str) -> Session<'_> {
        let info = json!({"name": "tests", "version": "1"});
        let params = json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": info});
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let reply = self.post(&[], &hello);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.message(0)["result"]["protocolVersion"], revision);
        let id = reply.headers["mcp-session-id"].clone();
        let session = Session { server: self, id, revision, next: AtomicU64::new(1) };
        let told = session.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        assert_eq!(told.status, 202, "{told:?}");
        session
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client's session.
pub struct Session<'a> {
    pub server: &'a Server,
    pub id: String,
    revision: &'static str,
    next: AtomicU64,
}

impl Session<'_> {
    pub fn headers(&self) -> [(&str, &str); 2] {
        [("mcp-session-id", &self.id), ("mcp-protocol-version", self.revision)]
    }

    pub fn post(&self, message: &Value) -> Reply {
        self.server.post(&self.headers(), message)
    }

    /// The message of a tool's call, and its id.
    pub fn message(&self, tool: &str, arguments: Value) -> (u64, Value) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let params = json!({"name": tool, "arguments": arguments});
        (id, json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}))
    }

    /// Calls a tool; its result.
    pub fn call(&self, tool: &str, arguments: Value) -> Value {
        let (id, message) = self.message(tool, arguments);
        let reply = self.post(&message);
        assert_eq!(reply.status, 200, "{tool}: {reply:?}");
        reply.message(id)["result"].clone()
    }

    /// Calls a tool, which succeeds.
    pub fn ok(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments);
        assert_ne!(result["isError"], true, "{tool}: {result}");
        result["structuredContent"].clone()
    }
}

impl Reply {
    /// Reads an answer to the end of its connection.
    pub fn read(stream: TcpStream) -> Self {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}")).parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut body = Vec::new();
        let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
        if chunked {
            loop {
                let mut size = String::new();
                stream.read_line(&mut size).unwrap();
                let Ok(size @ 1..) = usize::from_str_radix(size.trim(), 16) else { break };
                let at = body.len();
                body.resize(at + size, 0);
                stream.read_exact(&mut body[at..]).unwrap();
                stream.read_exact(&mut [0; 2]).unwrap();
            }
        } else {
            let _ = stream.read_to_end(&mut body);
        }
        Self { status, headers, body }
    }

    /// The messages in it, whether they came one by one or alone.
    pub fn messages(&self) -> Vec<Value> {
        let text = String::from_utf8(self.body.clone()).unwrap();
        let events = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        let events = events.filter(|data| !data.is_empty()).map(|data| serde_json::from_str(data).unwrap());
        let events: Vec<Value> = events.collect();
        if events.is_empty() { vec![serde_json::from_str(&text).unwrap()] } else { events }
    }

    /// The answer to a request.
    pub fn message(&self, id: u64) -> Value {
        let found = self.messages().into_iter().find(|message| message["id"] == id);
        found.unwrap_or_else(|| panic!("no answer to {id}: {self:?}"))
    }
}
