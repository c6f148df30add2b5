//! Completion of words in bash, zsh and fish: `source <(COMPLETE=bash pyro)`.
//!
//! The shell asks pyro itself, so that workspaces are completed by the names that they have now.

use clap::builder::StyledStr;
use clap::{Arg, Command};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use pyro_core::workspace::{Listed, Workspaces};

use crate::places;

/// Answers and exits when it is a shell that asks.
pub fn answer(command: fn() -> Command) {
    CompleteEnv::with_factory(move || with_values(command())).complete();
}

/// The command with what the values of its arguments can be.
fn with_values(command: Command) -> Command {
    let known = |arg: Arg| match arg.get_id().as_str() {
        "workspace_id" => arg.add(ArgValueCompleter::new(workspaces)),
        "environment" => arg.add(ArgValueCompleter::new(environments)),
        _ => arg,
    };
    command.mut_args(known).mut_subcommands(with_values)
}

/// Names, and the ids of what has none.
fn workspaces(typed: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let word = |one: Listed| {
        let help = format!("{}, {}", one.environment, one.state);
        (one.name.unwrap_or(one.workspace_id), help)
    };
    let fitting = list().into_iter().map(word).filter(|(word, _)| word.starts_with(&*typed));
    fitting.map(|(word, help)| CompletionCandidate::new(word).help(Some(StyledStr::from(help)))).collect()
}

/// A shell that completes is told nothing of what goes wrong.
fn list() -> Vec<Listed> {
    let found = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let workspaces = Workspaces::new(places::factory(None).ok()?);
        runtime.block_on(workspaces.list()).ok()
    };
    found().map(|list| list.workspaces).unwrap_or_default()
}

fn environments(typed: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let names = pyro_core::environment::catalog().iter().map(|entry| &entry.name);
    names.filter(|name| name.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}
