//! The edges between modules: each form of reference is seen, and each kind of violation is found.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use xtask::structure::modules::{self, CrateModules};

type Edges<'a> = &'a [(&'a str, &'a [&'a str])];

/// A tree whose crate `core` has these files below `src`.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join("crates/core/src").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn table<'a>(edges: Edges<'a>, parents: &'a [&'a str]) -> CrateModules<'a> {
    CrateModules { name: "core", parents, enforced: true, edges }
}

/// Violations of a crate with these files, whose row `parents` is empty but for `w`.
fn found(files: &[(&str, &str)], edges: Edges<'_>) -> Vec<String> {
    let dir = tree(files);
    modules::check(dir.path(), &[table(edges, &["w"])]).unwrap().iter().map(ToString::to_string).collect()
}

/// The found edges of a crate with these files, as `from -> to` of all rows.
fn edges_of(files: &[(&str, &str)]) -> String {
    let dir = tree(files);
    let text = modules::describe(dir.path(), &[table(&[], &["w"])]).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("(\"")?.strip_suffix("]),"));
    let rows = rows.filter_map(|row| {
        let (from, to) = row.split_once("\", &[")?;
        (!to.is_empty()).then(|| format!("{from} -> {}", to.replace('"', "")))
    });
    rows.collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn one(files: &[(&str, &str)], edges: Edges<'_>, expected: &str) {
    let found = found(files, edges);
    assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:#?}");
}

/// The edges that the text of module `a` makes, beside `b`, `c` with an inner `d`, and a parent `w` of `x` and `y`.
fn edges_by(text: &str) -> String {
    edges_of(&[
        ("lib.rs", "pub mod a; pub mod b; mod c; mod w; pub use b::OfB; pub use extern_crate::OfOther;"),
        ("a.rs", text),
        ("b.rs", ""),
        ("c/mod.rs", "pub mod d;"),
        ("c/d.rs", ""),
        ("w/mod.rs", "pub mod x; mod y; pub(crate) use x::OfX; pub use extern_crate::Other; pub use y::*;"),
        ("w/x.rs", ""),
        ("w/y.rs", ""),
    ])
}

#[test]
fn every_form_of_reference_is_an_edge() {
    for (text, expected) in [
        ("use crate::b;", "a -> b"),
        ("use crate::b::F;", "a -> b"),
        ("use crate::b as other;", "a -> b"),
        ("use crate::b::*;", "a -> b"),
        ("pub use crate::b::F;", "a -> b"),
        ("pub(crate) use crate::b::F;", "a -> b"),
        ("use crate::{b::{F, g}, c::d};", "a -> b, c"),
        ("use crate::{\n    b::{self, f::{G, h::*}},\n    c,\n};", "a -> b, c"),
        ("use {crate::b, crate::c::d::F};", "a -> b, c"),
        ("use super::b;", "a -> b"),
        ("use super::{b, c::d};", "a -> b, c"),
        ("use self::super::b;", "a -> b"),
        ("fn f() { crate::b::f(); }", "a -> b"),
        ("fn f() { super::b::f::<super::c::F>(); }", "a -> b, c"),
        ("fn f() { use crate::b::g; }", "a -> b"),
        ("impl crate::b::F for G where H: crate::c::d::I {}", "a -> b, c"),
        ("type F = Vec<crate::b::F>;", "a -> b"),
        ("struct F(pub (crate::b::F));", "a -> b"),
        ("mod inner { use super::super::b; }", "a -> b"),
        ("mod inner { mod deep { fn f() { super::super::super::b::f() } } }", "a -> b"),
        ("macro_rules! m { () => { $crate::b::f() } }", "a -> b"),
        ("fn f() { crate\n    ::b::f() }", "a -> b"),
        ("use crate::r#b;", "a -> b"),
        // What roots and parents re-export is of the module that it comes from.
        ("use crate::OfB;", "a -> b"),
        ("use crate::w::OfX;", "a -> w::x"),
        ("use crate::w; fn f() { w::OfX::g() }", "a -> w::x"),
        ("use crate::{w as v}; fn f() { v::x::g() }", "a -> w::x"),
        ("use super::*; fn f() -> w::OfX { w::x::g() }", "a -> w::x"),
        ("use crate::w::x;", "a -> w::x"),
        ("use crate::w::{x::F, y};", "a -> w::x, w::y"),
        ("use crate::w::Own;", "a -> w"),
        ("use crate::w::*;", "a -> w"),
    ] {
        let edges = edges_by(text);
        let edges = edges.split("; ").filter(|edges| edges.starts_with('a')).collect::<Vec<_>>().join("; ");
        assert_eq!(edges, expected, "{text}");
    }
}

#[test]
fn what_is_no_reference_is_no_edge() {
    for text in [
        "pub(in crate::b) fn f() {}",
        "pub(crate) struct F { pub(super) g: u8 }",
        "// crate::b::f()\n/* use crate::b; */\n/// [`crate::b`]\nfn f() {}",
        "const F: &str = \"crate::b::f\";",
        "#[cfg(test)] mod tests { use crate::b; }",
        "#[cfg(test)]\nuse crate::b;",
        "#[cfg(test)]\nfn f() { crate::b::g(); }",
        "use std::b; use ::b::F; fn f() { b::g(); other::crate_b::h(); }",
        "use crate::a::F; use self::inner::G; mod inner { use super::F; }",
        "fn f() { x.b::<u8>(); }",
        "use crate::OfOther; use crate::w::Other;",
    ] {
        let edges = edges_by(text);
        assert!(!edges.contains("a ->"), "{text}: {edges}");
    }
}

#[test]
fn a_files_place_decides_what_super_is() {
    for (path, text) in [
        ("a/deep/mod.rs", "use super::super::b;"),
        ("a/deep.rs", "use super::super::b;"),
        ("a/deep.rs", "use super::b_again::F; fn f() { super::super::b::f() }"),
    ] {
        let files = [("lib.rs", "mod a; mod b;"), ("a/mod.rs", "mod deep;"), (path, text), ("b.rs", "")];
        assert_eq!(edges_of(&files), "a -> b", "{path}: {text}");
        let files = [("main.rs", "mod a; mod b;"), ("a.rs", "mod deep;"), (path, text), ("b.rs", "")];
        assert_eq!(edges_of(&files), "a -> b", "{path}: {text}");
    }
}

#[test]
fn files_of_tests_are_no_modules() {
    let files = [
        ("lib.rs", "mod a; mod b; #[cfg(test)] mod tests;"),
        ("a.rs", "#[cfg(test)]\nmod tests;"),
        ("a/tests.rs", "use crate::b;"),
        ("b.rs", ""),
        ("tests.rs", "use crate::a;"),
    ];
    assert_eq!(found(&files, &[("a", &[]), ("b", &[])]), Vec::<String>::new());
}

#[test]
fn children_of_a_parent_are_modules_of_their_own() {
    let files = [
        ("lib.rs", "mod w;"),
        ("w/mod.rs", "mod x; mod y; mod z; pub use x::F; use y::G; fn f() -> F { z::g() } pub use z::H;"),
        ("w/x.rs", "use super::y;"),
        ("w/y/mod.rs", "mod deep; use super::H;"),
        ("w/y/deep.rs", "use super::super::z; use crate::w::f;"),
        ("w/z.rs", ""),
    ];
    // A parent's own text uses `x` (by the re-exported name), `y` (imported) and `z` (by a path).
    assert_eq!(edges_of(&files), "w -> w::x, w::y, w::z; w::x -> w::y; w::y -> w, w::z");
    let facade = [("lib.rs", "mod w;"), ("w/mod.rs", "mod x; pub use x::F;"), ("w/x.rs", "use super::F;")];
    assert_eq!(found(&facade, &[("w", &[]), ("w::x", &[])]), Vec::<String>::new());
}

#[test]
fn an_edge_that_is_not_listed_is_found() {
    let files = [("lib.rs", "mod a; mod b;"), ("a.rs", "//! x\nuse crate::b::F;"), ("b.rs", "")];
    one(
        &files,
        &[("a", &[]), ("b", &[])],
        "crates/core/src/a.rs:2: a must not refer to b, as crate::b::F does",
    );
    assert_eq!(found(&files, &[("a", &["b"]), ("b", &[])]), Vec::<String>::new());
}

/// A macro declares modules without a word that says so.
#[test]
fn an_edge_of_a_module_that_a_macro_declares_is_found() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod plain; verbs! { one: One, two: Two }"),
        ("a/plain.rs", ""),
        ("a/one.rs", "//! x\nuse crate::b::F;"),
        ("a/two/mod.rs", ""),
        ("b.rs", ""),
    ];
    one(
        &files,
        &[("a", &[]), ("b", &[])],
        "crates/core/src/a/one.rs:2: a must not refer to b, as crate::b::F does",
    );
}

