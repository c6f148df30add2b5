//! Who may come over HTTP, and how conversations begin and end there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::room::signal;
use crate::support::World;

use super::http::{Reply, Server, TOKEN};
use super::lines::memory;

fn ping() -> serde_json::Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})
}

#[test]
fn nobody_comes_in_without_the_token() {
    let world = World::bare();
    let server = Server::start(&world, &[]);
    for wrong in ["", "Bearer", "Bearer 0123456789abcdef-toke", "Basic 0123456789abcdef-token", TOKEN] {
        for method in ["POST", "GET", "DELETE", "OPTIONS"] {
            let reply = server.request(method, "/mcp", &[("authorization", wrong)], b"{}");
            assert_eq!(reply.status, 401, "{method} {wrong:?} {reply:?}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
            assert!(!String::from_utf8_lossy(&reply.body).contains(TOKEN), "{reply:?}");
        }
    }
    for path in ["/", "/mcp/", "/mcp/../x", "/sse"] {
        assert_eq!(server.request("POST", path, &[], b"{}").status, 404, "{path}");
    }
    assert_eq!(server.session().post(&ping()).status, 200);
}

#[test]
fn a_page_of_the_web_cannot_call() {
    let world = World::bare();
    let server =
        Server::start(&world, &["--allow-host", "pyro.test", "--allow-origin", "https://ok.test:443"]);
    let session = server.session();
    let [id, revision] = session.headers();
    let status = |header: (&str, &str)| server.post(&[id, revision, header], &ping()).status;
    let port = server.address.rsplit(':').next().unwrap();
    let local =
        [format!("localhost:{port}"), format!("[::1]:{port}"), "127.0.0.1".into(), "pyro.test".into()];
    for host in &local {
        assert_eq!(status(("host", host)), 200, "{host}");
    }
    for host in ["evil.test", "127.0.0.1.evil.test", "localhost.evil.test:80", "127.0.0.2"] {
        assert_eq!(status(("host", host)), 403, "{host}");
    }
    for host in ["localhost:80.evil.test", "evil.test@localhost", "localhost:"] {
        assert_eq!(status(("host", host)), 400, "{host}");
    }
    for origin in ["http://localhost:3000", "http://127.0.0.1", "https://ok.test"] {
        assert_eq!(status(("origin", origin)), 200, "{origin}");
    }
    for origin in [
        "https://evil.test",
        "http://ok.test",
        "http://localhost.evil.test",
        "null",
        "http://localhost:80.evil.com",
    ] {
        assert_eq!(status(("origin", origin)), 403, "{origin}");
    }
}

#[test]
fn other_machines_come_only_when_they_are_let() {
    let world = World::bare();
    for open in ["0.0.0.0:0", "[::]:0"] {
        let said = world.pyro(&["mcp", "serve", "--transport", "http", "--listen", open]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("--allow-remote") && said.out.is_empty(), "{said:?}");
    }
    let server = Server::start(&world, &["--listen", "0.0.0.0:0", "--allow-remote"]);
    assert!(server.address.starts_with("0.0.0.0:"), "{}", server.address);
    let mut short = world.command(&["mcp", "serve", "--transport", "http", "--listen", "127.0.0.1:0"]);
    let said = short.env("PYRO_MCP_TOKEN", "short").output().unwrap();
    assert!(!said.status.success() && !String::from_utf8_lossy(&said.stderr).contains("short\""), "{said:?}");
}

#[test]
fn a_session_lives_until_it_is_ended() {
    let world = World::bare();
    let server = Server::start(&world, &["--profile", "workspace-core"]);
    let (one, two) = (server.session(), server.session());
    assert_ne!(one.id, two.id);
    let list = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/list"});
    for session in [&one, &two] {
        assert_eq!(session.post(&list).message(5)["result"]["tools"].as_array().unwrap().len(), 16);
    }
    assert!((400..500).contains(&server.post(&[], &list).status), "without a session");
    assert_eq!(server.post(&[("mcp-session-id", "nobody")], &list).status, 404);
    let ended = server.request("DELETE", "/mcp", &one.headers(), b"");
    assert!((200..300).contains(&ended.status), "{ended:?}");
    assert_eq!(one.post(&list).status, 404, "an ended session");
    assert_eq!(two.post(&list).status, 200, "another one");
}

#[test]
fn what_cannot_be_read_is_answered() {
    let world = World::bare();
    let server = Server::start(&world, &["--profile", "workspace-core"]);
    let session = server.session();
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}{}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let lone = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}"#;
    for bad in ["", "{", "nonsense", "[]", "5", deep.as_str(), lone, "\0"] {
        let reply = server.request("POST", "/mcp", &session.headers(), bad.as_bytes());
        assert!((400..500).contains(&reply.status), "{bad:.40} {reply:?}");
    }
    for (header, value) in
        [("content-type", "text/plain"), ("accept", "text/html"), ("mcp-protocol-version", "1")]
    {
        let [id, revision] = session.headers();
        let reply = server.post(&[id, revision, (header, value)], &ping());
        assert!((400..500).contains(&reply.status), "{header}: {reply:?}");
    }
    // A head without an end and a body that never comes hold nobody else.
    let mut half = server.connect();
    half.write_all(b"POST /mcp HTTP/1.1\r\nhost:").unwrap();
    let waits = server.begin("POST", "/mcp", &session.headers(), 1000);
    assert_eq!(session.post(&ping()).status, 200);
    drop((half, waits));
    // Longer than 128 MiB, whether it says so or not.
    let mut long = server.begin("POST", "/mcp", &session.headers(), 129 << 20);
    let part = vec![b' '; 1 << 20];
    for _ in 0..129 {
        if long.write_all(&part).is_err() {
            break;
        }
    }
    assert_eq!(Reply::read(long).status, 413);
    assert_eq!(session.post(&ping()).status, 200, "it goes on");
}

