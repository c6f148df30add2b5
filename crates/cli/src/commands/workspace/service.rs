//! `pyro workspace service`.

use std::ffi::OsString;
use std::io::Write as _;

use clap::Subcommand;
use pyro_core::command::CommandLine;
use pyro_core::workspace::{
    ReadinessProbe, ReadyWait, SecretEnv, Service as Job, ServiceSpec, WorkspaceError,
};

use super::show_jobs;
use crate::error::{CliError, print_json, printed};
use crate::output::{self, errln};

/// Start, watch and stop processes that go on
#[derive(Subcommand)]
pub enum Service {
    /// Start a service and wait until it is ready
    Start(Box<Start>),
    /// List the services
    #[command(after_help = "Example:\n  pyro workspace service list repro")]
    List {
        /// The workspace's id or name
        workspace_id: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show one service
    #[command(after_help = "Example:\n  pyro workspace service status repro web")]
    Status(Named),
    /// Show what a service wrote
    Logs(Logs),
    /// End a service and all it started: TERM, after five seconds KILL
    #[command(after_help = "Example:\n  pyro workspace service stop repro web")]
    Stop(Named),
}

/// Start a service and wait until it is ready
#[derive(clap::Args)]
#[command(
    override_usage = "pyro workspace service start [OPTIONS] <WORKSPACE_ID> <SERVICE_NAME> -- <COMMAND>...",
    after_help = "Several words after -- are the program and its arguments, untouched by any shell; a single word is a \
                  shell command line.\n\nExample:\n  pyro workspace service start repro web --ready-http \
                  http://localhost:8000/ -- python3 -m http.server"
)]
pub struct Start {
    /// The workspace's id or name
    workspace_id: String,
    /// What to call it
    service_name: String,
    /// The command
    #[arg(value_name = "COMMAND")]
    command_args: Vec<OsString>,
    /// Where it begins
    #[arg(long, value_name = "DIR", default_value = "/workspace")]
    cwd: String,
    /// It is ready when this file is there
    #[arg(long, value_name = "PATH", group = "ready")]
    ready_file: Option<String>,
    /// It is ready when something listens on this port of the guest's loopback
    #[arg(long, value_name = "PORT", group = "ready")]
    ready_tcp: Option<String>,
    /// It is ready when this address on the guest's loopback answers with a status from 200 to 399
    #[arg(long, value_name = "URL", group = "ready")]
    ready_http: Option<String>,
    /// It is ready when this shell line exits with 0
    #[arg(long, value_name = "LINE", group = "ready")]
    ready_command: Option<String>,
    /// It is stopped when it is not ready after so long, 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    ready_timeout_seconds: u64,
    /// Between two looks whether it is ready, 10 to 60000
    #[arg(long, value_name = "MS", default_value_t = 500)]
    ready_interval_ms: u64,
    /// Give it a secret in its environment; may be repeated
    #[arg(long = "secret-env", value_name = "NAME[=ENV]")]
    secret_env: Vec<SecretEnv>,
    /// Make a port of it reachable on this host; may be repeated
    #[arg(long, value_name = "HOST:GUEST")]
    publish: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Show what a service wrote
#[derive(clap::Args)]
#[command(
    after_help = "Its standard output goes to standard output, its standard error to standard error.\n\nExample:\n  \
                  pyro workspace service logs repro web --tail-lines 50"
)]
pub struct Logs {
    /// The workspace's id or name
    workspace_id: String,
    /// The service's name
    service_name: String,
    /// The last so many lines of each stream
    #[arg(long, value_name = "N", default_value_t = 200)]
    tail_lines: u64,
    /// All that is kept: the last 16 MiB of each stream
    #[arg(long)]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One service.
#[derive(clap::Args)]
pub struct Named {
    /// The workspace's id or name
    workspace_id: String,
    /// The service's name
    service_name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Service {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::Start(args) => args.execute().await?,
            Self::List { workspace_id, json } => {
                let list = super::workspaces(None)?.services(&workspace_id).await?;
                if json {
                    print_json(&serde_json::to_value(&list).unwrap_or_default());
                } else {
                    show_jobs::services(&list);
                }
            }
            Self::Status(args) => {
                let service =
                    super::workspaces(None)?.service(&args.workspace_id, &args.service_name).await?;
                report(args.json, &service);
            }
            Self::Logs(args) => args.execute().await?,
            Self::Stop(args) => {
                let workspaces = super::workspaces(None)?;
                report(args.json, &workspaces.stop_service(&args.workspace_id, &args.service_name).await?);
            }
        }
        Ok(0)
    }
}

fn report(json: bool, service: &Job) {
    if json {
        print_json(&serde_json::to_value(service).unwrap_or_default());
    } else {
        show_jobs::service(service);
    }
}

impl Start {
    async fn execute(self) -> Result<(), CliError> {
        let command = CommandLine::from_words(self.command_args).ok_or_else(|| {
            CliError::Usage(
                "there is no command to run: pyro workspace service start ID NAME -- COMMAND...".into(),
            )
        })?;
        if !self.publish.is_empty() {
            return Err(WorkspaceError::NotYet("--publish").into());
        }
        let readiness = None
            .or(self.ready_file.map(|path| ReadinessProbe::File { path }))
            .or(self.ready_tcp.map(|address| ReadinessProbe::Tcp { address }))
            .or(self.ready_http.map(|url| ReadinessProbe::Http { url }))
            .or(self.ready_command.map(|command| ReadinessProbe::Command { command }));
        let wait =
            ReadyWait { timeout_seconds: self.ready_timeout_seconds, interval_ms: self.ready_interval_ms };
        let wish = ServiceSpec {
            name: self.service_name,
            cwd: self.cwd,
            readiness,
            wait,
            secret_env: self.secret_env,
        };
        let service = super::workspaces(None)?.start_service(&self.workspace_id, wish, &command).await?;
        report(self.json, &service);
        Ok(())
    }
}

impl Logs {
    async fn execute(self) -> Result<(), CliError> {
        let lines = (!self.all).then_some(self.tail_lines);
        let workspaces = super::workspaces(None)?;
        let logs = workspaces.service_logs(&self.workspace_id, &self.service_name, lines).await?;
        if self.json {
            print_json(&serde_json::to_value(&logs).unwrap_or_default());
            return Ok(());
        }
        output::print(logs.stdout.as_bytes());
        printed()?;
        std::io::stderr().write_all(logs.stderr.as_bytes()).map_err(|error| CliError::output(&error))?;
        if logs.truncated {
            errln!("[workspace-service-logs] there is more before this");
        }
        Ok(())
    }
}
