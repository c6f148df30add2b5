//! Patches between `*** Begin Patch` and `*** End Patch`.

use super::*;

/// A patch of files in the dialect.
fn envelope(files: &str) -> String {
    format!("*** Begin Patch\n{files}*** End Patch\n")
}

/// A patch of the file `f` with these hunks.
fn update(hunks: &str) -> String {
    envelope(&format!("*** Update File: f\n{hunks}"))
}

fn why(patch: &str) -> String {
    parse(patch.as_bytes()).unwrap_err().to_string()
}

/// The reason why a hunk of `f` is refused.
fn reason(before: &str, hunks: &str) -> Reason {
    let mut all = refused(before, &update(hunks));
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).reason
}

const CLASSES: &str = "class A:\n    def f(self):\n        x = 1\n        return x\n\n    def g(self):\n        x = 1\n        \
                       return x\n\nclass B(A):\n    def f(self):\n        x = 1\n        return x\n";

/// The file with line `number` in place of what is there.
fn with(before: &str, number: usize, line: &str) -> String {
    before
        .split_inclusive('\n')
        .enumerate()
        .map(|(at, old)| if at + 1 == number { line } else { old })
        .collect()
}

#[test]
fn files_come_change_move_and_go() {
    let before = tree(&[("old", "1\n2\n"), ("gone", "any\nthing"), ("f", "a\nb\n"), ("kept", "k\n")]);
    let patch = envelope(
        "*** Add File: dir/new name.txt\n+x\n+\n++ y\n*** Add File: empty\n\n*** Delete File: /workspace/gone\n*** Update File: \
         ./old\n*** Move to: /workspace/dir/moved\n@@\n 1\n-2\n+zwei\n*** Update File: /workspace/f\n@@\n-a\n+A\n b\n*** \
         Update File: kept\n*** Move to: there\n",
    );
    let after = tree(&[
        ("dir/new name.txt", "x\n\n+ y\n"),
        ("empty", ""),
        ("dir/moved", "1\nzwei\n"),
        ("f", "A\nb\n"),
        ("there", "k\n"),
    ]);
    assert_eq!(patched(before.clone(), &patch), after);
    // Through a program with other line ends, in a fence, with words around it, and in two parts.
    assert_eq!(patched(before.clone(), patch.replace('\n', "\r\n")), after);
    let around = format!("Here:\n```\napply_patch <<'EOF'\n{patch}EOF\n```\n- it changes a line\n");
    assert_eq!(patched(before.clone(), around), after);
    let two = patch.replacen("*** Delete", "*** End Patch\n\n*** Begin Patch\n*** Delete", 1);
    assert_eq!(patched(before, two), after);
}

#[test]
fn what_is_removed_may_be_anything_and_made_anew() {
    let mut before = tree(&[("bin", "a\0b\n"), ("f", "x\n")]);
    before.insert("link".into(), Node { kind: NodeKind::Symlink, mode: 0o777, bytes: b"f".to_vec() });
    let patch =
        envelope("*** Delete File: bin\n*** Delete File: link\n*** Delete File: f\n*** Add File: f\n+y\n");
    assert_eq!(patched(before.clone(), patch), tree(&[("f", "y\n")]));
    before.insert("d".into(), Node { kind: NodeKind::Directory, mode: 0o755, bytes: Vec::new() });
    for (file, reason) in [
        ("*** Delete File: no\n", Reason::Missing),
        ("*** Delete File: d\n", Reason::Kind { is: "a directory", wanted: "a file" }),
        ("*** Add File: f\n+y\n", Reason::Exists),
        ("*** Update File: bin\n*** Move to: f\n", Reason::Exists),
        ("*** Update File: no\n@@\n-x\n+y\n", Reason::Missing),
        ("*** Update File: link\n@@\n-f\n+g\n", Reason::Kind { is: "a symbolic link", wanted: "a file" }),
        // No prefix is looked for: paths are meant as they are.
        ("*** Update File: a/f\n@@\n-x\n+y\n", Reason::Missing),
        ("*** Delete File: b/f\n", Reason::Missing),
    ] {
        let rejected = apply(&parse(envelope(file).as_bytes()).unwrap(), &before).unwrap_err();
        assert_eq!(rejected.rejections[0].reason, reason, "{file}");
        assert_eq!((rejected.rejections.len(), rejected.rejections[0].line), (1, 2), "{file}");
    }
}

