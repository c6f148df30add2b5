//! One command in a throw-away microVM, and such VMs step by step.

use std::sync::Arc;

use pyro_core::command::{CommandOptions, Streams};
use pyro_core::environment::{EnvironmentStatus, catalog_version};
use pyro_core::run::{RunEvent, run_in_vm};
use pyro_core::vm::registry::{NetworkInfo, Reaped};
use pyro_core::vm::{Cleanup, RunReport, VmInfo, VmRequest, timeout};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Nothing, memory_mib, one_vcpu, seconds_30, shell_line, ttl_seconds};
use crate::mcp::call::Call;
use crate::mcp::cut;
use crate::mcp::failure::Failure;
use crate::mcp::host::Host;
use crate::mcp::resources;
use crate::mcp::runs::Stream;
use crate::mcp::tool::{Effect, Tool};

pub fn tools() -> Vec<Tool> {
    use Effect::{Adds, Destroys, Reads, Sets};
    vec![
        Tool::new(
            "vm_run",
            "Run one command in a fresh throw-away Linux microVM, to try code that you do not trust or need no files \
             of. Nothing is kept; use workspace_create for work of several steps.",
            Adds,
            None,
            run,
        ),
        Tool::new(
            "vm_list_environments",
            "List the environments that VMs and workspaces are made from.",
            Reads,
            None,
            list,
        ),
        Tool::new(
            "vm_create",
            "Create a throw-away VM without starting it. vm_run does create, start, exec and delete in one call.",
            Adds,
            None,
            create,
        ),
        Tool::new("vm_start", "Start a VM that vm_create made.", Sets, None, start),
        Tool::new(
            "vm_exec",
            "Run one command in a started VM; the VM is deleted afterwards.",
            Destroys,
            None,
            exec,
        ),
        Tool::new("vm_stop", "Stop a VM and keep its record.", Destroys, None, stop),
        Tool::new("vm_delete", "Delete a VM.", Destroys, None, delete),
        Tool::new("vm_status", "Show a VM that vm_create made.", Reads, None, status),
        Tool::new(
            "vm_network_info",
            "Show whether a VM has network access, and why not.",
            Reads,
            None,
            network_info,
        ),
        Tool::new("vm_reap_expired", "Delete the VMs whose time to live is over.", Destroys, None, reap),
    ]
}

/// What a VM is asked to be.
#[derive(Serialize, JsonSchema)]
struct Environments {
    catalog_version: &'static str,
    environments: Vec<EnvironmentStatus>,
}

/// What a run says, without what only a person who measures wants to know.
#[derive(Serialize, JsonSchema)]
struct Ran {
    vm_id: String,
    environment: String,
    environment_version: Option<String>,
    command: String,
    stdout: String,
    stdout_bytes: u64,
    stdout_truncated: bool,
    stderr: String,
    stderr_bytes: u64,
    stderr_truncated: bool,
    exit_code: i32,
    timed_out: bool,
    duration_ms: u64,
    execution_mode: pyro_core::vm::ExecutionMode,
    backend: String,
    accelerator: String,
    cleanup: Cleanup,
}

impl Ran {
    /// What is long is made short, and kept.
    fn new(host: &Host, mut report: RunReport) -> Self {
        if report.stdout.len().max(report.stderr.len()) > cut::STREAM {
            host.runs.keep(&report.vm_id, &report.stdout, &report.stderr);
        }
        let short = |text: &mut String, truncated: &mut bool, stream| {
            let rest = |from| {
                let next = resources::of_run(&report.vm_id, stream, Some(from as u64));
                format!("resource {next}, as long as this server runs; or `| grep`, `| tail`, a workspace")
            };
            *truncated |= cut::middle(text, cut::STREAM, rest);
        };
        short(&mut report.stdout, &mut report.stdout_truncated, Stream::Out);
        short(&mut report.stderr, &mut report.stderr_truncated, Stream::Err);
        Self {
            vm_id: report.vm_id,
            environment: report.environment,
            environment_version: report.environment_version,
            command: report.command,
            stdout: report.stdout,
            stdout_bytes: report.stdout_bytes,
            stdout_truncated: report.stdout_truncated,
            stderr: report.stderr,
            stderr_bytes: report.stderr_bytes,
            stderr_truncated: report.stderr_truncated,
            exit_code: report.exit_code,
            timed_out: report.timed_out,
            duration_ms: report.duration_ms,
            execution_mode: report.execution_mode,
            backend: report.backend,
            accelerator: report.accelerator,
            cleanup: report.cleanup,
        }
    }
}

fn options(timeout_seconds: u64) -> Result<CommandOptions, Failure> {
    let limit = timeout(timeout_seconds).map_err(pyro_core::vm::VmError::from)?;
    Ok(CommandOptions { timeout: Some(limit), ..CommandOptions::default() })
}

