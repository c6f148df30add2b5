//! What becomes of results that cannot be written: standard output on a full disk, beyond a limit, or with nobody to read it.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::support::{Said, World, finish};

/// Commands that print a result and need no guest.
const RESULTS: [&[&str]; 7] = [
    &["--version"],
    &["--help"],
    &["workspace", "--help"],
    &["env", "list"],
    &["env", "list", "--json"],
    &["workspace", "list", "--json"],
    &["mcp", "config", "codex"],
];

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Words between a shell and pyro, which sets a limit first.
fn limited(world: &World, args: &[&str]) -> Command {
    let pyro = world.command(args);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 0 && exec \"$0\" \"$@\""]).arg(pyro.get_program()).args(pyro.get_args());
    command.env_clear().envs(pyro.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn told(said: &Said, args: &[&str], why: &str) {
    assert_eq!((said.code, said.signal), (Some(1), None), "{args:?} {said:?}");
    assert!(said.err.contains("[error]") && said.err.contains(why), "{args:?} {said:?}");
    assert!(!said.err.contains("panicked"), "{args:?} {said:?}");
}

#[test]
fn a_result_that_a_full_disk_does_not_take_is_a_failure() {
    let world = World::bare();
    for args in RESULTS {
        let said = finish(world.command(args).stdout(full()).spawn().unwrap());
        told(&said, args, "No space left");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_news() {
    let world = World::bare();
    for args in RESULTS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = finish(world.command(args).stdout(writer).spawn().unwrap());
        assert_eq!((said.code, said.signal), (Some(128 + 13), None), "{args:?} {said:?}");
        assert!(!said.err.contains("[error]") && !said.err.contains("panicked"), "{args:?} {said:?}");
    }
}

#[test]
fn a_failure_that_standard_output_does_not_take_is_told_on_the_other() {
    let world = World::bare();
    let args = ["workspace", "status", "none", "--json"];
    let said = finish(world.command(&args).stdout(full()).spawn().unwrap());
    told(&said, &args, "there is no workspace");
}

#[test]
fn what_is_said_beside_a_result_may_be_lost() {
    let world = World::bare();
    for (args, code) in [
        (&["workspace", "list"][..], 0),
        (&["env", "list"], 0),
        (&["mcp", "config", "codex"], 0),
        (&["workspace", "status", "none"], 1),
        (&["run", "debian:12"], 2),
    ] {
        let said = finish(world.command(args).stderr(full()).spawn().unwrap());
        assert_eq!((said.code, said.signal), (Some(code), None), "{args:?} {said:?}");
    }
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_kills_nobody() {
    let world = World::bare();
    let args = ["mcp", "config", "codex", "--write"];
    let said = finish(limited(&world, &args).spawn().unwrap());
    told(&said, &args, "File too large");
    let file = world.home.path().join("out");
    for args in RESULTS {
        let said = finish(limited(&world, args).stdout(File::create(&file).unwrap()).spawn().unwrap());
        told(&said, args, "File too large");
    }
}
