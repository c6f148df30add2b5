//! How servers and clients end: what they began dies with them, workspaces stay.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::room::{Room, signal};
use crate::support::{children, eventually, running};

use super::client::Client;

/// A server with a workspace and a one-shot VM in which a command runs that does not end by itself.
fn busy(room: &Room) -> (Client, String, Vec<u32>) {
    let client = Client::ready(&room.world, "workspace-core");
    let id = client.create("stays");
    client.ok("workspace_file_write", json!({"workspace_id": id, "path": "f", "text": "kept"}));
    let run = json!({
        "environment": "debian:12-base", "mem_mib": 256, "command": "sleep 1000", "timeout_seconds": 2000
    });
    let call = client.begin_with_progress("vm_run", run);
    client.wait("word that the command runs", |messages| {
        let runs = |message: &Value| {
            message["params"]["progressToken"] == call
                && message["params"]["message"] == "running the command"
        };
        messages.iter().any(runs).then_some(())
    });
    let keepers = room.keepers();
    let vmms: Vec<u32> = children(client.pid()).into_iter().filter(|pid| !keepers.contains(pid)).collect();
    assert!(!vmms.is_empty(), "a VMM");
    let all = vmms.iter().flat_map(|pid| [vec![*pid], children(*pid)].concat()).collect();
    (client, id, all)
}

fn stays(room: &Room, id: &str) {
    assert_eq!(room.state(id), "started");
    assert_eq!(room.sh(id, "cat f"), "kept");
    room.ok(&["delete", id]);
    room.check_empty(&[]);
}

#[test]
fn a_client_that_hangs_up_ends_its_server_in_the_middle_of_a_call() {
    let room = Room::new();
    let (mut client, id, vmms) = busy(&room);
    client.begin(
        "workspace_exec",
        json!({"workspace_id": id, "command": "sleep 1000", "timeout_seconds": 2000}),
    );
    client.hang_up();
    client.ends();
    eventually("its VMM is gone", || !vmms.iter().any(|pid| running(*pid)));
    let guest = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 100[0] ' || true";
    eventually("the command in the workspace is gone", || room.sh(&id, guest) == "0\n");
    stays(&room, &id);
}

#[test]
fn a_server_that_is_killed_takes_its_vms_along() {
    for how in ["-KILL", "-TERM"] {
        let room = Room::new();
        let (mut client, id, vmms) = busy(&room);
        signal(client.pid(), how);
        let status = client.child.wait().unwrap();
        assert!(!status.success());
        eventually("its VMM is gone", || !vmms.iter().any(|pid| running(*pid)));
        stays(&room, &id);
    }
}

#[test]
fn a_client_that_stops_listening_ends_its_server() {
    let room = Room::new();
    let mut command = room.world.command(&["mcp", "serve", "--profile", "vm-run"]);
    let (read, write) = std::io::pipe().unwrap();
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(write).stderr(std::process::Stdio::null()).spawn();
    drop(command);
    drop(read);
    let child = child.as_mut().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    // Its answer goes nowhere; what is asked after it may find nobody.
    let _ = std::io::Write::write_all(&mut stdin, format!("{hello}\n").as_bytes());
    drop(stdin);
    eventually("the server is gone", || child.try_wait().unwrap().is_some());
}