#[test]
fn hunks_follow_each_other() {
    let before = "a\nx\nb\nx\nc\nx\n";
    let after = "a\n1\nb\n2\nc\n3\n";
    assert_eq!(edited(before, &update("@@\n a\n-x\n+1\n@@\n b\n-x\n+2\n@@\n c\n-x\n+3\n")), after);
    // The first may do without its @@, and what is left after the others can only be the last.
    assert_eq!(edited(before, &update(" a\n-x\n+1\n@@\n b\n-x\n+2\n@@\n-x\n+3\n")), after);
    // Two files' worth of hunks for one file.
    let twice = "@@\n a\n-x\n+1\n*** Update File: f\n@@\n b\n-x\n+2\n*** Update File: f\n@@ c\n-x\n+3\n";
    assert_eq!(edited(before, &update(twice)), after);
    // A trimmed blank line of context, and blank lines between hunks.
    assert_eq!(edited("a\n\nb\nc\n", &update("@@\n a\n\n-b\n+B\n\n\n@@\n-c\n+C\n\n")), "a\n\nB\nC\n");
    // A number is believed as far as in a unified diff.
    assert_eq!(edited("x\nx\nx\n", &update("@@ -2,1 +2,1 @@\n-x\n+2\n")), "x\n2\nx\n");
}

#[test]
fn an_anchor_leads_to_the_next_place() {
    for (anchors, line) in [
        ("@@ class B(A):\n", 12),
        ("@@ class B\n", 12),
        ("@@     def g(self):\n", 7),
        ("@@ def g(self):\n", 7),
        ("@@ def g\n", 7),
        ("@@ def g(self): @@\n", 7),
        ("@@ class A\n@@ def f\n", 3),
        ("@@ class A:\n\n@@ def g(self):\n", 7),
        ("@@ class B\n@@ def f(self):\n", 12),
        ("@@ class B\n@@\n", 12),
    ] {
        let hunk = format!("{anchors}-        x = 1\n+        x = 2\n         return x\n");
        assert_eq!(edited(CLASSES, &update(&hunk)), with(CLASSES, line, "        x = 2\n"), "{anchors}");
    }
    // The line itself may be the first one of the hunk.
    let hunk = "@@ def g(self):\n     def g(self):\n-        x = 1\n+        x = 2\n";
    assert_eq!(edited(CLASSES, &update(hunk)), with(CLASSES, 7, "        x = 2\n"));
    // Two that fit lead to the same place.
    assert_eq!(edited("a\nb\na\nc\nx\nx\n", &update("@@ a\n-x\n+y\n")), "a\nb\na\nc\ny\nx\n");
}

#[test]
fn an_anchor_of_a_later_hunk_leads_on_from_the_last_one() {
    let one = "-        x = 1\n+        x = 2\n";
    let hunks = format!("@@ class A:\n{one}@@ class A:\n{one}");
    // The second cannot mean what the first changes, but the two that follow are both after it.
    let changed = with(CLASSES, 3, "        x = 2\n");
    assert_eq!(edited(CLASSES, &update(&hunks)), with(&changed, 7, "        x = 2\n"));
    let hunks = format!("@@ class B\n{one}@@ def g\n{one}");
    let changed = with(CLASSES, 12, "        x = 2\n");
    assert_eq!(edited(CLASSES, &update(&hunks)), with(&changed, 7, "        x = 2\n"));
    // Before the last hunk and after it: nobody knows which.
    let hunks = format!("@@ def g\n{one}@@ class A:\n{one}");
    assert_eq!(reason(CLASSES, &hunks), Reason::Ambiguous { lines: vec![3, 12] });
}

