//! Forks go on with everything that ran, share what they do not change, and leave nothing of what they were made from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pyro_core::backend::Preference;

use crate::backends::on_each_backend;
use crate::room::{Room, signal};
use crate::support::{children, eventually};

on_each_backend! {
    shells_and_services_go_on_in_forks_and_in_what_they_were_made_from
}

/// Says its number five times a second.
const TICK: &str = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.2; done";

impl Room {
    fn fork(&self, args: &[&str]) -> Vec<String> {
        let forks = self.json(&[&["fork", "w"], args].concat());
        let ids = forks["workspaces"].as_array().unwrap().iter();
        ids.map(|fork| fork["workspace_id"].as_str().unwrap().to_owned()).collect()
    }

    fn ticks(&self, workspace: &str) -> usize {
        let logs = self.json(&["service", "logs", workspace, "clock", "--all"]);
        logs["stdout"].as_str().unwrap().lines().count()
    }

    /// The one shell and the one service of `w` go on in `workspace`, are listed as its own, and can be used.
    fn check_goes_on(&self, workspace: &str, id: &str, shell: &str) {
        let (shells, services) =
            (self.json(&["shell", "list", workspace]), self.json(&["service", "list", workspace]));
        for list in [&shells, &services] {
            assert_eq!((&list["count"], &list["running_count"]), (&1.into(), &1.into()), "{list}");
            assert_eq!(list["workspace_id"], id);
        }
        assert_eq!(self.json(&["status", workspace])["running_service_count"], 1);
        assert_eq!(shells["shells"][0]["shell_id"], shell);
        self.ok(&["shell", "write", workspace, shell, "--input", "echo $WORD in $PWD of $(hostname)"]);
        let host = self.sh(workspace, "hostname");
        assert_eq!(host.trim(), format!("pyro-{id}"));
        let said = format!("\nkept in /tmp of {host}");
        eventually("its shell answers", || {
            let read = self.ok(&["shell", "read", workspace, shell, "--plain", "--wait-for-idle-ms", "100"]);
            read.stdout().contains(&said)
        });
        let now = self.ticks(workspace);
        eventually("its service goes on", || self.ticks(workspace) > now);
    }
}

/// What is in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn shells_and_services_go_on_in_forks_and_in_what_they_were_made_from(backend: Preference) {
    let room = Room::on(backend);
    let id = room.create("w");
    let shell = room.ok(&["shell", "open", "w", "--id-only"]).stdout().trim().to_owned();
    room.ok(&["shell", "write", "w", &shell, "--input", "WORD=kept; cd /tmp"]);
    room.ok(&["service", "start", "w", "clock", "--", TICK]);
    eventually("it ticks", || room.ticks("w") > 2);
    let now = room.fork(&["--count", "2"]);
    room.ok(&["snapshot", "create", "w", "then", "--memory"]);
    room.check_goes_on("w", &id, &shell);
    for fork in &now {
        room.check_goes_on(fork, fork, &shell);
    }
    // One ends without the others.
    room.ok(&["service", "stop", &now[0], "clock"]);
    room.ok(&["shell", "close", &now[0], &shell]);
    room.check_goes_on(&now[1], &now[1], &shell);

    // Those of a snapshot go on from there, whatever has become of the workspace.
    room.ok(&["service", "stop", "w", "clock"]);
    room.ok(&["stop", "w"]);
    let then = room.fork(&["--snapshot", "then", "--count", "2"]);
    let ram = room.dir().join(&id).join("snapshots/then.ram");
    for fork in &then {
        room.check_goes_on(fork, fork, &shell);
        if backend == Preference::Qemu {
            let maps = fs::read_to_string(format!("/proc/{}/maps", room.processes(fork).1)).unwrap();
            assert!(maps.contains("then.ram"), "{maps}");
        }
    }
    assert_eq!(fs::metadata(&ram).unwrap().permissions().mode() & 0o777, 0o600);
    // Memory that is shared stays as long as anybody has it.
    room.ok(&["delete", "w"]);
    room.check_goes_on(&then[0], &then[0], &shell);
    for fork in now.iter().chain(&then) {
        room.ok(&["delete", fork]);
    }
    room.check_empty(&[]);
}

#[test]
fn what_a_fork_is_made_from_goes_with_who_wanted_it() {
    let room = Room::new();
    let id = room.create("w");
    let snapshots = room.dir().join(&id).join("snapshots");
    let passing =
        |what: &str| names(&snapshots).iter().any(|name| name.starts_with("fork-") && name.ends_with(what));
    // Made by the keeper, which sees that nobody waits for it any more: while it is made, and afterwards.
    for what in [".ram", ".ext4"] {
        let child = room.world.start(&["workspace", "fork", "w", "--count", "8"]);
        eventually("it is there", || passing(what));
        signal(child.id(), "-KILL");
        let _ = child.wait_with_output();
        eventually("it is gone", || names(&snapshots) == ["baseline.ext4"]);
    }
    assert_eq!(room.sh("w", "echo on"), "on\n");
    // Those that were whole by then are workspaces; of the others nothing stays.
    eventually("no keeper is on the way to one", || {
        room.keepers().iter().all(|keeper| children(*keeper).len() == 1)
            && room.json(&["list"])["count"].as_u64().unwrap() as usize == room.keepers().len()
    });
    for fork in room.json(&["list"])["workspaces"].as_array().unwrap() {
        let fork = fork["workspace_id"].as_str().unwrap();
        if fork != id {
            room.ok(&["delete", fork]);
        }
    }

    // Of one that has no keeper, the next command removes what was left.
    room.sh("w", "head -c 200000000 /dev/urandom > big; sync");
    let keeper = room.keeper("w");
    signal(keeper, "-KILL");
    eventually("no keeper is left", || room.keepers().is_empty());
    let child = room.world.start(&["workspace", "fork", "w"]);
    eventually("it is on its way", || names(&snapshots).iter().any(|name| name.contains("fork-")));
    signal(child.id(), "-KILL");
    let _ = child.wait_with_output();
    assert!(names(&snapshots).iter().any(|name| name.contains("fork-")), "too late for this test");
    room.ok(&["update", "w", "--label", "a=b"]);
    assert_eq!(names(&snapshots), ["baseline.ext4"]);
    eventually("no keeper was started", || room.keepers().is_empty());
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}