#[test]
fn a_signal_ends_it() {
    for how in ["-TERM", "-INT"] {
        let world = World::bare();
        let mut server = Server::start(&world, &[]);
        let _session = server.session().id.clone();
        let open = server.connect();
        signal(server.child.id(), how);
        assert!(!server.child.wait().unwrap().success());
        assert!(std::net::TcpStream::connect(&server.address).is_err());
        drop(open);
    }
}

/// Whether the server has ended a connection, by waiting for that.
fn ended(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn strangers_keep_nobody_out_and_do_not_stay() {
    let world = World::bare();
    let server = Server::start(&world, &["--profile", "workspace-core"]);
    let session = server.session();
    // One that has the token and is in the middle of a request.
    let body = ping().to_string();
    let mut slow = server.begin("POST", "/mcp", &session.headers(), body.len());
    let mut strangers: Vec<TcpStream> = Vec::new();
    for at in 0..600 {
        let mut stream = server.connect();
        // Some say nothing, some not all, some what is wrong.
        let said: &[u8] = match at % 4 {
            0 => b"",
            1 => b"POST /mcp HTTP/1.1\r\nhost:",
            2 => b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
            _ => b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n",
        };
        let _ = stream.write_all(said);
        strangers.push(stream);
        if at % 300 == 299 {
            assert_eq!(session.post(&ping()).status, 200);
            assert_eq!(server.session().post(&ping()).status, 200);
        }
    }
    slow.write_all(body.as_bytes()).unwrap();
    assert_eq!(Reply::read(slow).status, 200);
    // A while later all are gone, whether others came or not.
    for mut stream in strangers {
        while !ended(&mut stream) {}
    }
    assert_eq!(session.post(&ping()).status, 200);
}

#[test]
fn sessions_are_so_many() {
    let world = World::bare();
    let server = Server::start(&world, &["--profile", "vm-run"]);
    let first = server.session();
    let second = server.session();
    for _ in 0..253 {
        server.session();
    }
    let last = server.session();
    // The first is used once more, so the second goes.
    assert_eq!(first.post(&ping()).status, 200);
    let next = server.session();
    for (session, status) in [(&first, 200), (&second, 404), (&last, 200), (&next, 200)] {
        assert_eq!(session.post(&ping()).status, status);
    }
}

#[test]
fn what_has_no_id_or_is_too_much_is_told_so() {
    let world = World::bare();
    let server = Server::start(&world, &["--profile", "workspace-core"]);
    let session = server.session();
    for id in ["null", "1.5", "true", "[]"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        let reply = server.request("POST", "/mcp", &session.headers(), body.as_bytes());
        assert_eq!(
            (reply.status, &reply.messages()[0]["error"]["code"]),
            (400, &json!(-32600)),
            "{id} {reply:?}"
        );
        assert!(reply.messages()[0]["id"].is_null(), "{reply:?}");
    }
    for (part, bytes) in [("[],", 120 << 20), ("{},", 1 << 20), ("[[", 1 << 20)] {
        let body = format!(r#"{{"id":5,"params":[{}"#, part.repeat(bytes / part.len()));
        let reply = server.request("POST", "/mcp", &session.headers(), body.as_bytes());
        assert_eq!((reply.status, &reply.messages()[0]["id"]), (413, &json!(5)), "{part} {reply:?}");
    }
    let most = memory(server.child.id(), "VmHWM:");
    assert!(most < 150 << 10, "{most} KiB at most");
    assert_eq!(session.post(&ping()).status, 200);
}

#[test]
fn batches_are_answered_in_the_revision_that_has_them() {
    let world = World::bare();
    let server = Server::start(&world, &["--profile", "workspace-core"]);
    let session = server.session_in("2025-03-26");
    let ping = |id: i64| json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
    let told = json!({"jsonrpc": "2.0", "method": "notifications/none"});
    let list = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"});
    let bad = json!({"jsonrpc": "2.0", "id": null, "method": "ping"});
    let reply = session.post(&json!([ping(1), told, bad, list, ping(2), ping(1), 5]));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.message(1)["result"].is_object() && reply.message(2)["result"].is_object());
    assert_eq!(reply.message(3)["result"]["tools"].as_array().unwrap().len(), 16);
    let nulls =
        reply.messages().iter().filter(|one| one["id"].is_null() && one["error"]["code"] == -32600).count();
    assert_eq!((nulls, reply.messages().len()), (3, 6), "{reply:?}");
    assert_eq!(session.post(&json!([told, told])).status, 202);
    for (session, batch) in [(&session, json!([])), (&server.session(), json!([ping(1)]))] {
        let reply = session.post(&batch);
        assert_eq!((reply.status, &reply.messages()[0]["error"]["code"]), (400, &json!(-32600)), "{reply:?}");
    }
    // Without a session there is no revision.
    assert_eq!(server.post(&[], &json!([ping(1)])).status, 400);
}
