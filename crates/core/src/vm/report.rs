//! Payloads about a VM's use: one command's outcome, and the VM's end.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{ExecutionMode, Vm, VmInfo};
use crate::capture::Captured;
use crate::command::{CommandLine, Outcome};
use crate::start::StartMethod;
use crate::timeline::StepTime;

/// End of a VM after its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cleanup {
    /// Id of the VM.
    pub vm_id: String,
    /// Whether nothing of it is left.
    pub deleted: bool,
    /// Why it was deleted.
    pub reason: String,
}

impl Cleanup {
    /// A VM that is gone.
    pub fn deleted(vm_id: &str, reason: &str) -> Self {
        Self { vm_id: vm_id.to_owned(), deleted: true, reason: reason.to_owned() }
    }
}

/// Report of a run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunReport {
    /// The VM that ran it.
    pub vm_id: String,
    /// Name of the environment.
    pub environment: String,
    /// Version of the environment.
    pub environment_version: Option<String>,
    /// The command: a shell line, or a vector joined with shell quoting.
    pub command: String,
    /// Captured standard output, as text; bytes that are not UTF-8 are replaced. Empty if the streams are not captured.
    pub stdout: String,
    /// How many bytes there were.
    pub stdout_bytes: u64,
    /// Whether only the first and the last MiB were kept.
    pub stdout_truncated: bool,
    /// Whether bytes that are not UTF-8 were replaced.
    pub stdout_lossy: bool,
    /// Captured standard error, likewise.
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
    /// Runner of the command.
    pub execution_mode: ExecutionMode,
    /// `qemu`, `firecracker` or `host`.
    pub backend: String,
    /// `kvm`, `tcg` or `none`.
    pub accelerator: String,
    /// Whether the guest was restored or booted; absent where the host stood in.
    pub start: Option<StartMethod>,
    /// Where the time went, step by step.
    pub timings: Vec<StepTime>,
    /// End of the VM.
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
        let (stdout, stdout_bytes, stdout_truncated, stdout_lossy) = text(outcome.stdout.unwrap_or_default());
        let (stderr, stderr_bytes, stderr_truncated, stderr_lossy) = text(outcome.stderr.unwrap_or_default());
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