#[test]
fn a_circle_is_found_in_the_table_and_in_the_tree() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b;"),
        ("b.rs", "use crate::c;"),
        ("c.rs", "use crate::a;"),
    ];
    let found_all = found(&files, &[("a", &["b"]), ("b", &["c"]), ("c", &["a"])]);
    assert_eq!(
        found_all,
        [
            "xtask/src/structure/edges.rs: core's rows make a circle: a -> b -> c -> a",
            "crates/core/src/a.rs:1: modules in a circle: a -> b -> c -> a",
        ]
    );
    // A circle of rows alone: nothing in the tree uses the last edge.
    let acyclic = [&files[..3], &[("c.rs", "")]].concat();
    let found_rows = found(&acyclic, &[("a", &["b"]), ("b", &["c"]), ("c", &["a"])]);
    assert!(found_rows.iter().any(|line| line.contains("rows make a circle")), "{found_rows:#?}");
    assert!(!found_rows.iter().any(|line| line.contains("modules in a circle")), "{found_rows:#?}");
    // A circle of the tree alone: the rows do not list its last edge.
    let found_tree = found(&files, &[("a", &["b"]), ("b", &["c"]), ("c", &[])]);
    assert!(found_tree.iter().any(|line| line.contains("modules in a circle")), "{found_tree:#?}");
    assert!(!found_tree.iter().any(|line| line.contains("rows make a circle")), "{found_tree:#?}");
}

