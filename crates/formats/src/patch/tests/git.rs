//! Round trips against the real `git`.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// Runs git in a directory, with nothing of this machine's configuration.
fn git(dir: &Path, args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut git = Command::new("git")
        .args(["-c", "core.autocrlf=false", "-c", "core.safecrlf=false"])
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("LC_ALL", "C")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    git.stdin.take().unwrap().write_all(input).unwrap();
    let output = git.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn write(dir: &Path, files: &Files) {
    for (path, node) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if node.kind == NodeKind::Symlink {
            symlink(std::ffi::OsStr::from_bytes(&node.bytes), path).unwrap();
        } else {
            fs::write(&path, &node.bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(node.mode)).unwrap();
        }
    }
}

fn read(dir: &Path, below: &Path, files: &mut Files) {
    for entry in fs::read_dir(dir.join(below)).unwrap() {
        let name = entry.unwrap().file_name();
        let path = below.join(&name);
        let meta = fs::symlink_metadata(dir.join(&path)).unwrap();
        if meta.is_dir() {
            if name != ".git" {
                read(dir, &path, files);
            }
        } else if meta.is_symlink() {
            let target = fs::read_link(dir.join(&path)).unwrap();
            let bytes = target.as_os_str().as_bytes().to_vec();
            files.insert(path, Node { kind: NodeKind::Symlink, mode: 0o777, bytes });
        } else {
            // git makes files as the umask has it and knows of one bit.
            let mode = if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            let bytes = fs::read(dir.join(&path)).unwrap();
            files.insert(path, Node { kind: NodeKind::File, mode, bytes });
        }
    }
}

/// Difference of two trees as git writes it.
fn git_diff(before: &Files, after: &Files, args: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q"], b"").unwrap();
    write(dir.path(), before);
    git(dir.path(), &["add", "-A"], b"").unwrap();
    let tree = String::from_utf8(git(dir.path(), &["write-tree"], b"").unwrap()).unwrap();
    git(dir.path(), &["read-tree", "--empty"], b"").unwrap();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true if path.ends_with(".git") => {}
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    write(dir.path(), after);
    git(dir.path(), &["add", "-A"], b"").unwrap();
    let args = [&["diff", "--cached"], args, &[tree.trim()]].concat();
    git(dir.path(), &args, b"").unwrap()
}

/// Ours for all of a tree.
pub(super) fn rendered(before: &Files, after: &Files) -> String {
    fn side<'f>(files: &'f Files, path: &Path) -> Option<Side<'f>> {
        files.get(path).map(|node| Side { kind: node.kind, mode: node.mode, bytes: Some(&node.bytes) })
    }
    let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let parts = paths.into_iter().map(|path| render(path, side(before, path), side(after, path)));
    parts.inspect(|part| assert!(!part.binary)).map(|part| part.patch).collect()
}

/// Tree that git makes of a tree with a patch.
fn git_apply(before: &Files, patch: &str) -> Result<Files, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), before);
    if !patch.is_empty() {
        git(dir.path(), &["apply", "-p1", "--whitespace=nowarn", "-"], patch.as_bytes())?;
    }
    let mut files = Files::new();
    read(dir.path(), Path::new(""), &mut files);
    Ok(files)
}

fn contents() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => "[abc]{0,2}",
        1 => Just("-- x".to_string()),
        1 => Just("++ y".to_string()),
        1 => Just("\\ z".to_string()),
        1 => Just("@@ -1 +1 @@".to_string()),
        1 => Just(" ".to_string()),
        1 => Just("diff --git a/x b/x".to_string()),
        1 => Just("é\u{c}".to_string()),
        1 => "[a-z]{8}",
    ];
    let end = prop_oneof![5 => Just("\n"), 1 => Just("\r\n")];
    (prop::collection::vec((line, end), 0..30), any::<bool>()).prop_map(|(lines, open)| {
        let text: String = lines.into_iter().flat_map(|(line, end)| [line, end.into()]).collect();
        if open { text.trim_end_matches(['\r', '\n']).into() } else { text }
    })
}

