//! What a model may name on the host: each argument that is a path, and running commands there. All of it is refused before
//! anything is looked for, so no guest is needed.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::client::Client;
use crate::support::World;

/// A server that may use one directory, and that directory with a way out of it; beside it what must stay unknown.
fn served(world: &World) -> (Client, std::path::PathBuf) {
    let root = world.home.path().join("root");
    let secret = world.home.path().join("beside");
    for dir in [&root, &secret] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(secret.join("key"), "hunter2hunter2").unwrap();
    symlink(&secret, root.join("out")).unwrap();
    symlink(secret.join("key"), root.join("key")).unwrap();
    let root = root.canonicalize().unwrap();
    (Client::ready_with(world, &["--profile", "workspace-full", "--host-root", root.to_str().unwrap()]), root)
}

/// Ways to a file that leads out, and to one that does not exist out there.
fn ways_out(root: &Path) -> Vec<String> {
    let beside = root.parent().unwrap().join("beside");
    vec![
        "/etc/passwd".into(),
        "../beside/key".into(),
        "out/key".into(),
        "key".into(),
        root.join("key").display().to_string(),
        root.join("../beside/none").display().to_string(),
        beside.join("key").display().to_string(),
        "/proc/self/root/etc/passwd".into(),
        "/nonexistent/at/all".into(),
    ]
}

/// Each way out is refused with the flag that would allow it, and nothing is told of what is there.
fn refused(tool: &str, fits: impl Fn(&str) -> bool, arguments: impl Fn(&str) -> Value) {
    let world = World::bare();
    let (client, root) = served(&world);
    for way in ways_out(&root).into_iter().filter(|way| fits(way)) {
        let failure = client.fails(tool, arguments(&way), "not_allowed");
        let next = failure["next"].as_str().unwrap();
        assert!(next.contains("--host-root"), "{tool} {way}: {failure}");
        assert!(!failure.to_string().contains("hunter2"), "{tool} {way}: {failure}");
    }
    // What is in the root is not refused for being there.
    std::fs::write(root.join("inside"), "hunter3hunter3").unwrap();
    let id = client.begin(tool, arguments("inside"));
    let answer = client.answer(id)["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    assert!(!answer.contains("not_allowed"), "{tool}: {answer}");
    assert_eq!(std::fs::read(root.parent().unwrap().join("beside/key")).unwrap(), b"hunter2hunter2");
    client.leave();
}

#[test]
fn a_seed_lies_in_a_root() {
    refused("workspace_create", |_| true, |path| json!({"environment": "debian:12", "seed_path": path}));
}

#[test]
fn a_secrets_file_lies_in_a_root() {
    // An environment that there is not: what is inside gets so far and no further.
    let wish = |path: &str| json!({"environment": "none", "secrets": [{"name": "KEY", "file_path": path}]});
    refused("workspace_create", |_| true, wish);
}

#[test]
fn what_is_pushed_lies_in_a_root() {
    let push = |path: &str| json!({"workspace_id": "none", "source_path": path});
    refused("workspace_sync_push", |_| true, push);
}

#[test]
fn what_is_exported_lies_in_a_root() {
    // A link at the very place is not followed, whoever makes it: it is there already.
    let fits = |way: &str| !way.ends_with("/root/key") && way != "key";
    assert_eq!(ways_out(Path::new("/x/root")).iter().filter(|way| fits(way)).count(), 7);
    let export = |path: &str| json!({"workspace_id": "none", "path": "x", "output_path": path});
    refused("workspace_export", fits, export);
    refused("workspace_disk_export", fits, |path| json!({"workspace_id": "none", "output_path": path}));
}

/// A server that was started without a root in a directory, and in an environment, refuses every path of the host.
fn nothing_by_default(world: &World, dir: &Path, change: impl Fn(&mut std::process::Command)) {
    let mut command = world.command(&["mcp", "serve"]);
    command.current_dir(dir);
    change(&mut command);
    let client = Client::of(command);
    client.initialize("2025-06-18");
    for way in [".", "/etc/passwd"] {
        let push =
            json!({"name": "workspace_sync_push", "arguments": {"workspace_id": "x", "source_path": way}});
        let answer = client.ask("tools/call", push);
        let text = answer["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("not_allowed") && text.contains("--host-root"), "{}: {text}", dir.display());
    }
    client.leave();
}

#[test]
fn without_a_root_no_path_is_used() {
    let world = World::bare();
    nothing_by_default(&world, world.home.path(), |_| ());
}

#[test]
fn a_home_is_no_root_whatever_home_says() {
    let mut world = World::bare();
    world.set("PYRO_CACHE_DIR", world.home.path().join("cache"));
    let user = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let home = users.lines().map(fields).find(|fields| fields[2] == user).map(|fields| fields[5].clone());
    if let Some(home) = home.filter(|home| Path::new(home).is_dir()) {
        nothing_by_default(&world, Path::new(&home), |command| {
            command.env_remove("HOME");
        });
        nothing_by_default(&world, Path::new(&home), |_| ());
    }
    // As under sudo, in the home of who called it.
    let dir = tempfile::tempdir().unwrap();
    nothing_by_default(&world, dir.path(), |command| {
        command.env("SUDO_HOME", dir.path());
    });
}

#[test]
fn commands_run_on_the_host_only_if_the_person_said_so() {
    let world = World::bare();
    let (client, _) = served(&world);
    for (tool, arguments) in [
        ("vm_run", json!({"environment": "debian:12", "command": "id", "allow_host_compat": true})),
        ("vm_create", json!({"environment": "debian:12", "allow_host_compat": true})),
    ] {
        let failure = client.fails(tool, arguments, "not_allowed");
        assert!(failure["next"].as_str().unwrap().contains("--allow-host-compat"), "{failure}");
    }
    client.leave();
}
