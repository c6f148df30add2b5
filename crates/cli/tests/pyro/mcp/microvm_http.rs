//! Over HTTP: several clients at once, and how what they began ends.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::room::{Room, signal};
use crate::support::{children, eventually, running};

use super::http::{Server, Session};

fn small() -> Value {
    json!({"environment": "debian:12-base", "mem_mib": 256, "name": "web"})
}

/// Begins a command that does not end in a one-shot VM, and waits for its VMM: the connection, and the VMM.
fn sleeping(room: &Room, session: &Session<'_>) -> (std::net::TcpStream, u32) {
    let run = json!({
        "environment": "debian:12-base", "mem_mib": 256, "command": "sleep 1000", "timeout_seconds": 2000
    });
    let (_, message) = session.message("vm_run", run);
    let body = message.to_string();
    let mut stream = session.server.begin("POST", "/mcp", &session.headers(), body.len());
    stream.write_all(body.as_bytes()).unwrap();
    let vmms = || -> Vec<u32> {
        let keepers = room.keepers();
        children(session.server.child.id()).into_iter().filter(|pid| !keepers.contains(pid)).collect()
    };
    eventually("a VMM", || !vmms().is_empty());
    (stream, vmms()[0])
}

#[test]
fn clients_share_what_there_is_and_do_not_wait_for_each_other() {
    let room = Room::new();
    let server = Server::start(&room.world, &["--profile", "workspace-core"]);
    let (one, two) = (server.session(), server.session());
    let id = one.ok("workspace_create", small())["workspace_id"].clone();
    assert_eq!(two.ok("workspace_list", json!({}))["workspaces"][0]["workspace_id"], id);
    std::thread::scope(|scope| {
        let long = scope.spawn(|| {
            one.ok(
                "workspace_exec",
                json!({"workspace_id": id, "timeout_seconds": 2000, "command": "while [ ! -e go ]; do sleep 0.1; done"}),
            )
        });
        for at in 0..10 {
            let done =
                two.ok("workspace_exec", json!({"workspace_id": "web", "command": format!("echo {at}")}));
            assert_eq!(done["stdout"], format!("{at}\n"));
        }
        assert!(!long.is_finished());
        two.ok("workspace_exec", json!({"workspace_id": "web", "command": "touch go"}));
        assert_eq!(long.join().unwrap()["exit_code"], 0);
    });
    let gone = one.call("workspace_status", json!({"workspace_id": "nobody"}));
    assert_eq!(gone["isError"], true);
    // Its progress comes on the same answer.
    let export = json!({"jsonrpc": "2.0", "id": 900, "method": "tools/call", "params": {
        "name": "vm_run", "_meta": {"progressToken": "t"},
        "arguments": {"environment": "debian:12-base", "mem_mib": 256, "command": "true"}}});
    let reply = one.post(&export);
    let told =
        reply.messages().iter().filter(|message| message["method"] == "notifications/progress").count();
    assert!(told > 0 && reply.message(900)["result"]["structuredContent"]["exit_code"] == 0, "{reply:?}");
    two.ok("workspace_delete", json!({"workspace_id": id}));
}

#[test]
fn what_a_session_began_ends_with_it_or_with_the_server() {
    let room = Room::new();
    let mut server = Server::start(&room.world, &["--profile", "workspace-core"]);
    let session = server.session();
    let id = session.ok("workspace_create", small())["workspace_id"].as_str().unwrap().to_owned();
    let (_stream, vmm) = sleeping(&room, &session);
    let ended = server.request("DELETE", "/mcp", &session.headers(), b"");
    assert!((200..300).contains(&ended.status), "{ended:?}");
    eventually("its VMM is gone", || !running(vmm));
    // One that is given up by a word.
    let session = server.session();
    let (_stream, vmm) = sleeping(&room, &session);
    let told = session
        .post(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}));
    assert_eq!(told.status, 202, "{told:?}");
    eventually("its VMM is gone", || !running(vmm));
    // And one whose server ends.
    let session = server.session();
    let (_stream, vmm) = sleeping(&room, &session);
    drop(session);
    signal(server.child.id(), "-TERM");
    assert!(!server.child.wait().unwrap().success());
    eventually("its VMM is gone", || !running(vmm));
    assert_eq!(room.state(&id), "started");
    room.ok(&["delete", &id]);
    room.check_empty(&[]);
}
