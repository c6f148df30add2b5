//! Trees in trouble: machines that die while one is put in place, links that lead out, many files and large ones.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::room::{Room, as_agreed, signal};
use crate::support::{Said, children, eventually, finish, running};

fn place(room: &Room, name: &str) -> PathBuf {
    room.world.home.path().join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Kills the machine under the workspace, as a power failure would, and starts it again.
fn power_failure(room: &Room, name: &str, vmm: u32) {
    signal(vmm, "-KILL");
    eventually("it is stopped", || room.state(name) == "stopped");
    room.ok(&["start", name]);
}

/// Everything below `/workspace`, in one line.
const ALL: &str = "cd /workspace && find . -type f -exec md5sum {} + | sort | md5sum; find . | sort | md5sum";

#[test]
fn a_machine_that_dies_leaves_all_of_a_change_or_nothing() {
    let room = Room::new();
    room.create("victim");
    let tree = place(&room, "tree");
    for n in 0..2000 {
        let path = tree.join(format!("d{}/{n}", n % 9));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("new {n}")).unwrap();
    }
    // Every second file is there already, so that it is exchanged and not only moved.
    let old = "cd /workspace && rm -rf to && for n in 0 1 2 3 4 5 6 7 8; do mkdir -p to/d$n; done; n=0; \
               while [ $n -lt 2000 ]; do echo old > to/d$((n % 9))/$n; n=$((n + 2)); done; sync";
    room.sh("victim", old);
    let before = room.sh("victim", ALL);
    let push = ["workspace", "sync", "push", "victim", text(&tree), "--dest", "to"];
    room.ok(&push[1..]);
    let after = room.sh("victim", ALL);
    assert_ne!(before, after);
    // Some of it is in place, and on the disk, where somebody syncs.
    for sync in ["sync", "true"] {
        room.sh("victim", old);
        let (_, vmm) = room.processes("victim");
        let line = format!("until grep -qs new to/d1/10; do :; done; {sync}; echo now; sleep 100");
        let args = ["workspace", "exec", "victim", "--timeout-seconds", "600", "--", &line];
        let mut watch = room.world.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let pushing = room.world.start(&push);
        let mut said = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "now\n");
        power_failure(&room, "victim", vmm);
        finish(watch);
        let pushed = finish(pushing);
        let found = room.sh("victim", ALL);
        assert!(found == before || found == after, "{pushed:?}");
        assert!(found == after || pushed.code != Some(0), "{pushed:?}");
    }

    // What was answered is on the disk, whatever dies next.
    room.sh("victim", old);
    let (_, vmm) = room.processes("victim");
    room.ok(&push[1..]);
    power_failure(&room, "victim", vmm);
    assert_eq!(room.sh("victim", ALL), after);
    let (_, vmm) = room.processes("victim");
    room.ok(&["file", "write", "victim", "some/where/file", "--text", "written"]);
    power_failure(&room, "victim", vmm);
    assert_eq!(room.sh("victim", "cat some/where/file"), "written");
    let (keeper, vmm) = room.processes("victim");
    let patch = "--- a/some/where/file\n+++ b/some/where/file\n@@ -1 +1 @@\n-written\n\\ No newline at end of file\n+patched\n\
                 --- /dev/null\n+++ b/new/file\n@@ -0,0 +1 @@\n+new\n";
    room.ok(&["patch", "apply", "victim", "--patch", patch]);
    signal(keeper, "-KILL");
    eventually("the VMM is gone", || !running(vmm));
    room.ok(&["start", "victim"]);
    assert_eq!(room.sh("victim", "cat some/where/file new/file"), "patched\nnew\n");
    room.ok(&["delete", "victim"]);
    room.check_empty(&[]);
}

