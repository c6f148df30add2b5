//! Patches that are refused before a file is looked at.

use super::*;

fn why(patch: &str) -> String {
    parse(patch.as_bytes()).unwrap_err().to_string()
}

#[test]
fn each_kind_of_malformed_patch_says_what_is_wrong() {
    let names = "--- a/f\n+++ b/f\n";
    for (patch, part) in [
        ("".into(), "no unified diff"),
        ("please change line 3\n".into(), "no unified diff"),
        ("*** f\n--- f\n***************\n*** 1 ****\n! a\n--- 1 ----\n! b\n".into(), "a context diff"),
        ("@@ -1 +1 @@\n-a\n+b\n".into(), "before the two lines that name its file"),
        (format!("{names}some text\n"), "line 3 of the patch: a hunk header"),
        (format!("{names}@@ -1,2 +1,2 @@\n a\n b\n"), "neither adds nor removes"),
        (format!("{names}@@ -1,2 +1,2 @@\n"), "neither adds nor removes"),
        (format!("{names}@@ -1,4 +1,3 @@\n a\nb\n-c\n+d\n"), "line 5 of the patch: a line of a hunk begins"),
        (format!("{names}@@\n a\nb\n-c\n+d\n"), "line 5 of the patch: a line of a hunk begins"),
        (
            format!("{names}@@\n a\n-c\n+d\n\nb\n+lost\n"),
            "line 9 of the patch: this looks like a line of a hunk",
        ),
        (format!("{names}@@ -1,2 +1,2 @@\n a\n-c\n+d\n\nb\n-    lost\n"), "looks like a line of a hunk"),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n".into(), "both names"),
        ("--- \"a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n".into(), "quotes"),
        ("diff --git a/f b/f\nold mode 100644\nnew mode 1007x5\n".into(), "not a file mode"),
        ("diff --git a/f b/f\nnew file mode 160000\n".into(), "neither a file's nor"),
        ("diff --git a/f b/g\nrename from f\n".into(), "one name only"),
        ("diff --git a/f b/g h\nold mode 100644\nnew mode 100755\n".into(), "no name"),
        (
            "diff --git a/f b/f\nnew file mode 100644\ndeleted file mode 100644\n".into(),
            "created and deleted",
        ),
        ("diff --cc f\n--- a/f\n+++ b/f\n@@@ -1 -1 +1 @@@\n".into(), "a merge"),
        (
            "diff --git a/f b/f\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZ\n".into(),
            "a binary file",
        ),
        ("diff --git a/f b/f\nindex 1..2 100644\nBinary files a/f and b/f differ\n".into(), "a binary file"),
        ("Binary files old/f and new/f differ\n".into(), "changes new/f, a binary file"),
    ] {
        assert!(why(&patch).contains(part), "{patch:?}: {}", why(&patch));
    }
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let long = format!("a/{}", "x/".repeat(1950));
    // The dialect has no prefixes, and no quotes.
    let unquoted = |name: &str| match name.strip_prefix("a/") {
        Some(rest) => rest.to_owned(),
        None => name.trim_matches('"').replacen("a/x\\000", "x\0", 1),
    };
    let wide = format!("a/{}", "x".repeat(256));
    for (name, part) in [
        ("/etc/passwd", "absolute"),
        ("/", "absolute"),
        ("/work", "absolute"),
        ("/workspaces/f", "absolute"),
        ("/workspace", "itself"),
        ("/workspace/", "itself"),
        ("/workspace/../etc/passwd", "goes up"),
        ("/workspace/x/", "a directory"),
        ("a/../../etc/passwd", "goes up"),
        ("a/..", "goes up"),
        ("a/x/../y", "goes up"),
        ("a//etc/passwd", "absolute"),
        ("\"a/x\\000y\"", "NUL"),
        ("a/dir/", "a directory"),
        ("a/.", "itself"),
        (&long, "too long"),
        (&wide, "longer than 255"),
    ] {
        let new = name.strip_prefix("a/").map_or(name.into(), |rest| format!("b/{rest}"));
        for patch in [
            format!("--- {name}\n+++ {new}\n@@ -1 +1 @@\n-a\n+b\n"),
            format!("--- /dev/null\n+++ {new}\n@@ -0,0 +1 @@\n+b\n"),
            format!("--- {name}\n+++ /dev/null\n@@ -1 +0,0 @@\n-b\n"),
            format!("diff --git a/f b/f\nrename from f\nrename to {}\n", name.replacen("a/", "", 1)),
            format!("*** Begin Patch\n*** Delete File: {}\n*** End Patch\n", unquoted(name)),
            format!("*** Begin Patch\n*** Update File: f\n*** Move to: {}\n*** End Patch\n", unquoted(name)),
        ] {
            assert!(why(&patch).contains(part), "{patch:?}: {}", why(&patch));
        }
    }
}

#[test]
fn sizes_are_bounded() {
    let patch = vec![b'\n'; MAX_PATCH + 1];
    assert!(matches!(parse(&patch), Err(PatchError::TooLarge { unit: "bytes", .. })));
    assert!(matches!(parse(&patch[..MAX_LINES + 1]), Err(PatchError::TooLarge { unit: "lines", .. })));
    let patch = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n";
    let large = Files::from([(PathBuf::from("f"), file(vec![b'\n'; MAX_FILE + 1]))]);
    let rejected = apply(&parse(patch.as_bytes()).unwrap(), &large).unwrap_err();
    assert_eq!(rejected.rejections[0].reason, Reason::TooLarge);
}

proptest::proptest! {
    #[test]
    fn nothing_of_the_dialect_makes_it_panic(lines in proptest::collection::vec("(\\*\\*\\* (Add File:|Update File:|Delete File:|Move to:|End of File|End Patch|Begin Patch)|@@|[ +-]|\\\\ |)( f| g|f|x|\r|/workspace/f| )?", 0..14)) {
        let patch = format!("*** Begin Patch\n{}\n*** End Patch\n", lines.join("\n"));
        if let Ok(patches) = parse(patch.as_bytes()) {
            let _ = apply(&patches, &tree(&[("f", "x\nx\n \nf\n"), ("g", "")]));
        }
    }

    #[test]
    fn nothing_makes_it_panic(lines in proptest::collection::vec("(diff --git |--- |\\+\\+\\+ |@@ -1,2 \\+1,2 @@|rename from |[ +-]|\\\\ |)(a/f|b/f|\"a|/dev/null|\r|x| )?", 0..14)) {
        let patch = lines.join("\n");
        if let Ok(patches) = parse(patch.as_bytes()) {
            let _ = apply(&patches, &tree(&[("f", "x\nx\n \n")]));
        }
    }
}
