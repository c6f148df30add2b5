//! Snapshots are of one moment, resets are exact, and memory goes on where it was.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::room::{Room, signal};
use crate::support::{eventually, finish, running};

/// Everything that is to come back: content, modes, times, links, holes, and what is outside of /workspace.
const MAKE: &str = "mkdir -p d/e /opt/p && seq 1 20000 > d/numbers && ln d/numbers d/hard && ln -s ../numbers d/e/soft && \
                    truncate -s 50M sparse && echo '#!/bin/sh' > /usr/bin/tool && chmod 4711 /usr/bin/tool && \
                    touch -d 2001-02-03T04:05:06 d/e && echo x > /opt/p/x && rm -r /usr/share/doc";
const LOOK: &str = "find /workspace /opt /usr/bin/tool /usr/share -printf '%p %m %n %s %l %T@ %u\\n' | sort; \
                    md5sum d/numbers sparse /usr/bin/tool; ls /usr/share/doc 2>&1 || true";

#[test]
fn a_reset_is_exact_after_anything() {
    let room = Room::new();
    room.create("tough");
    room.sh("tough", MAKE);
    room.ok(&["snapshot", "create", "tough", "good"]);
    let wanted = room.sh("tough", LOOK);
    assert!(wanted.contains("/opt/p/x 644 1 2 "), "{wanted}");
    let full = "for s in 8G 4G 2G 1G 512M 256M 128M 64M 32M 16M 8M 4M 2M 1M 64K 4K; do n=0; \
                while fallocate -l $s full.$s.$n 2>/dev/null; do n=$((n+1)); done; done; seq 1 99999 > more; df .";
    for (what, line) in [
        ("everything is removed", "rm -rf --no-preserve-root / 2>/dev/null"),
        ("the disk is full", full),
        ("a fork bomb", "b() { b | b & }; b; sleep 1"),
        ("the kernel panics", "echo c > /proc/sysrq-trigger; sleep 60"),
        ("nothing can be executed", "chmod 000 /usr/bin/* /usr/lib64/* /lib/x86_64-linux-gnu/*"),
    ] {
        let child = room.world.start(&["workspace", "exec", "--timeout-seconds", "120", "tough", "--", line]);
        if what == "a fork bomb" {
            // Nobody waits for what it does to its guest. A fixed time: a guest full of processes answers nobody who asks how
            // far it is.
            std::thread::sleep(Duration::from_secs(3));
            signal(child.id(), "-KILL");
            let _ = child.wait_with_output();
        } else {
            let said = finish(child);
            assert!(what != "the disk is full" || said.stdout().contains("100%"), "{said:?}");
        }
        for _ in 0..2 {
            let reset = room.json(&["reset", "tough", "--snapshot", "good"]);
            assert_eq!(reset["state"], "started", "{what}");
            let found = room.sh("tough", LOOK);
            assert!(found == wanted, "{what}\n{found}\n{wanted}");
        }
    }
    room.ok(&["delete", "tough"]);
    room.check_empty(&[]);
}

