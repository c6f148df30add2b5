//! A server that was used a lot is as it was when it was used a little.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::json;

use crate::room::Room;
use crate::support::{children, eventually};

use super::client::Client;

/// What a process holds.
#[derive(Debug, PartialEq, Eq)]
struct Holds {
    descriptors: usize,
    threads: usize,
    children: usize,
}

fn holds(pid: u32) -> Holds {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    Holds { descriptors: count("fd"), threads: count("task"), children: children(pid).len() }
}

/// What is in its memory, KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Names of files, without what grows with the history that is promised to be kept.
fn files(room: &Room) -> BTreeSet<PathBuf> {
    let kept =
        |path: &PathBuf| !path.to_string_lossy().contains("/log") && !path.to_string_lossy().contains("-wal");
    room.world.files().into_iter().filter(kept).collect()
}

/// So many calls of every sort, with failures, progress, things given up, and long ones.
fn mixed(client: &Client, id: &str, calls: usize) {
    // Twelve calls in a round, and three more in every tenth.
    for round in 1..=calls.div_ceil(12) {
        client.sh(id, "true");
        client
            .ok("workspace_file_write", json!({"workspace_id": id, "path": "f", "text": "x".repeat(10_000)}));
        client.ok("workspace_file_read", json!({"workspace_id": id, "path": "f"}));
        client.ok("workspace_file_list", json!({"workspace_id": id}));
        client.ok("workspace_status", json!({"workspace_id": id}));
        client.ok("workspace_list", json!({}));
        client.ok("workspace_logs", json!({"workspace_id": id, "tail": 2}));
        client.fails("workspace_file_read", json!({"workspace_id": id, "path": "none"}), "not_found");
        client.fails("workspace_exec", json!({"workspace_id": "none", "command": "true"}), "not_found");
        client.fails("workspace_exec", json!({"nonsense": 1}), "invalid_argument");
        let given_up = client.begin("workspace_exec", json!({"workspace_id": id, "command": "sleep 1000"}));
        client.tell("notifications/cancelled", json!({"requestId": given_up}));
        let told =
            client.begin_with_progress("workspace_exec", json!({"workspace_id": id, "command": "seq 5000"}));
        client.done("workspace_exec", told).unwrap();
        if round % 10 == 0 {
            client.ok("workspace_diff", json!({"workspace_id": id}));
            let run = json!({"environment": "debian:12-base", "mem_mib": 256, "command": "true"});
            client.ok("vm_run", run.clone());
            let given_up = client.begin("vm_run", run);
            client.tell("notifications/cancelled", json!({"requestId": given_up}));
        }
    }
}

#[test]
fn calls_leave_nothing_in_the_server() {
    // The figures in SPECIFICATION.md are of 1,000.
    let calls = std::env::var("PYRO_MCP_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let room = Room::new();
    let client = Client::ready(&room.world, "workspace-core");
    let id = client.create("grows");
    mixed(&client, &id, 120);
    // Threads that wait for work end by themselves after ten seconds, of which nothing tells; what is idle is compared with
    // what is idle.
    let calm = || {
        let mut last = holds(client.pid());
        eventually("it is calm", || {
            std::thread::sleep(std::time::Duration::from_secs(11));
            let before = std::mem::replace(&mut last, holds(client.pid()));
            before == last && last.children <= 1
        });
        last
    };
    let (before, memory, names) = (calm(), resident(client.pid()), files(&room));
    mixed(&client, &id, calls);
    let (after, memory_after, names_after) = (calm(), resident(client.pid()), files(&room));
    println!("{calls} calls: {before:?} {memory} KiB, then {after:?} {memory_after} KiB");
    assert_eq!(before, after);
    assert!(memory_after < memory + 8 * 1024, "{memory} KiB, then {memory_after}");
    let new: Vec<_> = names_after.difference(&names).collect();
    assert!(new.is_empty(), "{new:?}");
    client.ok("workspace_delete", json!({"workspace_id": id}));
    client.leave();
    room.check_empty(&[]);
}
