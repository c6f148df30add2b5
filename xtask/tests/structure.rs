//! The tree keeps its structure, and each check would notice if it did not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use xtask::structure::{check, paths, prose};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A tree of these files.
fn planted(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// What is found in a tree of these files, as `path: what`.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let dir = planted(files);
    check(dir.path()).unwrap().iter().map(ToString::to_string).collect()
}

fn manifest(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\n\n[lints]\nworkspace = true\n\n{rest}\n")
}

#[track_caller]
fn one(files: &[(&str, &str)], expected: &str) {
    let found = found(files);
    assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:#?}");
}

#[test]
fn this_tree_is_as_it_should_be() {
    let found = check(root()).unwrap();
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn every_room_is_looked_at() {
    for room in ["proto", "vmm", "agent", "core", "cli"] {
        let path = root().join("crates").join(room).join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap();
        one(
            &[(
                "crates/x/Cargo.toml",
                &text.replace("[lints]", "[dependencies.xtask]\npath = \"x\"\n[lints]"),
            )],
            "must not depend on xtask",
        );
    }
}

#[test]
fn an_edge_that_nobody_decided_is_found() {
    for (name, rest, expected) in [
        ("pyro-proto", "[dependencies]\npyro-vmm.workspace = true", "pyro-proto must not depend on pyro-vmm"),
        (
            "pyro-vmm",
            "[dependencies]\npyro-proto = { path = \"../proto\" }",
            "pyro-vmm must not depend on pyro-proto",
        ),
        (
            "pyro-agent",
            "[dev-dependencies]\npyro-core.workspace = true",
            "pyro-agent must not depend on pyro-core",
        ),
        ("pyro-cli", "[dependencies.pyro-vmm]\nworkspace = true", "pyro-cli must not depend on pyro-vmm"),
        ("pyro-core", "[build-dependencies]\nxtask = \"0\"", "pyro-core must not depend on xtask"),
        (
            "pyro-core",
            "[target.'cfg(unix)'.dependencies]\npyro-cli = \"0\"",
            "pyro-core must not depend on pyro-cli",
        ),
        (
            "xtask",
            "[dependencies]\nx = { package = \"pyro-vmm\", version = \"0\" }",
            "xtask must not depend on pyro-vmm",
        ),
        ("pyro-new", "", "pyro-new is not one of the rooms"),
    ] {
        one(&[("crates/x/Cargo.toml", &manifest(name, rest))], expected);
    }
    one(&[("Cargo.toml", "[package]\nname = \"pyro-cli\"\n")], "does not take the workspace's lints");
}

#[test]
fn decided_edges_are_no_violation() {
    let files = [
        (
            "a/Cargo.toml",
            manifest(
                "pyro-core",
                "[dependencies]\npyro-vmm.workspace = true\nserde = \"1\"\n[dev-dependencies]\npyro-agent.workspace = true",
            ),
        ),
        ("b/Cargo.toml", "[workspace]\nmembers = []\n".to_owned()),
    ];
    let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    assert_eq!(found(&files), Vec::<String>::new());
}

#[test]
fn a_file_that_says_nothing_of_itself_is_found() {
    one(&[("crates/core/src/x.rs", "fn f() {}\n")], "does not open with //!");
}

#[test]
fn a_file_too_long_to_hold_in_the_head_is_found() {
    let text = |lines: usize| "//! x\n".to_owned() + &"\n".repeat(lines - 1);
    one(&[("crates/core/src/x.rs", &text(601))], "has 601 lines");
    assert!(found(&[("crates/core/src/x.rs", &text(600))]).is_empty());
}

#[test]
fn unsafe_is_found_where_it_may_not_be() {
    let text = "//! x\n#![forbid(unsafe_code)]\n// unsafe\nconst S: &str = \"unsafe\";\n";
    assert!(found(&[("crates/core/src/x.rs", text)]).is_empty());
    let text = "//! x\nfn f() { unsafe { g() } }\n";
    one(&[("crates/core/src/x.rs", text)], "x.rs:2: unsafe outside");
    one(&[("crates/proto/tests/x.rs", text)], "unsafe outside");
    assert!(found(&[("crates/vmm/src/x.rs", text), ("crates/agent/src/x.rs", text)]).is_empty());
}

#[test]
fn an_allow_is_found() {
    for attribute in ["#[allow(dead_code)]", "#![allow(dead_code)]", "#[ allow (dead_code)]"] {
        one(&[("xtask/src/x.rs", &format!("//! x\n{attribute}\nfn f() {{}}\n"))], "allow, where expect");
    }
}

#[test]
fn a_test_that_is_not_run_is_found() {
    for attribute in ["#[ignore]", "#[ignore = \"slow\"]"] {
        one(
            &[("xtask/tests/x.rs", &format!("//! x\n#[test]\n{attribute}\nfn f() {{}}\n"))],
            "a test that is not run",
        );
    }
}

#[test]
fn a_library_that_does_its_callers_business_is_found() {
    for (line, expected) in [
        ("println!(\"x\")", "prints: println!"),
        ("eprint!(\"x\")", "prints: eprint!"),
        ("dbg!(x)", "prints: dbg!"),
        ("std::io::stdout().lock()", "prints: io::stdout"),
        ("std::process::exit(1)", "ends the process"),
        ("std::env::var(\"X\")", "reads the environment: env::var"),
        ("env::var_os(\"X\")", "reads the environment: env::var_os"),
        ("std::env::temp_dir()", "reads the environment: env::temp_dir"),
        ("std::env::home_dir()", "reads the home directory"),
    ] {
        let text = format!("//! x\nfn f() {{ {line}; }}\n");
        for room in ["proto", "vmm", "core", "agent"] {
            one(&[(&format!("crates/{room}/src/deep/x.rs"), &text)], expected);
        }
        let elsewhere = [
            "crates/cli/src/x.rs",
            "crates/agent/src/main.rs",
            "crates/core/tests/x.rs",
            "crates/core/src/x/tests.rs",
        ];
        for path in elsewhere {
            let found = found(&[(path, &text)]);
            // A tree of one file lacks modules that the table of edges knows, which other tests look at.
            assert!(found.iter().all(|line| line.contains("edges.rs: ")), "{path}: {found:#?}");
        }
    }
}

#[test]
fn only_the_tests_in_a_library_file_are_left_out() {
    let text = "//! x\n#[cfg(test)]\nmod a { fn f() { println!(\"{}\", 1); } }\nfn g() { println!(); }\n#[cfg(test)]\nuse x;\nfn h() {}\n";
    one(&[("crates/core/src/x.rs", text)], "x.rs:4: a library that prints");
}

#[test]
fn the_name_of_a_package_host_is_found() {
    let host = ["https://deb.debian", ".org/x"].concat();
    one(&[("docs/x.md", &format!("first\nsee {host}\n"))], "docs/x.md:2: names the package host");
    let host = ["index.crates", ".io"].concat();
    one(&[("scripts/x", &host)], "names the package host");
    assert!(found(&[("Cargo.lock", &host), ("target/x", &host)]).is_empty());
}

const LOCK: &str = "
[[package]]
name = \"pyro-formats\"
version = \"0.1.0\"
dependencies = [\"harmless\", \"tests-only\"]

[[package]]
name = \"harmless\"
version = \"1.0.0\"
dependencies = [\"twice 2.0.0\"]

[[package]]
name = \"tests-only\"
version = \"1.0.0\"
dependencies = [\"tokio\"]

[[package]]
name = \"twice\"
version = \"1.0.0\"
dependencies = [\"rusqlite\"]

[[package]]
name = \"twice\"
version = \"2.0.0\"
dependencies = [\"harmless\"]
";

#[test]
fn a_decoder_that_is_built_with_a_runtime_is_found() {
    let dependencies = |rest: &str| manifest("pyro-formats", rest);
    for (line, dependency) in [
        ("[dependencies]\ntokio.workspace = true", "tokio"),
        ("[dependencies]\nrusqlite = \"0\"", "rusqlite"),
        ("[target.'cfg(unix)'.dependencies]\nx = { package = \"tokio\", version = \"1\" }", "tokio"),
        ("[build-dependencies]\ntokio = \"1\"", "tokio"),
    ] {
        let expected =
            format!("pyro-formats must be built without {dependency}, which comes by {dependency}");
        one(&[("crates/formats/Cargo.toml", &dependencies(line))], &expected);
    }
    for dependency in ["pyro-vmm", "pyro-core", "pyro-proto"] {
        let text = dependencies(&format!("[dependencies]\n{dependency}.workspace = true"));
        let found = found(&[("crates/formats/Cargo.toml", &text)]);
        let expected = format!("must be built without {dependency}, which comes by {dependency}");
        assert!(found.iter().any(|line| line.contains(&expected)), "{expected}: {found:#?}");
    }
    // Far away, and only by what the manifest itself says is no test's.
    let text = dependencies("[dependencies]\nharmless = \"1\"\n[dev-dependencies]\ntests-only = \"1\"");
    let files = [("crates/formats/Cargo.toml", text.as_str()), ("Cargo.lock", LOCK)];
    assert_eq!(found(&files), Vec::<String>::new());
    for (from, to, expected) in [
        (
            "[\"twice 2.0.0\"]",
            "[\"twice 1.0.0\"]",
            "without rusqlite, which comes by harmless -> twice 1.0.0 -> rusqlite",
        ),
        (
            "[\"harmless\"]\n",
            "[\"tokio\"]\n",
            "without tokio, which comes by harmless -> twice 2.0.0 -> tokio",
        ),
        ("[\"harmless\"]\n", "[\"pyro-vmm\"]\n", "without pyro-vmm, which comes by"),
    ] {
        let lock = LOCK.replace(from, to);
        one(&[("crates/formats/Cargo.toml", &text), ("Cargo.lock", &lock)], expected);
    }
}

/// A file with this many doc comments, of which the first `pronouns` begin with one.
fn comments(pronouns: usize, all: usize) -> String {
    let comment = |n| {
        if n < pronouns {
            "/// Its end is near.\nconst A: u8 = 0;\n"
        } else {
            "/// End of it all.\nconst A: u8 = 0;\n"
        }
    };
    "// x\n".to_owned() + &(0..all).map(comment).collect::<String>()
}

#[test]
fn doc_comments_that_begin_with_a_pronoun_are_counted() {
    let check = |files: &[(&str, &str)], table: &[(&str, bool)]| {
        let dir = planted(files);
        let found = prose::check(dir.path(), &paths(dir.path()).unwrap(), table).unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (few, many) = (comments(1, 101), comments(1, 100));
    let files = [("crates/core/src/x.rs", many.as_str()), ("crates/vmm/src/deep/x.rs", few.as_str())];
    let found = check(&files, &[("core", true), ("vmm", true)]);
    assert!(
        found.len() == 1
            && found[0].starts_with("crates/core: doc comments begin with a pronoun: 1 of 100 (1.0 %)"),
        "{found:#?}"
    );
    assert_eq!(check(&files, &[("core", false), ("vmm", true)]), Vec::<String>::new());
    let found = check(&files, &[("core", false)]);
    assert!(found.len() == 1 && found[0].starts_with("crates/vmm: vmm has no row"), "{found:#?}");
    // Tests beside a crate's src are nobody's reading.
    assert_eq!(check(&[("crates/core/tests/x.rs", &many)], &[]), Vec::<String>::new());
    let found = check(&[("xtask/src/x.rs", &many)], &[("xtask", true)]);
    assert!(found.len() == 1 && found[0].starts_with("xtask: doc comments"), "{found:#?}");
}

#[test]
fn offending_doc_comments_are_listed_by_their_place() {
    let text = "//! That is the file.\n\n/// A field's unit in MiB.\nconst A: u8 = 0;\n/// Why.\n/// Which\nconst B: u8 = 0;\n/// Which\n/// one.\nconst C: u8 = 0;\n";
    let dir = planted(&[("crates/core/src/x.rs", text)]);
    let listed = prose::describe(dir.path(), &paths(dir.path()).unwrap(), &[("core", true)]).unwrap();
    assert_eq!(
        listed,
        "crates/core/src/x.rs:1: begins with a pronoun: That is the file.
crates/core/src/x.rs:8: begins with a pronoun: Which
crates/core/src/x.rs:5: says too little: Why.
core (enforced): a pronoun begins 2 of 4 (50.0 %); a word or two are 1 of 4 (25.0 %)
"
    );
}
