//! Every tool in a real microVM: once as it should go and once as it should not. Every result is held against the
//! schema that its tool shows and against the contract's fields.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::room::{Room, as_agreed};

use super::client::Client;

/// A room, a server whose models may name `host` below its HOME, and that directory.
fn served() -> (Room, Client, std::path::PathBuf) {
    let room = Room::new();
    let host = room.world.home.path().join("host");
    std::fs::create_dir(&host).unwrap();
    let root = host.to_str().unwrap();
    let client = Client::ready_with(&room.world, &["--profile", "workspace-full", "--host-root", root]);
    (room, client, host)
}

/// Calls a tool, whose result has the contract's fields of an operation.
fn agrees(client: &Client, tool: &str, arguments: Value, operation: &str) -> Value {
    let done = client.ok(tool, arguments);
    as_agreed(&done, operation);
    done
}

#[test]
fn every_tool_succeeds_and_fails_as_it_says() {
    let (room, client, host) = served();
    let tools = client.ask("tools/list", json!({}))["tools"].as_array().unwrap().clone();
    vms(&client);
    let id = workspaces(&client, &host);
    files(&client, &id, &host);
    snapshots(&client, &id);
    shells(&client, &id);
    services(&client, &id);
    stopped(&client, &id, &host);
    // What every tool does with what it does not know.
    for tool in &tools {
        let name = tool["name"].as_str().unwrap();
        let mut arguments = json!({"nonsense": 1});
        for required in tool["inputSchema"]["required"].as_array().into_iter().flatten() {
            arguments[required.as_str().unwrap()] = "x".into();
        }
        let failure = client.fails(name, arguments, "invalid_argument");
        assert!(failure["error"].as_str().unwrap().contains("nonsense"), "{name}: {failure}");
    }
    let deleted = agrees(&client, "workspace_delete", json!({"workspace_id": id}), "delete_workspace");
    assert_eq!(deleted["deleted"], true);
    let tally = client.tally();
    for tool in &tools {
        let name = tool["name"].as_str().unwrap();
        let (good, bad) = tally.get(name).copied().unwrap_or_default();
        assert!(good > 0 && bad > 1, "{name} succeeded {good} times and failed {bad} times");
    }
    client.leave();
    room.check_empty(&[]);
}

fn vms(client: &Client) {
    let small = json!({"environment": "debian:12-base", "mem_mib": 256});
    let with = |key: &str, value: Value| {
        let mut arguments = small.clone();
        arguments[key] = value;
        arguments
    };
    let ran = agrees(client, "vm_run", with("command", "echo out; echo err >&2; exit 3".into()), "run_in_vm");
    assert_eq!(
        (&ran["stdout"], &ran["stderr"], &ran["exit_code"]),
        (&"out\n".into(), &"err\n".into(), &3.into())
    );
    assert_eq!((&ran["execution_mode"], &ran["backend"]), (&"guest_vsock".into(), &"qemu".into()));
    let mut slow = with("command", "sleep 1000".into());
    slow["timeout_seconds"] = 1.into();
    let late = client.ok("vm_run", slow);
    assert_eq!((&late["exit_code"], &late["timed_out"]), (&124.into(), &true.into()), "{late}");
    let failure = client.fails("vm_run", json!({"environment": "debain:12", "command": "true"}), "not_found");
    assert!(failure["next"].as_str().unwrap().contains("debian:12"), "{failure}");
    for (key, value, kind) in [
        ("command", json!(""), "invalid_argument"),
        ("vcpu_count", json!(9), "invalid_argument"),
        ("mem_mib", json!(-1), "invalid_argument"),
        ("timeout_seconds", json!(0), "invalid_argument"),
        ("allow_host_compat", json!(true), "not_allowed"),
    ] {
        let mut arguments = with("command", "true".into());
        arguments[key] = value;
        let failure = client.fails("vm_run", arguments, kind);
        assert!(failure.to_string().contains(key), "{failure}");
    }

    let list = agrees(client, "vm_list_environments", json!({}), "list_environments (CLI --json)");
    assert!(list["environments"].as_array().unwrap().len() >= 3, "{list}");
    client.fails("vm_create", with("vcpu_count", 0.into()), "invalid_argument");
    let vm = agrees(client, "vm_create", small.clone(), "create_vm")["vm_id"].clone();
    let it = json!({"vm_id": vm});
    let exec = json!({"vm_id": vm, "command": "echo $((6*7))"});
    client.fails("vm_exec", exec.clone(), "wrong_state");
    agrees(client, "vm_status", it.clone(), "status_vm");
    assert_eq!(agrees(client, "vm_start", it.clone(), "start_vm")["state"], "started");
    let network = agrees(client, "vm_network_info", it.clone(), "network_info_vm");
    assert_eq!(network["network_enabled"], false);
    assert_eq!(agrees(client, "vm_exec", exec.clone(), "exec_vm")["stdout"], "42\n");
    let vm = client.ok("vm_create", small)["vm_id"].clone();
    let it = json!({"vm_id": vm});
    client.ok("vm_start", it.clone());
    assert_eq!(agrees(client, "vm_stop", it.clone(), "stop_vm")["state"], "stopped");
    assert_eq!(agrees(client, "vm_delete", it.clone(), "delete_vm")["deleted"], true);
    for tool in ["vm_start", "vm_stop", "vm_delete", "vm_status", "vm_network_info"] {
        client.fails(tool, it.clone(), "not_found");
    }
    client.fails("vm_exec", exec, "not_found");
    assert_eq!(agrees(client, "vm_reap_expired", json!({}), "reap_expired")["count"], 0);
    client.fails("vm_list_environments", json!({"all": true}), "invalid_argument");
    client.fails("vm_reap_expired", json!({"all": true}), "invalid_argument");
}

