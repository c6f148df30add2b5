//! The life of a workspace as people and programs lead it.

use serde_json::{Value, json};

use crate::room::{Room, signal};
use crate::support::{eventually, finish};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

const STATUS: [&str; 29] = [
    "workspace_id",
    "name",
    "labels",
    "environment",
    "environment_version",
    "vcpu_count",
    "mem_mib",
    "ttl_seconds",
    "created_at",
    "last_activity_at",
    "expires_at",
    "state",
    "network_policy",
    "network_enabled",
    "allow_host_compat",
    "guest_ip",
    "tap_name",
    "execution_mode",
    "workspace_path",
    "workspace_seed",
    "secrets",
    "command_count",
    "last_command",
    "reset_count",
    "last_reset_at",
    "service_count",
    "running_service_count",
    "metadata",
    "backend",
];

#[test]
fn a_life_with_every_payload_as_the_contract_has_it() {
    let room = Room::new();
    let created =
        room.json(&["create", "debian:12-base", "--mem-mib", "256", "--name", "life", "--label", "a=1"]);
    for key in STATUS {
        assert!(keys(&created).contains(&key), "create lacks {key}: {created}");
    }
    let id = created["workspace_id"].as_str().unwrap();
    assert_eq!((&created["state"], &created["ttl_seconds"]), (&json!("started"), &json!(600)));
    assert_eq!(created["workspace_seed"]["mode"], "empty");
    let (_, vmm) = room.processes("life");

    let said = room.pyro(&["exec", "life", "--", "echo out; echo err >&2; pwd > f; exit 7"]);
    assert_eq!((said.code, said.stdout().as_str()), (Some(7), "out\n"), "{said:?}");
    assert!(said.err.starts_with("err\n"), "{said:?}");
    let exec = room.json(&["exec", id, "--", "cat", "f"]);
    assert_eq!(
        (&exec["stdout"], &exec["sequence"], &exec["cwd"]),
        (&json!("/workspace\n"), &json!(2), &json!("/workspace"))
    );
    assert_eq!((&exec["command"], &exec["execution_mode"]), (&json!("cat f"), &json!("guest_vsock")));

    let status = room.json(&["status", "life"]);
    assert_eq!((&status["command_count"], &status["last_command"]["command"]), (&json!(2), &json!("cat f")));
    let updated = room.json(&["update", "life", "--name", "other", "--label", "b=2", "--clear-label", "a"]);
    assert_eq!((&updated["name"], &updated["labels"]), (&json!("other"), &json!({"b": "2"})));
    assert_eq!(room.pyro(&["status", "life"]).code, Some(1));
    let list = room.json(&["list"]);
    assert_eq!((&list["count"], &list["workspaces"][0]["name"]), (&json!(1), &json!("other")));

    let stopped = room.json(&["stop", "other"]);
    assert_eq!(stopped["state"], "stopped");
    let said = room.pyro(&["exec", "other", "--", "true"]);
    assert!(said.code == Some(1) && said.err.contains("pyro workspace start"), "{said:?}");
    // A stopped one can be named and read.
    room.ok(&["update", "other", "--name", "life"]);
    let logs = room.json(&["logs", "life"]);
    assert_eq!(logs["count"], 2);
    let first = &logs["entries"][0];
    assert_eq!(
        (&first["stdout"], &first["stderr"], &first["exit_code"]),
        (&json!("out\n"), &json!("err\n"), &json!(7))
    );
    assert_eq!(std::fs::read_to_string(first["stdout_file"].as_str().unwrap()).unwrap(), "out\n");
    // Written entry by entry, it is the object that is printed in one elsewhere.
    let said = room.ok(&["logs", "life", "--json"]);
    assert_eq!(said.stdout(), format!("{:#}\n", said.json()));
    let last = room.json(&["logs", "life", "--tail", "1"]);
    let counts = ["count", "omitted_count", "command_count", "dropped_count"].map(|count| &last[count]);
    assert_eq!(counts, [1, 1, 2, 0]);
    assert_eq!(last["entries"][0]["sequence"], 2);
    let said = room.ok(&["logs", "life", "--tail", "1"]);
    assert!(said.stdout().starts_with("#2 ") && said.err.contains("1 earlier command"), "{said:?}");
    let said = room.ok(&["logs", "life", "--json", "--tail", "0"]);
    assert_eq!(said.stdout(), format!("{:#}\n", said.json()));
    // One that a newer pyro laid out is said to be there, and left alone.
    let layout = room.dir().join(id).join("layout");
    let text = std::fs::read_to_string(&layout).unwrap();
    std::fs::write(&layout, "pyro-workspace 1000\n").unwrap();
    let list = room.json(&["list"]);
    assert_eq!((&list["count"], &list["unreadable"][0]["workspace_id"]), (&json!(0), &json!(id)));
    for args in [&["list"][..], &["start", "life"], &["delete", "life"]] {
        let said = room.pyro(args);
        assert!(said.err.contains("newer version of pyro"), "{args:?} {said:?}");
    }
    std::fs::write(&layout, text).unwrap();
    assert_eq!(room.json(&["start", "life"])["state"], "started");
    assert_eq!(room.sh("life", "cat f"), "/workspace\n");
    assert_eq!(room.json(&["start", id])["state"], "started", "starting one that runs does nothing");
    let (_, second) = room.processes("life");

    let deleted = room.json(&["delete", "life"]);
    assert_eq!(deleted, json!({"workspace_id": id, "deleted": true, "reason": "explicit_delete"}));
    room.check_empty(&[vmm, second]);
}

