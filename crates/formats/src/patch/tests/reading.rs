//! Patches that are not quite as git would write them, and still mean one thing.

use super::*;

const BEFORE: &str = "one\ntwo\nthree\nfour\nfive\n";
const AFTER: &str = "one\ntwo\n3\nfour\nfive\n";

#[test]
fn the_usual_ways_to_name_a_file() {
    for names in [
        "--- a/f\n+++ b/f\n",
        "--- f\n+++ f\n",
        "--- b/f\n+++ a/f\n",
        "--- i/f\n+++ w/f\n",
        "--- a/f\n+++ f\n",
        "--- f\n+++ b/f\n",
        "--- a/f\n+++ a/f\n",
        "--- ./f\n+++ ./f\n",
        "--- f.orig\n+++ f\n",
        "--- a/f\t2024-01-01 00:00:00\n+++ b/f\t2024-01-02 00:00:00\n",
        "--- \"a/\\146\"\n+++ \"b/f\"\n",
        "--- /workspace/f\n+++ /workspace/f\n",
        "--- a/f\n+++ /workspace/f\n",
        "--- /workspace/f\n+++ b/f\n",
        "--- a//workspace/f\n+++ b//workspace/f\n",
        "--- /workspace/f.orig\n+++ /workspace/f\n",
        "--- \"/workspace/f\"\n+++ //workspace/./f\t2024-01-02\n",
        "diff --git /workspace/f /workspace/f\n--- /workspace/f\n+++ /workspace/f\n",
        "diff --git a/workspace/f b/workspace/f\n--- /workspace/f\n+++ /workspace/f\n",
        "diff --git a//workspace/f b//workspace/f\n",
        "diff --git a/f b/f\nindex 123..456 100644\n--- a/f\n+++ b/f\n",
        "diff --git f f\n--- f\n+++ f\n",
        "diff --git a/f b/f\n",
        "Index: f\n=========\n--- f (revision 1)\n+++ f (revision 2)\n",
    ] {
        let names = names.replace(" (revision", "\t(revision");
        let patch = format!("{names}@@ -2,3 +2,3 @@ fn x()\n two\n-three\n+3\n four\n");
        assert_eq!(edited(BEFORE, &patch), AFTER, "{names}");
    }
}

#[test]
fn a_path_from_the_root_is_meant_as_it_is() {
    let names = |path: &str| format!("--- {path}\n+++ {path}\n@@ -1 +1 @@\n-x\n+z\n");
    let before = tree(&[("f", "x\n"), ("workspace/f", "x\n")]);
    let changed = |path: &str| {
        let after = patched(before.clone(), names(path));
        after.into_iter().find(|(path, node)| before[path] != *node).map(|(path, _)| path).unwrap()
    };
    assert_eq!(changed("/workspace/f"), Path::new("f"));
    assert_eq!(changed("/workspace/workspace/f"), Path::new("workspace/f"));
    // A relative one that begins with the root's name is below it.
    assert_eq!(changed("workspace/f"), Path::new("workspace/f"));
    assert_eq!(changed("a/workspace/f"), Path::new("workspace/f"));
    // No prefix is looked for in it.
    let rejected = apply(&parse(names("/workspace/a/f").as_bytes()).unwrap(), &before).unwrap_err();
    assert_eq!(
        (&rejected.rejections[0].path, &rejected.rejections[0].reason),
        (&"a/f".into(), &Reason::Missing)
    );
    assert_eq!(paths(&parse(names("/workspace/a/f").as_bytes()).unwrap()), [PathBuf::from("a/f")].into());
    let one = |patch: &str| parse(patch.as_bytes()).unwrap().remove(0).action;
    for git in ["", "diff --git a/workspace/a/n b/workspace/a/n\nnew file mode 100644\n"] {
        let patch = format!("{git}--- /dev/null\n+++ /workspace/a/n\n@@ -0,0 +1 @@\n+x\n");
        assert_eq!(one(&patch), Action::Create("a/n".into()), "{patch}");
    }
    assert_eq!(one("--- /workspace/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"), Action::Delete("f".into()));
    let patch = "diff --git a/f b/g\nrename from /workspace/f\nrename to /workspace/d/g\n";
    assert_eq!(one(patch), Action::Rename { from: "f".into(), to: "d/g".into() });
}

