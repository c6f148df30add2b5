//! The `pyro` command: argument text in, words and exit codes out. What anything means is decided in core.
//!
//! Invariant: this is the only place that reads the environment, prints, and chooses exit codes. A failure is
//! printed once, in [`error`], as `[error] what: why` or as a JSON object.
#![forbid(unsafe_code)]

mod commands;
mod completion;
mod content;
mod error;
mod hint;
mod mcp;
mod output;
mod places;
mod progress;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::error::{CliError, printed};
use crate::output::errln;

/// Isolated Linux machines for coding agents.
#[derive(Parser)]
#[command(name = "pyro", version, about, propagate_version = false, disable_help_subcommand = true)]
#[command(
    after_help = "Start with:  pyro run debian:12 -- git --version\nWhen something does not work:  pyro doctor"
)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    completion::answer(Cli::command);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            errln!("[error] pyro cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = runtime.block_on(async { signals::survive_file_limit() }) {
        errln!("[error] pyro cannot start: it cannot watch for signals: {error}");
        return ExitCode::FAILURE;
    }
    let (cli, json) = match parsed() {
        Ok(parsed) => parsed,
        Err(answer) => return ExitCode::from(tell(&answer)),
    };
    let result = if cli.command.handles_signals() {
        runtime.block_on(cli.command.execute())
    } else {
        runtime.block_on(signals::interruptible(cli.command.execute()))
    };
    let code = match result.and_then(|code| printed().map(|()| code)) {
        Ok(code) => code,
        Err(error) => error.report(json),
    };
    // A thread that is stuck writing to a reader who does not read must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// The command line, and whether its failure is to be printed as JSON.
fn parsed() -> Result<(Cli, bool), clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    Ok((Cli::from_arg_matches(&matches)?, wants_json(&matches)))
}

/// Prints what clap has to say, help or a mistake of the command line, and gives the exit code.
fn tell(answer: &clap::Error) -> u8 {
    let told = answer.print().and_then(|()| std::io::Write::flush(&mut std::io::stdout()));
    match told {
        Err(error) if !answer.use_stderr() => CliError::output(&error).report(false),
        _ => u8::try_from(answer.exit_code()).unwrap_or(2),
    }
}

/// Whether the command line has `--json`, so that its failure is printed as JSON too.
fn wants_json(matches: &ArgMatches) -> bool {
    matches!(matches.try_get_one::<bool>("json"), Ok(Some(true)))
        || matches.subcommand().is_some_and(|(_, rest)| wants_json(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_json_wherever_the_flag_stands() {
        let wants = |line: &str| wants_json(&Cli::command().get_matches_from(line.split(' ')));
        for line in [
            "pyro run --json debian:12 -- true",
            "pyro workspace list --json",
            "pyro workspace exec --json w -- true",
            "pyro workspace snapshot create w s --json",
            "pyro env list --json",
            "pyro doctor --json",
        ] {
            assert!(wants(line), "{line}");
        }
        for line in ["pyro run debian:12 -- x --json", "pyro workspace list", "pyro mcp serve", "pyro demo"] {
            assert!(!wants(line), "{line}");
        }
    }
}