/// As [`Create`], and what to run: one level of names, as clients have it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Run {
    /// debian:12 (git, curl, python3), debian:12-base (minimal) or debian:12-build (compilers)
    environment: String,
    /// Shell command line, such as `python3 -c 'print(1)'`
    command: String,
    /// Virtual CPUs
    #[serde(default = "one_vcpu")]
    #[schemars(range(min = 1, max = 8))]
    vcpu_count: u32,
    /// Memory, MiB
    #[serde(default = "memory_mib")]
    #[schemars(range(min = 256, max = 32768))]
    mem_mib: u32,
    /// The command is killed after so long
    #[serde(default = "seconds_30")]
    #[schemars(range(min = 1, max = 86400))]
    timeout_seconds: u64,
    /// Idle seconds until it may be deleted; 60 to 86400, 0 for never
    #[serde(default = "ttl_seconds")]
    ttl_seconds: u64,
    /// Outbound network access
    #[serde(default)]
    network: bool,
    /// Run on the person's host, without isolation, if no guest can run; refused unless they allowed it
    #[serde(default)]
    allow_host_compat: bool,
}

async fn run(host: Arc<Host>, input: Run, call: Call) -> Result<Ran, Failure> {
    host.check_host_compat(input.allow_host_compat)?;
    let command = shell_line(input.command)?;
    let options = options(input.timeout_seconds)?;
    let request = VmRequest {
        environment: input.environment,
        vcpu_count: input.vcpu_count,
        mem_mib: input.mem_mib,
        ttl_seconds: input.ttl_seconds,
        network: input.network,
        allow_host_compat: input.allow_host_compat,
    };
    let told = |event| match event {
        RunEvent::Create { .. } => call.remark("creating the VM"),
        RunEvent::Start(_) => call.remark("starting the VM"),
        RunEvent::Remark(remark) => call.remark(&remark.to_string()),
        RunEvent::Execute { .. } => call.remark("running the command"),
    };
    let mut streams = Streams::captured();
    let report =
        run_in_vm(host.factory.clone(), request, &command, &options, &mut streams, told, call.pulled())
            .await?;
    Ok(Ran::new(&host, report))
}

async fn list(host: Arc<Host>, _: Nothing, _: Call) -> Result<Environments, Failure> {
    let environments = host.factory.store().list()?;
    Ok(Environments { catalog_version: catalog_version(), environments })
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
    /// Idle seconds until it may be deleted; 60 to 86400, 0 for never
    #[serde(default = "ttl_seconds")]
    ttl_seconds: u64,
    /// Outbound network access
    #[serde(default)]
    network: bool,
    /// Run on the person's host, without isolation, if no guest can run; refused unless they allowed it
    #[serde(default)]
    allow_host_compat: bool,
}

async fn create(host: Arc<Host>, input: Create, call: Call) -> Result<VmInfo, Failure> {
    host.check_host_compat(input.allow_host_compat)?;
    let request = VmRequest {
        environment: input.environment,
        vcpu_count: input.vcpu_count,
        mem_mib: input.mem_mib,
        ttl_seconds: input.ttl_seconds,
        network: input.network,
        allow_host_compat: input.allow_host_compat,
    };
    Ok(host.vms.create(request, call.pulled()).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Vm {
    /// Its id
    vm_id: String,
}

async fn start(host: Arc<Host>, input: Vm, _: Call) -> Result<VmInfo, Failure> {
    Ok(host.vms.start(&input.vm_id).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exec {
    /// Its id
    vm_id: String,
    /// Shell command line
    command: String,
    /// The command is killed after so long
    #[serde(default = "seconds_30")]
    #[schemars(range(min = 1, max = 86400))]
    timeout_seconds: u64,
}

async fn exec(host: Arc<Host>, input: Exec, _: Call) -> Result<Ran, Failure> {
    let command = shell_line(input.command)?;
    let options = options(input.timeout_seconds)?;
    let mut streams = Streams::captured();
    let report = host.vms.exec(&input.vm_id, &command, &options, &mut streams).await?;
    Ok(Ran::new(&host, report))
}

async fn stop(host: Arc<Host>, input: Vm, _: Call) -> Result<VmInfo, Failure> {
    Ok(host.vms.stop(&input.vm_id).await?)
}

async fn delete(host: Arc<Host>, input: Vm, _: Call) -> Result<Cleanup, Failure> {
    Ok(host.vms.delete(&input.vm_id).await?)
}

async fn status(host: Arc<Host>, input: Vm, _: Call) -> Result<VmInfo, Failure> {
    Ok(host.vms.status(&input.vm_id).await?)
}

async fn network_info(host: Arc<Host>, input: Vm, _: Call) -> Result<NetworkInfo, Failure> {
    Ok(host.vms.network_info(&input.vm_id).await?)
}

async fn reap(host: Arc<Host>, _: Nothing, _: Call) -> Result<Reaped, Failure> {
    Ok(host.vms.reap_expired().await?)
}
