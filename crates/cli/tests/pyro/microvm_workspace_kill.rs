//! Keepers, VMMs and guests that end while a workspace is at rest or a command runs: what is left is a stopped workspace. At
//! the steps of every operation they are killed in `microvm_workspace_steps`.

use std::io::{BufRead as _, BufReader};

use crate::room::{Room, signal};
use crate::support::{eventually, finish, running};

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
    let mut running_command = room.world.start(&["workspace", "exec", "victim", "--", "echo x; sleep 1000"]);
    let mut said = String::new();
    // What has come this far is kept.
    BufReader::new(running_command.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "x\n");
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
