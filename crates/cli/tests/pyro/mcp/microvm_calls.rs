//! Calls while they run: their order, what they tell of their progress, and how they are given up.

use serde_json::{Value, json};

use crate::room::Room;
use crate::support::{children, eventually, running};

use super::client::Client;

fn exec(id: &str, command: &str) -> Value {
    json!({"workspace_id": id, "command": command, "timeout_seconds": 2000})
}

/// The VMMs of a server's one-shot VMs.
fn vmms(client: &Client) -> Vec<u32> {
    let mut found = Vec::new();
    let mut level = children(client.pid());
    while !level.is_empty() {
        level.retain(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&line).contains("keeper\0run")
        });
        found.extend(&level);
        level = level.iter().flat_map(|pid| children(*pid)).collect();
    }
    found
}

/// Calls a command that goes on, and waits until it runs.
fn sleeping(client: &Client, id: &str) -> u64 {
    let call = client.begin("workspace_exec", exec(id, "touch /tmp/sleeps; exec sleep 1000"));
    eventually("it sleeps", || client.sh(id, "[ -e /tmp/sleeps ] && echo yes || true") == "yes\n");
    call
}

fn cancel(client: &Client, call: u64) {
    client.tell("notifications/cancelled", json!({"requestId": call, "reason": "a test"}));
}