#[test]
fn a_listed_edge_that_nothing_uses_is_found() {
    let files = [("lib.rs", "mod a; mod b;"), ("a.rs", ""), ("b.rs", "")];
    one(&files, &[("a", &["b"]), ("b", &[])], "edge from a to b is not used any more");
    let tested = [("lib.rs", "mod a; mod b;"), ("a.rs", "#[cfg(test)]\nuse crate::b;"), ("b.rs", "")];
    one(&tested, &[("a", &["b"]), ("b", &[])], "edge from a to b is not used any more");
}

#[test]
fn a_module_and_its_row_come_together() {
    let files = [("lib.rs", "mod a; mod w;"), ("a.rs", ""), ("w/mod.rs", "mod x;"), ("w/x.rs", "")];
    one(&files, &[("a", &[]), ("w", &[])], "core's module w::x has no row");
    one(&files, &[("w", &[]), ("w::x", &[])], "core's module a has no row");
    let rows: Edges<'_> = &[("a", &[]), ("w", &[]), ("w::x", &[])];
    assert_eq!(found(&files, rows), Vec::<String>::new());
    one(&files, &[rows, &[("gone", &[])]].concat(), "core has no module gone, which has a row");
    one(&files, &[&[("a", &["gone"][..])], &rows[1..]].concat(), "no module gone, which a may refer to");
    one(&files, &[rows, &[("a", &[])]].concat(), "core's module a has two rows");
}

#[test]
fn nothing_refers_to_the_root() {
    let files = [("main.rs", "mod a; struct Arguments;"), ("a.rs", "use crate::Arguments;")];
    one(&files, &[("a", &[])], "crates/core/src/a.rs:1: a refers to Arguments of the crate's root");
}

#[test]
fn a_module_in_no_ordinary_place_is_found() {
    let files = [("lib.rs", "mod a;\n#[path = \"elsewhere.rs\"]\nmod b;"), ("a.rs", "")];
    one(&files, &[("a", &[])], "crates/core/src/lib.rs:3: the module b has no file in its ordinary place");
}

#[test]
fn only_what_is_enforced_fails() {
    let files = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b;"), ("b.rs", "use crate::a;")];
    let dir = tree(&files);
    let crate_modules = CrateModules { enforced: false, ..table(&[], &[]) };
    assert!(modules::check(dir.path(), &[crate_modules]).unwrap().is_empty());
    let text = modules::describe(dir.path(), &[crate_modules]).unwrap();
    for expected in [
        "// core (not enforced)\n// circle, by b\n(\"a\", &[\"b\"]),\n",
        "// one circle in it: a -> b -> a\n",
        "//   a -> b, 1 times, first crates/core/src/a.rs:1: crate::b\n",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn every_crate_of_the_table_is_looked_at() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = xtask::structure::edges(root).unwrap();
    for expected in [
        "// core (",
        "// agent (",
        "// cli (",
        "(\"workspace\", ",
        "(\"guest\", ",
        "(\"session\", ",
        "(\"commands\", ",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
