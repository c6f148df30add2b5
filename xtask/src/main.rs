//! `cargo xtask …`: which task, with what, and how its failure is printed. The tasks themselves are in the library.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use pyro_core::cause;
use xtask::error::TaskError;
use xtask::places::Places;
use xtask::progress::say;
use xtask::{agent, firecracker, kernel, runtime, structure};

const USAGE: &str = "usage: cargo xtask TASK

  kernel           builds the guest kernel, unless the cache has it; its path goes to stdout
  agent            builds the guest agent and the initramfs that holds it; their paths go to stdout
  firecracker      obtains firecracker and its jailer, unless the cache has them; their directory goes to stdout
  runtime          kernel, agent, the floor's guest and manifest in target/lib/pyro/runtime, booted once to see what
                   they can do
  check [DIR]      checks how the tree is put together
  edges [DIR]      prints which module refers to which, as the table of allowed edges has it, circles marked
  prose [DIR]      prints the doc comments that do not name their subject, and each crate's share of them

PYRO_BUILD_CACHE_DIR says where results are kept; the default is pyro-mcp/build in the user's cache directory.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["kernel"] => Places::find().and_then(|places| {
            print(&[kernel::build(&places)?.vmlinux]);
            Ok(true)
        }),
        ["agent"] => Places::find().and_then(|places| {
            let built = agent::build(&places)?;
            print(&[built.program, built.initramfs]);
            Ok(true)
        }),
        ["firecracker"] => Places::find().and_then(|places| {
            print(&[firecracker::obtain(&places)?.dir]);
            Ok(true)
        }),
        ["runtime"] => Places::find().and_then(|places| runtime::make(&places).map(|()| true)),
        ["check"] => Places::find().and_then(|places| check(places.root)),
        ["check", dir] => check(dir.into()),
        ["edges"] => Places::find().and_then(|places| describe(structure::edges(&places.root))),
        ["edges", dir] => describe(structure::edges(dir.as_ref())),
        ["prose"] => Places::find().and_then(|places| describe(structure::prose(&places.root))),
        ["prose", dir] => describe(structure::prose(dir.as_ref())),
        ["help" | "--help" | "-h"] => {
            say(USAGE);
            Ok(true)
        }
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("[error] {}", cause::chain(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Paths are for scripts, so they go to stdout, where nothing else goes.
#[expect(clippy::print_stdout, reason = "this is the command's result")]
fn print(paths: &[PathBuf]) {
    for path in paths {
        println!("{}", path.display());
    }
}

#[expect(clippy::print_stdout, reason = "this is the command's result")]
fn describe(text: Result<String, TaskError>) -> Result<bool, TaskError> {
    print!("{}", text?);
    Ok(true)
}

fn check(root: PathBuf) -> Result<bool, TaskError> {
    let found = structure::check(&root)?;
    for violation in &found {
        say(&violation.to_string());
    }
    match found.len() {
        0 => say("the structure is as it should be"),
        n => say(&format!("{n} violations")),
    }
    Ok(found.is_empty())
}
