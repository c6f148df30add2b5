//! Changes that stop at any step, by a failure or with the guest: nothing of them is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use pyro_proto::message::{FailureKind, FileBatch, FileOp};

use super::area::WorkspaceArea;
use super::stage::{Stage, recover};
use super::{batch, journal};
use crate::failure::refusal;

/// Every path with its permissions, its owner and its content.
fn tree(root: &Path) -> BTreeMap<String, (u32, u32, String)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let stat = entry.metadata().unwrap();
            let content = if stat.is_dir() {
                left.push(entry.path());
                "/".to_owned()
            } else if stat.is_symlink() {
                format!("-> {}", fs::read_link(entry.path()).unwrap().display())
            } else {
                // The inode too: the former file is put back, and not a copy of it.
                format!("{} {}", stat.ino(), fs::read_to_string(entry.path()).unwrap())
            };
            let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(path, (stat.permissions().mode() & 0o7777, stat.gid(), content));
        }
    }
    found
}

fn disk() -> tempfile::TempDir {
    let disk = tempfile::tempdir().unwrap();
    let root = disk.path().join("workspace");
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::set_permissions(root.join("d/e"), fs::Permissions::from_mode(0o750)).unwrap();
    for name in ["a", "b", "d/g", "d/e/f"] {
        fs::write(root.join(name), name).unwrap();
    }
    fs::hard_link(root.join("a"), root.join("d/twin")).unwrap();
    symlink("d", root.join("l")).unwrap();
    symlink("/etc", root.join("out")).unwrap();
    disk
}

fn path() -> impl Strategy<Value = pyro_proto::message::Bytes> {
    const PATHS: [&str; 17] = [
        "a",
        "b",
        "n",
        "d",
        "d/g",
        "d/twin",
        "d/e/f",
        "d/e",
        "d/e/f/z",
        "l",
        "l/g",
        "l/e/f",
        "n/x",
        "n/x/y",
        "a/z",
        "out",
        "out/pyro-test",
    ];
    prop::sample::select(&PATHS[..]).prop_map(Into::into)
}

fn op() -> impl Strategy<Value = FileOp> {
    prop_oneof![
        4 => path().prop_map(|path| FileOp::Write { path, len: 0, mode: Some(0o600) }),
        2 => path().prop_map(|path| FileOp::Link { path, target: "b".into() }),
        4 => path().prop_map(|path| FileOp::Delete { path }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn nothing_is_left_of_changes_that_stop(ops in prop::collection::vec(op(), 1..8), dies: bool, prune: bool) {
        let disk = disk();
        let root = disk.path().join("workspace");
        let before = tree(&root);
        let file = fs::File::open(disk.path()).unwrap();
        let area = WorkspaceArea::new(file.as_fd()).unwrap();
        let mut stage = Stage::new(&area).unwrap();
        let contents = (0..ops.len()).map(|_| stage.file().unwrap().1).collect();
        stage.begin(|journal, area| batch::note(journal, area, &ops)).unwrap();
        // As far as they go: to the first that fails, or to the end.
        let _ = batch::all(&area, &mut stage, &FileBatch { ops, prune }, contents);
        if dies {
            std::mem::forget(stage);
            recover(file.as_fd(), None).unwrap();
        } else {
            let why = refusal(FailureKind::Internal, "test", "why");
            prop_assert_eq!(stage.undo(why.clone()), why);
            drop(stage);
        }
        prop_assert_eq!(tree(&root), before);
        prop_assert!(!Path::new("/etc/pyro-test").exists());
        prop_assert_eq!(fs::read_dir(disk.path().join(".pyro/stage")).unwrap().count(), 0);
    }
}

#[test]
fn what_others_put_into_a_new_directory_stays() {
    let disk = disk();
    let root = disk.path().join("workspace");
    let file = fs::File::open(disk.path()).unwrap();
    let area = WorkspaceArea::new(file.as_fd()).unwrap();
    let mut stage = Stage::new(&area).unwrap();
    let ops = [FileOp::Write { path: "new/ours".into(), len: 0, mode: None }];
    let contents = vec![stage.file().unwrap().1];
    stage.begin(|journal, area| batch::note(journal, area, &ops)).unwrap();
    batch::all(&area, &mut stage, &FileBatch { ops: ops.to_vec(), prune: true }, contents).unwrap();
    fs::write(root.join("new/theirs"), "x").unwrap();
    stage.undo(refusal(FailureKind::Internal, "test", "why"));
    drop(stage);
    assert!(root.join("new/theirs").exists() && !root.join("new/ours").exists());
}

#[test]
fn a_journal_that_is_not_whole_changes_nothing() {
    let disk = disk();
    let root = disk.path().join("workspace");
    let file = fs::File::open(disk.path()).unwrap();
    let area = WorkspaceArea::new(file.as_fd()).unwrap();
    let journal = {
        let mut stage = Stage::new(&area).unwrap();
        let ops = [FileOp::Delete { path: "a".into() }, FileOp::Delete { path: "new/x".into() }];
        stage.begin(|journal, area| batch::note(journal, area, &ops)).unwrap();
        fs::read(disk.path().join(".pyro/stage").join(std::process::id().to_string()).join("journal"))
    };
    let journal = journal.unwrap();
    // As if a program had done it: only a whole journal says that it was us.
    fs::rename(root.join("a"), root.join("c")).unwrap();
    let before = tree(&root);
    let stage = disk.path().join(".pyro/stage/1");
    for cut in 0..journal.len() {
        fs::create_dir(&stage).unwrap();
        fs::write(stage.join("journal"), &journal[..cut]).unwrap();
        recover(file.as_fd(), None).unwrap();
        assert_eq!(tree(&root), before, "cut at {cut}");
    }
    // Only the stages of the one that died are looked at.
    fs::create_dir(&stage).unwrap();
    recover(file.as_fd(), rustix::process::Pid::from_raw(11)).unwrap();
    assert!(stage.exists());
    recover(file.as_fd(), rustix::process::Pid::from_raw(1)).unwrap();
    assert!(!stage.exists());
    // A file that cannot be put back stays where it may be found.
    fs::create_dir(&stage).unwrap();
    fs::write(stage.join("journal"), &journal).unwrap();
    assert!(recover(file.as_fd(), None).unwrap_err().message.contains('a'));
    assert!(stage.exists());
    journal::remove(fs::File::open(&stage).unwrap().as_fd()).unwrap();
    recover(file.as_fd(), None).unwrap();
    assert_eq!(tree(&root), before);
}
