//! Where hunks go when the file is not quite what they were made for, and why they do not.

use super::*;

fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

#[test]
fn a_hunk_follows_its_lines_and_takes_the_next_one_along() {
    let before = format!("new\nnew\n{}", numbers(1..=30));
    let patch = "--- a/f\n+++ b/f\n@@ -4,3 +4,3 @@\n line 4\n-line 5\n+five\n line 6\n@@ -20,3 +20,3 @@\n line 20\n-line 21\n\
                 +x\n line 22\n";
    assert_eq!(edited(&before, patch), before.replace("line 5\n", "five\n").replace("line 21\n", "x\n"));
    // The place that the header names, moved as the last hunk was, is taken where others fit too.
    let block = "{\n  a\n}\n";
    let before = format!("top\nnew\n{block}{block}{block}");
    let patch = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-top\n+TOP\n@@ -6,3 +6,3 @@\n {\n-  a\n+  b\n }\n";
    assert_eq!(edited(&before, patch), format!("TOP\nnew\n{block}{{\n  b\n}}\n{block}"));
}

#[test]
fn several_places_are_none() {
    let before = "x\na\nb\nx\na\nb\nx\na\nb\n";
    let patch = "--- a/f\n+++ b/f\n@@ -9,2 +9,2 @@\n x\n-a\n+c\n";
    let [rejection] = &refused(before, patch)[..] else { panic!() };
    assert_eq!(rejection.reason, Reason::Ambiguous { lines: vec![1, 4, 7] });
    assert_eq!((&rejection.hunk, rejection.line), (&Some((1, "@@ -9,2 +9,2 @@".into())), 3));
    assert_eq!(edited(before, &patch.replace("-9,2", "-4,2")), "x\na\nb\nx\nc\nb\nx\na\nb\n");
    // In order, the second hunk can only mean what comes after the first.
    let patch = "--- a/f\n+++ b/f\n@@ -4,2 +4,2 @@\n x\n-a\n+c\n@@\n x\n-a\n+d\n";
    assert_eq!(edited(before, patch), "x\na\nb\nx\nc\nb\nx\nd\nb\n");
}

#[test]
fn hunks_may_stand_in_another_order() {
    let patch = "--- a/f\n+++ b/f\n@@\n-line 9\n+nine\n@@\n-line 3\n+three\n";
    let before = numbers(1..=10);
    assert_eq!(edited(&before, patch), before.replace("line 9", "nine").replace("line 3", "three"));
}

#[test]
fn two_lines_of_context_may_differ_at_each_end_and_no_more() {
    let patch = "--- a/f\n+++ b/f\n@@ -2,7 +2,7 @@\n line 2\n line 3\n line 4\n-line 5\n+five\n line 6\n line 7\n line 8\n";
    let before = numbers(1..=10);
    let off = |lines: &[u32]| {
        lines.iter().fold(before.clone(), |text, n| text.replace(&format!("line {n}\n"), "?\n"))
    };
    for lines in [&[2][..], &[8], &[2, 8], &[3], &[2, 3, 7, 8]] {
        assert_eq!(edited(&off(lines), patch), off(lines).replace("line 5", "five"), "{lines:?}");
    }
    for lines in [&[4][..], &[6], &[5]] {
        assert!(matches!(refused(&off(lines), patch)[0].reason, Reason::NotFound { .. }), "{lines:?}");
    }
}

#[test]
fn white_space_may_differ_in_context_and_not_in_what_goes() {
    let patch = "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n if x:\n-    old\n+    new\n \tend  it\n";
    for before in
        ["if x:\n    old\n\tend  it\n", "if x:  \n    old \n    end it\n", "if  x:\n    old\n  end\tit\t\n"]
    {
        // What the patch does not change stays to the byte.
        let line = before.lines().nth(1).unwrap();
        assert_eq!(edited(before, patch), before.replacen(line, "    new", 1));
    }
    let before = "if x:\n\told\n\tend  it\n";
    let [Rejection { reason: Reason::NotFound { nearest: Some(nearest) }, .. }] = &refused(before, patch)[..]
    else {
        panic!()
    };
    assert_eq!(nearest.differs, Some((2, "    old".into())));
    assert_eq!(nearest.found, "if x:\n\told\n\tend  it");
}

#[test]
fn what_says_nothing_about_its_place_is_refused() {
    let lost = |header: &str| {
        refused("a\nb\n", &format!("--- a/f\n+++ b/f\n{header}\n+x\n"))[0].reason == Reason::NoContext
    };
    assert!(lost("@@") && lost("@@ -1,2 +1,3 @@") && lost("@@ -9,0 +10 @@"));
    // As `git diff -U0` has it.
    assert_eq!(edited("a\nb\n", "--- a/f\n+++ b/f\n@@ -1,0 +2 @@\n+x\n"), "a\nx\nb\n");
    // Blank lines alone are no context when the rest was left out.
    let patch = "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n first\n \n+x\n";
    assert!(matches!(refused("other\n\n\n", patch)[0].reason, Reason::NotFound { .. }));
}

