//! The operations of workspaces: those that change something, how each is called, and what must be so after it was cut
//! short; and those that change nothing.

use std::fs;

use super::tracer::beside;
use crate::room::Room;
use crate::support::eventually;

/// An operation that changes something.
pub struct Operation {
    /// Its subcommand, and after a comma in which of several ways it is called.
    pub name: &'static str,
    /// Whether a keeper that runs does it, and not one that is started for it, or the front end alone.
    pub by_keeper: bool,
    /// What is to be so before. The workspace `v` runs.
    pub before: fn(&Room),
    /// How it is called.
    pub arguments: fn(&Room) -> Vec<String>,
    /// What must be so afterwards: it was done, or not. The workspace runs again.
    pub after: fn(&Room, &str),
}

/// What changes nothing, or is a person's at a terminal.
pub const HARMLESS: [&str; 15] = [
    "diff",
    "disk list",
    "disk read",
    "file list",
    "file read",
    "list",
    "logs",
    "service list",
    "service logs",
    "service status",
    // Types what a person types, as `shell write` does.
    "shell attach",
    "shell list",
    "shell read",
    "snapshot list",
    "status",
];

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn nothing(_: &Room) {}

/// What a shell line prints.
fn one_of(room: &Room, line: &str, wanted: &[&str], what: &str) {
    let found = room.sh("v", line);
    assert!(wanted.contains(&found.as_str()), "{what}: {found:?}");
}