fn workspaces(client: &Client, host: &std::path::Path) -> String {
    let seed = host.join("seed");
    std::fs::create_dir(&seed).unwrap();
    std::fs::write(seed.join("a.txt"), "one\ntwo\nthree\n").unwrap();
    let wish = json!({
        "environment": "debian:12-base", "mem_mib": 256, "name": "ws", "labels": {"issue": "6"},
        "seed_path": seed, "secrets": [{"name": "TOKEN", "value": "hunter2hunter2"}],
    });
    let created = agrees(client, "workspace_create", wish.clone(), "create_workspace");
    let id = created["workspace_id"].as_str().unwrap().to_owned();
    assert_eq!(created["secrets"], json!([{"name": "TOKEN", "source_kind": "literal"}]));
    assert!(!created.to_string().contains("hunter2"), "{created}");
    client.fails("workspace_create", wish, "conflict");
    for (key, value, kind) in [
        ("seed_path", json!("/etc"), "not_allowed"),
        ("network_policy", json!("nonsense"), "unavailable"),
        ("secrets", json!([{"name": "A"}]), "invalid_argument"),
        ("fork_of", json!("nobody"), "not_found"),
    ] {
        let mut arguments = json!({"environment": "debian:12-base"});
        arguments[key] = value;
        let failure = client.call("workspace_create", arguments).unwrap_err();
        // What a network policy may be is decided elsewhere.
        assert!(failure["kind"] == kind || key == "network_policy", "{key}: {failure}");
    }
    let it = json!({"workspace_id": id});
    let exec = |command: &str| json!({"workspace_id": id, "command": command});
    let done = agrees(client, "workspace_exec", exec("pwd; cat a.txt >&2; exit 3"), "exec_workspace");
    assert_eq!(
        (&done["stdout"], &done["stderr"], &done["exit_code"]),
        (&"/workspace\n".into(), &"one\ntwo\nthree\n".into(), &3.into())
    );
    let mut secret = exec("echo \"$T\" | head -c 4; echo; echo $T; cat /run/pyro-secrets/TOKEN");
    secret["secret_env"] = json!({"TOKEN": "T"});
    let done = client.ok("workspace_exec", secret);
    assert_eq!(done["stdout"], "hunt\n[REDACTED]\n[REDACTED]");
    let mut slow = exec("sleep 1000");
    slow["timeout_seconds"] = 1.into();
    assert_eq!(client.ok("workspace_exec", slow)["exit_code"], 124);
    client.fails("workspace_exec", exec(""), "invalid_argument");
    client.fails("workspace_exec", json!({"workspace_id": "nobody", "command": "true"}), "not_found");
    agrees(client, "workspace_status", it.clone(), "status_workspace");
    client.fails("workspace_status", json!({"workspace_id": "nobody"}), "not_found");
    let list = agrees(client, "workspace_list", json!({}), "list_workspaces");
    assert_eq!(list["count"], 1);
    client.fails("workspace_list", json!({"state": "running"}), "invalid_argument");
    let changes =
        json!({"workspace_id": "ws", "name": "other", "labels": {"b": "c"}, "clear_labels": ["issue"]});
    let updated = agrees(client, "workspace_update", changes, "update_workspace");
    assert_eq!((&updated["name"], &updated["labels"]), (&"other".into(), &json!({"b": "c"})));
    client.fails("workspace_update", it.clone(), "invalid_argument");
    let both = json!({"workspace_id": id, "name": "x", "clear_name": true});
    client.fails("workspace_update", both, "invalid_argument");
    let logs = agrees(client, "workspace_logs", it, "logs_workspace");
    assert_eq!(logs["entries"].as_array().unwrap().len(), 3);
    assert!(!logs.to_string().contains("hunter2hunter2"), "{logs}");
    client.fails("workspace_logs", json!({"workspace_id": id, "sequence": 99}), "not_found");
    client.fails("workspace_delete", json!({"workspace_id": "nobody"}), "not_found");
    let fork = client
        .ok("workspace_create", json!({"environment": "debian:12-base", "fork_of": "other", "name": "fork"}));
    assert_eq!(client.sh("fork", "cat a.txt"), "one\ntwo\nthree\n");
    assert_ne!(fork["workspace_id"], id);
    client.ok("workspace_delete", json!({"workspace_id": "fork"}));
    id
}