fn node() -> impl Strategy<Value = Node> {
    let node = |kind, mode, text: String| Node { kind, mode, bytes: text.into_bytes() };
    prop_oneof![
        5 => contents().prop_map(move |text| node(NodeKind::File, 0o644, text)),
        1 => contents().prop_map(move |text| node(NodeKind::File, 0o755, text)),
        1 => "[a-z]{1,3}".prop_map(move |text| node(NodeKind::Symlink, 0o777, text)),
    ]
}

const NAMES: [&str; 9] =
    ["f", "b c", "a/x", "b/x", "dir/sub/y", "tab\there", "ünï", "quo\"te\\", "dir/ends in space "];

/// A tree, and another in which some of it is the same, a little different, or under another name.
fn trees() -> impl Strategy<Value = (Files, Files)> {
    let change = prop_oneof![
        Just(0_u8), // The same.
        Just(1),    // Gone.
        Just(2),    // Lines changed.
        Just(3),    // Something else.
        Just(4),    // Moved.
        Just(5),    // Its mode.
    ];
    let files = prop::collection::vec((prop::option::of(node()), change, node(), 0..40_usize), NAMES.len());
    files.prop_map(|all| {
        let (mut before, mut after) = (Files::new(), Files::new());
        for (name, (node, change, other, at)) in NAMES.iter().zip(all) {
            let path = PathBuf::from(name);
            let Some(node) = node else {
                if change == 3 {
                    after.insert(path, other);
                }
                continue;
            };
            before.insert(path.clone(), node.clone());
            let mut changed = node.clone();
            match change {
                0 => drop(after.insert(path, node)),
                2 if node.kind == NodeKind::File => {
                    let mut lines: Vec<&[u8]> = node.bytes.split_inclusive(|byte| *byte == b'\n').collect();
                    let at = at % (lines.len() + 1);
                    lines.splice(at..(at + 1).min(lines.len()), [&b"changed\n"[..]]);
                    changed.bytes = lines.concat();
                    after.insert(path, changed);
                }
                3 => drop(after.insert(path, other)),
                4 => drop(after.insert(Path::new("moved").join(path), node)),
                5 if node.kind == NodeKind::File => {
                    changed.mode ^= 0o111;
                    after.insert(path, changed);
                }
                _ => {}
            }
        }
        (before, after)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_git_writes_applies((before, after) in trees()) {
        for args in [&["-M"][..], &["--no-renames", "-U1"], &["-C", "--find-copies-harder", "--no-prefix", "-U0"], &["-M", "--patience", "-U9"]] {
            let patch = git_diff(&before, &after, args);
            if before == after {
                prop_assert!(patch.is_empty());
                continue;
            }
            let shown = String::from_utf8_lossy(&patch).into_owned();
            let patches = parse(&patch).map_err(|error| TestCaseError::fail(format!("{error}\n{shown}")))?;
            if let Err(rejected) = apply(&patches, &before) {
                return Err(TestCaseError::fail(format!("{rejected}\n{shown}")));
            }
            prop_assert_eq!(patched(before.clone(), &patch), after.clone(), "{}", shown);
        }
    }

    #[test]
    fn git_applies_what_is_rendered((before, after) in trees()) {
        let patch = rendered(&before, &after);
        let theirs = git_apply(&before, &patch).map_err(|error| TestCaseError::fail(format!("{error}\n{patch}")))?;
        prop_assert_eq!(&theirs, &after, "{}", patch);
        if !patch.is_empty() {
            prop_assert_eq!(patched(before, &patch), after, "{}", patch);
        }
    }
}

#[test]
fn patches_by_mail_apply() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| git(dir.path(), args, b"").unwrap();
    run(&["init", "-q"]);
    let commit = |text: &str, message: &str| {
        fs::write(dir.path().join("f"), text).unwrap();
        run(&["add", "f"]);
        run(&["-c", "user.name=N", "-c", "user.email=n@example.org", "commit", "-qm", message]);
    };
    commit("a\nb\n", "first");
    commit("a\nB\n", "second\n\n- an item\n+ another\n");
    commit("a\nB\nc\n", "third");
    let mails = run(&["format-patch", "--stdout", "HEAD~2"]);
    assert_eq!(patched(tree(&[("f", "a\nb\n")]), mails), tree(&[("f", "a\nB\nc\n")]));
}
