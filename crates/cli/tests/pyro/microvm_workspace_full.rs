//! Workspaces on a disk that is full, and results that find no room.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::room::Room;
use crate::support::{Said, finish};

/// A file system of its own in memory, for the workspaces of a room; unmounted when dropped. Needs root, as `make test` does.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn new(dir: &'a Path, size: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir).status();
        assert!(status.unwrap().success(), "mount needs root");
        Self(dir)
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let line = "for s in 16M 1M 64K 4K; do n=0; while fallocate -l $s \"$0/.fill.$s.$n\" 2>/dev/null; do n=$((n+1)); done; done";
        assert!(Command::new("sh").args(["-c", line]).arg(self.0).status().unwrap().success());
    }

    fn free(&self) {
        for entry in fs::read_dir(self.0).unwrap().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(".fill.")) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_changes_no_commands_end_and_a_failed_change_changes_nothing() {
    let mut room = Room::new();
    let dir = room.dir();
    room.world.set("PYRO_WORKSPACES_DIR", &dir);
    let small = SmallDisk::new(&dir, "160m");
    room.create("full");
    room.sh("full", "head -c 20000000 /dev/urandom > big; sync; echo here > /dev/shm/memory");
    room.ok(&["snapshot", "create", "full", "before"]);
    small.fill();

    let line = "head -c 100000 /dev/zero | tr '\\0' x; exit 7";
    let said = room.pyro(&["exec", "full", "--", line]);
    assert_eq!((said.code, said.out.len()), (Some(7), 100_000), "{}", said.err);
    assert!(said.err.contains("the history lacks this command"), "{}", said.err);
    let said = room.pyro(&["exec", "full", "--json", "--", line]);
    assert_eq!(said.code, Some(7), "{said:?}");
    assert!(said.json()["unrecorded"].as_str().is_some_and(|why| why.contains("space")), "{said:?}");

    let said = room.pyro(&["reset", "full", "--snapshot", "before"]);
    assert!(said.code == Some(1) && said.err.contains("space"), "{said:?}");
    assert_eq!(room.state("full"), "started");
    assert_eq!(room.sh("full", "cat /dev/shm/memory"), "here\n", "its guest was another");

    // There may be room for so little.
    let said = room.pyro(&["update", "full", "--name", "other"]);
    let (name, gone) = if said.code == Some(0) { ("other", "full") } else { ("full", "other") };
    assert_eq!(room.json(&["status", name])["name"], name);
    assert_eq!(room.pyro(&["status", gone]).code, Some(1));

    small.free();
    room.ok(&["reset", name, "--snapshot", "before"]);
    assert_eq!(room.sh(name, "cat /dev/shm/memory; stat -c %s big"), "20000000\n");
    room.ok(&["delete", name]);
}

#[test]
fn output_of_a_workspace_that_is_not_taken_is_a_failure() {
    let room = Room::new();
    room.create("out");
    room.sh("out", "echo text > f; ln -s loop loop; echo shown");
    let commands: [&[&str]; 9] = [
        &["exec", "out", "--", "echo", "words"],
        &["exec", "out", "--", "printf words"],
        &["exec", "out", "--json", "--", "exit 3"],
        &["list"],
        &["status", "out"],
        &["logs", "out"],
        &["logs", "out", "--json"],
        &["file", "read", "out", "f"],
        &["diff", "out"],
    ];
    let run = |args: &[&str], out: std::process::Stdio| -> Said {
        let args = [&["workspace"], args].concat();
        finish(room.world.command(&args).stdout(out).spawn().unwrap())
    };
    for args in commands {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let said = run(args, full.into());
        assert_eq!((said.code, said.signal), (Some(1), None), "{args:?} {said:?}");
        assert!(said.err.contains("[error]") && said.err.contains("No space left"), "{args:?} {said:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = run(args, writer.into());
        assert_eq!((said.code, said.signal), (Some(128 + 13), None), "{args:?} {said:?}");
        assert!(!said.err.contains("[error]"), "{args:?} {said:?}");
    }
    let said = room.pyro(&["file", "read", "out", "loop"]);
    assert!(said.code == Some(1) && said.err.contains("loop of links"), "{said:?}");
    room.ok(&["delete", "out"]);
}
