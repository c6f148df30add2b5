//! SIGKILL to anything at any moment: what is left is a workspace that can be started, or nothing.

use std::time::Duration;

use crate::room::{Room, signal};
use crate::support::{children, eventually, finish, running};

/// Moments to kill at, milliseconds after an operation began: it takes some hundred on a quiet host.
const MOMENTS: [u64; 6] = [5, 20, 50, 100, 200, 400];

#[test]
fn a_keeper_that_is_killed_leaves_a_stopped_workspace() {
    let room = Room::new();
    room.create("victim");
    room.sh("victim", "echo data > f; sync");
    let (keeper, vmm) = room.processes("victim");
    let running_command = room.world.start(&["workspace", "exec", "victim", "--", "sleep 1000"]);
    signal(keeper, "-KILL");
    eventually("the VMM is gone", || !running(vmm));
    assert_eq!(room.state("victim"), "stopped");
    let said = finish(running_command);
    assert!(said.code == Some(1) && said.err.contains("[error]"), "{said:?}");
    assert_eq!(room.json(&["list"])["workspaces"][0]["state"], "stopped");
    assert_eq!(room.json(&["logs", "victim"])["count"], 1);
    room.ok(&["start", "victim"]);
    assert_eq!(room.sh("victim", "cat f"), "data\n");
    room.ok(&["delete", "victim"]);
    room.check_empty(&[vmm]);
}

#[test]
fn a_vmm_that_is_killed_leaves_a_stopped_workspace_that_says_why() {
    let room = Room::new();
    room.create("victim");
    room.sh("victim", "echo data > f; sync");
    let (_, vmm) = room.processes("victim");
    let running_command = room.world.start(&["workspace", "exec", "victim", "--", "echo x; sleep 1000"]);
    eventually("the command runs", || {
        room.sh("victim", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("sleep 1000")
    });
    signal(vmm, "-KILL");
    let said = finish(running_command);
    assert!(said.code == Some(1) && said.err.contains("the VMM was killed"), "{said:?}");
    eventually("it is stopped", || room.state("victim") == "stopped");
    let status = room.json(&["status", "victim"]);
    assert!(status["metadata"]["stopped_because"].as_str().unwrap().contains("killed"), "{status}");
    let logs = room.json(&["logs", "victim"]);
    let last = logs["entries"].as_array().unwrap().iter().find(|e| e["interrupted"].is_string()).unwrap();
    assert_eq!(last["stdout"], "x\n");
    room.ok(&["start", "victim"]);
    assert_eq!(room.sh("victim", "cat f"), "data\n");
    room.ok(&["delete", "victim"]);
    room.check_empty(&[vmm]);
}

#[test]
fn a_guest_that_powers_off_leaves_a_stopped_workspace() {
    let room = Room::new();
    room.create("victim");
    let said = room.pyro(&["exec", "victim", "--", "echo o > /proc/sysrq-trigger; sleep 1000"]);
    assert!(said.code == Some(1) && said.err.contains("the guest powered off"), "{said:?}");
    eventually("it is stopped", || room.state("victim") == "stopped");
    room.ok(&["start", "victim"]);
    room.ok(&["delete", "victim"]);
}

/// Begins an operation, kills the keeper in the middle of it, and waits for the front end.
fn kill_during(room: &Room, args: &[&str], keeper: u32, after: u64) {
    let child = room.world.start(&[&["workspace"], args].concat());
    std::thread::sleep(Duration::from_millis(after));
    if running(keeper) {
        signal(keeper, "-KILL");
    }
    // Done or failed: both may be at such a moment.
    finish(child);
    eventually("the keeper is gone", || !running(keeper));
}

#[test]
fn a_keeper_killed_while_it_stops_resets_or_copies_leaves_what_can_be_started() {
    let room = Room::new();
    let id = room.create("victim");
    room.sh("victim", "head -c 30000000 /dev/urandom > big; echo first > f; sync");
    room.ok(&["snapshot", "create", "victim", "good"]);
    for after in MOMENTS {
        for args in [
            &["snapshot", "create", "victim", "maybe"][..],
            &["reset", "victim", "--snapshot", "good"],
            &["stop", "victim"],
            &["update", "victim", "--label", "a=b"],
        ] {
            room.sh("victim", "echo second > f; sync");
            let (keeper, vmm) = room.processes("victim");
            kill_during(&room, args, keeper, after);
            eventually("the VMM is gone", || !running(vmm));
            room.ok(&["start", "victim"]);
            let f = room.sh("victim", "cat f");
            assert!(
                f == "second\n" || args[0] == "reset" && f == "first\n",
                "{args:?} after {after} ms: {f}"
            );
            // Every snapshot that is listed has its file, and no other file is there.
            let list = room.json(&["snapshot", "list", "victim"]);
            let mut listed: Vec<_> = list["snapshots"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| format!("{}.ext4", s["snapshot_name"].as_str().unwrap()))
                .collect();
            listed.sort();
            let files = std::fs::read_dir(room.dir().join(&id).join("snapshots")).unwrap().flatten();
            let mut files: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
            files.sort();
            assert_eq!(listed, files, "{args:?} after {after} ms");
            if listed.contains(&"maybe.ext4".to_owned()) {
                room.ok(&["reset", "victim", "--snapshot", "maybe"]);
                assert_eq!(room.sh("victim", "cat f"), "second\n");
                room.ok(&["snapshot", "delete", "victim", "maybe"]);
            }
        }
    }
    room.ok(&["reset", "victim", "--snapshot", "good"]);
    assert_eq!(room.sh("victim", "cat f; wc -c < big"), "first\n30000000\n");
    room.ok(&["delete", "victim"]);
    room.check_empty(&[]);
}

#[test]
fn anything_killed_while_a_workspace_is_made_leaves_nothing_or_a_workspace() {
    let room = Room::new();
    room.create("first");
    room.ok(&["delete", "first"]);
    for after in MOMENTS {
        for whom in ["front end", "keeper"] {
            let args = ["create", "debian:12-base", "--mem-mib", "256", "--name", "made"];
            let child = room.world.start(&[&["workspace"], &args[..]].concat());
            std::thread::sleep(Duration::from_millis(after));
            let keepers = room.keepers();
            let vmms: Vec<u32> = keepers.iter().flat_map(|keeper| children(*keeper)).collect();
            match whom {
                "front end" if running(child.id()) => signal(child.id(), "-KILL"),
                "keeper" => keepers.iter().for_each(|keeper| signal(*keeper, "-KILL")),
                _ => {}
            }
            let said = crate::support::Said::from(child.wait_with_output().unwrap());
            // A keeper that nobody waits for gives up, or was ready already.
            eventually("it is settled", || {
                let there = room.pyro(&["status", "made", "--json"]);
                there.code == Some(0) || room.keepers().is_empty()
            });
            if room.pyro(&["status", "made"]).code == Some(0) {
                room.ok(&["start", "made"]);
                assert_eq!(room.sh("made", "echo well"), "well\n", "{whom} after {after} ms: {said:?}");
                room.ok(&["delete", "made"]);
            }
            room.check_empty(&vmms);
        }
    }
}

#[test]
fn killed_in_the_middle_of_being_deleted_it_is_gone_or_can_be_deleted() {
    let room = Room::new();
    for after in MOMENTS {
        room.create("victim");
        let (keeper, vmm) = room.processes("victim");
        kill_during(&room, &["delete", "victim"], keeper, after);
        if room.pyro(&["status", "victim"]).code == Some(0) {
            room.ok(&["delete", "victim"]);
        }
        room.check_empty(&[vmm]);
    }
}