#[test]
fn links_that_lead_out_are_refused_or_left_out_and_told() {
    let room = Room::new();
    let venv = place(&room, "venv");
    fs::create_dir_all(venv.join("bin")).unwrap();
    fs::write(venv.join("pyvenv.cfg"), "home = /usr/bin\n").unwrap();
    symlink("/usr/bin/python3", venv.join("bin/python")).unwrap();
    symlink("python", venv.join("bin/python3")).unwrap();
    let refused = |said: &Said| {
        assert_eq!(said.code, Some(1), "{said:?}");
        for part in ["\"bin/python\"", "\"/usr/bin/python3\"", "--skip-outside-links"] {
            assert!(said.err.contains(part), "{part}: {said:?}");
        }
    };
    let told = |said: &Said, what: &str| {
        let line =
            format!("[{what}] left out \"bin/python\": it leads out of the tree, to \"/usr/bin/python3\"");
        assert!(said.err.lines().any(|said| said == line), "{said:?}");
    };
    let links = json!([{"path": "bin/python", "target": "/usr/bin/python3"}]);
    let create =
        ["create", "debian:12-base", "--mem-mib", "256", "--name", "venv", "--seed-path", text(&venv)];
    refused(&room.pyro(&create));
    assert_eq!(room.json(&["list"])["count"], 0);
    told(&room.ok(&[&create[..], &["--skip-outside-links"]].concat()), "seed");
    let status = room.json(&["status", "venv"]);
    assert_eq!(status["workspace_seed"]["skipped_links"], links);
    assert_eq!(status["workspace_seed"]["skipped_link_count"], 1);
    let inside = "find . -type l -o -type f | sort";
    assert_eq!(room.sh("venv", inside), "./bin/python3\n./pyvenv.cfg\n");
    assert_eq!(room.json(&["diff", "venv"])["changed"], json!(false));

    let push = ["sync", "push", "venv", text(&venv), "--dest", "again"];
    refused(&room.pyro(&push));
    assert_eq!(room.sh("venv", inside), "./bin/python3\n./pyvenv.cfg\n");
    let pushed = room.json(&[&push[..], &["--skip-outside-links"]].concat());
    as_agreed(&pushed, "push_workspace_sync");
    assert_eq!(pushed["workspace_sync"]["skipped_links"], links);
    assert_eq!(pushed["workspace_sync"]["entry_count"], 3);
    told(&room.ok(&[&push[..], &["--skip-outside-links"]].concat()), "sync");

    room.sh("venv", "cd again && ln -s /usr/bin/python3 bin/python");
    let out = place(&room, "out");
    let export = ["export", "venv", "again", "--output", text(&out)];
    refused(&room.pyro(&export));
    assert!(!out.exists());
    let exported = room.json(&[&export[..], &["--skip-outside-links"]].concat());
    as_agreed(&exported, "export_workspace");
    assert_eq!(exported["skipped_links"], links);
    assert_eq!(fs::read_link(out.join("bin/python3")).unwrap(), Path::new("python"));
    assert!(out.join("bin/python").symlink_metadata().is_err());
    fs::remove_dir_all(&out).unwrap();
    told(&room.ok(&[&export[..], &["--skip-outside-links"]].concat()), "export");

    // A patch that puts a file where it empties a directory.
    let patch = "--- a/again/pyvenv.cfg\n+++ /dev/null\n@@ -1 +0,0 @@\n-home = /usr/bin\n\
                 --- /dev/null\n+++ b/again\n@@ -0,0 +1 @@\n+a file\n";
    let said = room.pyro(&["patch", "apply", "venv", "--patch", patch]);
    assert!(said.code == Some(1) && said.err.contains("again"), "its links are still there: {said:?}");
    room.sh("venv", "rm -r again/bin");
    room.ok(&["patch", "apply", "venv", "--patch", patch]);
    assert_eq!(room.sh("venv", "cat again"), "a file\n");

    // What an export leaves that is killed goes with the next one there.
    room.sh("venv", "mkdir big; truncate -s 6G big/sparse");
    let big = place(&room, "big");
    let exporting = room.world.start(&["workspace", "export", "venv", "big", "--output", text(&big)]);
    let left = || {
        let names = fs::read_dir(room.world.home.path()).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_str().is_some_and(|name| name.starts_with(".pyro-export-"))).count()
    };
    eventually("it has begun", || left() == 1);
    signal(exporting.id(), "-KILL");
    exporting.wait_with_output().unwrap();
    assert_eq!(left(), 1);
    room.ok(&["export", "venv", "pyvenv.cfg", "--output", text(&place(&room, "x"))]);
    assert_eq!(left(), 0);
    room.ok(&["delete", "venv"]);
    room.check_empty(&[]);
}

