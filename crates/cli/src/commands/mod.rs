//! The verbs, one file each.

mod bench;
mod demo;
mod doctor;
mod env;
mod run;

use clap::Subcommand;

use crate::error::CliError;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run one command in a throw-away microVM
    Run(run::Args),
    /// List, inspect, install and remove environments
    #[command(subcommand)]
    Env(env::Env),
    /// Show what this host can run, why, and what would make it better
    Doctor(doctor::Args),
    /// Run the whole life cycle of a VM and print it as JSON
    Demo(demo::Args),
    /// Measure starts, commands, memory and disk on this host
    Bench(bench::Args),
}

impl Command {
    /// Whether failures are to be printed as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Env(env) => env.wants_json(),
            Self::Doctor(args) => args.json,
            Self::Demo(_) => false,
            Self::Bench(args) => args.json,
        }
    }

    /// Does it; the exit code, or what went wrong.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::Run(args) => args.execute().await,
            Self::Env(env) => env.execute().await,
            Self::Doctor(args) => args.execute().await,
            Self::Demo(args) => args.execute().await,
            Self::Bench(args) => args.execute().await,
        }
    }
}