fn files(client: &Client, id: &str, host: &std::path::Path) {
    let at = |path: &str| json!({"workspace_id": id, "path": path});
    let mut new = at("src/b.txt");
    new["text"] = "neu: äöü\n".into();
    let written = agrees(client, "workspace_file_write", new.clone(), "write_workspace_file");
    assert_eq!(written["bytes_written"], 12);
    for outside in ["/etc/passwd", "../etc/passwd", "src/../../x", "/workspace/../x", ""] {
        let mut arguments = at(outside);
        arguments["text"] = "x".into();
        let failure = client.call("workspace_file_write", arguments).unwrap_err();
        assert!(
            ["not_allowed", "invalid_argument"].contains(&failure["kind"].as_str().unwrap()),
            "{failure}"
        );
        client.call("workspace_file_read", at(outside)).unwrap_err();
    }
    client.sh(id, "ln -s /etc/passwd out; ln -s /etc etc");
    for outside in ["out", "etc/passwd"] {
        client.fails("workspace_file_read", at(outside), "not_allowed");
    }
    let read = agrees(client, "workspace_file_read", at("/workspace/src/b.txt"), "read_workspace_file");
    assert_eq!(read["content"], "neu: äöü\n");
    let mut none = at("src/b.txt");
    none["max_bytes"] = 0.into();
    client.fails("workspace_file_read", none, "invalid_argument");
    client.fails("workspace_file_read", at("none"), "not_found");
    let list = agrees(client, "workspace_file_list", at("src"), "list_workspace_files");
    assert_eq!(list["entries"][0]["path"], "/workspace/src/b.txt");
    client.fails("workspace_file_list", at("none"), "not_found");
    client.sh(id, "rm out etc");

    let patch = "--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
    let it = |patch: &str| json!({"workspace_id": id, "patch": patch});
    agrees(client, "workspace_patch_apply", it(patch), "apply_workspace_patch");
    assert_eq!(client.sh(id, "cat a.txt"), "one\n2\nthree\n");
    let failure = client.fails("workspace_patch_apply", it(patch), "rejected");
    assert!(failure["error"].as_str().unwrap().contains("a.txt"), "{failure}");
    client.fails("workspace_patch_apply", it("nonsense"), "invalid_argument");
    let diff = agrees(client, "workspace_diff", json!({"workspace_id": id}), "diff_workspace");
    assert_eq!((&diff["summary"]["modified"], &diff["summary"]["added"]), (&1.into(), &2.into()), "{diff}");
    client.fails("workspace_diff", json!({"workspace_id": "nobody"}), "not_found");

    let tree = host.join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("pushed.txt"), "pushed\n").unwrap();
    let mut push = json!({"workspace_id": id, "source_path": tree, "dest": "/workspace/in"});
    agrees(client, "workspace_sync_push", push.clone(), "push_workspace_sync");
    assert_eq!(client.sh(id, "cat in/pushed.txt"), "pushed\n");
    push["dest"] = "/etc".into();
    client.fails("workspace_sync_push", push.clone(), "not_allowed");
    push["source_path"] = "/etc".into();
    let failure = client.fails("workspace_sync_push", push, "not_allowed");
    assert!(failure["next"].as_str().unwrap().contains("--host-root"), "{failure}");

    let output = host.join("out.txt");
    let mut export = at("in/pushed.txt");
    export["output_path"] = output.to_str().unwrap().into();
    agrees(client, "workspace_export", export.clone(), "export_workspace");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "pushed\n");
    client.fails("workspace_export", export.clone(), "conflict");
    export["output_path"] = "/etc/pyro-was-here".into();
    client.fails("workspace_export", export, "not_allowed");
}