pub const OPERATIONS: [Operation; 23] = [
    Operation {
        name: "exec",
        by_keeper: true,
        before: nothing,
        arguments: |_| ["exec", "v", "--", "seq 10000; cat f"].map(str::to_owned).to_vec(),
        after: |room, what| {
            let logs = room.json(&["logs", "v"]);
            for entry in logs["entries"].as_array().unwrap() {
                let whole = entry["stdout"].as_str().unwrap().len() == entry["stdout_bytes"];
                assert!(whole, "{what}: {entry}");
            }
        },
    },
    Operation {
        name: "update",
        by_keeper: true,
        before: |room| {
            room.ok(&["update", "v", "--label", "old=1", "--clear-label", "a", "--clear-label", "b"]);
        },
        arguments: |_| words("update v --label a=1 --label b=2 --clear-label old"),
        after: |room, what| {
            let labels = room.json(&["status", "v"])["labels"].to_string();
            assert!(
                [r#"{"a":"1","b":"2"}"#, r#"{"old":"1"}"#].contains(&labels.as_str()),
                "{what}: {labels}"
            );
        },
    },
    Operation {
        name: "file write",
        by_keeper: true,
        before: |room| {
            room.ok(&["file", "write", "v", "w", "--text", "old"]);
        },
        arguments: |_| {
            vec!["file".into(), "write".into(), "v".into(), "w".into(), "--text".into(), "n".repeat(90_000)]
        },
        after: |room, what| one_of(room, "wc -c < w; ls -A | wc -l", &["3\n2\n", "90000\n2\n"], what),
    },
    Operation {
        name: "patch apply",
        by_keeper: true,
        before: |room| {
            room.sh("v", "rm -rf ./w ./p1 ./p2; echo old > p1; echo old > p2; sync");
        },
        arguments: |_| {
            let part = |name: &str| format!("--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-old\n+new\n");
            ["patch", "apply", "v", "--patch", &(part("p1") + &part("p2"))].map(str::to_owned).to_vec()
        },
        after: |room, what| {
            one_of(room, "cat p1 p2; ls -A | wc -l", &["old\nold\n3\n", "new\nnew\n3\n"], what)
        },
    },
    Operation {
        name: "sync push",
        by_keeper: true,
        before: |room| {
            let tree = beside(room, "tree");
            fs::create_dir_all(tree.join("deep")).unwrap();
            for n in 0..20 {
                fs::write(tree.join(format!("deep/{n}")), "x".repeat(n * 1000)).unwrap();
            }
            room.sh("v", "rm -rf ./p1 ./p2 ./pushed; sync");
        },
        arguments: |room| {
            let tree = beside(room, "tree").display().to_string();
            ["sync", "push", "v", &tree, "--dest", "pushed"].map(str::to_owned).to_vec()
        },
        after: |room, what| {
            let line = "find pushed -type f 2>/dev/null | wc -l; ls -A | wc -l";
            one_of(room, line, &["0\n1\n", "20\n2\n"], what);
        },
    },
    Operation {
        name: "export",
        by_keeper: true,
        before: |room| {
            let _ = fs::remove_dir_all(beside(room, "out"));
            room.sh("v", "mkdir -p o; for n in 1 2 3 4 5; do head -c 9000 /dev/zero > o/$n; done");
        },
        arguments: |room| {
            let out = beside(room, "out").display().to_string();
            ["export", "v", "o", "--output", &out].map(str::to_owned).to_vec()
        },
        after: |room, what| {
            let out = fs::read_dir(beside(room, "out")).map(Iterator::count);
            assert!(matches!(out, Err(_) | Ok(5)), "{what}: {out:?}");
        },
    },
    Operation {
        name: "create",
        by_keeper: false,
        before: nothing,
        arguments: |_| words("create debian:12-base --mem-mib 256 --name made --secret T=hunter2"),
        after: |room, what| {
            // A keeper that nobody waits for gives up, or was ready already.
            let is_made = || room.pyro(&["status", "made"]).code == Some(0);
            eventually(&format!("it is made or not: {what}"), || is_made() || room.keepers().len() == 1);
            if is_made() {
                room.ok(&["start", "made"]);
                assert_eq!(room.sh("made", "cat /run/pyro-secrets/T"), "[REDACTED]", "{what}");
                room.ok(&["delete", "made"]);
            }
        },
    },
    Operation {
        name: "start",
        by_keeper: false,
        before: |room| {
            room.ok(&["stop", "v", "--force"]);
        },
        arguments: |_| words("start v"),
        after: |_, _| {},
    },
    Operation {
        name: "stop",
        by_keeper: true,
        before: nothing,
        arguments: |_| words("stop v"),
        after: |_, _| {},
    },
    Operation {
        name: "delete",
        by_keeper: true,
        before: nothing,
        arguments: |_| words("delete v"),
        after: |_, _| {},
    },
    Operation {
        name: "disk export",
        by_keeper: false,
        before: |room| {
            let _ = fs::remove_file(beside(room, "image"));
            room.ok(&["stop", "v"]);
        },
        arguments: |room| {
            let image = beside(room, "image").display().to_string();
            ["disk", "export", "v", "--output", &image].map(str::to_owned).to_vec()
        },
        after: |_, _| {},
    },
    Operation {
        name: "snapshot create",
        by_keeper: true,
        before: |room| {
            room.pyro(&["snapshot", "delete", "v", "maybe"]);
        },
        arguments: |_| words("snapshot create v maybe"),
        after: |room, what| {
            let list = room.json(&["snapshot", "list", "v"]);
            if list["snapshots"].as_array().unwrap().iter().any(|each| each["snapshot_name"] == "maybe") {
                room.sh("v", "rm f; sync");
                room.ok(&["reset", "v", "--snapshot", "maybe"]);
                one_of(room, "cat f", &["data\n"], what);
            }
        },
    },
    Operation {
        name: "snapshot delete",
        by_keeper: true,
        before: |room| {
            room.pyro(&["snapshot", "create", "v", "maybe"]);
        },
        arguments: |_| words("snapshot delete v maybe"),
        after: |_, _| {},
    },
    Operation {
        name: "reset",
        by_keeper: true,
        before: |room| {
            room.sh("v", "echo new > n; sync");
        },
        arguments: |_| words("reset v --snapshot good"),
        after: |room, what| one_of(room, "cat n 2>/dev/null; true", &["", "new\n"], what),
    },
    Operation {
        name: "snapshot create, with memory",
        by_keeper: true,
        before: |room| {
            room.pyro(&["snapshot", "delete", "v", "mem"]);
        },
        arguments: |_| words("snapshot create v mem --memory"),
        after: |_, _| {},
    },
    Operation {
        name: "reset, to memory",
        by_keeper: true,
        before: |room| {
            room.pyro(&["snapshot", "create", "v", "mem", "--memory"]);
        },
        arguments: |_| words("reset v --snapshot mem"),
        after: |_, _| {},
    },
    Operation {
        name: "fork",
        by_keeper: true,
        before: nothing,
        arguments: |_| words("fork v --count 2"),
        after: |room, what| {
            for each in room.json(&["list"])["workspaces"].as_array().unwrap() {
                let id = each["workspace_id"].as_str().unwrap();
                if each["name"] != "v" {
                    room.ok(&["start", id]);
                    assert_eq!(room.sh(id, "cat f"), "data\n", "{what}");
                    room.ok(&["delete", id]);
                }
            }
            // What it was made from goes with the next start.
            room.ok(&["stop", "v"]);
            room.ok(&["start", "v"]);
        },
    },
    Operation {
        name: "shell open",
        by_keeper: true,
        before: nothing,
        arguments: |_| words("shell open v"),
        after: close_shells,
    },
    Operation {
        name: "shell write",
        by_keeper: true,
        before: |room| {
            room.ok(&["shell", "open", "v"]);
        },
        arguments: |room| words(&format!("shell write v {} --input true", shell(room))),
        after: close_shells,
    },
    Operation {
        name: "shell signal",
        by_keeper: true,
        before: |room| {
            room.ok(&["shell", "open", "v"]);
        },
        arguments: |room| words(&format!("shell signal v {} --signal TERM", shell(room))),
        after: close_shells,
    },
    Operation {
        name: "shell close",
        by_keeper: true,
        before: |room| {
            room.ok(&["shell", "open", "v"]);
        },
        arguments: |room| words(&format!("shell close v {}", shell(room))),
        after: close_shells,
    },
    Operation {
        name: "service start",
        by_keeper: true,
        before: end_service,
        arguments: |_| words("service start v web --ready-command true -- sleep 1000"),
        after: serves_again,
    },
    Operation {
        name: "service stop",
        by_keeper: true,
        before: |room| {
            end_service(room);
            room.ok(&["service", "start", "v", "web", "--", "sleep", "1000"]);
        },
        arguments: |_| words("service stop v web"),
        after: serves_again,
    },
];

/// The shell that there is.
fn shell(room: &Room) -> String {
    room.json(&["shell", "list", "v"])["shells"][0]["shell_id"].as_str().unwrap().to_owned()
}

/// Shells are what they are said to be, and go when they are told to.
fn close_shells(room: &Room, what: &str) {
    let list = room.json(&["shell", "list", "v"]);
    for shell in list["shells"].as_array().unwrap() {
        let id = shell["shell_id"].as_str().unwrap();
        room.ok(&["shell", "read", "v", id]);
        room.ok(&["shell", "close", "v", id]);
    }
    assert_eq!(room.json(&["shell", "list", "v"])["count"], 0, "{what}");
}

fn end_service(room: &Room) {
    room.pyro(&["service", "stop", "v", "web"]);
}

/// A service that runs can be ended, and one that does not can be started.
fn serves_again(room: &Room, _: &str) {
    let list = room.json(&["service", "list", "v"]);
    if list["running_count"] == 1 {
        room.ok(&["service", "stop", "v", "web"]);
    }
    room.ok(&["service", "start", "v", "web", "--", "sleep", "1000"]);
    room.ok(&["service", "stop", "v", "web"]);
}
