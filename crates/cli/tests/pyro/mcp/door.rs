//! Who may come over HTTP, and how conversations begin and end there.

use std::io::Write as _;

use serde_json::json;

use crate::room::signal;
use crate::support::World;

use super::http::{Reply, Server, TOKEN};

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
    for origin in ["http://localhost:3000", "http://127.0.0.1", "https://ok.test"] {
        assert_eq!(status(("origin", origin)), 200, "{origin}");
    }
    for origin in ["https://evil.test", "http://ok.test", "http://localhost.evil.test", "null"] {
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