fn snapshots(client: &Client, id: &str) {
    let named = |name: &str| json!({"workspace_id": id, "snapshot_name": name});
    agrees(client, "snapshot_create", named("one"), "create_snapshot");
    client.fails("snapshot_create", named("one"), "conflict");
    client.sh(id, "rm -rf in src; echo changed > a.txt");
    let list = agrees(client, "snapshot_list", json!({"workspace_id": id}), "list_snapshots");
    assert_eq!(list["count"], 2);
    client.fails("snapshot_list", json!({"workspace_id": "nobody"}), "not_found");
    let reset = json!({"workspace_id": id, "snapshot": "one"});
    agrees(client, "workspace_reset", reset, "reset_workspace");
    assert_eq!(client.sh(id, "cat a.txt in/pushed.txt"), "one\n2\nthree\npushed\n");
    client.fails("workspace_reset", json!({"workspace_id": id, "snapshot": "none"}), "not_found");
    agrees(client, "snapshot_delete", named("one"), "delete_snapshot");
    client.fails("snapshot_delete", named("one"), "not_found");
    client.fails("snapshot_delete", named("baseline"), "not_allowed");
}

fn shells(client: &Client, id: &str) {
    let open = agrees(client, "shell_open", json!({"workspace_id": id, "cols": 80}), "open_shell");
    let with = |more: Value| {
        let mut arguments = json!({"workspace_id": id, "shell_id": open["shell_id"]});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        arguments
    };
    client.fails("shell_open", json!({"workspace_id": id, "cols": 0}), "invalid_argument");
    agrees(client, "shell_write", with(json!({"input": "echo $((40+2)) && sleep 1000"})), "write_shell");
    let mut text = String::new();
    let mut cursor = json!(0);
    while !text.contains("\n42") {
        let look = with(json!({"cursor": cursor, "plain": true, "wait_for_idle_ms": 100}));
        let read = agrees(client, "shell_read", look, "read_shell");
        text.push_str(read["output"].as_str().unwrap());
        cursor = read["next_cursor"].clone();
    }
    agrees(client, "shell_signal", with(json!({})), "signal_shell");
    client.fails("shell_signal", with(json!({"signal_name": "USR9"})), "invalid_argument");
    client.fails("shell_read", with(json!({"max_chars": 0})), "invalid_argument");
    assert_eq!(agrees(client, "shell_close", with(json!({})), "close_shell")["closed"], true);
    let gone = json!({"workspace_id": id, "shell_id": "000000000000"});
    for tool in ["shell_close", "shell_read", "shell_signal"] {
        client.fails(tool, gone.clone(), "not_found");
    }
    client.fails("shell_write", json!({"workspace_id": id, "shell_id": "none", "input": ""}), "not_found");
}