#[test]
fn a_directory_named_as_a_prefix_is_kept_where_the_patch_shows_it() {
    let before = tree(&[("a/f", "x\n"), ("f", "y\n")]);
    let patch = "diff --git a/f a/f\n--- a/f\n+++ a/f\n@@ -1 +1 @@\n-x\n+z\n";
    assert_eq!(patched(before, patch)[Path::new("a/f")].bytes, b"z\n");
    let patch = "diff --git b/new b/new\nnew file mode 100644\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n";
    assert!(patched(tree(&[]), patch).contains_key(Path::new("b/new")));
    let patch =
        "diff --git a/b/new b/b/new\nnew file mode 100644\n--- /dev/null\n+++ b/b/new\n@@ -0,0 +1 @@\n+x\n";
    assert!(patched(tree(&[]), patch).contains_key(Path::new("b/new")));
}

#[test]
fn counts_need_not_be_right() {
    for header in [
        "@@ -2,3 +2,3 @@",
        "@@ -2,2 +2,2 @@",
        "@@ -2,9 +2,9 @@",
        "@@ -2,1 +2,1 @@",
        "@@ -2,4 +2,3 @@",
        "@@ -2 +2 @@",
        "@@",
        "@@ @@",
        "@@ ... @@",
        "@@ def f():",
        "@@ -2,3 +2,3",
        "@@ -1,3 +1,3 @@",
        "@@ -99,3 +99,3 @@",
        "@@ -2,0 +2,0 @@",
    ] {
        let hunk = format!("--- a/f\n+++ b/f\n{header}\n two\n-three\n+3\n four\n");
        for after in [
            "",
            "\n",
            "\n\nThat is all.\n",
            "```\nDone. I changed:\n- a thing\n+ another\n",
            "-- \n2.39.5\n\n",
        ] {
            assert_eq!(edited(BEFORE, &format!("{hunk}{after}")), AFTER, "{header} {after:?}");
        }
        let two = format!("{hunk}--- a/g\n+++ b/g\n@@ -1 +1 @@\n-x\n+y\n");
        let after = patched(tree(&[("f", BEFORE), ("g", "x\n")]), two);
        assert_eq!(after, tree(&[("f", AFTER), ("g", "y\n")]), "{header}");
    }
}

#[test]
fn removed_and_added_lines_may_look_like_names_of_files() {
    let before = "-- a comment\nselect 1;\n";
    let patch = "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n--- a comment\n+++ another\n select 1;\n";
    assert_eq!(edited(before, patch), "++ another\nselect 1;\n");
    let patch = "--- a/f\n+++ b/f\n@@ -1,2 +1,1 @@\n--- a comment\n select 1;\n";
    assert_eq!(edited(before, patch), "select 1;\n");
}

#[test]
fn prose_and_fences_around_it_are_skipped() {
    let patch = "Sure! Here is the patch:\n\n```diff\n--- a/f\n+++ b/f\n@@ -2,3 +2,3 @@\n two\n-three\n+3\n four\n```\n\n\
                 - it changes a line\n* really\n";
    assert_eq!(edited(BEFORE, patch), AFTER);
}

#[test]
fn context_whose_space_was_trimmed_is_context() {
    let patch = "--- a/f\n+++ b/f\n@@ -1,4 +1,4 @@\n one\n\n-two\n+2\n\n";
    assert_eq!(edited("one\n\ntwo\n\n", patch), "one\n\n2\n\n");
    let patch = "--- a/f\n+++ b/f\n@@\n one\n\n-two\n+2\n\n@@\n three\n-four\n+4\n";
    assert_eq!(edited("one\n\ntwo\n\nthree\nfour\n", patch), "one\n\n2\n\nthree\n4\n");
}