#[test]
fn snapshots_bring_back_the_whole_sandbox_twice() {
    let room = Room::new();
    let id = room.create("snap");
    room.sh("snap", "echo one > f; echo one > /etc/marker; sleep 1000 >/dev/null 2>&1 &");
    let made = room.json(&["snapshot", "create", "snap", "first"]);
    assert_eq!(made["snapshot"]["workspace_id"], id.as_str());
    assert_eq!((&made["snapshot"]["kind"], &made["snapshot"]["deletable"]), (&json!("named"), &json!(true)));
    assert!(room.sh("snap", "cat /proc/*/comm").contains("sleep"), "processes go on");
    for _ in 0..2 {
        room.pyro(&["exec", "snap", "--", "rm -rf --no-preserve-root / 2>/dev/null"]);
        let reset = room.json(&["reset", "snap", "--snapshot", "first"]);
        assert_eq!(
            (&reset["state"], &reset["workspace_reset"]["snapshot_name"]),
            (&json!("started"), &json!("first"))
        );
        assert_eq!(room.sh("snap", "cat f /etc/marker"), "one\none\n");
    }
    // Of a stopped one, by another name, back to the very beginning.
    room.ok(&["stop", "snap"]);
    room.ok(&["snapshot", "create", "snap", "second"]);
    let reset = room.json(&["reset", "snap"]);
    assert_eq!((&reset["reset_count"], &reset["workspace_reset"]["kind"]), (&json!(3), &json!("baseline")));
    assert_eq!(room.sh("snap", "ls -A /workspace; ls /etc/marker 2>/dev/null || echo none"), "none\n");
    let list = room.json(&["snapshot", "list", "snap"]);
    let names: Vec<_> =
        list["snapshots"].as_array().unwrap().iter().map(|s| s["snapshot_name"].clone()).collect();
    assert_eq!(names, ["baseline", "first", "second"]);
    for (args, part) in [
        (&["snapshot", "delete", "snap", "baseline"][..], "baseline"),
        (&["snapshot", "create", "snap", "first"], "already"),
        (&["snapshot", "create", "snap", "../x"], "cannot be the name"),
        (&["snapshot", "delete", "snap", "third"], "no snapshot"),
        (&["reset", "snap", "--snapshot", "third"], "no snapshot"),
    ] {
        let said = room.pyro(args);
        assert!(said.code == Some(1) && said.err.contains(part), "{args:?} {said:?}");
    }
    room.ok(&["snapshot", "delete", "snap", "first"]);
    assert!(!room.dir().join(&id).join("snapshots/first.ext4").exists());
    room.ok(&["delete", "snap"]);
    room.check_empty(&[]);
}

