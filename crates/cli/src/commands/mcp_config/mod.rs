//! `pyro mcp config`: the entry of this program in the configuration of a client.
//!
//! Each client has its own file and its own words for the same thing; they are in [`client`]. An entry is merged by
//! [`json`] or [`toml`], which keep comments, order and formatting, and written by [`file`].
//!
//! Invariant: what cannot be read is not written.

mod client;
mod file;
mod json;
mod toml;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use pyro_core::patch::{NodeKind, Side, render};

use crate::error::CliError;
use crate::output::{self, errln};
use crate::places::{self, ClientDirs};
use client::{Client, Form, Scope, Server};

/// Print what a client's configuration needs to start `pyro mcp serve`, or merge it in
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  pyro mcp config claude-code\n  pyro mcp config codex --host-root ~/src --write\n  \
                        pyro mcp config vscode --scope project --dry-run"
)]
pub struct Args {
    /// Whose configuration
    client: Client,
    /// Which tools: vm-run is one, workspace-core the usual editing loop, workspace-full everything
    #[arg(long, value_name = "PROFILE", default_value = "workspace-core", value_parser = ["vm-run", "workspace-core", "workspace-full"])]
    profile: String,
    /// A directory of this host that the tools may read and write; may be repeated. Without it the one in which the client
    /// starts the server, unless that is / or the home directory
    #[arg(long = "host-root", value_name = "DIR")]
    host_roots: Vec<PathBuf>,
    /// What the server is called in the configuration
    #[arg(long, default_value = "pyro", value_parser = name)]
    name: String,
    /// For every project of this user, or for the project in the working directory
    #[arg(long, default_value = "user")]
    scope: Scope,
    /// Merge it into the file, and keep everything that is there
    #[arg(long)]
    write: bool,
    /// Show what --write would change, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub fn execute(self) -> Result<u8, CliError> {
        let server = Server::new(&self.name, &self.profile, &self.host_roots)?;
        let dirs = places::client_dirs()?;
        let path = self.client.file(self.scope, &dirs);
        if !self.write && !self.dry_run {
            let entry =
                merged(self.client, "", &server).map_err(|why| CliError::new(why.to_string(), None))?;
            output::print(entry.as_bytes());
            self.explain(&dirs);
            return Ok(0);
        }
        let Some(path) = path else {
            let (client, scope) = (self.client, self.scope);
            return Err(CliError::Usage(format!("{client} has no configuration of scope {scope}")));
        };
        let change = |old: &str| merged(self.client, old, &server);
        if self.dry_run {
            let edit = file::Edit::prepare(&path, change)?;
            output::print(diff(&path, &edit).as_bytes());
            if edit.is_nothing() {
                errln!("[mcp] {} has it already", path.display());
            }
        } else if file::write(&path, change)? {
            errln!("[mcp] {} is in {}; restart {}", server.name, path.display(), self.client);
        } else {
            errln!("[mcp] {} has it already", path.display());
        }
        self.warn();
        Ok(0)
    }

    /// Says which file the entry belongs in.
    fn explain(&self, dirs: &ClientDirs) {
        for scope in [Scope::User, Scope::Project] {
            if let Some(path) = self.client.file(scope, dirs) {
                errln!("[mcp] {scope}: {}", path.display());
            }
        }
        errln!("[mcp] --write merges it into the file of --scope {}", self.scope);
        self.warn();
    }

    fn warn(&self) {
        if self.host_roots.is_empty() && self.client == Client::ClaudeDesktop {
            errln!(
                "[mcp] {} starts servers in no directory of yours: without --host-root DIR the tools can use no file of this \
                 host",
                self.client
            );
        }
    }
}

/// The text of a configuration with the server in it.
fn merged(client: Client, old: &str, server: &Server) -> Result<String, Unmerged> {
    match client.form() {
        Form::Json { section } => json::merge(old, section, &server.name, &client.entry(server)),
        Form::Toml { section } => toml::merge(old, section, &server.name, &client.entry(server)),
    }
}

/// Why a configuration stays as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unmerged {
    /// Text that cannot be read.
    #[error("line {line}, column {column}: {why}")]
    Unreadable { line: usize, column: usize, why: String },
    /// Something in it is not what the client's format has there.
    #[error("{what} is no {expected}")]
    Odd { what: String, expected: &'static str },
    /// Something has the name already and is not of this program's kind.
    #[error("{what} is there, and is no server that the client starts")]
    Other { what: String },
    /// A key that is there twice.
    #[error("{what} is there twice")]
    Twice { what: String },
}

/// Patch of what would change.
fn diff(path: &Path, edit: &file::Edit) -> String {
    fn side(text: &str) -> Side<'_> {
        Side { kind: NodeKind::File, mode: 0o644, bytes: Some(text.as_bytes()) }
    }
    render(path.strip_prefix("/").unwrap_or(path), edit.before().map(side), Some(side(edit.text()))).patch
}

/// A name that every client takes.
fn name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err("a name has 1 to 64 letters, digits, `_` and `-`".into())
}