#[test]
fn a_disk_is_of_one_moment_and_processes_go_on() {
    let room = Room::new();
    let id = room.create("busy");
    // What is in `second` was in `first` before, at every moment.
    let line = "head -c 40000000 /dev/urandom > big; \
                put() { echo $n > new; sync new; mv new $1; }; \
                (n=0; while :; do n=$((n+1)); put first; put second; done) > /dev/null 2>&1 & \
                while ! [ -e second ]; do sleep 0.1; done";
    room.sh("busy", line);
    for n in 0..4 {
        let name = format!("s{n}");
        let before: u64 = room.sh("busy", "cat second").trim().parse().unwrap();
        room.ok(&["snapshot", "create", "busy", &name]);
        eventually("it goes on", || {
            room.sh("busy", "cat second").trim().parse::<u64>().unwrap() > before + 1
        });
    }
    let sum = room.sh("busy", "md5sum big");
    for n in 0..4 {
        room.ok(&["reset", "busy", "--snapshot", &format!("s{n}")]);
        let text = room.sh("busy", "cat first second; md5sum big");
        let lines: Vec<_> = text.lines().collect();
        let (first, second): (u64, u64) = (lines[0].parse().unwrap(), lines[1].parse().unwrap());
        assert!(first == second || first == second + 1, "{text}");
        assert_eq!(lines[2], sum.trim());
    }
    // A reset that finds the guest gone meanwhile, its keeper still there, is one all the same.
    let (_, vmm) = room.processes("busy");
    signal(vmm, "-KILL");
    room.ok(&["reset", "busy", "--snapshot", "s0"]);
    // As a clean disk, without a journal to replay: it was held still.
    let disk = room.dir().join(&id).join("snapshots/s3.ext4");
    let check = std::process::Command::new("e2fsck").args(["-fn"]).arg(&disk).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    room.ok(&["delete", "busy"]);
    room.check_empty(&[]);
}

/// Counts in a shell's own memory.
const COUNT: &str = "(n=0; while :; do n=$((n+1)); echo $n > /dev/shm/n; sleep 0.1; done) > /dev/null 2>&1 & \
                     while ! [ -s /dev/shm/n ]; do sleep 0.1; done";
const WHO: &str = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /run/pyro/generation; \
                   head -c 16 /dev/urandom | md5sum";

impl Room {
    fn count(&self, workspace: &str) -> u64 {
        // Read between a truncation and a write it is empty.
        let line = "while n=$(cat /dev/shm/n); [ -z \"$n\" ]; do :; done; echo $n";
        self.sh(workspace, line).trim().parse().unwrap()
    }

    fn check_counts_on(&self, workspace: &str) {
        let now = self.count(workspace);
        eventually("it counts on", || self.count(workspace) > now);
    }

    /// Says who it is, all of it other than what anybody said before.
    fn check_is_new(&self, workspace: &str, seen: &mut BTreeSet<String>) {
        let who = self.sh(workspace, WHO);
        for word in who.lines() {
            assert!(seen.insert(word.to_owned()) || word.starts_with("pyro-"), "{word} again: {who}");
        }
    }
}

