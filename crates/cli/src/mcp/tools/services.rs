//! Processes that go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyro_core::workspace::{
    ReadinessProbe, ReadyWait, Service, ServiceList, ServiceLogs, ServiceSpec, WorkspaceError,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::workspace::secret_env;
use super::{Named, seconds_30, shell_line, workspace_path};
use crate::mcp::call::Call;
use crate::mcp::cut;
use crate::mcp::failure::Failure;
use crate::mcp::host::Host;
use crate::mcp::order::Place;
use crate::mcp::tool::{Effect, Tool};

pub fn tools() -> Vec<Tool> {
    use Effect::{Adds, Destroys, Reads};
    use Place::After;
    vec![
        Tool::new(
            "service_start",
            "Start a process that goes on, such as a web server, and wait until it is ready.",
            Adds,
            Some(After),
            start,
        ),
        Tool::new("service_list", "List the services of a workspace.", Reads, Some(After), list),
        Tool::new("service_status", "Show one service.", Reads, Some(After), status),
        Tool::new("service_logs", "Show the last lines that a service wrote.", Reads, Some(After), logs),
        Tool::new(
            "service_stop",
            "End a service: TERM, then KILL after five seconds.",
            Destroys,
            Some(After),
            stop,
        ),
    ]
}

fn interval() -> u64 {
    500
}

fn lines() -> u64 {
    200
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Start {
    /// Its id or name
    workspace_id: String,
    /// What to call it, such as web
    service_name: String,
    /// Shell command line, in the foreground: `python3 -m http.server 8000`
    command: String,
    /// Where it begins
    #[serde(default = "workspace_path")]
    cwd: String,
    /// Ready when this file is there
    #[serde(default)]
    ready_file: Option<String>,
    /// Ready when something listens on this port of the guest, such as 8000
    #[serde(default)]
    ready_tcp: Option<String>,
    /// Ready when this address in the guest answers 200 to 399, such as http://localhost:8000/
    #[serde(default)]
    ready_http: Option<String>,
    /// Ready when this shell line exits with 0
    #[serde(default)]
    ready_command: Option<String>,
    /// It is stopped when it is not ready after so long
    #[serde(default = "seconds_30")]
    #[schemars(range(min = 1, max = 3600))]
    ready_timeout_seconds: u64,
    /// Between two looks
    #[serde(default = "interval")]
    #[schemars(range(min = 10, max = 60000))]
    ready_interval_ms: u64,
    /// Secrets as environment variables: {"secret's name": "VARIABLE"}
    #[serde(default)]
    secret_env: Option<BTreeMap<String, String>>,
    /// Not possible yet
    #[serde(default)]
    published_ports: Option<Vec<BTreeMap<String, Option<u16>>>>,
}

fn readiness(input: &mut Start) -> Result<Option<ReadinessProbe>, Failure> {
    let mut given = [
        input.ready_file.take().map(|path| ReadinessProbe::File { path }),
        input.ready_tcp.take().map(|address| ReadinessProbe::Tcp { address }),
        input.ready_http.take().map(|url| ReadinessProbe::Http { url }),
        input.ready_command.take().map(|command| ReadinessProbe::Command { command }),
    ]
    .into_iter()
    .flatten();
    match (given.next(), given.next()) {
        (_, Some(_)) => Err(Failure::invalid(
            "ready_file, ready_tcp, ready_http and ready_command exclude each other",
            "give one of them",
        )),
        (readiness, None) => Ok(readiness),
    }
}

async fn start(host: Arc<Host>, mut input: Start, _: Call) -> Result<Service, Failure> {
    if input.published_ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
        return Err(WorkspaceError::NotYet("published_ports").into());
    }
    let readiness = readiness(&mut input)?;
    let command = shell_line(input.command)?;
    let wish = ServiceSpec {
        name: input.service_name,
        cwd: input.cwd,
        readiness,
        wait: ReadyWait {
            timeout_seconds: input.ready_timeout_seconds,
            interval_ms: input.ready_interval_ms,
        },
        secret_env: secret_env(input.secret_env)?,
    };
    Ok(host.workspaces.start_service(&input.workspace_id, wish, &command).await?)
}

async fn list(host: Arc<Host>, input: Named, _: Call) -> Result<ServiceList, Failure> {
    Ok(host.workspaces.services(&input.workspace_id).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct One {
    /// Its id or name
    workspace_id: String,
    /// The service's name
    service_name: String,
}

async fn status(host: Arc<Host>, input: One, _: Call) -> Result<Service, Failure> {
    Ok(host.workspaces.service(&input.workspace_id, &input.service_name).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Show {
    /// Its id or name
    workspace_id: String,
    /// The service's name
    service_name: String,
    /// The last so many lines of each stream
    #[serde(default = "lines")]
    tail_lines: u64,
    /// As many as are kept
    #[serde(default)]
    all: bool,
}

async fn logs(host: Arc<Host>, input: Show, _: Call) -> Result<ServiceLogs, Failure> {
    let lines = (!input.all).then_some(input.tail_lines);
    let mut logs = host.workspaces.service_logs(&input.workspace_id, &input.service_name, lines).await?;
    for text in [&mut logs.stdout, &mut logs.stderr] {
        logs.truncated |= cut::middle(text, cut::STREAM, |_| "fewer tail_lines show the end in full".into());
    }
    Ok(logs)
}

async fn stop(host: Arc<Host>, input: One, _: Call) -> Result<Service, Failure> {
    Ok(host.workspaces.stop_service(&input.workspace_id, &input.service_name).await?)
}