/// The most memory that a process ever had, KiB; 0 when it is gone.
fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What a host's process may take, KiB, whatever it copies: measured 20 to 40 MiB of it in a debug build.
const MOST_KIB: u64 = 96 << 10;

/// Runs `pyro workspace` with these words, and looks how much memory it takes.
fn bounded(room: &Room, args: &[&str]) {
    let begin = Instant::now();
    let mut child = room.world.start(&[&["workspace"], args].concat());
    let (id, mut most) = (child.id(), 0);
    while child.try_wait().unwrap().is_none() {
        most = most.max(most_memory(id));
        // Only against hangs: it takes a minute, or several on a busy host.
        assert!(begin.elapsed() < Duration::from_secs(900), "{args:?} hangs");
        // A poll interval: its memory has to be looked at while it runs.
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
    assert!((1..MOST_KIB).contains(&most), "{args:?} took {most} KiB");
    for keeper in room.keepers() {
        let keepers = most_memory(keeper);
        assert!(keepers < MOST_KIB, "the keeper took {keepers} KiB for {args:?}");
    }
}

/// 50,000 files; a large one that is all hole but for its ends, and one that is not. A hole's zeros are sent like all else,
/// so the second one need not be large to show what it takes of the host's memory.
#[test]
fn many_files_and_large_ones_go_in_and_out_in_little_memory() {
    const DENSE: u64 = 128 << 20;
    let room = Room::new();
    let (tree, large) = (place(&room, "tree"), place(&room, "tree/large"));
    for n in 0..500 {
        let dir = tree.join(format!("{}/{n}", n % 10));
        fs::create_dir_all(&dir).unwrap();
        for m in 0..100 {
            fs::write(dir.join(format!("{m}")), format!("{n} {m}\n")).unwrap();
        }
    }
    bounded(&room, &["create", "debian:12-base", "--name", "many", "--seed-path", text(&tree)]);
    fs::create_dir(&large).unwrap();
    let sparse = fs::File::create(large.join("sparse")).unwrap();
    sparse.set_len(2 << 30).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"end", (2 << 30) - 3).unwrap();
    let noise = format!("head -c {DENSE} /dev/urandom > \"$0\"");
    let made = Command::new("sh").args(["-c", &noise, text(&large.join("dense"))]).status();
    assert!(made.unwrap().success());
    bounded(&room, &["sync", "push", "many", text(&large), "--dest", "large"]);
    let taken = "du -m large/sparse | cut -f1; stat -c %s large/sparse";
    assert_eq!(room.sh("many", taken), "1\n2147483648\n");
    let out = place(&room, "out");
    bounded(&room, &["export", "many", "/workspace", "--output", text(&out)]);
    let compared = Command::new("diff").args(["-r", text(&tree), text(&out)]).output().unwrap();
    assert!(compared.status.success(), "{:?}", Said::from(compared));
    let blocks = fs::metadata(out.join("large/sparse")).unwrap().blocks();
    assert!(blocks < 4096, "{blocks} blocks of a file that is all hole");
    let vmms: Vec<u32> = room.keepers().into_iter().flat_map(children).collect();
    room.ok(&["delete", "many"]);
    room.check_empty(&vmms);
}