#[test]
fn every_failing_hunk_is_told_with_what_is_nearest() {
    let before =
        "fn main() {\n    let a = 1;\n    let b = 2;\n    print(a, b);\n}\n".to_string() + &numbers(1..=20);
    let patch = "--- a/f\n+++ b/f\n@@ -2,3 +2,3 @@\n     let a = 1;\n-    let b = 3;\n+    let b = 4;\n     print(a, b);\n\
                 @@ -10,2 +10,2 @@\n line 5\n-line 6\n+six\n@@ -16,2 +16,2 @@ here\n-line_11\n+eleven\n line twelve\n\
                 --- a/nowhere\n+++ b/nowhere\n@@ -1 +1 @@\n-x\n+y\n";
    let rejected = apply(&parse(patch.as_bytes()).unwrap(), &tree(&[("f", &before)])).unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "the patch does not apply, and nothing was changed\n\
         f: hunk 1 (@@ -2,3 +2,3 @@), line 3 of the patch: the file has no such lines; the nearest place differs at line 3, where the hunk \
         has\n  |     let b = 3;\nthe file has, from line 1:\n  | fn main() {\n  |     let a = 1;\n  |     let b = 2;\n  |     \
         print(a, b);\n  | }\n  | line 1\n\
         f: hunk 3 (@@ -16,2 +16,2 @@ here), line 12 of the patch: the file has no such lines; the nearest place differs at line 16, where \
         the hunk has\n  | line_11\nthe file has, from line 14:\n  | line 9\n  | line 10\n  | line 11\n  | line 12\n  | line \
         13\n  | line 14\nnowhere, line 16 of the patch: there is no such file; name one that is \
         there, or create it"
    );
}

#[test]
fn each_reason_of_a_file() {
    let mut before = tree(&[("f", "x\n"), ("g", "y\n"), ("bin", "a\0b\n"), ("two", "1\n2\n")]);
    before.insert("dir".into(), Node { kind: NodeKind::Directory, mode: 0o755, bytes: Vec::new() });
    before.insert("link".into(), Node { kind: NodeKind::Symlink, mode: 0o777, bytes: b"f".to_vec() });
    let create = |path: &str| format!("--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n");
    let modify = |path: &str| format!("--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-x\n+y\n");
    let link = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1,2 @@\n+a\n+b\n";
    for (patch, reason) in [
        (modify("no"), Reason::Missing),
        ("--- a/no\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n".into(), Reason::Missing),
        ("diff --git a/no b/k\nrename from no\nrename to k\n".into(), Reason::Missing),
        ("diff --git a/f b/g\nrename from f\nrename to g\n".into(), Reason::Exists),
        (create("f"), Reason::Exists),
        (create("dir"), Reason::Exists),
        (create("f/x"), Reason::Above { path: "f".into() }),
        (create("link/x"), Reason::Above { path: "link".into() }),
        (modify("dir"), Reason::Kind { is: "a directory", wanted: "a file" }),
        (modify("link"), Reason::Kind { is: "a symbolic link", wanted: "a file" }),
        (modify("bin"), Reason::Binary),
        ("--- a/two\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n".into(), Reason::Remains { lines: 1 }),
        ("diff --git a/two b/two\ndeleted file mode 100644\n".into(), Reason::Remains { lines: 2 }),
        (modify("g"), Reason::AlreadyApplied { line: 1 }),
        (link.into(), Reason::Link),
        (modify("f") + "@@ -1 +1 @@\n-x\n+z\n", Reason::Overlaps),
    ] {
        let rejected = apply(&parse(patch.as_bytes()).unwrap(), &before).unwrap_err();
        assert_eq!(rejected.rejections[0].reason, reason, "{patch}");
        assert_eq!(rejected.rejections.len(), 1, "{patch}");
    }
}

#[test]
fn a_file_may_take_the_place_of_an_emptied_directory() {
    let mut before = tree(&[("d/x", "1\n")]);
    before.insert("d".into(), Node { kind: NodeKind::Directory, mode: 0o755, bytes: Vec::new() });
    let patch = "--- /dev/null\n+++ b/d\n@@ -0,0 +1 @@\n+x\n--- a/d/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n";
    let changes = apply(&parse(patch.as_bytes()).unwrap(), &before).unwrap();
    assert_eq!(changes[0], Change::Delete { path: "d/x".into() });
    assert!(matches!(&changes[1], Change::Write { path, added: false, .. } if path == Path::new("d")));
}

#[test]
fn rejections_are_bounded() {
    let patch: String = (0..60).map(|n| format!("--- a/{n}\n+++ b/{n}\n@@ -1 +1 @@\n-x\n+y\n")).collect();
    let rejected = apply(&parse(patch.as_bytes()).unwrap(), &tree(&[])).unwrap_err();
    assert_eq!((rejected.rejections.len(), rejected.more), (Rejected::MOST, 10));
}
