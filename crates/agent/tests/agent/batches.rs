//! Several changes at once: all or none.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::*;
use pyro_proto::message::*;

fn put(path: &str, content: &[u8]) -> FileOp {
    FileOp::Write { path: path.into(), len: content.len() as u64, mode: None }
}

fn delete(path: &str) -> FileOp {
    FileOp::Delete { path: path.into() }
}

fn batch(ops: Vec<FileOp>) -> Request {
    Request::FileBatch(FileBatch { ops, prune: true })
}

/// Every path with its mode and content.
pub fn tree(root: &Path) -> BTreeMap<String, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
            let stat = entry.metadata().unwrap();
            let content = if stat.is_dir() {
                left.push(entry.path());
                "/".to_owned()
            } else if stat.is_symlink() {
                format!("-> {}", fs::read_link(entry.path()).unwrap().display())
            } else {
                String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned()
            };
            let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(path, (stat.permissions().mode() & 0o7777, content));
        }
    }
    found
}

fn prepare(agent: &Agent) {
    fs::create_dir_all(agent.workspace("dir/only")).unwrap();
    fs::write(agent.workspace("dir/only/file"), "gone").unwrap();
    fs::write(agent.workspace("a"), "a").unwrap();
    fs::write(agent.workspace("b"), "b").unwrap();
    fs::set_permissions(agent.workspace("a"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("a", agent.workspace("link")).unwrap();
}

#[test]
fn all_changes_are_made() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        prepare(&agent);
        let ops = vec![
            put("a", b"new a"),
            delete("dir/only/file"),
            put("x/y/z", b"deep"),
            delete("b"),
            FileOp::Write { path: "c/d".into(), len: 1, mode: Some(0o600) },
            put("link", b"no link any more"),
            FileOp::Link { path: "x/l".into(), target: "y/z".into() },
        ];
        assert_eq!(client.last(&batch(ops), b"new adeepbno link any more").await, Reply::Done);
        let tree = tree(&agent.workspace(""));
        let has = |path: &str| tree.get(path).map(|(mode, text)| (*mode, text.as_str()));
        assert_eq!(has("a"), Some((0o755, "new a")));
        assert_eq!((has("dir"), has("b")), (None, None));
        assert_eq!(has("c/d"), Some((0o600, "b")));
        assert_eq!(has("x/y/z"), Some((0o644, "deep")));
        assert_eq!(has("link").map(|(_, text)| text), Some("no link any more"));
        assert_eq!(has("x/l").map(|(_, text)| text), Some("-> y/z"));
        assert!(agent.staged().is_empty());
    });
}

#[test]
fn a_failure_at_any_place_leaves_everything_as_it_was() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        prepare(&agent);
        fs::write(agent.workspace("dir/stays"), "stays").unwrap();
        let before = tree(&agent.workspace(""));
        let ops = [
            put("a", b"1"),
            put("new/deep/file", b"2"),
            delete("b"),
            delete("dir/only/file"),
            FileOp::Write { path: "a".into(), len: 0, mode: Some(0o700) },
            FileOp::Link { path: "link".into(), target: "b".into() },
            FileOp::Link { path: "new/link".into(), target: "b".into() },
        ];
        let bad = [
            (delete("none"), FailureKind::NotFound),
            (delete("dir"), FailureKind::IsDirectory),
            (put("dir", b""), FailureKind::IsDirectory),
            (FileOp::Link { path: "dir".into(), target: "a".into() }, FailureKind::IsDirectory),
            (put("../x", b""), FailureKind::OutsideWorkspace),
            (put("a/x", b""), FailureKind::NotDirectory),
            (FileOp::Link { path: "x".into(), target: "".into() }, FailureKind::BadRequest),
        ];
        for count in 0..=ops.len() {
            for (op, kind) in &bad {
                let mut all = ops[..count].to_vec();
                all.push(op.clone());
                let content =
                    &b"12"[..all.iter().filter(|op| matches!(op, FileOp::Write { len: 1, .. })).count()];
                let refused = client.refused(&batch(all), content).await;
                assert_eq!(refused, *kind, "{count} then {op:?}");
                assert_eq!(tree(&agent.workspace("")), before, "{count} then {op:?}");
            }
        }
        assert!(agent.staged().is_empty());
        // Contents that are not as long as was said.
        for content in [&b""[..], b"1", b"123"] {
            let refused = client.refused(&batch(ops[..2].to_vec()), content).await;
            assert_eq!(refused, FailureKind::BadRequest);
        }
        assert_eq!(tree(&agent.workspace("")), before);
    });
}

#[test]
fn a_file_takes_the_place_of_a_directory_that_was_emptied() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        prepare(&agent);
        let ops = vec![delete("dir/only/file"), put("dir", b"file")];
        // Not where the directory is to be left alone.
        let kept = Request::FileBatch(FileBatch { ops: ops.clone(), prune: false });
        assert_eq!(client.refused(&kept, b"file").await, FailureKind::IsDirectory);
        assert_eq!(client.last(&batch(ops), b"file").await, Reply::Done);
        assert_eq!(tree(&agent.workspace("")).get("dir").map(|(_, text)| text.as_str()), Some("file"));
        let ops = vec![delete("dir"), put("dir/new", b"file")];
        assert_eq!(client.last(&batch(ops), b"file").await, Reply::Done);
        // A directory stays as it was where a file comes into it.
        fs::set_permissions(agent.workspace("dir"), fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(
            client.last(&batch(vec![delete("dir/new"), put("dir/newer", b"")]), b"").await,
            Reply::Done
        );
        assert_eq!(tree(&agent.workspace("")).get("dir").map(|(mode, _)| *mode), Some(0o750));
    });
}
