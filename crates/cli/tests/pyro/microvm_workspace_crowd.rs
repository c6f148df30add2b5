//! Keepers that do not answer, and workspaces that many front ends use at once.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::room::{Room, call, signal, signal_if_there};
use crate::support::{eventually, running};

/// A process is stopped when its state says so, not when the signal was sent.
fn freeze(pid: u32) {
    signal(pid, "-STOP");
    eventually("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    });
}

/// Nobody is told to try again what somebody else does for him.
#[test]
fn it_is_started_once_by_several_at_a_time() {
    let room = Room::new();
    let id = room.create("one");
    for how in [&["stop", "one"][..], &["stop", "one", "--force"]] {
        room.ok(how);
        let start = |_| room.world.command(&["workspace", "start", "one", "--json"]).spawn().unwrap();
        let starts: Vec<_> = (0..4).map(start).collect();
        for start in starts {
            let said = start.wait_with_output().unwrap();
            assert!(said.status.success(), "{how:?} {said:?}");
            let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
            assert_eq!((&status["workspace_id"], &status["state"]), (&id.as_str().into(), &"started".into()));
        }
        assert_eq!(room.keepers().len(), 1);
        assert_eq!(room.sh("one", "echo on"), "on\n");
    }
    room.ok(&["delete", "one"]);
    room.check_empty(&[]);
}

#[test]
fn a_keeper_that_hangs_is_told_and_can_be_ended() {
    let room = Room::new();
    for name in ["one", "two", "three", "well"] {
        room.create(name);
    }
    for name in ["one", "two", "three"] {
        room.sh(name, "echo data > f; sync");
    }
    let processes: Vec<_> = ["one", "two", "three"].map(|name| room.processes(name)).to_vec();
    processes.iter().for_each(|(keeper, _)| freeze(*keeper));
    let list = room.json(&["list"]);
    let states = list["workspaces"].as_array().unwrap().iter();
    let states: BTreeSet<_> =
        states.map(|each| (each["name"].as_str().unwrap(), each["state"].as_str().unwrap())).collect();
    let wanted =
        [("one", "unresponsive"), ("two", "unresponsive"), ("three", "unresponsive"), ("well", "started")];
    assert_eq!(states, BTreeSet::from(wanted));
    let status = room.json(&["status", "one"]);
    assert_eq!(status["keeper_pid"], processes[0].0);
    assert_eq!((status["command_count"].as_u64(), status["state"].as_str()), (Some(1), Some("unresponsive")));
    let said = room.ok(&["status", "one"]);
    assert!(said.stdout().contains("stop --force"), "{said:?}");
    assert_eq!(room.json(&["logs", "one"])["count"], 1);
    // What needs the keeper says so, and how to go on.
    let said = room.pyro(&["exec", "one", "--", "true"]);
    assert!(said.code == Some(1) && said.err.contains("does not answer"), "{said:?}");
    assert!(said.err.contains("stop --force"), "{said:?}");
    assert_eq!(room.json(&["stop", "one", "--force"])["state"], "stopped");
    room.ok(&["start", "one"]);
    assert_eq!(room.sh("one", "cat f"), "data\n");
    // It need not be known that it hangs.
    for name in ["two", "three"] {
        room.ok(&["delete", name]);
    }
    eventually("they are gone", || processes.iter().all(|(keeper, vmm)| !running(*keeper) && !running(*vmm)));
    // One that is well is pulled the plug all the same.
    room.ok(&["stop", "well", "--force"]);
    assert_eq!(room.state("well"), "stopped");
    for name in ["one", "well"] {
        room.ok(&["delete", name]);
    }
    room.check_empty(&[]);
}

#[test]
fn a_keeper_that_hangs_while_it_starts_or_deletes_can_be_ended() {
    let room = Room::new();
    for (name, args) in [("a", ["start", "a"]), ("b", ["delete", "b"])] {
        let lock = room.dir().join(room.create(name)).join("lock");
        let before = room.keepers();
        if args[0] == "start" {
            room.ok(&["stop", name]);
            before.iter().for_each(|keeper| signal(*keeper, "-KILL"));
            eventually("the keeper is gone", || room.keepers().is_empty());
        }
        let mut child = room.world.start(&[&["workspace"], &args[..]].concat());
        // As soon as there is one: it has its lock, or not yet.
        eventually("a keeper works", || !room.keepers().is_empty());
        // Between having its lock and being named in it nobody can end it: there it goes on for a moment.
        eventually("its lock is free, or tells who has it", || {
            let keepers = room.keepers();
            keepers.iter().for_each(|keeper| signal_if_there(*keeper, "-STOP"));
            let named = std::fs::read_to_string(&lock).unwrap_or_default();
            let named = keepers.iter().any(|keeper| named.starts_with(&format!("{keeper} ")));
            let free = std::fs::File::open(&lock).map_or(true, |file| file.try_lock().is_ok());
            if !(named || free) {
                keepers.iter().for_each(|keeper| signal_if_there(*keeper, "-CONT"));
            }
            named || free
        });
        let _ = child.kill();
        child.wait().unwrap();
        let said = room.pyro(&["delete", name]);
        assert!(said.code == Some(0) || said.err.contains("there is no workspace"), "{args:?} {said:?}");
        // One that had no lock yet notices that nobody waits for it.
        room.keepers().into_iter().for_each(|keeper| signal_if_there(keeper, "-CONT"));
        room.check_empty(&[]);
    }
}

/// A front end says what it wants before it hears who is there.
#[test]
fn a_command_that_nobody_may_have_or_waits_for_is_not_run() {
    let room = Room::new();
    let id = room.create("polite");
    let (keeper, _) = room.processes("polite");
    signal(keeper, "-STOP");
    let mut given_up = room.world.start(&["workspace", "exec", "polite", "--", "touch", "given-up"]);
    // A fixed time, by which the front end has said what it wants: bytes that wait in the socket of a keeper that is frozen
    // are not seen from outside.
    std::thread::sleep(Duration::from_secs(1));
    given_up.kill().unwrap();
    given_up.wait().unwrap();
    signal(keeper, "-CONT");
    for (generation, file) in [(0, "older"), (u32::MAX, "newer")] {
        let mut keeper = UnixStream::connect(room.dir().join(&id).join("keeper.sock")).unwrap();
        let ask = json!({"command": ["touch", file], "timeout_ms": null});
        call(&mut keeper, &generation.into(), "exec", &ask);
        let mut said = Vec::new();
        keeper.read_to_end(&mut said).unwrap();
        let greeting: Value = serde_json::from_slice(&said[5..]).unwrap();
        assert!(greeting["generation"].is_u64(), "{greeting}");
    }
    assert_eq!(room.sh("polite", "ls"), "");
    room.ok(&["delete", "polite"]);
    room.check_empty(&[]);
}

/// What each of a crowd does again and again, and what it must see.
type Member = (&'static str, fn(&Room, u32));

fn labels(status: &Value) {
    // Both were written in one call, or were never there.
    assert_eq!(status["labels"]["left"], status["labels"]["right"], "{status}");
}

const CROWD: [Member; 10] = [
    ("exec", |room, turn| assert_eq!(room.sh("hub", &format!("echo {turn}")), format!("{turn}\n"))),
    ("exec with much output", |room, _| {
        let said = room.json(&["exec", "hub", "--", "yes abcdefg | head -c 300000; echo end >&2"]);
        assert_eq!((said["stdout"].as_str().unwrap().len(), &said["stderr"]), (300_000, &"end\n".into()));
    }),
    ("status", |room, _| {
        let status = room.json(&["status", "hub"]);
        assert_eq!(status["state"], "started");
        assert!(status["last_command"].is_object() || status["command_count"] == 0, "{status}");
        labels(&status);
    }),
    ("list", |room, _| {
        let list = room.json(&["list"]);
        assert_eq!((&list["count"], &list["workspaces"][0]["state"]), (&1.into(), &"started".into()));
        labels(&list["workspaces"][0]);
    }),
    ("logs", |room, _| {
        let logs = room.json(&["logs", "hub"]);
        let entries = logs["entries"].as_array().unwrap();
        assert_eq!(logs["count"], entries.len());
        for entry in entries {
            for stream in ["stdout", "stderr"] {
                let bytes = entry[&format!("{stream}_bytes")].as_u64().unwrap();
                assert_eq!(entry[stream].as_str().unwrap().len() as u64, bytes, "{entry}");
            }
        }
    }),
    ("update", |room, turn| {
        let [left, right] = ["left", "right"].map(|side| format!("{side}={turn}"));
        labels(&room.json(&["update", "hub", "--label", &left, "--label", &right]));
    }),
    ("update to others", |room, turn| {
        let [left, right] = ["left", "right"].map(|side| format!("{side}=other-{turn}"));
        labels(&room.json(&["update", "hub", "--label", &left, "--label", &right]));
    }),
    ("file write", |room, turn| {
        let text = format!("{turn}").repeat(20_000);
        room.ok(&["file", "write", "hub", "shared", "--text", &text]);
    }),
    ("file read", |room, _| {
        let said = room.ok(&["file", "read", "hub", "shared", "--content-only"]);
        let text = said.stdout();
        assert!(text.len() == 20_000 && text.bytes().all(|byte| byte == text.as_bytes()[0]), "a torn file");
    }),
    ("snapshot", |room, turn| {
        let name = format!("s{turn}");
        room.ok(&["snapshot", "create", "hub", &name]);
        let list = room.json(&["snapshot", "list", "hub"]);
        let there = list["snapshots"].as_array().unwrap().iter().any(|each| each["snapshot_name"] == *name);
        assert!(there, "{list}");
        room.ok(&["snapshot", "delete", "hub", &name]);
    }),
];

#[test]
fn ten_front_ends_at_once_see_no_torn_answer() {
    let room = Room::new();
    room.create("hub");
    room.ok(&["file", "write", "hub", "shared", "--text", &"0".repeat(20_000)]);
    std::thread::scope(|scope| {
        let members = CROWD.map(|(name, act)| {
            let room = &room;
            (name, scope.spawn(move || (0..8).for_each(|turn| act(room, turn))))
        });
        for (name, member) in members {
            assert!(member.join().is_ok(), "{name}");
        }
    });
    // Each command is in the history once, and nothing else.
    let logs = room.json(&["logs", "hub"]);
    let sequences: Vec<_> =
        logs["entries"].as_array().unwrap().iter().map(|entry| entry["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (1..=16).collect::<Vec<_>>());
    room.ok(&["delete", "hub"]);
    room.check_empty(&[]);
}

/// More commands than there are places for at once wait for each other, and nothing else waits for them.
#[test]
fn more_commands_than_a_session_has_streams_all_run() {
    const COMMANDS: usize = 150;
    const WAITING: usize = 40;
    let room = Room::new();
    room.create("one");
    room.ok(&["shell", "open", "one"]);
    // Some of those that have a place wait there for a lock, while all others take turns.
    room.ok(&["service", "start", "one", "holder", "--", "flock -x /tmp/lock sleep 1000"]);
    eventually("the lock is held", || {
        room.sh("one", "flock -n -s /tmp/lock echo free || echo held") == "held\n"
    });
    let run = |number: usize| {
        let waits = if number < WAITING { "flock -s /tmp/lock " } else { "" };
        let line = format!("{waits}echo {number}");
        room.world
            .command(&["workspace", "exec", "one", "--timeout-seconds", "300", "--", &line])
            .spawn()
            .unwrap()
    };
    let runs: Vec<_> = (0..COMMANDS).map(run).collect();
    for (number, run) in runs.into_iter().enumerate().rev() {
        if number + 1 == WAITING {
            room.ok(&["service", "stop", "one", "holder"]);
        }
        let said = run.wait_with_output().unwrap();
        assert!(said.status.success(), "{number}: {said:?}");
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{number}\n"));
    }
    assert_eq!(room.sh("one", "echo on"), "on\n");
    assert!(room.json(&["status", "one"])["command_count"].as_u64() > Some(COMMANDS as u64));
    room.ok(&["delete", "one"]);
    room.check_empty(&[]);
}
