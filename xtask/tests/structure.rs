//! The tree keeps its structure, and each check would notice if it did not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use xtask::structure::check;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What is found in a tree of these files, as `path: what`.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
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
            assert_eq!(found(&[(path, &text)]), Vec::<String>::new());
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
