//! Workspaces: made, listed, used, removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyro_core::vm::{VmError, timeout};
use pyro_core::workspace::{
    Deleted, ExecReport, List, LogEntry, Logs, LogsHead, Secret, SecretEnv, Status, WorkspaceChanges,
    WorkspaceError, WorkspaceSpec,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Named, Nothing, memory_mib, one_vcpu, outside_links, seconds_30, shell_line, ttl_seconds};
use crate::mcp::call::Call;
use crate::mcp::cut;
use crate::mcp::failure::{Failure, ToolFailureKind};
use crate::mcp::host::Host;
use crate::mcp::order::Place;
use crate::mcp::tool::{Effect, Tool};

pub fn tools() -> Vec<Tool> {
    use Effect::{Adds, Destroys, Reads, Sets};
    use Place::{After, Change, Holds};
    vec![
        Tool::new(
            "workspace_create",
            "Create and start a workspace: a Linux microVM that keeps its files, history and processes until it is \
             deleted. Use it for work of several steps; seed_path copies a project to /workspace.",
            Adds,
            Some(Holds),
            create,
        ),
        Tool::new("workspace_list", "List all workspaces with name, state and labels.", Reads, None, list),
        Tool::new("workspace_update", "Change a workspace's name or labels.", Sets, Some(Change), update),
        Tool::new(
            "workspace_exec",
            "Run one shell command in /workspace and wait for its end. Use a shell or service for what goes on; the \
             full output stays in workspace_logs.",
            Destroys,
            Some(Holds),
            exec,
        ),
        Tool::new("workspace_status", "Show everything about one workspace.", Reads, Some(After), status),
        Tool::new(
            "workspace_stop",
            "End a workspace's guest; its disk and history stay. Needed before workspace_disk_*.",
            Destroys,
            Some(Change),
            stop,
        ),
        Tool::new("workspace_start", "Start a stopped workspace.", Sets, Some(Change), start),
        Tool::new(
            "workspace_logs",
            "Show the last commands that ran in a workspace, with their output; with sequence, one of them in full, \
             part by part.",
            Reads,
            Some(After),
            logs,
        ),
        Tool::new(
            "workspace_delete",
            "End and remove a workspace with all that is in it.",
            Destroys,
            Some(Change),
            delete,
        ),
    ]
}

fn off() -> String {
    "off".into()
}

fn twenty() -> u64 {
    20
}

fn secrets(host: &Host, given: Vec<BTreeMap<String, String>>) -> Result<Vec<Secret>, Failure> {
    let wrong = |what: &str| {
        Failure::invalid(
            format!("secrets: {what}"),
            r#"a secret is {"name": ..., "value": ...} or {"name": ..., "file_path": ...}"#,
        )
    };
    let mut all = Vec::new();
    for mut secret in given {
        let name = secret.remove("name").ok_or_else(|| wrong("one has no name"))?;
        let (value, file) = (secret.remove("value"), secret.remove("file_path"));
        if !secret.is_empty() {
            return Err(wrong("one has a field that is not known"));
        }
        all.push(match (value, file) {
            (Some(value), None) => Secret::literal(name, value)?,
            (None, Some(path)) => {
                let file = host.roots.source(&path)?;
                Secret::from_file(name, file)?
            }
            _ => return Err(wrong("one has both value and file_path, or neither")),
        });
    }
    Ok(all)
}

