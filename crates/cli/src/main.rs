//! The `pyro` command: argument text in, words and exit codes out. What anything means is decided in core.
//!
//! Invariant: this is the only place that reads the environment, prints, and chooses exit codes. A failure is
//! printed once, in [`error`], as `[error] what: why` or as a JSON object.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this crate is for")]

mod commands;
mod completion;
mod error;
mod hint;
mod mcp;
mod places;
mod progress;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

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
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("[error] pyro cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let json = cli.command.wants_json();
    let result = if cli.command.handles_signals() {
        runtime.block_on(cli.command.execute())
    } else {
        runtime.block_on(signals::interruptible(cli.command.execute()))
    };
    let code = match result {
        Ok(code) => code,
        Err(error) => error.report(json),
    };
    // A thread that is stuck writing to a reader who does not read must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}
