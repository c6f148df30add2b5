//! Lines that are no good message, without any VM: whoever asks is answered, and the server goes on.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{LONG, World, eventually};

use super::client::Client;

/// It still serves.
fn goes_on(client: &Client) {
    assert_eq!(client.ok("workspace_list", json!({}))["count"], 0);
}

#[test]
fn bad_lines_end_nothing() {
    let world = World::bare();
    let client = Client::ready(&world, "workspace-core");
    let before = client.messages().len();
    for garbage in [
        &b"{"[..],
        b"}",
        b"nonsense",
        b"\"text\"",
        b"5",
        b"null",
        b"{}",
        b"[]",
        b"\0",
        b"\xff\xfe\x00",
        b"\x1b[2J\x1b]0;title\x07",
        b"   ",
        b"",
        b"\r",
        b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]",
        b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/none\",\"params\":{}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":77,\"result\":{}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":77,\"error\":{\"code\":1,\"message\":\"x\"}}",
        b"Content-Length: 10\r\n\r\n{}",
    ] {
        client.line(garbage);
        goes_on(&client);
    }
    let said: Vec<Value> = client.messages().split_off(before);
    assert!(said.iter().all(|message| message["id"] != 77), "an answer is not answered");
    client.leave();
}

#[test]
fn whoever_asks_is_answered() {
    let world = World::bare();
    let client = Client::ready(&world, "workspace-core");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (params, code) in [
        (r#"{"name":"workspace_list","arguments":{"x":"\ud800"}}"#.to_owned(), -32700),
        (r#"{"name":"workspace_list","arguments":{"x":"\udc00\ud800"}}"#.to_owned(), -32700),
        (format!(r#"{{"name":"workspace_list","arguments":{{"x":{deep}}}}}"#), -32700),
        (r#"{"name":"workspace_list","arguments":{"x":1e999}}"#.to_owned(), -32700),
        (r#"{"name":"workspace_list","arguments":{"x":01}}"#.to_owned(), -32700),
        ("{\"name\":\"workspace_list\",\"arguments\":{\"x\":\"\u{1}\"}}".to_owned(), -32700),
        (r#"{"name":"no_such_tool","arguments":{}}"#.to_owned(), -32602),
        (r#"{"name":"workspace_disk_list","arguments":{}}"#.to_owned(), -32602),
        (r#"{"name":"","arguments":{}}"#.to_owned(), -32602),
        (r#"{"name":["workspace_list"]}"#.to_owned(), 0),
        (r#"{"name":"workspace_list","arguments":[]}"#.to_owned(), 0),
        (r#"{"name":"workspace_list","arguments":"{}"}"#.to_owned(), 0),
        (r#"{"arguments":{}}"#.to_owned(), 0),
        ("[]".to_owned(), 0),
        ("5".to_owned(), 0),
    ] {
        // The id before what cannot be read, and after it.
        for before in [true, false] {
            let id = client.new_id();
            let line = match before {
                true => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#),
                false => format!(r#"{{"method":"tools/call","params":{params},"jsonrpc":"2.0","id":{id}}}"#),
            };
            client.line(line.as_bytes());
            let answer = client.answer(id);
            let told = answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("{params:.80}: {answer}"));
            assert!(code == 0 || told == code, "{params:.80}: {answer}");
            assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
        }
        goes_on(&client);
    }
    let unknown = client.request("none/such", json!({}));
    assert_eq!(unknown["error"]["code"], -32601, "{unknown}");
    // An id can be a text as well.
    client.line(br#"{"jsonrpc":"2.0","id":"an \"id\"","method":"tools/call","params":{"name":"\ud800"}}"#);
    client.wait("an answer", |messages| messages.iter().find(|it| it["id"] == "an \"id\"").map(drop));
    client.leave();
}

#[test]
fn wrong_arguments_are_named() {
    let world = World::bare();
    let client = Client::ready(&world, "workspace-full");
    for (tool, arguments, part) in [
        ("workspace_exec", json!({}), "workspace_id"),
        ("workspace_exec", json!({"workspace_id": "x"}), "command"),
        ("workspace_exec", json!({"workspace_id": 5, "command": "x"}), "workspace_id"),
        ("workspace_exec", json!({"workspace_id": null, "command": "x"}), "workspace_id"),
        ("workspace_exec", json!({"workspace_id": "x", "command": ["x"]}), "command"),
        (
            "workspace_exec",
            json!({"workspace_id": "x", "command": "x", "timeout_seconds": "5"}),
            "timeout_seconds",
        ),
        (
            "workspace_exec",
            json!({"workspace_id": "x", "command": "x", "timeout_seconds": -1}),
            "timeout_seconds",
        ),
        (
            "workspace_exec",
            json!({"workspace_id": "x", "command": "x", "timeout_seconds": 1.5}),
            "timeout_seconds",
        ),
        (
            "workspace_exec",
            json!({"workspace_id": "x", "command": "x", "secret_env": {"a": 1}}),
            "secret_env",
        ),
        ("workspace_exec", json!({"workspace_id": "x", "command": "x", "tool": "workspace_exec"}), "tool"),
        ("workspace_exec", json!({"name": "workspace_exec"}), "name"),
        ("workspace_create", json!({"environment": "debian:12", "labels": {"a": {"b": 1}}}), "labels"),
        ("workspace_create", json!({"environment": "debian:12", "secrets": {"name": "x"}}), "secrets"),
        (
            "vm_run",
            json!({"environment": "debian:12", "command": "x", "vcpu_count": 4294967297_u64}),
            "vcpu_count",
        ),
        ("shell_open", json!({"workspace_id": "x", "cols": 70000}), "cols"),
    ] {
        let failure = client.fails(tool, arguments.clone(), "invalid_argument");
        assert!(failure["error"].as_str().unwrap().contains(part), "{arguments}: {failure}");
        assert!(failure["next"].is_string(), "{arguments}: {failure}");
    }
    for name in
        ["", "..", "/etc", "a/b", "x\0y", "\u{1b}[31m", "pyro", &"a".repeat(100_000), "names", ".names.lock"]
    {
        let failure = client.call("workspace_status", json!({"workspace_id": name})).unwrap_err();
        assert!(["not_found", "invalid_argument"].contains(&failure["kind"].as_str().unwrap()), "{failure}");
        assert!(failure.to_string().len() < 20_000, "{} bytes", failure.to_string().len());
    }
    goes_on(&client);
    client.leave();
}

/// A request of so many bytes, with its id at the end, is written as it is made.
fn long_call(client: &Client, bytes: usize) -> u64 {
    let id = client.new_id();
    let before = r#"{"method":"tools/call","params":{"name":"workspace_file_write","arguments":{"workspace_id":"none","path":"f","text":""#;
    let after = format!(r#""}}}},"jsonrpc":"2.0","id":{id}}}"#);
    let mut line = String::with_capacity(bytes);
    line.push_str(before);
    line.extend(std::iter::repeat_n('x', bytes - before.len() - after.len()));
    line.push_str(&after);
    client.line(line.as_bytes());
    id
}

#[test]
fn what_is_too_long_is_refused_and_forgotten() {
    let world = World::bare();
    let client = Client::ready(&world, "workspace-core");
    let most = 128 << 20;
    let refused = client.answer(long_call(&client, most + 1));
    assert!(refused["error"]["message"].as_str().unwrap().contains("134217728 bytes"), "{refused}");
    goes_on(&client);
    // The longest that is taken goes the way of every other.
    let answer = client.answer(long_call(&client, most));
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert!(text.contains("not_found"), "{text}");
    goes_on(&client);
    let begin = Instant::now();
    while memory(client.pid(), "VmRSS:") > 100 << 10 {
        assert!(begin.elapsed() < LONG, "{} KiB stay in memory", memory(client.pid(), "VmRSS:"));
        goes_on(&client);
    }
    client.leave();
}

/// What a process has in memory (`VmRSS:`) or had at most (`VmHWM:`), KiB.
pub fn memory(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Few bytes that a parser makes much of: what they cost is not a multiple of what was sent.
#[test]
fn many_small_values_cost_nothing() {
    let world = World::bare();
    let client = Client::ready(&world, "workspace-core");
    for (at, part) in ["[],", "{},", "0,", "[[", "\"\",", "{\"a\":"].into_iter().enumerate() {
        let id = client.new_id();
        let bytes = if at == 0 { 120 << 20 } else { 1 << 20 };
        let many = part.repeat(bytes / part.len());
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":[{many}0]}}"#);
        client.line(line.as_bytes());
        let refused = client.answer(id);
        assert_eq!(refused["error"]["code"], -32600, "{part} {refused}");
        goes_on(&client);
    }
    let most = memory(client.pid(), "VmHWM:");
    assert!(most < 150 << 10, "{most} KiB at most");
    client.leave();
}

/// Whatever an id is, there is an answer, and so is there to each request of a batch.
#[test]
fn no_request_is_left_without_an_answer() {
    let world = World::bare();
    let client = Client::start(&world, &["--profile", "workspace-core"]);
    client.initialize("2025-03-26");
    let nulls =
        || client.messages().iter().filter(|one| one["id"].is_null() && one["error"].is_object()).count();
    for (at, id) in ["null", "1.5", "true", "[]", "{}", "123456789012345678901"].iter().enumerate() {
        client.line(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#).as_bytes());
        eventually("an error without an id", || nulls() == at + 1);
    }
    let [one, two, three] = [client.new_id(), client.new_id(), client.new_id()];
    let call = json!({"name": "workspace_list", "arguments": {}});
    let batch = json!([
        {"jsonrpc": "2.0", "id": one, "method": "tools/call", "params": call},
        {"jsonrpc": "2.0", "method": "notifications/none"},
        {"jsonrpc": "2.0", "id": two, "method": "none/such"},
        {"jsonrpc": "2.0", "id": three, "method": "tools/call", "params": {"name": 5}},
    ]);
    client.line(batch.to_string().as_bytes());
    assert_eq!(client.answer(one)["result"]["structuredContent"]["count"], 0);
    assert_eq!(client.answer(two)["error"]["code"], -32601);
    assert!(client.answer(three)["error"].is_object());
    client.leave();
    // Later revisions have none.
    let client = Client::ready(&world, "workspace-core");
    client.line(batch.to_string().as_bytes());
    client.wait("a refusal", |messages| {
        messages.iter().find(|one| one["id"].is_null() && one["error"]["code"] == -32600).map(drop)
    });
    goes_on(&client);
    client.leave();
}

#[test]
fn a_hundred_at_once_are_all_answered() {
    let world = World::bare();
    let client = Client::ready(&world, "workspace-full");
    let calls: Vec<(u64, bool)> = (0..100)
        .map(|at| match at % 2 {
            0 => (client.begin("workspace_list", json!({})), true),
            _ => (client.begin("workspace_status", json!({"workspace_id": "nobody"})), false),
        })
        .collect();
    for (call, well) in calls {
        let tool = if well { "workspace_list" } else { "workspace_status" };
        assert_eq!(client.done(tool, call).is_ok(), well);
    }
    client.leave();
}

#[test]
fn a_client_that_says_nothing_or_the_wrong_thing_first_ends_nothing_badly() {
    let world = World::bare();
    Client::start(&world, &[]).leave();
    let client = Client::start(&world, &[]);
    client.tell("notifications/cancelled", json!({"requestId": 1}));
    client.line(b"nonsense");
    client.line(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    client.initialize("2025-06-18");
    client.leave();
    let client = Client::start(&world, &[]);
    let early = client.request("tools/list", json!({}));
    assert!(early["error"]["message"].is_string(), "{early}");
    client.initialize("2025-06-18");
    let again = client.request(
        "initialize",
        json!({"protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"}}),
    );
    assert!(again.get("error").is_some() || again.get("result").is_some(), "{again}");
    client.leave();
}
