//! One command in a throw-away VM: create, start, execute, delete.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::capture::Captured;
use crate::command::{CommandLine, Options, Outcome, Streams};
use crate::environment::PullEvent;
use crate::start::{How, Remark};
use crate::timeline::Phase;
use crate::vm::{ExecutionMode, Factory, Vm, VmError, VmInfo, VmRequest};

/// What became of a VM after its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cleanup {
    /// Which VM.
    pub vm_id: String,
    /// Whether nothing of it is left.
    pub deleted: bool,
    /// Why it was deleted.
    pub reason: String,
}

impl Cleanup {
    /// It is gone.
    pub fn deleted(vm_id: &str, reason: &str) -> Self {
        Self { vm_id: vm_id.to_owned(), deleted: true, reason: reason.to_owned() }
    }
}

/// What a run reports.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunReport {
    /// The VM that ran it.
    pub vm_id: String,
    /// Its environment.
    pub environment: String,
    /// Its environment's version.
    pub environment_version: Option<String>,
    /// The command: a shell line, or a vector joined with shell quoting.
    pub command: String,
    /// What was kept of standard output, as text; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// How many bytes there were.
    pub stdout_bytes: u64,
    /// Whether only the first and the last MiB were kept.
    pub stdout_truncated: bool,
    /// Whether bytes that are not UTF-8 were replaced.
    pub stdout_lossy: bool,
    /// What was kept of standard error.
    pub stderr: String,
    /// How many bytes there were.
    pub stderr_bytes: u64,
    /// Whether only the first and the last MiB were kept.
    pub stderr_truncated: bool,
    /// Whether bytes that are not UTF-8 were replaced.
    pub stderr_lossy: bool,
    /// The command's exit code; 124 when its time was up, 128 and more when a signal killed it.
    pub exit_code: i32,
    /// Whether its time was up.
    pub timed_out: bool,
    /// How long the command ran.
    pub duration_ms: u64,
    /// What ran it.
    pub execution_mode: ExecutionMode,
    /// `qemu`, `firecracker` or `host`.
    pub backend: String,
    /// `kvm`, `tcg` or `none`.
    pub accelerator: String,
    /// Whether the guest was restored or booted; absent where the host stood in.
    pub start: Option<How>,
    /// Where the time went, step by step.
    pub timings: Vec<Phase>,
    /// What became of the VM.
    pub cleanup: Cleanup,
}

impl RunReport {
    /// Puts together what a VM and a command's outcome say.
    pub fn new(vm: &Vm, info: &VmInfo, command: &CommandLine, outcome: Outcome, cleanup: Cleanup) -> Self {
        let text = |captured: Captured| match String::from_utf8(captured.bytes) {
            Ok(text) => (text, captured.total, captured.truncated, false),
            Err(error) => (
                String::from_utf8_lossy(error.as_bytes()).into_owned(),
                captured.total,
                captured.truncated,
                true,
            ),
        };
        let (stdout, stdout_bytes, stdout_truncated, stdout_lossy) = text(outcome.stdout);
        let (stderr, stderr_bytes, stderr_truncated, stderr_lossy) = text(outcome.stderr);
        Self {
            vm_id: info.vm_id.clone(),
            environment: info.environment.clone(),
            environment_version: info.environment_version.clone(),
            command: command.to_string(),
            stdout,
            stdout_bytes,
            stdout_truncated,
            stdout_lossy,
            stderr,
            stderr_bytes,
            stderr_truncated,
            stderr_lossy,
            exit_code: outcome.exit_code,
            timed_out: outcome.timed_out,
            duration_ms: millis(outcome.duration),
            execution_mode: info.execution_mode,
            backend: info.backend.clone(),
            accelerator: info.accelerator.clone(),
            start: vm.how(),
            timings: vm.timeline().phases(),
            cleanup,
        }
    }
}

/// To the nearest millisecond, as payloads have it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.saturating_add(Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX)
}

/// How far a run has come.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// The VM is being created; the environment is installed now if it was not.
    Create {
        /// The environment's name.
        environment: String,
    },
    /// The guest is being started.
    Start(VmInfo),
    /// Why the start is no plain restore.
    Remark(Remark),
    /// The command is being run. `host_reason` says why the host stands in for a guest, where it does.
    Execute {
        /// The VM.
        info: VmInfo,
        /// Why there is no guest.
        host_reason: Option<String>,
    },
}

/// Runs `command` in a new VM and deletes the VM, however it went. Dropping the future ends everything at once.
pub async fn run_in_vm(
    factory: Factory,
    request: VmRequest,
    command: &CommandLine,
    options: &Options,
    streams: &mut Streams,
    mut events: impl FnMut(RunEvent) + Send,
    pull_events: impl FnMut(PullEvent) + Send + 'static,
) -> Result<RunReport, VmError> {
    events(RunEvent::Create { environment: request.environment.clone() });
    let mut vm = Vm::create(factory, request, pull_events).await?;
    events(RunEvent::Start(vm.info()));
    vm.start(&mut |remark| events(RunEvent::Remark(remark))).await?;
    let info = vm.info();
    events(RunEvent::Execute { info: info.clone(), host_reason: vm.host_reason().map(str::to_owned) });
    let outcome = vm.exec(command, options, streams).await;
    let stopped = vm.stop().await;
    let outcome = outcome?;
    stopped?;
    let cleanup = Cleanup::deleted(&info.vm_id, "post_exec_cleanup");
    Ok(RunReport::new(&vm, &info, command, outcome, cleanup))
}
