//! The verbs, one file each.

mod bench;
mod demo;
mod doctor;
mod env;
mod keeper;
mod mcp;
mod mcp_config;
mod run;
mod workspace;

use clap::Subcommand;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;

use crate::error::CliError;

/// Verbs with a file each: the modules, an enum of their arguments for clap, and its `execute`, which gives an exit code. An
/// entry is `module: Verb(Arguments)`, below the words of its help.
macro_rules! verbs {
    ($(#[$about:meta])* $vis:vis enum $name:ident { $($(#[$help:meta])* $module:ident: $verb:ident($args:ident),)* }) => {
        $(mod $module;)*

        $(#[$about])*
        #[derive(clap::Subcommand)]
        $vis enum $name {
            $($(#[$help])* $verb($module::$args),)*
        }

        impl $name {
            /// Runs the command and gives its exit code.
            pub async fn execute(self) -> Result<u8, CliError> {
                match self {
                    $(Self::$verb(args) => args.execute().await,)*
                }
            }
        }
    };
}
use verbs;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run one command in a throw-away microVM
    Run(run::Args),
    /// List, inspect, install and remove environments
    #[command(subcommand)]
    Env(env::Env),
    /// Make, use and keep workspaces: microVMs that stay
    #[command(subcommand)]
    Workspace(workspace::Workspace),
    /// Show what this host can run, why, and what would make it better
    Doctor(doctor::Args),
    /// Run the whole life cycle of a VM and print it as JSON
    Demo(demo::Args),
    /// Measure starts, commands, memory and disk on this host
    Bench(bench::Args),
    /// Give a model's client the tools of workspaces
    #[command(subcommand)]
    Mcp(mcp::Mcp),
    /// Be the process that owns a workspace
    #[command(subcommand, hide = true)]
    Keeper(keeper::Keeper),
}

impl Command {
    /// Whether the command sees to signals itself.
    pub fn handles_signals(&self) -> bool {
        matches!(self, Self::Keeper(_))
    }

    /// Runs the command; its exit code, or what went wrong.
    pub async fn execute(self) -> Result<u8, CliError> {
        // None of them takes room for the others: a keeper lives for hours.
        let command: LocalBoxFuture<'_, _> = match self {
            Self::Run(args) => args.execute().boxed_local(),
            Self::Env(env) => env.execute().boxed_local(),
            Self::Workspace(workspace) => workspace.execute().boxed_local(),
            Self::Keeper(keeper) => keeper.execute().boxed_local(),
            Self::Mcp(mcp) => mcp.execute().boxed_local(),
            Self::Doctor(args) => args.execute().boxed_local(),
            Self::Demo(args) => args.execute().boxed_local(),
            Self::Bench(args) => args.execute().boxed_local(),
        };
        command.await
    }
}