fn services(client: &Client, id: &str) {
    let with = |more: Value| {
        let mut arguments = json!({"workspace_id": id, "service_name": "web"});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        arguments
    };
    let wish = json!({"command": "echo begins; touch ready; exec sleep 1000", "ready_file": "ready"});
    let started = agrees(client, "service_start", with(wish.clone()), "start_service");
    assert_eq!(started["state"], "running", "{started}");
    client.fails("service_start", with(wish), "conflict");
    let mut never =
        with(json!({"command": "echo why not; exit 1", "ready_tcp": "1", "ready_timeout_seconds": 5}));
    never["service_name"] = "never".into();
    let failure = client.fails("service_start", never.clone(), "guest_failed");
    assert!(failure.to_string().contains("why not"), "the log's end: {failure}");
    never["ready_file"] = "x".into();
    client.fails("service_start", never, "invalid_argument");
    agrees(client, "service_list", json!({"workspace_id": id}), "list_services");
    client.fails("service_list", json!({"workspace_id": "nobody"}), "not_found");
    agrees(client, "service_status", with(json!({})), "status_service");
    let logs = agrees(client, "service_logs", with(json!({})), "logs_service");
    assert_eq!(logs["stdout"], "begins\n");
    assert_eq!(agrees(client, "service_stop", with(json!({})), "stop_service")["state"], "stopped");
    let none = json!({"workspace_id": id, "service_name": "none"});
    for tool in ["service_status", "service_logs", "service_stop"] {
        client.fails(tool, none.clone(), "not_found");
    }
}

fn stopped(client: &Client, id: &str, host: &std::path::Path) {
    let it = json!({"workspace_id": id});
    let at = |path: &str| json!({"workspace_id": id, "path": path});
    client.fails("workspace_disk_list", at("/workspace"), "wrong_state");
    client.fails("workspace_disk_read", at("/workspace/a.txt"), "wrong_state");
    let image = host.join("disk.ext4");
    let export = json!({"workspace_id": id, "output_path": image});
    client.fails("workspace_disk_export", export.clone(), "wrong_state");
    agrees(client, "workspace_stop", it.clone(), "stop_workspace");
    client.fails("workspace_stop", json!({"workspace_id": "nobody"}), "not_found");
    let failure =
        client.fails("workspace_exec", json!({"workspace_id": id, "command": "true"}), "wrong_state");
    assert!(failure["next"].as_str().unwrap().contains("workspace_start"), "{failure}");
    let list = agrees(client, "workspace_disk_list", at("/workspace"), "list_workspace_disk");
    let paths: BTreeSet<&str> =
        list["entries"].as_array().unwrap().iter().filter_map(|entry| entry["path"].as_str()).collect();
    assert!(paths.contains("/workspace/a.txt"), "{list}");
    let read = agrees(client, "workspace_disk_read", at("/workspace/a.txt"), "read_workspace_disk");
    assert_eq!(read["content"], "one\n2\nthree\n");
    client.fails("workspace_disk_read", at("/workspace/none"), "not_found");
    agrees(client, "workspace_disk_export", export.clone(), "export_workspace_disk");
    assert!(image.exists());
    client.fails("workspace_disk_export", export, "conflict");
    agrees(client, "workspace_start", it, "start_workspace");
    client.fails("workspace_start", json!({"workspace_id": "nobody"}), "not_found");
    assert_eq!(client.sh(id, "cat a.txt"), "one\n2\nthree\n");
}

