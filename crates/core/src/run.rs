//! Runs a command in a throw-away VM: create, start, execute, delete.

use crate::command::{CommandLine, CommandOptions, Streams};
use crate::environment::PullEvent;
use crate::start::Remark;
use crate::vm::{Cleanup, Factory, RunReport, Vm, VmError, VmInfo, VmRequest};

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
        /// The VM that runs the command.
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
    options: &CommandOptions,
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
