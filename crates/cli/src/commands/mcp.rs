//! `pyro mcp`: the tools of workspaces for a model's client.

use clap::Subcommand;

use super::mcp_config;
use crate::error::CliError;

/// Give a model's client the tools of workspaces
#[derive(Subcommand)]
pub enum Mcp {
    /// Print what a client's configuration needs, or merge it in
    Config(mcp_config::Args),
}

impl Mcp {
    /// Does it.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::Config(args) => args.execute(),
        }
    }
}
