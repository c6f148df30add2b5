//! `pyro mcp`: the same operations as tools of a language model's client.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;

use super::mcp_config;
use crate::error::CliError;
use crate::mcp::{Host, Profile, serve_stdio};
use crate::places;

/// Serve the operations of pyro to a language model's client
#[derive(Subcommand)]
pub enum Mcp {
    /// Serve one client on standard input and output
    Serve(Serve),
    /// Print what a client's configuration needs, or merge it in
    Config(mcp_config::Args),
}

/// Serve one client on standard input and output
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro mcp serve --profile workspace-core --host-root ~/projects/demo")]
pub struct Serve {
    /// Which tools it has
    #[arg(long, value_enum, default_value_t = Profile::WorkspaceFull)]
    profile: Profile,
    /// A directory of this host that tools may read from and write to; may be repeated [default: the working directory,
    /// unless that is / or the home directory]
    #[arg(long = "host-root", value_name = "DIR")]
    host_roots: Vec<PathBuf>,
    /// Let tools run commands on this host, with NO isolation, when no guest can run
    #[arg(long)]
    allow_host_compat: bool,
    /// What runs the guests: auto, firecracker or qemu [env: PYRO_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

impl Mcp {
    /// Does it.
    pub async fn execute(self) -> Result<u8, CliError> {
        let serve = match self {
            Self::Serve(serve) => serve,
            Self::Config(args) => return args.execute(),
        };
        let factory = places::factory(serve.backend.as_deref())?;
        let roots = places::host_roots(serve.host_roots)?;
        let host = Arc::new(Host::new(factory, roots, serve.allow_host_compat));
        serve_stdio(host, serve.profile).await.map_err(|error| CliError::new(error, None))?;
        Ok(0)
    }
}
