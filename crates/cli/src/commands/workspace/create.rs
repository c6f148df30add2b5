//! `pyro workspace create`.

use std::path::{Path, PathBuf};

use pyro_core::workspace::{Secret, WorkspaceError, WorkspaceSpec};
use tokio::io::AsyncReadExt as _;

use super::show;
use crate::error::{CliError, print_json};
use crate::output::outln;
use crate::progress::{Pull, Transfer};

/// Make a workspace and start it
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pyro workspace create debian:12 --name repro --label issue=42")]
pub struct Args {
    /// The environment, such as debian:12
    environment: String,
    /// Virtual CPUs, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpu_count: u32,
    /// Memory in MiB, 256 to 32768
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mem_mib: u32,
    /// Idle time after which it is stopped, and deleted a day later: 60 to 86400, 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    ttl_seconds: u64,
    /// What the guest may reach: off, egress or egress+published-ports
    #[arg(long, value_name = "POLICY", default_value = "off", value_parser = ["off", "egress", "egress+published-ports"])]
    network_policy: String,
    /// Accepted and never needed: a workspace runs in a guest or not at all
    #[arg(long)]
    allow_host_compat: bool,
    /// Fill /workspace from a directory or a .tar, .tar.gz or .tgz
    #[arg(long, value_name = "PATH")]
    seed_path: Option<PathBuf>,
    #[command(flatten)]
    links: super::LinksArg,
    /// Call it this
    #[arg(long)]
    name: Option<String>,
    /// Say something about it; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::label)]
    labels: Vec<(String, String)>,
    /// Give it a secret, hidden wherever it is printed; may be repeated. Other users see arguments of a process: prefer
    /// --secret-file
    #[arg(long = "secret", value_name = "NAME=VALUE")]
    secrets: Vec<String>,
    /// Give it a secret from a file, or with - from standard input; may be repeated
    #[arg(long = "secret-file", value_name = "NAME=PATH")]
    secret_files: Vec<String>,
    /// What runs the guest: auto, firecracker or qemu [env: PYRO_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "id_only")]
    json: bool,
    /// Print only its id
    #[arg(long)]
    id_only: bool,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        if self.network_policy != "off" {
            return Err(WorkspaceError::NotYet("a network policy other than off").into());
        }
        let mut secrets = Vec::new();
        for text in &self.secrets {
            let (name, value) = secret(text)?;
            secrets.push(Secret::literal(name, value).map_err(WorkspaceError::from)?);
        }
        let mut input_taken = false;
        for text in &self.secret_files {
            let (name, path) = secret(text)?;
            let read = match path {
                "-" if input_taken => {
                    return Err(CliError::Usage("standard input can be one secret only".into()));
                }
                "-" => {
                    input_taken = true;
                    Secret::from_reader(name, Path::new("standard input"), &*input().await?)
                }
                path => Secret::from_file(name, Path::new(path)),
            };
            secrets.push(read.map_err(WorkspaceError::from)?);
        }
        let wish = WorkspaceSpec {
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            ttl_seconds: self.ttl_seconds,
            name: self.name,
            labels: self.labels.into_iter().collect(),
            allow_host_compat: self.allow_host_compat,
            secrets,
            seed_path: self.seed_path.map(Into::into),
            outside_links: self.links.wanted(),
            ..WorkspaceSpec::new(self.environment)
        };
        let pull = Pull::new(&wish.environment);
        let workspaces = super::workspaces(self.backend.as_deref())?;
        let bar = Transfer::new("seed");
        let seeding = bar.listener();
        let status = workspaces
            .create(wish, move |event| pull.show(&event), &mut super::remark, &mut |moved| seeding(moved))
            .await;
        drop(bar);
        let status = status?;
        let seed = &status.workspace_seed;
        super::say_skipped("seed", &seed.skipped_links, seed.skipped_link_count);
        if self.json {
            print_json(&serde_json::to_value(&status).unwrap_or_default());
        } else if self.id_only {
            outln!("{}", status.workspace_id);
        } else {
            show::status(&status);
        }
        Ok(0)
    }
}

/// Standard input, as much of it as tells whether it can be a secret.
async fn input() -> Result<Vec<u8>, CliError> {
    const ENOUGH: u64 = 1 << 20;
    let mut bytes = Vec::new();
    let read = crate::terminal::input().take(ENOUGH).read_to_end(&mut bytes).await;
    read.map_err(|error| CliError::new(format!("standard input cannot be read: {error}"), None))?;
    Ok(bytes)
}

/// `NAME=VALUE`. Not for clap to take apart: it shows what it cannot read.
fn secret(text: &str) -> Result<(&str, &str), CliError> {
    let usage = || CliError::Usage("a secret is NAME=VALUE, and NAME=PATH for one in a file".into());
    text.split_once('=').ok_or_else(usage)
}
