//! Patches as they are written, to the letter, and in bounded time.

use std::fmt::Write as _;

use super::*;

fn side(bytes: &[u8]) -> Option<Side<'_>> {
    Some(Side { kind: NodeKind::File, mode: 0o644, bytes: Some(bytes) })
}

#[test]
fn a_change_is_written_as_git_writes_it() {
    let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16";
    let after = before.replace("\n4\n", "\nfour\n").replace("11\n", "").replace("16", "16\n");
    let rendered = render(Path::new("dir/a b"), side(before.as_bytes()), side(after.as_bytes()));
    assert_eq!(
        rendered.patch,
        "diff --git a/dir/a b b/dir/a b\n--- a/dir/a b\t\n+++ b/dir/a b\t\n@@ -1,16 +1,15 @@\n 1\n 2\n 3\n-4\n+four\n 5\n \
         6\n 7\n 8\n 9\n 10\n-11\n 12\n 13\n 14\n 15\n-16\n\\ No newline at end of file\n+16\n"
    );
    assert!(!rendered.binary);
}

#[test]
fn modes_links_and_names() {
    let run = Some(Side { mode: 0o755, ..side(b"x\n").unwrap() });
    let link = Some(Side { kind: NodeKind::Symlink, mode: 0o777, bytes: Some(b"x") });
    let dir = Some(Side { kind: NodeKind::Directory, mode: 0o755, bytes: None });
    let text = |old, new| render(Path::new("f"), old, new).patch;
    assert_eq!(text(side(b"x\n"), run), "diff --git a/f b/f\nold mode 100644\nnew mode 100755\n");
    let new =
        "new file mode 120000\n--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n";
    let old = "deleted file mode 100644\n--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
    assert_eq!(text(side(b"x\n"), link), format!("diff --git a/f b/f\n{old}diff --git a/f b/f\n{new}"));
    assert_eq!(text(dir, link), format!("diff --git a/f b/f\n{new}"));
    assert_eq!(text(None, side(b"")), "diff --git a/f b/f\nnew file mode 100644\n");
    assert_eq!(text(side(b"x"), side(b"x")), "");
    assert_eq!(text(link, link), "");
    assert_eq!(text(None, dir), "");
    let odd = render(Path::new("ü\t\"\\\n"), None, side(b"")).patch;
    let name = r#"\303\274\t\"\\\n""#;
    assert_eq!(odd, format!("diff --git \"a/{name} \"b/{name}\nnew file mode 100644\n"));
}

#[test]
fn what_is_not_text_is_named() {
    let (text, nul, latin) = (&b"x\n"[..], &b"x\0\n"[..], &b"caf\xe9\n"[..]);
    for bytes in [nul, latin] {
        let rendered = render(Path::new("f"), side(text), side(bytes));
        assert_eq!(rendered.patch, "diff --git a/f b/f\nBinary files a/f and b/f differ\n");
        assert!(rendered.binary);
    }
    let unread = Some(Side { bytes: None, ..side(b"").unwrap() });
    let rendered = render(Path::new("f"), None, unread);
    assert_eq!(
        rendered.patch,
        "diff --git a/f b/f\nnew file mode 100644\nBinary files /dev/null and b/f differ\n"
    );
    let run = Some(Side { mode: 0o755, ..side(nul).unwrap() });
    let rendered = render(Path::new("f"), side(nul), run);
    assert_eq!(
        rendered,
        Rendered { patch: "diff --git a/f b/f\nold mode 100644\nnew mode 100755\n".into(), binary: false }
    );
    assert_eq!(render(Path::new("f"), side(nul), side(nul)), Rendered::default());
}

/// No clock is asked: without a deadline the diff of these would not end while anybody waits.
#[test]
fn large_files_with_nothing_or_everything_in_common_end() {
    let (mut one, mut two, mut few) = (String::new(), String::new(), String::new());
    for n in 0..200_000_u64 {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        writeln!(one, "line {n} of one").unwrap();
        writeln!(two, "line {mixed} of two").unwrap();
        writeln!(few, "{}", mixed % 3).unwrap();
    }
    let turned: String = few.lines().rev().flat_map(|line| [line, "\n"]).collect();
    for (old, new) in [(&one, &two), (&few, &turned), (&few, &one)] {
        let rendered = render(Path::new("f"), side(old.as_bytes()), side(new.as_bytes()));
        let after = edited(old, &rendered.patch);
        assert!(after == *new);
    }
}

/// A carriage return at the end of a file is content, and no line end.
#[test]
fn line_ends_are_kept_where_a_file_ends_in_a_carriage_return() {
    for (before, after) in [("\r", "x\r\ny"), ("a\nb\r", "a\nb\r\nc\r"), ("a\r\nb\r", "a\r\nb\nc\r")] {
        let patch = render(Path::new("f"), side(before.as_bytes()), side(after.as_bytes())).patch;
        assert_eq!(edited(before, &patch), after, "{patch}");
    }
}