#[test]
fn several_places_that_no_anchor_decides_between_are_none() {
    let hunk = "         x = 1\n-        return x\n+        return 2\n";
    assert_eq!(reason(CLASSES, &format!("@@\n{hunk}")), Reason::Ambiguous { lines: vec![3, 7, 12] });
    assert_eq!(reason(CLASSES, &format!("@@ def f\n{hunk}")), Reason::Ambiguous { lines: vec![3, 12] });
    // What else says where it belongs is not left out.
    for anchor in ["@@", "@@ class B"] {
        let off = format!("{anchor}\n def h(self):\n-        x = 1\n+        x = 2\n");
        let before = &CLASSES[CLASSES.find("class B").unwrap()..];
        assert!(matches!(reason(before, &off), Reason::NotFound { .. }), "{anchor}");
    }
    let rejected = refused(CLASSES, &update(&format!("@@ def f\n{hunk}")));
    assert_eq!(
        rejected[0].to_string(),
        "f: hunk 1 (@@ def f), line 3 of the patch: it fits in several places, such as at lines 3, 12; give it more context"
    );
}

/// White space at the end of lines does not tell which one is meant.
#[test]
fn the_next_place_and_the_one_to_the_letter_are_the_same() {
    let hunk = "@@ f\n-x\n+y\n";
    assert_eq!(edited("f\nx \ng\n", &update(hunk)), "f\ny\ng\n");
    assert_eq!(edited("f\nx\ng\nx \n", &update(hunk)), "f\ny\ng\nx \n");
    for before in ["f\nx \ng\nx\n", "f\nx\r\ng\nx\n"] {
        assert_eq!(reason(before, hunk), Reason::Ambiguous { lines: vec![2, 4] }, "{before:?}");
    }
}

#[test]
fn an_anchor_has_to_be_there() {
    let hunk = "-        x = 1\n+        x = 2\n";
    let anchor = |name: &str, after| Reason::Anchor { name: name.into(), after };
    assert_eq!(reason(CLASSES, &format!("@@ def h(self):\n{hunk}")), anchor("def h(self):", None));
    // No part of a word.
    assert_eq!(reason(CLASSES, &format!("@@ def\n@@ cla\n{hunk}")), anchor("cla", Some(2)));
    assert_eq!(reason(CLASSES, &format!("@@ class B\n@@ def g\n{hunk}")), anchor("def g", Some(10)));
    // What it leads to is not before it.
    let hunk = "@@ class B\n     def g(self):\n-        x = 1\n+        x = 2\n";
    assert_eq!(reason(CLASSES, hunk), Reason::Elsewhere { line: 6, after: Some(10) });
    assert!(matches!(reason(CLASSES, "@@ class B\n-y\n+z\n"), Reason::NotFound { .. }));
    let many = "x\n".repeat(2000);
    assert!(matches!(reason(&many, "@@ x\n-y\n+z\n"), Reason::Ambiguous { .. }));
}

#[test]
fn the_end_of_a_file_decides() {
    let before = "x\ny\nx\n";
    assert_eq!(edited(before, &update("@@\n-x\n+z\n*** End of File\n")), "x\ny\nz\n");
    assert_eq!(edited(before, &update("@@\n x\n+z\n*** End of File\n")), "x\ny\nx\nz\n");
    assert_eq!(edited("x\ny\nx", &update("@@\n-x\n+z\n*** End of File\n")), "x\ny\nz");
    // It says where lines without context belong.
    assert_eq!(edited(before, &update("@@\n+z\n*** End of File\n")), "x\ny\nx\nz\n");
    assert_eq!(edited(before, &update("@@ y\n+z\n*** End of File\n")), "x\ny\nx\nz\n");
    assert_eq!(edited("x", &update("+z\n*** End of File\n")), "x\nz\n");
    assert_eq!(edited("", &update("@@\n+z\n")), "z\n");
    for hunks in ["@@\n+z\n", "@@ y\n+z\n", "+z\n"] {
        assert_eq!(reason(before, hunks), Reason::NoContext, "{hunks}");
    }
    let hunk = "@@\n x\n-y\n+z\n*** End of File\n";
    assert_eq!(reason(before, hunk), Reason::Elsewhere { line: 1, after: None });
    // Context at the end is not left out for it.
    assert!(matches!(reason(before, "@@\n-y\n+z\n x\n w\n*** End of File\n"), Reason::NotFound { .. }));
}

