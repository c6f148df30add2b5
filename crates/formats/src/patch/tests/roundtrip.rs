//! What is rendered of any two trees makes the second of the first, byte for byte.

use proptest::prelude::*;

use super::git::rendered;
use super::*;

/// Text in which carriage returns stand anywhere, with or without a line feed at the end.
fn contents() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        6 => "[ab \t\r]{0,4}",
        1 => Just("-- x".to_string()),
        1 => Just("++ y\r".to_string()),
        1 => Just("--- a/f".to_string()),
        1 => Just("+++ b/f".to_string()),
        1 => Just("\\ No newline at end of file".to_string()),
        1 => Just("@@ -1,2 +1,2 @@".to_string()),
        1 => Just("diff --git a/f b/f".to_string()),
        1 => Just("*** Begin Patch".to_string()),
        1 => Just("*** Update File: f".to_string()),
        1 => Just("2.39.5".to_string()),
        1 => Just("- ".to_string()),
        1 => "[a-zé]{8}",
    ];
    let end = prop_oneof![6 => Just("\n"), 2 => Just("\r\n"), 1 => Just("\r\r\n")];
    let last = prop_oneof![
        3 => Just(String::new()),
        1 => Just(" sp\r\r".to_string()),
        1 => Just("\r".to_string()),
        1 => "[ab \r]{1,3}",
    ];
    (prop::collection::vec((line, end), 0..14), last)
        .prop_map(|(lines, last)| lines.into_iter().map(|(line, end)| line + end).collect::<String>() + &last)
}

fn node() -> impl Strategy<Value = Node> {
    let node = |kind, mode, text: String| Node { kind, mode, bytes: text.into_bytes() };
    let mode = prop_oneof![3 => Just(0o644), 1 => Just(0o755)];
    prop_oneof![
        6 => (contents(), mode).prop_map(move |(text, mode)| node(NodeKind::File, mode, text)),
        1 => "[a-z./ \r]{1,4}".prop_map(move |text| node(NodeKind::Symlink, 0o777, text)),
    ]
}

/// Paths of which some are directories of others.
const NAMES: [&str; 12] =
    ["a", "a/f", "a/a/f", "b", "b c", "d", "d/x", "d/x/y", "d/x/y/z", "f", "workspace/f", "q\"\\\t\n"];

/// A tree in which no file stands where another one has a directory.
fn plant(nodes: Vec<Option<Node>>) -> Files {
    let mut files = Files::new();
    for (path, node) in NAMES.iter().map(Path::new).zip(nodes) {
        if let Some(node) = node.filter(|_| !path.ancestors().skip(1).any(|above| files.contains_key(above)))
        {
            files.insert(path.to_path_buf(), node);
        }
    }
    files
}

/// A tree, and another in which files are the same, have some lines spliced, another mode, or nothing in common.
fn trees() -> impl Strategy<Value = (Files, Files)> {
    let one = (prop::option::of(node()), 0..5_u8, prop::option::of(node()), 0..15_usize, 0..4_usize);
    prop::collection::vec(one, NAMES.len()).prop_map(|all| {
        let sides = all.into_iter().map(|(old, change, other, at, gone)| {
            let new = match (old.clone(), change) {
                (Some(node), 0) => Some(node),
                (Some(node), 1) if node.kind == NodeKind::File => {
                    Some(Node { mode: node.mode ^ 0o111, ..node })
                }
                (Some(node), 2 | 3) if node.kind == NodeKind::File => {
                    let theirs = other.map(|other| other.bytes).unwrap_or_default();
                    let mut lines: Vec<&[u8]> = node.bytes.split_inclusive(|byte| *byte == b'\n').collect();
                    let at = at % (lines.len() + 1);
                    let end = (at + gone).min(lines.len());
                    lines.splice(at..end, theirs.split_inclusive(|byte| *byte == b'\n').take(2));
                    Some(Node { bytes: lines.concat(), ..node })
                }
                _ => other,
            };
            (old, new)
        });
        let (before, after) = sides.unzip();
        (plant(before), plant(after))
    })
}

/// The same tree with the directories that its files are in.
fn grown(files: &Files) -> Files {
    let directory = Node { kind: NodeKind::Directory, mode: 0o755, bytes: Vec::new() };
    let above = files.keys().flat_map(|path| path.ancestors().skip(1));
    let above =
        above.filter(|path| *path != Path::new("")).map(|path| (path.to_path_buf(), directory.clone()));
    above.chain(files.iter().map(|(path, node)| (path.clone(), node.clone()))).collect()
}

/// The files after `changes`. What they remove takes directories along that it empties, as in a workspace.
fn carried_out(before: &Files, changes: Vec<Change>) -> Result<Files, TestCaseError> {
    let mut files = before.clone();
    for path in removed(&changes) {
        prop_assert!(files.remove(path).is_some(), "{path:?} is removed and was not there");
    }
    for change in changes {
        if let Change::Write { path, node, .. } | Change::Rename { to: path, node, .. } = change {
            let below = files.keys().find(|other| other.starts_with(&path) && **other != path);
            prop_assert_eq!(below, None, "{:?} takes the place of a directory", path);
            let above = path.ancestors().skip(1).find(|above| files.contains_key(*above));
            prop_assert_eq!(above, None, "{:?} is below a file", path);
            files.insert(path, node);
        }
    }
    Ok(files)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_rendered_of_two_trees_makes_one_of_the_other((before, after) in trees()) {
        let patch = rendered(&before, &after);
        if before == after {
            prop_assert_eq!(patch, "");
            return Ok(());
        }
        let patches = parse(patch.as_bytes()).map_err(|error| TestCaseError::fail(format!("{error}\n{patch}")))?;
        let changes = apply(&patches, &grown(&before))
            .map_err(|rejected| TestCaseError::fail(format!("{rejected}\n{patch}")))?;
        prop_assert_eq!(carried_out(&before, changes)?, after, "{}", patch);
    }
}