/// Whether such a process runs in the guest.
fn sleeps(client: &Client, id: &str) -> bool {
    client.sh(id, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 100[0] ' || true")
        != "0\n"
}

#[test]
fn what_is_asked_for_in_a_row_happens_in_a_row() {
    let room = Room::new();
    let client = Client::ready(&room.world, "workspace-core");
    let id = client.create("row");
    let write = |text: &str| {
        client.begin("workspace_file_write", json!({"workspace_id": id, "path": "f", "text": text}))
    };
    // Some commands are slow to look.
    let look = |slow: bool| {
        let command = if slow { "sleep 0.05; cat f" } else { "cat f" };
        client.begin("workspace_exec", exec(&id, command))
    };
    for round in 0..20 {
        let texts = [format!("{round} first"), format!("{round} second")];
        let calls: Vec<_> = texts.iter().map(|text| (write(text), look(round % 2 == 0), text)).collect();
        for (wrote, looked, text) in calls {
            client.done("workspace_file_write", wrote).unwrap();
            let seen = client.done("workspace_exec", looked).unwrap();
            assert_eq!(seen["stdout"], text.as_str(), "{seen}");
        }
    }
    // By its name it is the same workspace, and a change that is given up lets the others go on.
    // Slow enough to be running when what follows was asked for: that the others wait for it must be observed.
    let slow = client.begin("workspace_exec", exec(&id, "sleep 1; cat f"));
    let given_up = write("never");
    let by_name = json!({"workspace_id": "row", "path": "f", "text": "named"});
    let named = client.begin("workspace_file_write", by_name);
    let looked = look(false);
    cancel(&client, given_up);
    assert_eq!(client.done("workspace_exec", slow).unwrap()["stdout"], "19 second");
    client.done("workspace_file_write", named).unwrap();
    assert_eq!(client.done("workspace_exec", looked).unwrap()["stdout"], "named");
    assert!(!client.answered(given_up), "what is cancelled is not answered");
    client.ok("workspace_delete", json!({"workspace_id": id}));
    client.leave();
}

#[test]
fn a_long_command_holds_nobody_who_only_looks() {
    let room = Room::new();
    let client = Client::ready(&room.world, "workspace-full");
    let id = client.create("long");
    client.ok("workspace_file_write", json!({"workspace_id": id, "path": "f", "text": "x"}));
    let long = sleeping(&client, &id);
    client.ok("workspace_file_read", json!({"workspace_id": id, "path": "f"}));
    client.ok("workspace_file_list", json!({"workspace_id": id}));
    client.ok("workspace_status", json!({"workspace_id": id}));
    client.ok("workspace_logs", json!({"workspace_id": id}));
    client.ok("workspace_diff", json!({"workspace_id": id}));
    assert_eq!(client.sh(&id, "cat f"), "x");
    let other = client.create("other");
    client.ok("workspace_file_write", json!({"workspace_id": other, "path": "f", "text": "y"}));
    assert!(!client.answered(long));
    // Nor who ends it all.
    client.ok("workspace_delete", json!({"workspace_id": id}));
    let ended = client.answer(long);
    assert!(ended["result"]["isError"] == true || ended["result"]["structuredContent"]["exit_code"] != 0);
    client.ok("workspace_delete", json!({"workspace_id": other}));
    client.leave();
}

#[test]
fn progress_goes_on_and_ends_with_its_call() {
    let room = Room::new();
    let host = room.world.home.path().join("host");
    let tree = host.join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    for at in 0..60 {
        std::fs::write(tree.join(format!("file-{at}")), vec![b'x'; 500_000]).unwrap();
    }
    let root = host.to_str().unwrap();
    let client = Client::ready_with(&room.world, &["--profile", "workspace-core", "--host-root", root]);
    let wish = json!({"environment": "debian:12-base", "mem_mib": 512, "name": "p", "seed_path": tree});
    let push = json!({"workspace_id": "p", "source_path": tree, "dest": "/workspace/again"});
    let export = json!({"workspace_id": "p", "path": "again", "output_path": host.join("out")});
    let run = json!({"environment": "debian:12-base", "mem_mib": 256, "command": "true"});
    let calls = [
        ("workspace_create", wish, "seed"),
        ("workspace_sync_push", push, "sync"),
        ("workspace_export", export, "export"),
        ("vm_run", run, "VM"),
    ];
    for (tool, arguments, word) in calls {
        let call = client.begin_with_progress(tool, arguments);
        client.done(tool, call).unwrap();
        let points = points(&client.messages(), call);
        assert!(!points.is_empty(), "{tool} told nothing");
        let done: Vec<f64> = points.iter().map(|point| point["progress"].as_f64().unwrap()).collect();
        assert!(done.is_sorted_by(|a, b| a < b), "{tool}: {done:?}");
        let words = |point: &Value| point["message"].as_str().unwrap_or_default().to_owned();
        assert!(points.iter().any(|point| words(point).contains(word)), "{tool}: {points:?}");
        for point in &points {
            assert!(
                point["total"].is_null() || point["progress"].as_f64() <= point["total"].as_f64(),
                "{point}"
            );
        }
    }
    // Nobody is told who did not ask; and of what is answered nothing is told any more.
    let before = client.messages().len();
    client.ok("workspace_delete", json!({"workspace_id": "p"}));
    let messages = client.messages();
    assert!(messages[before..].iter().all(|message| message["method"].is_null()), "{messages:?}");
    for (at, message) in messages.iter().enumerate().filter(|(_, message)| message["method"].is_string()) {
        let token = &message["params"]["progressToken"];
        assert!(messages[at..].iter().any(|later| &later["id"] == token), "told after its answer: {message}");
    }
    client.leave();
}

fn points(messages: &[Value], token: u64) -> Vec<Value> {
    let told = messages.iter().filter(|message| message["method"] == "notifications/progress");
    let told = told.map(|message| message["params"].clone());
    told.filter(|point| point["progressToken"] == token).collect()
}

#[test]
fn a_call_that_is_given_up_leaves_nothing_behind() {
    let room = Room::new();
    let client = Client::ready(&room.world, "workspace-core");
    let id = client.create("given-up");
    for _ in 0..3 {
        client.sh(&id, "rm -f /tmp/sleeps");
        let call = sleeping(&client, &id);
        assert!(sleeps(&client, &id));
        cancel(&client, call);
        eventually("the guest's process is gone", || !sleeps(&client, &id));
        assert!(!client.answered(call), "what is cancelled is not answered");
    }
    let run = json!({
        "environment": "debian:12-base", "mem_mib": 256, "command": "sleep 1000", "timeout_seconds": 2000
    });
    let call = client.begin_with_progress("vm_run", run.clone());
    client.wait("word that the command runs", |messages| {
        let points = points(messages, call);
        points.iter().any(|point| point["message"] == "running the command").then_some(())
    });
    let vmm = vmms(&client);
    assert!(!vmm.is_empty());
    cancel(&client, call);
    eventually("its VMM is gone", || vmms(&client).is_empty() && !vmm.iter().any(|pid| running(*pid)));
    // At any moment of its life: before it has a VMM nothing tells how far it is.
    for pause in [0, 1, 5, 20, 80] {
        let call = client.begin("vm_run", run.clone());
        std::thread::sleep(std::time::Duration::from_millis(pause));
        cancel(&client, call);
    }
    eventually("all VMMs are gone", || vmms(&client).is_empty());
    let call = client.begin("vm_run", run.clone());
    eventually("it has a VMM", || !vmms(&client).is_empty());
    cancel(&client, call);
    eventually("its VMM is gone as well", || vmms(&client).is_empty());
    // What is not there, is over or was never asked for can be given up too.
    for wrong in [json!(call), json!(123_456), json!("x"), json!(-1)] {
        client.tell("notifications/cancelled", json!({"requestId": wrong}));
    }
    client.tell("notifications/cancelled", json!({}));
    assert_eq!(client.sh(&id, "echo well"), "well\n");
    client.ok("workspace_delete", json!({"workspace_id": id}));
    client.leave();
}

#[test]
fn a_name_can_be_used_as_soon_as_it_is_asked_for() {
    let room = Room::new();
    let client = Client::ready(&room.world, "workspace-core");
    let id = client.create("old");
    for round in 0..5 {
        let name = format!("new-{round}");
        let rename = client.begin("workspace_update", json!({"workspace_id": id, "name": name}));
        let text = json!({"workspace_id": name, "path": "f", "text": name});
        let write = client.begin("workspace_file_write", text);
        let look = client.begin("workspace_exec", exec(&id, "cat f"));
        client.done("workspace_update", rename).unwrap();
        client.done("workspace_file_write", write).unwrap();
        assert_eq!(client.done("workspace_exec", look).unwrap()["stdout"], name.as_str());
    }
    // Also that of one that is only being made, or whose former owner is only being removed.
    let wish = json!({"environment": "debian:12-base", "mem_mib": 256, "name": "new-4"});
    let delete = client.begin("workspace_delete", json!({"workspace_id": "new-4"}));
    let create = client.begin("workspace_create", wish);
    let write =
        client.begin("workspace_file_write", json!({"workspace_id": "new-4", "path": "f", "text": "x"}));
    let look = client.begin("workspace_exec", exec("new-4", "cat f"));
    client.done("workspace_delete", delete).unwrap();
    let made = client.done("workspace_create", create).unwrap();
    assert_ne!(made["workspace_id"], id.as_str());
    client.done("workspace_file_write", write).unwrap();
    assert_eq!(client.done("workspace_exec", look).unwrap()["stdout"], "x");
    client.ok("workspace_delete", json!({"workspace_id": "new-4"}));
    client.leave();
}

#[test]
fn a_snapshot_that_is_given_up_is_not_made() {
    let room = Room::new();
    let client = Client::ready(&room.world, "workspace-full");
    let id = client.create("snapped");
    // Enough to copy for the word to come before the copy is whole.
    client.sh(&id, "dd if=/dev/urandom of=big bs=1M count=64 2>/dev/null");
    let snapshot = |name: &str| json!({"workspace_id": id, "snapshot_name": name});
    for (round, pause) in [0, 0, 1, 2, 2, 4].into_iter().enumerate() {
        client.sh(&id, &format!("dd if=/dev/urandom of=more-{round} bs=1M count=8 2>/dev/null"));
        let call = client.begin("snapshot_create", snapshot(&format!("given-up-{round}")));
        std::thread::sleep(std::time::Duration::from_millis(pause));
        cancel(&client, call);
        // Refused while a copy that was given up comes to its end, and done after it.
        eventually("another is made", || {
            match client.call("snapshot_create", snapshot(&format!("kept-{round}"))) {
                Ok(_) => true,
                Err(failure) => {
                    assert!(failure["error"].as_str().unwrap().contains("being copied"), "{failure}");
                    false
                }
            }
        });
        let list = client.ok("snapshot_list", json!({"workspace_id": id})).to_string();
        assert!(list.contains(&format!("kept-{round}")), "{list}");
        assert!(client.answered(call) || !list.contains("given-up"), "{pause} ms: {list}");
    }
    client.ok("workspace_delete", json!({"workspace_id": id}));
    client.leave();
}