#[test]
fn line_ends_of_the_file_win() {
    let patch = update("@@\n one\n-two\n+2\n+2.5\n");
    for patch in [&patch, &patch.replace('\n', "\r\n")] {
        assert_eq!(edited("one\ntwo\n", patch), "one\n2\n2.5\n", "{patch:?}");
        assert_eq!(edited("one\r\ntwo\r\n", patch), "one\r\n2\r\n2.5\r\n", "{patch:?}");
    }
    let no = "\\ No newline at end of file\n";
    assert_eq!(edited("a\nb\n", &update(&format!("@@\n a\n-b\n+c\n{no}"))), "a\nc");
    assert_eq!(patched(tree(&[]), envelope(&format!("*** Add File: n\n+x\n{no}"))), tree(&[("n", "x")]));
}

#[test]
fn each_kind_of_malformed_patch_says_what_is_wrong() {
    let hunk = "@@\n-a\n+b\n";
    let unified = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n";
    for (patch, part) in [
        ("*** Begin Patch\n".into(), "line 1 of the patch: the patch ends without `*** End Patch`"),
        (
            format!("*** Begin Patch\n*** Update File: f\n{hunk}"),
            "line 5 of the patch: the patch ends without",
        ),
        ("*** Begin Patch\n*** Add File: f\n+a\n+b\n".into(), "may have been cut off"),
        (envelope(""), "line 2 of the patch: there is no file between"),
        (format!("*** Update File: f\n{hunk}*** End Patch\n"), "line 1 of the patch: a file comes outside"),
        (format!("*** End Patch\n{}", update(hunk)), "has no `*** Begin Patch` before it"),
        (envelope("*** Remove File: f\n"), "line 2 of the patch: this belongs to no file"),
        (envelope("*** Delete File: f\n-a\n"), "line 3 of the patch: this belongs to no file"),
        (envelope("*** Begin Patch\n"), "belongs to no file"),
        (envelope("*** Update File: \n@@\n-a\n+b\n"), "the name is empty"),
        (
            envelope("*** Update File: f\n*** Move to:\n@@\n-a\n+b\n"),
            "line 3 of the patch names \"\": the name is empty",
        ),
        (update(""), "line 2 of the patch: the file has no change"),
        (envelope("*** Update File: f\n*** Move to: f\n"), "the file has no change"),
        (update("@@\n"), "line 3 of the patch: the hunk neither adds nor removes"),
        (update("@@\n a\n"), "neither adds nor removes"),
        (update("@@ a\n@@ b\n*** End of File\n"), "neither adds nor removes"),
        (update("@@\n a\nb\n-c\n+d\n"), "line 5 of the patch: a line of a hunk begins with a space"),
        (update("b\n-c\n+d\n"), "line 3 of the patch: a line of a hunk begins with a space"),
        (update("@@\n-c\n+d\n*** End of File\n+e\n"), "line 7 of the patch: nothing of a hunk follows"),
        (update("@@\n-c\n+d\n*** End of file\n"), "line 6 of the patch: this belongs to no file"),
        (update(&"@@ a\n".repeat(17)), "line 19 of the patch: a hunk has at most 16"),
        (
            envelope("*** Add File: f\n+a\n\n+b\n"),
            "line 4 of the patch: each line of a new file begins with `+`",
        ),
        (envelope("*** Add File: f\na\n"), "line 3 of the patch: each line of a new file begins with `+`"),
        (envelope("*** Add File: f\n@@\n+a\n"), "each line of a new file"),
        (format!("{}{unified}", update(hunk)), "line 9 of the patch: a unified diff stands beside"),
        (format!("{unified}{}", update(hunk)), "line 3 of the patch: a unified diff stands beside"),
        (format!("{}\n+lost\n", update(hunk)), "this looks like a line of a hunk"),
        (format!("{}*** Delete File: f\n", update(hunk)), "a file comes outside"),
    ] {
        assert!(why(&patch).contains(part), "{patch:?}: {}", why(&patch));
    }
    // Around a unified diff the two lines are words around it.
    assert_eq!(edited("a\n", &envelope(unified)), "b\n");
}

#[test]
fn paths_are_those_a_tree_is_asked_for() {
    let patch =
        envelope("*** Update File: a/x\n*** Move to: /workspace/y\n@@\n-1\n+2\n*** Delete File: b/z\n");
    let expected = ["a/x", "y", "b/z"].map(PathBuf::from);
    assert_eq!(paths(&parse(patch.as_bytes()).unwrap()), expected.into());
}