#[test]
fn memory_comes_back_with_its_processes_and_another_identity() {
    let room = Room::new();
    let secret = ["--secret", "T=hunter2-hunter2"];
    let create = ["create", "debian:12-base", "--mem-mib", "256", "--name", "mem", "--id-only"];
    let id = room.ok(&[&create[..], &secret].concat()).stdout().trim().to_owned();
    room.sh("mem", &format!("echo one > f; {COUNT}"));
    let mut seen = BTreeSet::new();
    room.check_is_new("mem", &mut seen);
    let made = room.json(&["snapshot", "create", "mem", "alive", "--memory"]);
    let snapshot = &made["snapshot"];
    assert_eq!((&snapshot["memory"], &snapshot["contains_secrets"]), (&json!(true), &json!(true)));
    assert_eq!(snapshot["kind"], "named");
    room.check_counts_on("mem");
    room.sh("mem", "echo two > f");
    let begun = room.count("mem");
    eventually("it is far", || room.count("mem") > begun + 60);
    let late = room.count("mem");
    let file = room.dir().join(&id).join("snapshots/alive.memory");
    let files = [&file, &file.with_extension("ram")];
    let check_modes = || {
        for file in files {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
    };
    check_modes();
    for _ in 0..2 {
        let reset = room.json(&["reset", "mem", "--snapshot", "alive"]);
        assert_eq!(reset["metadata"]["start"], "resumed", "{reset}");
        check_modes();
        assert!(room.count("mem") < late, "it counts from where it was");
        room.check_counts_on("mem");
        room.check_is_new("mem", &mut seen);
        assert_eq!(room.sh("mem", "cat f /run/pyro-secrets/T"), "one\n[REDACTED]");
        let then: u64 = room.sh("mem", "date +%s").trim().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(then) < 30, "{now} {then}");
        room.sh("mem", "echo three > f; sync");
    }
    // From a stopped one, and from one whose guest is gone. What is started from a disk has a template from here on.
    room.ok(&["stop", "mem"]);
    room.ok(&["start", "mem"]);
    room.ok(&["stop", "mem"]);
    let said = room.pyro(&["snapshot", "create", "mem", "late", "--memory"]);
    assert!(said.code == Some(1) && said.err.contains("pyro workspace start"), "{said:?}");
    room.ok(&["reset", "mem", "--snapshot", "alive"]);
    room.check_counts_on("mem");
    room.pyro(&["exec", "mem", "--", "echo c > /proc/sysrq-trigger; sleep 60"]);
    room.ok(&["reset", "mem", "--snapshot", "alive"]);
    room.check_counts_on("mem");
    // Memory that cannot be used leaves the disk of that moment.
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let reset = room.json(&["reset", "mem", "--snapshot", "alive"]);
    assert_eq!(reset["metadata"]["start"], "restored", "{reset}");
    assert_eq!(room.sh("mem", "cat f; ls /dev/shm"), "one\n");
    fs::write(&file, &whole).unwrap();
    let key = file.with_extension("key");
    let text = fs::read_to_string(&key).unwrap().replace("\"tcg\"", "\"kvm\"");
    fs::write(&key, text).unwrap();
    let said = room.ok(&["reset", "mem", "--snapshot", "alive"]);
    assert!(said.out.starts_with(id.as_bytes()), "{said:?}");
    assert_eq!(room.sh("mem", "cat f; ls /dev/shm"), "one\n");
    room.ok(&["snapshot", "delete", "mem", "alive"]);
    let left: Vec<_> =
        fs::read_dir(file.parent().unwrap()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["baseline.ext4"]);
    room.ok(&["delete", "mem"]);
    room.check_empty(&[]);
}

#[test]
fn a_running_workspace_is_forked_with_its_processes() {
    let room = Room::new();
    let origin = room.create("origin");
    room.sh(
        "origin",
        &format!("echo a > f; mkdir v1; echo x > v1/f; ln -s v1 cur; ln -s loop loop; {COUNT}"),
    );
    let forks = room.json(&["fork", "origin", "--count", "3"]);
    let forks: Vec<_> =
        forks["workspaces"].as_array().unwrap().iter().map(|w| w["workspace_id"].as_str().unwrap()).collect();
    // What they were made from is gone, though they share it.
    let left = fs::read_dir(room.dir().join(&origin).join("snapshots")).unwrap().count();
    assert_eq!(left, 1);
    let shared = room.processes(forks[0]).1;
    let maps = fs::read_to_string(format!("/proc/{shared}/maps")).unwrap();
    assert!(maps.contains(".ram (deleted)"), "{maps}");
    room.check_counts_on("origin");
    room.sh("origin", "echo b > f");
    let mut seen = BTreeSet::new();
    room.check_is_new("origin", &mut seen);
    for fork in &forks {
        room.check_counts_on(fork);
        room.check_is_new(fork, &mut seen);
        assert!(seen.contains(&format!("pyro-{fork}")), "{seen:?}");
        assert_eq!(room.sh(fork, "cat f"), "a\n");
        // What a fork begins with is its baseline: the first file of the origin is nothing new in it.
        assert_eq!(room.json(&["diff", fork])["summary"]["total"], 0);
        room.sh(fork, "echo new > g; rm f");
        let diff = room.json(&["diff", fork]);
        let found: Vec<_> =
            diff["entries"].as_array().unwrap().iter().map(|e| (&e["path"], &e["status"])).collect();
        assert_eq!(
            format!("{found:?}"),
            r#"[(String("f"), String("deleted")), (String("g"), String("added"))]"#
        );
        assert!(diff["patch"].as_str().unwrap().contains("\n-a\n"), "{diff}");
        room.sh(fork, "echo a > f; rm g");
    }
    // What is new is not looked for through links that were there.
    room.sh(forks[1], "rm cur loop; mkdir cur loop; cp v1/f cur/f; echo y > loop/f");
    let diff = room.json(&["diff", forks[1]]);
    let found = diff["entries"].as_array().unwrap().iter().map(|e| format!("{} {}", e["status"], e["path"]));
    let found: Vec<_> = found.map(|text| text.replace('"', "")).collect();
    assert_eq!(found, ["type_changed cur", "added cur/f", "type_changed loop", "added loop/f"]);
    room.sh(forks[1], "rm -r cur loop; ln -s v1 cur; ln -s loop loop");
    assert_eq!(room.json(&["diff", forks[1]])["summary"]["total"], 0);
    room.ok(&["delete", "origin"]);
    // Its baseline is the moment of the fork; a fork can be forked.
    let again = room.ok(&["fork", forks[0], "--id-only"]).stdout();
    room.check_counts_on(again.trim());
    room.check_is_new(again.trim(), &mut seen);
    room.sh(forks[1], "echo c > f");
    room.ok(&["reset", forks[1]]);
    assert_eq!(room.sh(forks[1], "cat f; ls /dev/shm"), "a\n");
    // Of one that is stopped, its disk alone.
    room.ok(&["stop", forks[2]]);
    let last = room.ok(&["fork", forks[2], "--id-only"]).stdout();
    assert_eq!(room.sh(last.trim(), "cat f; ls /dev/shm"), "a\n");
    for fork in forks.into_iter().chain([again.trim(), last.trim()]) {
        room.ok(&["delete", fork]);
    }
    room.check_empty(&[]);
}

