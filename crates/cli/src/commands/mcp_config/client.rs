//! The clients: where each keeps its servers, and in which words.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::places::ClientDirs;

/// A client of MCP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// Claude Code
    ClaudeCode,
    /// The Claude desktop app
    ClaudeDesktop,
    /// Codex: its CLI, app and editor extension share one configuration
    Codex,
    /// Cursor
    Cursor,
    /// opencode
    Opencode,
    /// Visual Studio Code
    Vscode,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClaudeCode => "Claude Code",
            Self::ClaudeDesktop => "Claude Desktop",
            Self::Codex => "Codex",
            Self::Cursor => "Cursor",
            Self::Opencode => "opencode",
            Self::Vscode => "VS Code",
        })
    }
}

/// Scope of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Every project of this user
    User,
    /// The project in the working directory
    Project,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Project => "project",
        })
    }
}

/// The form of a client's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON, perhaps with comments, with an object of servers.
    Json {
        /// Name of the member that has the servers.
        section: &'static str,
    },
    /// TOML, with a table of servers.
    Toml {
        /// Name of the table that has the servers.
        section: &'static str,
    },
}

/// How this program is started as a server.
pub struct Server {
    /// Name of the server in a configuration.
    pub name: String,
    command: String,
    args: Vec<String>,
}

impl Server {
    /// Server that this program is, which clients start from anywhere.
    ///
    /// # Errors
    /// When a directory does not exist, or a path is not UTF-8, which no configuration could hold.
    pub fn new(name: &str, profile: &str, host_roots: &[PathBuf]) -> Result<Self, CliError> {
        let program = std::env::current_exe()
            .map_err(|error| CliError::new(format!("cannot tell where this program is: {error}"), None))?;
        let mut args = ["mcp", "serve", "--profile", profile].map(String::from).to_vec();
        for dir in host_roots {
            let failed = |why: String| CliError::new(format!("--host-root {}: {why}", dir.display()), None);
            let absolute = std::path::absolute(dir).map_err(|error| failed(error.to_string()))?;
            let meta = absolute.metadata().map_err(|error| failed(error.to_string()))?;
            if !meta.is_dir() {
                return Err(failed("it is no directory".into()));
            }
            args.extend(["--host-root".into(), text(&absolute)?]);
        }
        Ok(Self { name: name.into(), command: text(&program)?, args })
    }

    #[cfg(test)]
    pub fn for_tests(command: &str, args: &[&str]) -> Self {
        Self {
            name: "pyro".into(),
            command: command.into(),
            args: args.iter().map(|arg| (*arg).into()).collect(),
        }
    }
}

fn text(path: &Path) -> Result<String, CliError> {
    let text = path.to_str().map(String::from);
    text.ok_or_else(|| CliError::new(format!("{} is not UTF-8", path.display()), None))
}

/// Entry of a server in a configuration.
pub struct Entry {
    /// Members that are set, whatever is there.
    pub set: Vec<(&'static str, Value)>,
    /// Members that are set where they are absent.
    pub default: Vec<(&'static str, Value)>,
    /// Members of an entry of another kind: a server that is reached and not started.
    pub foreign: &'static [&'static str],
}

impl Client {
    /// Form of the client's file.
    pub fn form(self) -> Form {
        match self {
            Self::ClaudeCode | Self::ClaudeDesktop | Self::Cursor => Form::Json { section: "mcpServers" },
            Self::Vscode => Form::Json { section: "servers" },
            Self::Opencode => Form::Json { section: "mcp" },
            Self::Codex => Form::Toml { section: "mcp_servers" },
        }
    }

    /// Path of the client's configuration; `None` where it has none of that scope.
    pub fn file(self, scope: Scope, dirs: &ClientDirs) -> Option<PathBuf> {
        Some(match (self, scope) {
            (Self::ClaudeCode, Scope::User) => dirs.claude.join(".claude.json"),
            (Self::ClaudeCode, Scope::Project) => dirs.project.join(".mcp.json"),
            (Self::ClaudeDesktop, Scope::User) => dirs.config.join("Claude/claude_desktop_config.json"),
            (Self::ClaudeDesktop, Scope::Project) => return None,
            (Self::Codex, Scope::User) => dirs.codex.join("config.toml"),
            (Self::Codex, Scope::Project) => dirs.project.join(".codex/config.toml"),
            (Self::Cursor, Scope::User) => dirs.home.join(".cursor/mcp.json"),
            (Self::Cursor, Scope::Project) => dirs.project.join(".cursor/mcp.json"),
            (Self::Opencode, Scope::User) => opencode(&dirs.config.join("opencode")),
            (Self::Opencode, Scope::Project) => opencode(&dirs.project),
            (Self::Vscode, Scope::User) => dirs.config.join("Code/User/mcp.json"),
            (Self::Vscode, Scope::Project) => dirs.project.join(".vscode/mcp.json"),
        })
    }

    /// Words the server as the client's configuration has it.
    pub fn entry(self, Server { command, args, .. }: &Server) -> Entry {
        let mut set = Vec::new();
        let mut default = Vec::new();
        match self {
            // One array, and no `args`.
            Self::Opencode => {
                let words: Vec<_> = std::iter::once(command).chain(args).collect();
                set.extend([("type", json!("local")), ("command", json!(words))]);
            }
            Self::ClaudeCode | Self::Cursor | Self::Vscode => {
                set.extend([("type", json!("stdio")), ("command", json!(command)), ("args", json!(args))]);
            }
            Self::ClaudeDesktop => set.extend([("command", json!(command)), ("args", json!(args))]),
            Self::Codex => {
                set.extend([("command", json!(command)), ("args", json!(args))]);
                // Without it a call has a minute: less than a guest's tests may need, or the first pull of an environment.
                default.push(("tool_timeout_sec", json!(600)));
            }
        }
        Entry { set, default, foreign: &["url", "serverUrl", "httpUrl"] }
    }
}

/// Both files are read; the one that is there is the one in use.
fn opencode(dir: &Path) -> PathBuf {
    let with_comments = dir.join("opencode.jsonc");
    if with_comments.exists() { with_comments } else { dir.join("opencode.json") }
}
