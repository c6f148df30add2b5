//! How workspaces end by themselves, and keepers that are started by hand.

use std::process::{Command, Stdio};

use crate::room::{Room, signal};
use crate::support::{children, eventually, finish, running};

#[test]
fn an_idle_workspace_is_stopped_and_later_deleted_by_its_keeper() {
    let room = Room::new();
    let id = room.create("idle");
    room.ok(&["stop", "idle"]);
    let dir = room.dir().join(&id);
    let dir = dir.to_str().unwrap();
    let start = |ttl: &str, kept: &str| {
        let words = ["keeper", "run", "--test-ttl-seconds", ttl, "--test-kept-seconds", kept, dir];
        room.world.command(&words).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut keeper = start("5", "100000");
    eventually("it runs", || room.state("idle") == "started");
    // A running command is activity. For longer than the time to live, since what is observed is that nothing stops it.
    assert_eq!(room.sh("idle", "sleep 7; echo still"), "still\n");
    let vmm = children(keeper.id())[0];
    eventually("it is stopped", || room.state("idle") == "stopped");
    assert!(!running(vmm), "its memory is freed");
    assert_eq!(room.keepers(), [keeper.id()]);
    signal(keeper.id(), "-TERM");
    assert!(keeper.wait().unwrap().success());
    // Nobody asks any more: the keeper does it by itself.
    let mut keeper = start("1", "0.1");
    eventually("it is deleted", || !std::path::Path::new(dir).exists());
    assert!(keeper.wait().unwrap().success());
    room.check_empty(&[vmm]);
}

#[test]
fn a_keeper_in_the_foreground_stops_cleanly_when_told_to_end() {
    let room = Room::new();
    let id = room.create("fore");
    room.ok(&["stop", "fore"]);
    let dir = room.dir().join(&id);
    let keeper = room.world.start(&["keeper", "run", dir.to_str().unwrap()]);
    eventually("it runs", || room.state("fore") == "started");
    // Not synced: a clean stop writes it.
    room.sh("fore", "echo kept > f");
    signal(keeper.id(), "-TERM");
    let said = finish(keeper);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(room.state("fore"), "stopped");
    room.ok(&["start", "fore"]);
    assert_eq!(room.sh("fore", "cat f"), "kept\n");
    // The one that runs is not replaced.
    let said = room.world.pyro(&["keeper", "run", dir.to_str().unwrap()]);
    assert!(said.code == Some(1) && said.err.contains("[error]"), "{said:?}");
    room.ok(&["delete", "fore"]);
    room.check_empty(&[]);
}

#[test]
fn a_keeper_is_fit_to_be_pid_1() {
    let room = Room::new();
    let id = room.create("init");
    room.ok(&["stop", "init"]);
    // Out of the way of the one in the namespace, which could not tell its process id.
    let dir = room.dir().join(&id);
    let pyro = room.world.command(&["keeper", "run", dir.to_str().unwrap()]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(pyro.get_program()).args(pyro.get_args()).env_clear();
    command.envs(pyro.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let unshare = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let init = || children(unshare.id()).first().copied();
    eventually("it runs", || room.state("init") == "started");
    assert_eq!(room.sh("init", "echo inside > f; cat f"), "inside\n");
    signal(init().unwrap(), "-TERM");
    let said = finish(unshare);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(room.state("init"), "stopped");
    room.ok(&["delete", "init"]);
    room.check_empty(&[]);
}
