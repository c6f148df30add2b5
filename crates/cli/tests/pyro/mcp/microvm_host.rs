//! Paths of the host that become links to elsewhere while a model's calls use them.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use super::client::Client;
use crate::room::Room;
use crate::support::Over;

#[test]
fn a_link_swapped_in_leads_no_call_out() {
    let room = Room::new();
    let (root, beside) = (room.world.home.path().join("root"), room.world.home.path().join("beside"));
    for (dir, name) in [(root.join("tree"), "mine"), (beside.clone(), "theirs")] {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), "hunter2hunter2").unwrap();
    }
    symlink(&beside, root.join("link")).unwrap();
    let words = ["--profile", "workspace-full", "--host-root", root.to_str().unwrap()];
    let client = Client::ready_with(&room.world, &words);
    let id = client.create("race");
    client.sh(&id, "echo out > result");
    let over = AtomicBool::new(false);
    // The workspace of a call that was not refused.
    let call = |tool: &str, arguments: Value| {
        let id = client.begin(tool, arguments);
        let result = client.answer(id)["result"].clone();
        let id = result["structuredContent"]["workspace_id"].as_str();
        id.filter(|_| result["isError"] != true).map(str::to_owned)
    };
    std::thread::scope(|scope| {
        let (one, other) = (root.join("tree"), root.join("link"));
        let ends = &over;
        scope.spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                // Long enough for some calls to come through, and short enough for others to be caught in between.
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let _over = Over(&over);
        // Until each was done and refused some times: however often that is.
        let mut pushed = [0, 0];
        let mut exported = [0, 0];
        for number in 0.. {
            let push = json!({"workspace_id": id, "source_path": "tree", "dest": format!("in{number}")});
            pushed[usize::from(call("workspace_sync_push", push).is_some())] += 1;
            let output = format!("tree/made-{number}");
            let export = json!({"workspace_id": id, "path": "result", "output_path": output});
            exported[usize::from(call("workspace_export", export).is_some())] += 1;
            if pushed.into_iter().chain(exported).min().unwrap() >= 5 {
                break;
            }
        }
        for _ in 0..30 {
            let secret = json!({"name": "KEY", "file_path": "tree/theirs"});
            let wish = json!({"environment": "debian:12-base", "mem_mib": 256, "secrets": [secret]});
            assert_eq!(call("workspace_create", wish), None, "a secret from outside was read");
        }
        for _ in 0..4 {
            let wish = json!({"environment": "debian:12-base", "mem_mib": 256, "seed_path": "tree"});
            if let Some(seeded) = call("workspace_create", wish) {
                assert_eq!(client.sh(&seeded, "ls | grep -v made-"), "mine\n");
                client.ok("workspace_delete", json!({"workspace_id": seeded}));
            }
        }
    });
    assert_eq!(client.sh(&id, "find . -name theirs"), "");
    let there: Vec<_> = std::fs::read_dir(&beside).unwrap().map(|each| each.unwrap().file_name()).collect();
    assert_eq!(there, ["theirs"], "something was made outside");
    client.ok("workspace_delete", json!({"workspace_id": id}));
    client.leave();
}