#[test]
fn context_that_lost_its_space_is_context_where_counts_and_file_have_it_so() {
    let names = "--- a/f\n+++ b/f\n";
    for hunk in [
        "@@ -1,5 +1,5 @@\none\ntwo\n-three\n+3\nfour\nfive\n",
        "@@ -2,3 +2,3 @@\n two\n-three\n+3\nfour\n",
        "@@ -2,3 +2,3 @@ fn x()\ntwo\n-three\n+3\n four\n\nThat is all.\n",
        // Where it belongs is found as for any hunk.
        "@@ -4,3 +4,3 @@\ntwo\n-three\n+3\nfour\n",
    ] {
        assert_eq!(edited(BEFORE, &format!("{names}{hunk}")), AFTER, "{hunk}");
    }
    // Also after a blank line, which alone would end the hunk.
    let patch = format!("{names}@@ -1,4 +1,4 @@\n one\n\ntwo\n-three\n+3\n");
    assert_eq!(edited("one\n\ntwo\nthree\n", &patch), "one\n\ntwo\n3\n");
    // Neither white space nor anything else of it may differ, and it is not left out at the ends.
    for lost in ["2\n-three\n+3\n four\n", "t wo\n-three\n+3\n four\n", " two\n-three\n+3\nFOUR\n"] {
        let hunk = format!("{names}@@ -2,3 +2,3 @@\n{lost}");
        assert!(matches!(refused(BEFORE, &hunk)[0].reason, Reason::NotFound { .. }), "{lost}");
    }
    // Prose after the last hunk is prose, though the counts would take it.
    let patch = format!("{names}@@ -2,5 +2,5 @@\n two\n-three\n+3\n four\n\nDone.\n");
    assert_eq!(edited(BEFORE, &patch), AFTER);
    // So is the next file.
    let patch = format!(
        "{names}@@ -2,5 +2,6 @@\n two\n-three\n+3\n four\ndiff --git a/g b/g\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-x\n+y\n"
    );
    assert_eq!(patched(tree(&[("f", BEFORE), ("g", "x\n")]), patch), tree(&[("f", AFTER), ("g", "y\n")]));
}

#[test]
fn a_last_line_without_an_end() {
    let no = "\\ No newline at end of file";
    let patch = format!("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n{no}\n+c\n{no}\n");
    assert_eq!(edited("a\nb", &patch), "a\nc");
    let patch = format!("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n{no}\n+b\n");
    assert_eq!(edited("a\nb", &patch), "a\nb\n");
    let patch = format!("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+b\n{no}");
    assert_eq!(edited("a\nb\n", &patch), "a\nb");
    // Left out, as models do: the end stays as it was.
    assert_eq!(edited("a\nb", "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"), "a\nc");
    assert_eq!(edited("a\nb", "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n a\n b\n+c\n"), "a\nb\nc");
    assert_eq!(edited("a\nb", "--- a/f\n+++ b/f\n@@ -1,2 +1,1 @@\n a\n-b\n"), "a\n");
    // And the patch itself may lack it.
    assert_eq!(edited("a\nb\n", "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+c"), "a\nc\n");
}

#[test]
fn line_ends_of_the_file_win() {
    let (unix, dos) = ("one\ntwo\nthree\n", "one\r\ntwo\r\nthree\r\n");
    let patch = "--- a/f\n+++ b/f\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n+2.5\n three\n";
    let whole = patch.replace('\n', "\r\n");
    let lines = "--- a/f\n+++ b/f\n@@ -1,3 +1,4 @@\n one\r\n-two\r\n+2\r\n+2.5\r\n three\r\n";
    for patch in [patch, &whole, lines] {
        assert_eq!(edited(unix, patch), "one\n2\n2.5\nthree\n", "{patch:?}");
        assert_eq!(edited(dos, patch), "one\r\n2\r\n2.5\r\nthree\r\n", "{patch:?}");
    }
    // A change of the line ends is a change.
    let patch = "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n one\r\n-two\r\n+two\n three\r\n";
    assert_eq!(edited(dos, patch), "one\r\ntwo\nthree\r\n");
}