#[test]
fn forks_begin_where_their_origin_is_and_go_their_own_ways() {
    let room = Room::new();
    room.create("origin");
    room.sh("origin", "echo a > f");
    room.ok(&["snapshot", "create", "origin", "early"]);
    room.sh("origin", "echo b > f");
    let forks = room.json(&["fork", "origin", "--count", "2"]);
    let ids: Vec<_> =
        forks["workspaces"].as_array().unwrap().iter().map(|w| w["workspace_id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), &forks["count"]), (2, &json!(2)));
    room.sh(ids[0], "echo c > f");
    assert_eq!(room.sh(ids[1], "cat f; hostname"), format!("b\npyro-{}\n", ids[1]));
    assert_eq!(room.sh("origin", "cat f"), "b\n");
    // A fork's baseline is where it began.
    room.ok(&["reset", ids[0]]);
    assert_eq!(room.sh(ids[0], "cat f"), "b\n");
    let early = room.ok(&["fork", "origin", "--snapshot", "early", "--id-only"]).stdout();
    room.ok(&["delete", "origin"]);
    assert_eq!(room.sh(early.trim(), "cat f"), "a\n");
    for id in ids.into_iter().chain([early.trim()]) {
        room.ok(&["delete", id]);
    }
    room.check_empty(&[]);
}

#[test]
fn output_is_whole_and_what_is_kept_has_both_ends() {
    let room = Room::new();
    room.create("loud");
    let said = room.ok(&["exec", "loud", "--", "seq 1 700000; head -c 100000 /dev/urandom > r; cat r >&2"]);
    let wanted: String = (1..=700_000).map(|n| format!("{n}\n")).collect();
    assert!(said.out == wanted.as_bytes(), "{} bytes", said.out.len());
    let logs = room.json(&["logs", "loud"]);
    let entry = &logs["entries"][0];
    assert_eq!((&entry["stdout_bytes"], &entry["stdout_truncated"]), (&json!(wanted.len()), &json!(true)));
    let kept = std::fs::read_to_string(entry["stdout_file"].as_str().unwrap()).unwrap();
    assert!(kept.starts_with("1\n2\n") && kept.ends_with("699999\n700000\n"));
    // Byte for byte, also what is no text.
    let copy = room.ok(&["exec", "loud", "--", "cat", "r"]).out;
    assert_eq!(std::fs::read(entry["stderr_file"].as_str().unwrap()).unwrap(), copy);
    room.ok(&["delete", "loud"]);
}

#[test]
fn a_command_ends_when_its_time_is_up_or_nobody_waits_for_it() {
    let room = Room::new();
    room.create("ends");
    let said = room.pyro(&["exec", "--timeout-seconds", "5", "ends", "--", "echo begun; sleep 1000"]);
    assert_eq!((said.code, said.stdout().as_str()), (Some(124), "begun\n"), "{said:?}");
    for number in ["-INT", "-KILL"] {
        let mut child = room.world.start(&["workspace", "exec", "ends", "--", "echo ready; exec sleep 77"]);
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        if line != "ready\n" {
            panic!("{number} {line:?} {:?}", finish(child));
        }
        signal(child.id(), number);
        child.wait().unwrap();
        eventually("the command is gone", || {
            !room.sh("ends", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("sleep 77")
        });
    }
    let logs = room.json(&["logs", "ends"]);
    let of = |n: usize| (logs["entries"][n]["interrupted"].clone(), logs["entries"][n]["stdout"].clone());
    assert_eq!(of(0), (json!("timeout"), json!("begun\n")));
    assert_eq!(of(1), (json!("cancelled"), json!("ready\n")));
    room.ok(&["delete", "ends"]);
}

#[test]
fn names_are_taken_once_and_mistakes_are_told() {
    let room = Room::new();
    let id = room.create("repro");
    let said = room.pyro(&["create", "debian:12-base", "--mem-mib", "256", "--name", "repro"]);
    assert!(said.code == Some(1) && said.err.contains(&format!("taken by workspace {id}")), "{said:?}");
    let said = room.pyro(&["status", "rerpo"]);
    assert!(said.code == Some(1) && said.err.contains("did you mean repro"), "{said:?}");
    let said = room.pyro(&["create", "debian:12-base", "--name", "0123456789ab"]);
    assert!(said.code == Some(1) && said.err.contains("cannot be the name"), "{said:?}");
    let said = room.pyro(&["create", "debian:12-base", "--network-policy", "egress"]);
    assert!(said.code == Some(1) && said.err.contains("not part of this version"), "{said:?}");
    assert_eq!(room.pyro(&["update", "repro"]).code, Some(2));
    assert_eq!(room.pyro(&["exec", "repro", "--"]).code, Some(2));
    room.ok(&["delete", "repro"]);
    room.check_empty(&[]);
}

#[test]
fn a_workspace_whose_path_is_longer_than_a_sockets_works() {
    let mut room = Room::new();
    let long = room.world.home.path().join("x".repeat(120));
    room.world.set("PYRO_WORKSPACES_DIR", &long);
    room.create("long");
    assert_eq!(room.sh("long", "echo here"), "here\n");
    room.ok(&["delete", "long"]);
    eventually("its keeper is gone", || room.keepers().is_empty());
}

/// Nothing covers a file of `/proc`: the kernel would refuse a user namespace one of its own.
#[test]
fn a_user_namespace_in_a_guest_has_a_proc_of_its_own() {
    let world = crate::support::World::new();
    let unshare = ["unshare", "-Urpf", "--mount-proc", "true"];
    let said = world.pyro(&[&["run", "debian:12-base", "--"], &unshare[..]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
}