/// Secrets as variables.
pub(super) fn secret_env(given: Option<BTreeMap<String, String>>) -> Result<Vec<SecretEnv>, Failure> {
    let each = given.unwrap_or_default().into_iter();
    each.map(|(name, env)| Ok(format!("{name}={env}").parse::<SecretEnv>()?)).collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Create {
    /// debian:12 (git, curl, python3), debian:12-base (minimal) or debian:12-build (compilers)
    environment: String,
    /// Virtual CPUs
    #[serde(default = "one_vcpu")]
    #[schemars(range(min = 1, max = 8))]
    vcpu_count: u32,
    /// Memory, MiB
    #[serde(default = "memory_mib")]
    #[schemars(range(min = 256, max = 32768))]
    mem_mib: u32,
    /// Idle seconds until it is stopped; 60 to 86400, 0 for never
    #[serde(default = "ttl_seconds")]
    ttl_seconds: u64,
    /// Only off for now
    #[serde(default = "off")]
    network_policy: String,
    /// Never needed here
    #[serde(default)]
    allow_host_compat: bool,
    /// Host directory or .tar(.gz) to copy to /workspace; relative to the server's directory
    #[serde(default)]
    seed_path: Option<String>,
    /// Leave symbolic links out of the seed that lead out of it, as a venv's do, instead of refusing all
    #[serde(default)]
    skip_outside_links: bool,
    /// Hidden wherever printed: {"name": "TOKEN", "value": "..."} or "file_path" instead of "value"
    #[serde(default)]
    secrets: Option<Vec<BTreeMap<String, String>>>,
    /// Use it in place of the id
    #[serde(default)]
    name: Option<String>,
    /// Such as {"issue": "42"}
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// Begin as this workspace is now, with its files, resources and running processes
    #[serde(default)]
    fork_of: Option<String>,
}

async fn create(host: Arc<Host>, input: Create, call: Call) -> Result<Status, Failure> {
    if input.network_policy != "off" {
        return Err(WorkspaceError::NotYet("a network policy other than off").into());
    }
    if let Some(origin) = input.fork_of {
        if input.seed_path.is_some() || input.secrets.is_some() {
            let next = "leave seed_path and secrets out: a fork has those of its origin";
            return Err(Failure::invalid("fork_of excludes seed_path and secrets", next));
        }
        return fork(&host, &input.environment, &origin, input.name, input.labels, &call).await;
    }
    let seed = input.seed_path.as_deref().map(|path| host.roots.source(path)).transpose()?;
    let wish = WorkspaceSpec {
        vcpu_count: input.vcpu_count,
        mem_mib: input.mem_mib,
        ttl_seconds: input.ttl_seconds,
        name: input.name,
        labels: input.labels.unwrap_or_default(),
        allow_host_compat: input.allow_host_compat,
        secrets: secrets(&host, input.secrets.unwrap_or_default())?,
        seed_path: seed,
        outside_links: outside_links(input.skip_outside_links),
        ..WorkspaceSpec::new(input.environment)
    };
    let moved = call.moved("seed");
    let status = host
        .workspaces
        .create(wish, call.pulled(), &mut |remark| call.remark(remark), &mut |m| moved(m))
        .await?;
    Ok(status)
}

/// A workspace as another is now.
async fn fork(
    host: &Host,
    environment: &str,
    origin: &str,
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    call: &Call,
) -> Result<Status, Failure> {
    let there = host.workspaces.status(origin).await?.environment;
    if there != environment {
        return Err(Failure::invalid(
            format!("environment: workspace {origin} is made from {there}, and so are its forks"),
            format!("give {there}"),
        ));
    }
    let forks = host.workspaces.fork(origin, 1, None, &mut |remark| call.remark(remark)).await?;
    let Some(fork) = forks.into_iter().next() else {
        return Err(Failure::invalid("there is no fork", "try again"));
    };
    let changes =
        WorkspaceChanges { name, labels: labels.unwrap_or_default(), ..WorkspaceChanges::default() };
    if changes.is_empty() {
        return Ok(fork);
    }
    match host.workspaces.update(&fork.workspace_id, changes).await {
        Ok(status) => Ok(status),
        Err(error) => {
            // One that cannot be called as asked is not left behind without a name.
            let _ = host.workspaces.delete(&fork.workspace_id).await;
            Err(error.into())
        }
    }
}

async fn list(host: Arc<Host>, _: Nothing, _: Call) -> Result<List, Failure> {
    Ok(host.workspaces.list().await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Update {
    /// Its id or name
    workspace_id: String,
    /// New name
    #[serde(default)]
    name: Option<String>,
    /// Take its name away
    #[serde(default)]
    clear_name: bool,
    /// Labels to set
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// Keys of labels to remove
    #[serde(default)]
    clear_labels: Option<Vec<String>>,
}

async fn update(host: Arc<Host>, input: Update, _: Call) -> Result<Status, Failure> {
    let changes = WorkspaceChanges {
        name: input.name,
        clear_name: input.clear_name,
        labels: input.labels.unwrap_or_default(),
        clear_labels: input.clear_labels.unwrap_or_default(),
    };
    if changes.is_empty() {
        return Err(Failure::invalid(
            "nothing is to be changed",
            "give name, clear_name, labels or clear_labels",
        ));
    }
    if changes.name.is_some() && changes.clear_name {
        return Err(Failure::invalid("name and clear_name exclude each other", "give one of them"));
    }
    Ok(host.workspaces.update(&input.workspace_id, changes).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exec {
    /// Its id or name
    workspace_id: String,
    /// Shell command line, such as `make test 2>&1 | tail -n 40`
    command: String,
    /// The command is killed after so long, with exit code 124
    #[serde(default = "seconds_30")]
    #[schemars(range(min = 1, max = 86400))]
    timeout_seconds: u64,
    /// Secrets as environment variables: {"secret's name": "VARIABLE"}
    #[serde(default)]
    secret_env: Option<BTreeMap<String, String>>,
}

async fn exec(host: Arc<Host>, input: Exec, _: Call) -> Result<ExecReport, Failure> {
    let command = shell_line(input.command)?;
    let limit = timeout(input.timeout_seconds).map_err(VmError::from)?;
    let secret_env = secret_env(input.secret_env)?;
    let (mut out, mut err) = (tokio::io::sink(), tokio::io::sink());
    let mut report = host
        .workspaces
        .exec(&input.workspace_id, &command, Some(limit), &secret_env, &mut out, &mut err)
        .await?;
    let sequence = report.sequence;
    for (text, truncated) in [
        (&mut report.stdout, &mut report.stdout_truncated),
        (&mut report.stderr, &mut report.stderr_truncated),
    ] {
        *truncated |= cut::middle(text, cut::STREAM, |from| rest(sequence, from));
    }
    Ok(report)
}

async fn status(host: Arc<Host>, input: Named, _: Call) -> Result<Status, Failure> {
    Ok(host.workspaces.status(&input.workspace_id).await?)
}

async fn stop(host: Arc<Host>, input: Named, _: Call) -> Result<Status, Failure> {
    Ok(host.workspaces.stop(&input.workspace_id).await?)
}

async fn start(host: Arc<Host>, input: Named, call: Call) -> Result<Status, Failure> {
    Ok(host.workspaces.start(&input.workspace_id, &mut |remark| call.remark(remark)).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Show {
    /// Its id or name
    workspace_id: String,
    /// So many of the last commands
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 1000))]
    tail: u64,
    /// Only this command, its output from offset on
    #[serde(default)]
    sequence: Option<u64>,
    /// Byte of its output, for the next part
    #[serde(default)]
    offset: u64,
}

async fn logs(host: Arc<Host>, input: Show, _: Call) -> Result<Logs, Failure> {
    let Some(sequence) = input.sequence else {
        if !(1..=1000).contains(&input.tail) {
            return Err(Failure::invalid(
                format!("tail is {}: it must be 1 to 1000", input.tail),
                "ask for fewer",
            ));
        }
        let mut logs = host.workspaces.logs(&input.workspace_id, Some(input.tail)).await?;
        logs.entries.iter_mut().for_each(short);
        return Ok(logs);
    };
    let mut reader = host.workspaces.read_logs(&input.workspace_id, None).await?;
    reader.skip_to(sequence);
    let found = reader.next_entry()?.filter(|entry| entry.sequence == sequence);
    let Some(mut entry) = found else {
        return Err(Failure {
            kind: ToolFailureKind::NotFound,
            error: format!("there is no command {sequence} in the history"),
            next: Some("workspace_logs without sequence shows the last ones".into()),
        });
    };
    for stream in [&mut entry.stdout, &mut entry.stderr] {
        *stream = cut::part(stream, input.offset, |next| format!("offset={next}"));
    }
    let head = LogsHead { count: 1, omitted_count: 0, ..reader.head().clone() };
    Ok(Logs { head, entries: vec![entry] })
}

fn short(entry: &mut LogEntry) {
    cut::middle(&mut entry.stdout, cut::LISTED, |from| rest(entry.sequence, from));
    cut::middle(&mut entry.stderr, cut::LISTED, |from| rest(entry.sequence, from));
}

/// Way to a command's output from a byte on.
fn rest(sequence: u64, from: usize) -> String {
    format!("workspace_logs with sequence={sequence} and offset={from}")
}

async fn delete(host: Arc<Host>, input: Named, _: Call) -> Result<Deleted, Failure> {
    Ok(host.workspaces.delete(&input.workspace_id).await?)
}
