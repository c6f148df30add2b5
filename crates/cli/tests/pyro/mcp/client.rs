//! A client that hides nothing: lines to `pyro mcp serve` and lines from it, in the order in which they came. Whatever
//! is on standard output and is no message of the protocol fails the test.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{LONG, World};

use super::schema::Schemas;

/// The revision that most clients speak.
pub const REVISION: &str = "2025-11-25";

/// What a server said, in order.
#[derive(Default)]
struct ClientLog {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    messages: Vec<Value>,
    over: bool,
}

/// A server and the one client it has.
pub struct Client {
    pub child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<ClientLog>,
    next: AtomicU64,
    schemas: Schemas,
}

impl Client {
    /// Starts a server and says nothing yet.
    pub fn start(world: &World, args: &[&str]) -> Self {
        Self::of(world.command(&[&["mcp", "serve"], args].concat()))
    }

    /// Starts a server by this command.
    pub fn of(mut command: std::process::Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let (out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let heard = Arc::new(ClientLog::default());
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || hears.hear(BufReader::new(out)));
        // A pipe that nobody reads would hold the server.
        std::thread::spawn(move || std::io::copy(&mut err, &mut std::io::stderr()));
        Self { child, stdin, heard, next: AtomicU64::new(1), schemas: Schemas::default() }
    }

    /// Starts a server for these tools, and shakes hands.
    pub fn ready(world: &World, profile: &str) -> Self {
        Self::ready_with(world, &["--profile", profile])
    }

    /// As [`Self::ready`], with these arguments.
    pub fn ready_with(world: &World, args: &[&str]) -> Self {
        let mut client = Self::start(world, args);
        client.initialize(REVISION);
        client.schemas = Schemas::of(&client.ask("tools/list", json!({}))["tools"]);
        client
    }

    /// Shakes hands; the result.
    pub fn initialize(&self, revision: &str) -> Value {
        let info = json!({"name": "tests", "version": "1"});
        let params = json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": info});
        let result = self.ask("initialize", params);
        self.tell("notifications/initialized", json!({}));
        result
    }

    /// Writes one line.
    pub fn line(&self, line: &[u8]) {
        let mut stdin = self.stdin.as_ref().unwrap();
        stdin.write_all(line).unwrap();
        stdin.write_all(b"\n").unwrap();
    }

    /// Sends a notification.
    pub fn tell(&self, method: &str, params: Value) {
        self.line(json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().as_bytes());
    }

    /// An id that no request had.
    pub fn new_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request; its id.
    pub fn send(&self, method: &str, params: Value) -> u64 {
        let id = self.new_id();
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.line(request.to_string().as_bytes());
        id
    }

