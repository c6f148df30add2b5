//! Front ends beside keepers that fail: a fault of pyro is neither waited out nor taken for somebody else's work.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::net::UnixListener;

use super::Workspaces;
use crate::backend::Preference;
use crate::config::Config;
use crate::failure::FailureKind;
use crate::hostfs::lock::Lock;
use crate::identity::unix_now;
use crate::vm::Factory;
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames;
use crate::workspace::store::holder;
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::WorkspaceSpec;
use crate::workspace::store::state::State;
use crate::workspace::store::view::WorkspaceState;
use crate::workspace::wire::GENERATION;

const ID: &str = "0123456789ab";

fn workspaces(dir: &Path, executable: PathBuf) -> Workspaces {
    Workspaces::new(Factory::new(Config::below(dir, executable), Preference::Auto))
}

/// A stopped workspace in `root`, whose lock is held and signed by this process.
fn held_workspace(root: &Path) -> (Home, Lock) {
    let record = WorkspaceSpec::new("debian:12").record(ID, "cafe", unix_now());
    let (home, held) = holder::lock_and_sign(|| Home::draft(root, ID)).unwrap();
    drop(State::create(&home.state_path(), &record).unwrap());
    (home.publish(ID).unwrap(), held)
}

/// Answers each call on the workspace's socket with `answer`, as a keeper of `generation`; gives the calls it heard.
fn fake_keeper(
    home: &Home,
    generation: u32,
    answer: serde_json::Value,
) -> tokio::sync::mpsc::UnboundedReceiver<serde_json::Value> {
    let listener = UnixListener::bind(home.socket().unwrap().0).unwrap();
    let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let greeting = json!({
                "generation": generation, "version": "0", "pid": 1, "phase": "started", "last_activity_at": 2e9,
            });
            let _ = frames::send(&mut stream, &greeting).await;
            if let Ok(call) = frames::receive::<serde_json::Value>(&mut stream).await {
                let _ = tell.send(call);
                let _ = frames::send(&mut stream, &answer).await;
            }
        }
    });
    heard
}

#[tokio::test]
async fn a_bug_in_a_keeper_kills_nobody_and_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (home, _held) = held_workspace(dir.path());
    let fault = json!({"failed": {"kind": "bug", "message": "a task of pyro panicked: x; this is a bug"}});
    let _heard = fake_keeper(&home, GENERATION, fault);
    // Were it taken for a lock that somebody holds, the process that signed it would be killed: this one.
    let error = workspaces(dir.path(), "pyro".into()).delete(ID).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Bug, "{error}");
    assert!(error.to_string().contains("this is a bug"));
    assert!(home.exists());
}

#[tokio::test]
async fn a_bug_in_a_start_is_told_at_once_and_tried_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_home, held) = held_workspace(dir.path());
    drop(held);
    let (tries, keeper) = (dir.path().join("tries"), dir.path().join("keeper"));
    let said =
        r#"{"report":"failed","fault":{"kind":"bug","message":"a task of pyro panicked: x; this is a bug"}}"#;
    let script = format!("#!/bin/sh\necho >> {}\nread order\necho '{said}'\n", tries.display());
    std::fs::write(&keeper, script).unwrap();
    std::fs::set_permissions(&keeper, std::fs::Permissions::from_mode(0o700)).unwrap();
    let error = workspaces(dir.path(), keeper).start(ID, &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Bug, "{error}");
    assert_eq!(std::fs::read_to_string(tries).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_keeper_of_the_generation_before_is_listed_stopped_and_deleted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (home, _held) = held_workspace(dir.path());
    let mut heard = fake_keeper(&home, 3, json!({"answer": "done"}));
    let workspaces = workspaces(dir.path(), "pyro".into());
    let list = workspaces.list().await.unwrap();
    assert_eq!((list.count, list.workspaces[0].state), (1, WorkspaceState::Started));
    workspaces.stop(ID).await.unwrap();
    workspaces.delete(ID).await.unwrap();
    let mut calls = Vec::new();
    while let Ok(call) = heard.try_recv() {
        calls.push(call);
    }
    let ask = |name: &str| json!({"generation": 3, "ask": {"call": name}});
    assert_eq!(calls, [ask("stop"), ask("delete")]);
    let refused = workspaces.create_snapshot(ID, "s", false).await.unwrap_err();
    assert!(matches!(refused, WorkspaceError::Generation { .. }), "{refused}");
}

/// Numbers come from a model or a person: none of any size is pyro's own failure.
#[tokio::test]
async fn a_number_of_any_size_is_an_argument() {
    let dir = tempfile::tempdir().unwrap();
    let workspaces = workspaces(dir.path(), "pyro".into());
    let (_home, _held) = held_workspace(workspaces.root());
    for number in [i64::MAX as u64, 1 << 63, u64::MAX] {
        let logs = workspaces.logs(ID, Some(number)).await.unwrap();
        assert_eq!(logs.entries, []);
        let mut reader = workspaces.read_logs(ID, None).await.unwrap();
        reader.skip_to(number);
        assert_eq!(reader.next_entry().unwrap(), None);
        for (offset, max_bytes) in [(number, 1), (0, number), (number, number)] {
            let error = workspaces.read_file(ID, Path::new("f"), offset, max_bytes).await.unwrap_err();
            let kind = error.kind();
            let told = matches!(kind, FailureKind::InvalidArgument | FailureKind::TooLarge);
            // The largest offset may be; the workspace is stopped.
            let stopped = (offset, max_bytes) == (i64::MAX as u64, 1) && kind == FailureKind::WrongState;
            assert!(told || stopped, "{offset} {max_bytes}: {error:?}");
        }
    }
}