#[test]
fn files_come_go_move_and_change_mode() {
    let before = tree(&[("old", "x\n"), ("gone", "1\n2\n"), ("run", "#!\n"), ("empty", "")]);
    let patch = "diff --git a/old b/dir/new name\nsimilarity index 50%\nrename from old\nrename to dir/new name\n--- a/old\n\
                 +++ b/dir/new name\t\n@@ -1 +1,2 @@\n x\n+y\ndiff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n\
                 +++ /dev/null\n@@ -1,2 +0,0 @@\n-1\n-2\ndiff --git a/run b/run\nold mode 100644\nnew mode 100755\n\
                 diff --git a/empty b/empty\ndeleted file mode 100644\nindex e69de29..0000000\n\
                 diff --git a/none b/none\nnew file mode 100755\nindex 0000000..e69de29\n\
                 diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n+run\n\
                 \\ No newline at end of file\n\
                 diff --git a/run b/copy\nsimilarity index 100%\ncopy from run\ncopy to copy\n";
    let after = patched(before, patch);
    let mode = |mode, node| Node { mode, ..node };
    let link = Node { kind: NodeKind::Symlink, mode: 0o777, bytes: b"run".to_vec() };
    let expected = [
        ("dir/new name", file("x\ny\n")),
        ("run", mode(0o755, file("#!\n"))),
        ("none", mode(0o755, file(""))),
        ("copy", file("#!\n")),
        ("link", link),
    ];
    assert_eq!(after, expected.map(|(path, node)| (PathBuf::from(path), node)).into());
}

#[test]
fn files_may_change_places_and_a_later_part_sees_an_earlier_one() {
    let before = tree(&[("x", "1\n"), ("y", "2\n")]);
    let patch =
        "diff --git a/x b/y\nrename from x\nrename to y\ndiff --git a/y b/x\nrename from y\nrename to x\n";
    assert_eq!(patched(before.clone(), patch), tree(&[("x", "2\n"), ("y", "1\n")]));
    let patch = "diff --git a/x b/z\nrename from x\nrename to z\n--- a/z\n+++ b/z\n@@ -1 +1 @@\n-1\n+9\n\
                 --- a/z\n+++ b/z\n@@ -1 +1 @@\n-9\n+8\n";
    assert_eq!(patched(before, patch), tree(&[("z", "8\n"), ("y", "2\n")]));
}

#[test]
fn a_file_that_begins_with_its_hunk_is_new() {
    let patch = "--- a/new.py\n+++ b/new.py\n@@ -0,0 +1,2 @@\n+a\n+b\n";
    assert_eq!(patched(tree(&[]), patch), tree(&[("new.py", "a\nb\n")]));
    let patch = "--- /dev/null\n+++ b/new.py\n@@\n+a\n+b\n";
    assert_eq!(patched(tree(&[]), patch), tree(&[("new.py", "a\nb\n")]));
}

#[test]
fn what_ends_as_it_was_is_no_change() {
    let patch = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-y\n+x\n";
    assert_eq!(apply(&parse(patch.as_bytes()).unwrap(), &tree(&[("f", "x\n")])).unwrap(), []);
}

#[test]
fn paths_are_those_a_tree_is_asked_for() {
    let patch = "diff --git a/x b/y\nrename from x\nrename to y\n--- a/z\n+++ a/z\n@@ -1 +1 @@\n-9\n+8\n";
    let expected = ["x", "y", "z", "a/z"].map(PathBuf::from);
    assert_eq!(paths(&parse(patch.as_bytes()).unwrap()), expected.into());
}