    /// Calls a tool and does not wait; the request's id.
    pub fn begin(&self, tool: &str, arguments: Value) -> u64 {
        self.send("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    /// As [`Self::begin`], and wants to hear of its progress under a token of the request's id.
    pub fn begin_with_progress(&self, tool: &str, arguments: Value) -> u64 {
        let id = self.new_id();
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": id}});
        let request = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        self.line(request.to_string().as_bytes());
        id
    }

    /// Waits for the answer to a request: the whole message.
    pub fn answer(&self, id: u64) -> Value {
        self.wait(&format!("an answer to {id}"), |messages| {
            messages.iter().find(|message| message["id"] == id).cloned()
        })
    }

    /// Whether a request is answered already.
    pub fn answered(&self, id: u64) -> bool {
        self.heard.said.lock().unwrap().messages.iter().any(|message| message["id"] == id)
    }

    /// Waits until `found` finds something in all that was said.
    pub fn wait<T>(&self, what: &str, found: impl Fn(&[Value]) -> Option<T>) -> T {
        self.heard.wait(what, found)
    }

    /// All that was said, in order.
    pub fn messages(&self) -> Vec<Value> {
        self.heard.said.lock().unwrap().messages.clone()
    }

    /// A request and its answer: the whole message.
    pub fn request(&self, method: &str, params: Value) -> Value {
        self.answer(self.send(method, params))
    }

    /// A request that succeeds: its result.
    pub fn ask(&self, method: &str, params: Value) -> Value {
        let answer = self.request(method, params);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// What a call has come to, checked as what its tool promised.
    pub fn done(&self, tool: &str, id: u64) -> Result<Value, Value> {
        let answer = self.answer(id);
        assert!(answer.get("error").is_none(), "{tool}: {answer}");
        self.schemas.outcome(tool, &answer["result"])
    }

    /// Calls a tool.
    pub fn call(&self, tool: &str, arguments: Value) -> Result<Value, Value> {
        self.done(tool, self.begin(tool, arguments))
    }

    /// Calls a tool, which succeeds; its structured content.
    pub fn ok(&self, tool: &str, arguments: Value) -> Value {
        self.call(tool, arguments).unwrap_or_else(|failure| panic!("{tool}: {failure}"))
    }

    /// As [`Self::ok`], by a client that does not know the tools.
    pub fn ok_without_schema(&self, tool: &str, arguments: Value) -> Value {
        let result = self.ask("tools/call", json!({"name": tool, "arguments": arguments}));
        assert_ne!(result["isError"], true, "{tool}: {result}");
        result["structuredContent"].clone()
    }

    /// Calls a tool, which fails with this kind; the failure.
    pub fn fails(&self, tool: &str, arguments: Value, kind: &str) -> Value {
        let failure = self.call(tool, arguments).unwrap_err();
        assert_eq!(failure["kind"], kind, "{tool}: {failure}");
        failure
    }

    /// Makes a small workspace of this name; its id.
    pub fn create(&self, name: &str) -> String {
        let wish = json!({"environment": "debian:12-base", "mem_mib": 256, "name": name});
        self.ok("workspace_create", wish)["workspace_id"].as_str().unwrap().to_owned()
    }

    /// Runs a shell line in a workspace, which exits with 0; its output.
    pub fn sh(&self, workspace: &str, command: &str) -> String {
        let done = self.ok("workspace_exec", json!({"workspace_id": workspace, "command": command}));
        assert_eq!(done["exit_code"], 0, "{command}: {done}");
        done["stdout"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Which tools were called by [`Self::done`], and how often they succeeded and failed.
    pub fn tally(&self) -> BTreeMap<String, (usize, usize)> {
        self.schemas.tally()
    }

    /// Goes away in the orderly manner; the server must end well.
    pub fn leave(mut self) {
        drop(self.stdin.take());
        self.ends();
    }

    /// Closes the server's standard input and goes on listening.
    pub fn hang_up(&mut self) {
        drop(self.stdin.take());
    }

    /// Waits for the server's end, which must be a good one.
    pub fn ends(&mut self) {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < LONG, "the server did not end");
            // A poll interval: a wait for a child's end has no deadline of its own.
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert!(status.success(), "{status}");
        // Also what it said at its end is of the protocol.
        self.wait("the end", |_| Some(()));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ClientLog {
    fn hear(&self, mut out: impl std::io::BufRead) {
        loop {
            let mut line = String::new();
            let read = out.read_line(&mut line).unwrap_or(0);
            let mut said = self.said.lock().unwrap();
            if read == 0 {
                said.over = true;
                self.more.notify_all();
                return;
            }
            match serde_json::from_str(&line).unwrap_or_else(|_| json!({"stray": line})) {
                Value::Array(batch) => said.messages.extend(batch),
                message => said.messages.push(message),
            }
            self.more.notify_all();
        }
    }

    fn wait<T>(&self, what: &str, found: impl Fn(&[Value]) -> Option<T>) -> T {
        let begin = Instant::now();
        let mut said = self.said.lock().unwrap();
        loop {
            let stray = said.messages.iter().find(|message| message["jsonrpc"] != "2.0");
            assert!(stray.is_none(), "no message of the protocol: {stray:?}");
            if let Some(found) = found(&said.messages) {
                return found;
            }
            assert!(!said.over, "the server is gone, and there was never {what}");
            let left = LONG.checked_sub(begin.elapsed());
            let left = left.unwrap_or_else(|| panic!("there was never {what}"));
            said = self.more.wait_timeout(said, left).unwrap().0;
        }
    }
}