#[test]
fn a_keeper_killed_while_it_keeps_memory_leaves_whole_snapshots_only() {
    let room = Room::new();
    let id = room.create("victim");
    let snapshots = room.dir().join(&id).join("snapshots");
    // Whether this file is there, with at least so many bytes of data.
    let has = |file: &str, least: u64| {
        snapshots.join(file).metadata().is_ok_and(|stat| stat.blocks() * 512 >= least)
    };
    // Drafts are made and filled, then they get their names one after the other.
    for (file, least) in [
        (".new-maybe.key", 0),
        (".new-maybe.ext4", 0),
        (".new-maybe.ram", 1),
        (".new-maybe.ram", 32 << 20),
        ("maybe.key", 0),
        ("maybe.ram", 0),
        ("maybe.memory", 0),
        ("maybe.ext4", 0),
    ] {
        let (keeper, vmm) = room.processes("victim");
        let child = room.world.start(&["workspace", "snapshot", "create", "victim", "maybe", "--memory"]);
        // Between two looks all of it may have been done.
        eventually("it has come so far", || has(file, least) || !running(child.id()));
        signal(keeper, "-KILL");
        finish(child);
        eventually("the VMM is gone", || !running(vmm));
        room.ok(&["start", "victim"]);
        let list = room.json(&["snapshot", "list", "victim"]);
        let mut wanted = vec!["baseline.ext4"];
        if list["count"] == 2 {
            wanted.extend(["maybe.ext4", "maybe.jobs", "maybe.key", "maybe.memory", "maybe.ram"]);
        }
        let files = fs::read_dir(&snapshots).unwrap().flatten();
        let mut files: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, wanted, "killed when {file} had {least} bytes");
        if list["count"] == 2 {
            let reset = room.json(&["reset", "victim", "--snapshot", "maybe"]);
            assert_eq!(reset["metadata"]["start"], "resumed");
            room.ok(&["snapshot", "delete", "victim", "maybe"]);
        }
    }
    room.ok(&["delete", "victim"]);
    room.check_empty(&[]);
}