#[test]
fn two_servers_work_on_one_workspace() {
    let room = Room::new();
    let (one, two) =
        (Client::ready(&room.world, "workspace-core"), Client::ready(&room.world, "workspace-core"));
    let id = one.create("shared");
    assert_eq!(two.ok("workspace_list", json!({}))["workspaces"][0]["workspace_id"], id.as_str());
    let mut calls = Vec::new();
    for at in 0..20 {
        for (which, client) in [&one, &two].into_iter().enumerate() {
            let path = format!("{which}-{at}");
            let write = json!({"workspace_id": "shared", "path": path, "text": path});
            let read = json!({"workspace_id": "shared", "command": format!("cat {path}; echo x >> all")});
            let wrote = client.begin("workspace_file_write", write);
            calls.push((client, path, wrote, client.begin("workspace_exec", read)));
        }
    }
    for (client, path, wrote, read) in calls {
        client.done("workspace_file_write", wrote).unwrap();
        assert_eq!(client.done("workspace_exec", read).unwrap()["stdout"], path.as_str());
    }
    assert_eq!(one.sh("shared", "wc -l < all"), "40\n");
    let logs = two.ok("workspace_logs", json!({"workspace_id": "shared", "tail": 1000}));
    let mut sequences: Vec<u64> =
        logs["entries"].as_array().unwrap().iter().map(|entry| entry["sequence"].as_u64().unwrap()).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=41).collect::<Vec<_>>());
    // What one deletes is gone for the other, who is told so and goes on.
    one.ok("workspace_delete", json!({"workspace_id": id}));
    for tool in ["workspace_status", "workspace_logs", "workspace_diff"] {
        two.fails(tool, json!({"workspace_id": "shared"}), "not_found");
    }
    two.fails("workspace_exec", json!({"workspace_id": id, "command": "true"}), "not_found");
    assert_eq!(two.ok("workspace_list", json!({}))["count"], 0);
    one.leave();
    two.leave();
}

/// The sockets that a process has open, by their numbers.
fn sockets(pid: u32) -> BTreeSet<String> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets =
        fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()?.into_os_string().into_string().ok());
    targets.filter(|target| target.starts_with("socket:")).collect()
}

#[test]
fn commands_share_a_connection_which_is_given_up_with_its_keeper() {
    let room = Room::new();
    let client = Client::ready(&room.world, "workspace-core");
    let id = client.create("kept");
    let before = sockets(client.pid());
    assert_eq!(client.sh("kept", "echo 1"), "1\n");
    let one: BTreeSet<_> = sockets(client.pid()).difference(&before).cloned().collect();
    assert_eq!(one.len(), 1, "{before:?} {one:?}");
    for at in 2..10 {
        assert_eq!(client.sh(&id, &format!("echo {at}")), format!("{at}\n"));
    }
    // One that fails, one whose time is up, and one that is cancelled end theirs, or leave it as it was.
    client.fails(
        "workspace_exec",
        json!({"workspace_id": id, "command": "true", "secret_env": {"A": "none"}}),
        "invalid_argument",
    );
    let late = json!({"workspace_id": id, "command": "echo a; sleep 1000", "timeout_seconds": 1});
    assert_eq!(client.ok("workspace_exec", late)["timed_out"], true);
    let call =
        client.begin("workspace_exec", json!({"workspace_id": id, "command": "touch begun; sleep 1000"}));
    eventually("it runs", || room.sh(&id, "ls") == "begun\n");
    client.tell("notifications/cancelled", json!({"requestId": call}));
    assert_eq!(client.sh(&id, "echo on"), "on\n");
    eventually("one is left", || sockets(client.pid()).len() <= before.len() + 1);

    // One that hangs is noticed on a connection that it does not greet on, and does nothing later.
    let keeper = room.keeper(&id);
    signal(keeper, "-STOP");
    let late = json!({"workspace_id": id, "command": "touch late", "timeout_seconds": 500});
    let failure = client.fails("workspace_exec", late, "failed");
    assert!(failure["error"].as_str().unwrap().contains("does not answer"), "{failure}");
    signal(keeper, "-CONT");
    assert_eq!(client.sh(&id, "echo alive"), "alive\n");
    assert_eq!(client.sh(&id, "ls"), "begun\n");

    // Another keeper, after a clean end and after none, is another connection.
    room.ok(&["stop", &id]);
    client.fails("workspace_exec", json!({"workspace_id": id, "command": "true"}), "wrong_state");
    room.ok(&["start", &id]);
    assert_eq!(client.sh(&id, "echo again"), "again\n");
    let keeper = room.keeper(&id);
    signal(keeper, "-KILL");
    // Its sockets are closed when nobody listens: it is no more among the living some time before.
    eventually("the keeper is gone", || !running(keeper) && room.state(&id) == "stopped");
    client.fails("workspace_exec", json!({"workspace_id": id, "command": "true"}), "wrong_state");
    room.ok(&["start", &id]);
    assert_eq!(client.sh(&id, "cat /workspace/begun; echo after"), "after\n");

    // A keeper that has one of them left ends all the same.
    room.ok(&["delete", &id]);
    client.leave();
    room.check_empty(&[]);
}
