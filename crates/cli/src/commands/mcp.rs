//! `pyro mcp`: the same operations as tools of a language model's client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use pyro_core::{cause, identity};
use tokio::net::TcpListener;

use super::mcp_config;
use crate::error::CliError;
use crate::mcp::{Host, Profile, Roots, http, serve_stdio};
use crate::output::errln;
use crate::places;

/// Fewest characters of a token.
const TOKEN: usize = 16;

/// Serve the operations of pyro to a language model's client
#[derive(Subcommand)]
pub enum Mcp {
    /// Serve a client on standard input and output, or several over HTTP
    Serve(Serve),
    /// Print what a client's configuration needs, or merge it in
    Config(mcp_config::Args),
}

/// How clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// One client, on standard input and output
    Stdio,
    /// Any number of clients that have the token, at http://ADDRESS/mcp
    Http,
}

/// Serve a client on standard input and output, or several over HTTP
#[derive(clap::Args)]
#[command(
    after_help = "Over HTTP every client must send `Authorization: Bearer TOKEN`. The token is what PYRO_MCP_TOKEN or \
                  --token-file has, else a new one, which is told on standard error.\n\nExample:\n  pyro mcp serve \
                  --profile workspace-core --host-root ~/projects/demo"
)]
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
    /// How clients come
    #[arg(long, value_enum, default_value_t = Transport::Stdio)]
    transport: Transport,
    /// Where to listen for HTTP; a port of 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8716")]
    listen: SocketAddr,
    /// Let clients of other machines come too: whoever has the token and reads the network has the workspaces
    #[arg(long)]
    allow_remote: bool,
    /// A name of this host that clients may call it by; may be repeated
    #[arg(long = "allow-host", value_name = "NAME[:PORT]")]
    hosts: Vec<String>,
    /// A web page that may call, such as https://example.com:443; may be repeated
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What runs the guests: auto, firecracker or qemu [env: PYRO_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

impl Mcp {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::Serve(serve) => serve.execute().await,
            Self::Config(args) => args.execute(),
        }
    }
}

impl Serve {
    async fn execute(self) -> Result<u8, CliError> {
        let factory = places::factory(self.backend.as_deref())?;
        let (working_dir, homes) = places::here()?;
        let roots = Roots::new(self.host_roots.clone(), &working_dir, &homes)
            .map_err(|refusal| CliError::new(cause::chain(&refusal), refusal.hint().map(Into::into)))?;
        let host = Arc::new(Host::new(factory, roots, self.allow_host_compat));
        match self.transport {
            Transport::Stdio => {
                serve_stdio(host, self.profile).await.map_err(|error| CliError::new(error, None))?;
            }
            Transport::Http => self.over_http(host).await?,
        }
        Ok(0)
    }

    async fn over_http(self, host: Arc<Host>) -> Result<(), CliError> {
        if http::is_open(self.listen) && !self.allow_remote {
            return Err(CliError::new(
                format!("{}: clients of other machines could come", self.listen),
                Some("listen on 127.0.0.1, or allow it with --allow-remote".into()),
            ));
        }
        let failed = |error| CliError::new(format!("cannot listen on {}: {error}", self.listen), None);
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let token = self.token()?;
        let mut hosts = self.hosts;
        if http::is_open(address) {
            hosts.push(address.to_string());
        }
        let door = http::Door::new(&token, &hosts, &self.origins)
            .map_err(|error| CliError::new(error.to_string(), None))?;
        errln!("[mcp] listening on http://{address}{}", http::PATH);
        match http::serve(listener, host, self.profile, door).await {
            Ok(never) => match never {},
            Err(error) => Err(CliError::new(format!("cannot take connections: {error}"), None)),
        }
    }

    /// The token, made now and told if nobody has set one.
    fn token(&self) -> Result<String, CliError> {
        let given = match &self.token_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                CliError::new(format!("the token in {} cannot be read: {error}", path.display()), None)
            })?),
            None => places::mcp_token(),
        };
        let Some(given) = given else {
            let new = || identity::new_id().map_err(|error| CliError::new(error.to_string(), None));
            let token = format!("{}{}{}", new()?, new()?, new()?);
            errln!("[mcp] token {token}");
            return Ok(token);
        };
        let token = given.trim().to_owned();
        if token.len() < TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CliError::new(
                format!("a token has at least {TOKEN} characters, and no blanks"),
                Some("`openssl rand -hex 24` makes one".into()),
            ));
        }
        Ok(token)
    }
}