#[test]
fn long_output_is_cut_and_all_of_it_can_be_had() {
    let (_room, client, _) = served();
    let id = client.create("long");
    // Lines of several lengths, with characters of two bytes at every boundary; 200,000 bytes and more.
    let command =
        "i=0; while [ $i -lt 9000 ]; do echo \"$i äöüäöü\"; i=$((i+1)); done | tee out.txt; cat out.txt >&2";
    let whole: String = (0..9000).map(|i| format!("{i} äöüäöü\n")).collect();
    let done =
        client.ok("workspace_exec", json!({"workspace_id": id, "command": command, "timeout_seconds": 600}));
    assert_eq!(done["exit_code"], 0, "{done}");
    for stream in ["stdout", "stderr"] {
        let text = done[stream].as_str().unwrap();
        assert!(text.len() < 20_000, "{stream}: {}", text.len());
        let (head, rest) = text.split_once("[... ").unwrap();
        let (note, tail) = rest.split_once(" ...]\n").unwrap();
        assert!(whole.starts_with(head) && whole.ends_with(tail), "{stream}");
        assert!(head.ends_with('\n') && whole.ends_with(&format!("\n{tail}")), "a line is cut: {text}");
        let left_out = whole.len() - head.len() - tail.len();
        assert!(note.starts_with(&format!("{left_out} bytes left out")), "{note}");
        assert!(
            note.ends_with(&format!("sequence={} and offset={}", done["sequence"], head.len())),
            "{note}"
        );
        assert_eq!(done[format!("{stream}_truncated")], true);
        assert_eq!(done[format!("{stream}_bytes")], whole.len());
    }
    let sequence = &done["sequence"];
    let (mut all, mut offset) = (String::new(), 0);
    loop {
        let part = json!({"workspace_id": id, "sequence": sequence, "offset": offset});
        let logs = client.ok("workspace_logs", part);
        let entry = &logs["entries"][0];
        assert_eq!(entry["stdout"], entry["stderr"]);
        let text = entry["stdout"].as_str().unwrap();
        let Some((part, note)) = text.split_once("\n[... ") else {
            all.push_str(text);
            break;
        };
        all.push_str(part);
        offset = note.split("offset=").nth(1).unwrap().trim_end_matches(" ...]").parse().unwrap();
        assert_eq!(offset, all.len());
    }
    assert!(all == whole, "workspace_logs gives all back: {} of {} bytes", all.len(), whole.len());
    let logs = format!("pyro://workspaces/{id}/logs");
    let text = client.ask("resources/read", json!({"uri": logs}))["contents"][0]["text"].clone();
    assert!(text.as_str().unwrap().contains(&format!("{logs}/{sequence} has all of it")), "{text}");
    let missing = json!({"uri": format!("{logs}/4711")});
    let refused = client.request("resources/read", missing.clone());
    assert_eq!(refused["error"]["data"], missing, "{refused}");
    let listed = client.ok("workspace_logs", json!({"workspace_id": id}));
    assert!(listed.to_string().len() < 20_000, "a list is short");

    let (mut all, mut offset) = (String::new(), json!(0));
    while !offset.is_null() {
        let part = json!({"workspace_id": id, "path": "out.txt", "offset": offset, "max_bytes": 10_001});
        let read = client.ok("workspace_file_read", part);
        all.push_str(read["content"].as_str().unwrap());
        offset = read["next_offset"].clone();
        assert_eq!(read["truncated"] == true, offset == all.len(), "{offset}");
    }
    assert!(all == whole, "workspace_file_read gives all back: {} of {}", all.len(), whole.len());

    let (mut patch, mut offset) = (String::new(), json!(0));
    while !offset.is_null() {
        let diff = client.ok("workspace_diff", json!({"workspace_id": id, "offset": offset}));
        patch.push_str(diff["patch"].as_str().unwrap());
        offset = diff["next_offset"].clone();
        assert_eq!(diff["patch_bytes"].as_u64().unwrap() > patch.len() as u64, !offset.is_null());
    }
    let added: String =
        patch.lines().filter_map(|line| line.strip_prefix('+')).map(|l| format!("{l}\n")).collect();
    assert!(added.ends_with(&whole), "workspace_diff gives all back");

    let ran = json!({"environment": "debian:12-base", "mem_mib": 256, "command": "seq 100000"});
    let ran = client.ok("vm_run", ran);
    assert_eq!((&ran["stdout_truncated"], &ran["stdout_bytes"]), (&true.into(), &588_895.into()));
    let text = ran["stdout"].as_str().unwrap();
    assert!(text.len() < 20_000 && text.starts_with("1\n2\n") && text.ends_with("99999\n100000\n"));
    assert!(text.contains("bytes left out"));
    let whole: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    let resource = |uri: &str| {
        let found = client.ask("resources/read", json!({"uri": uri}));
        found["contents"][0]["text"].as_str().unwrap().to_owned()
    };
    assert!(resource(&format!("pyro://runs/{}/stdout", ran["vm_id"].as_str().unwrap())) == whole);
    // As a model that follows what is said: first what was shown, then part by part.
    let (mut all, mut rest) = text.split_once("[... ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    loop {
        let from = rest.find("pyro://runs/").unwrap();
        let uri = rest[from..].split([' ', ',']).next().unwrap().to_owned();
        let part = resource(&uri);
        let Some((part, note)) = part.split_once("\n[... ") else {
            all.push_str(&part);
            break;
        };
        all.push_str(part);
        note.clone_into(&mut rest);
    }
    assert!(all == whole, "resources give all back: {} of {}", all.len(), whole.len());
    client.ok("workspace_delete", json!({"workspace_id": id}));
    client.leave();
}
