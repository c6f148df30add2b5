//! The low-level life cycle: the VMs of this process by their ids, from `vm_create` to `vm_reap_expired`.
//!
//! Such a VM belongs to the process that created it and dies with it. `vm_exec` runs one command and deletes the VM.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Cleanup, Factory, RunReport, Vm, VmError, VmInfo, VmRequest, VmState};
use crate::command::{CommandLine, CommandOptions, Streams};
use crate::environment::PullEvent;
use crate::identity;

/// Answer to `vm_network_info`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NetworkInfo {
    /// Id of the VM.
    pub vm_id: String,
    /// Whether it has outbound access.
    pub network_enabled: bool,
    /// Whether a connection out can be expected to work.
    pub outbound_connectivity_expected: bool,
    /// Why, or why not.
    pub reason: String,
}

/// Answer to `vm_reap_expired`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Reaped {
    /// The VMs that were deleted.
    pub deleted_vm_ids: Vec<String>,
    /// Number of deleted VMs.
    pub count: usize,
}

type Entry = Arc<tokio::sync::Mutex<Vm>>;

/// The VMs of this process.
#[derive(Clone)]
pub struct Registry {
    factory: Factory,
    vms: Arc<Mutex<HashMap<String, Entry>>>,
}

impl Registry {
    /// An empty one.
    pub fn new(factory: Factory) -> Self {
        Self { factory, vms: Arc::default() }
    }

    fn vms(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: &str) -> Result<Entry, VmError> {
        self.vms().get(id).cloned().ok_or_else(|| VmError::Unknown(id.to_owned()))
    }

    /// `vm_create`: checks the request, installs the environment where it is missing, starts nothing.
    pub async fn create(
        &self,
        request: VmRequest,
        events: impl FnMut(PullEvent) + Send + 'static,
    ) -> Result<VmInfo, VmError> {
        let ttl = request.ttl_seconds;
        let vm = Vm::create(self.factory.clone(), request, events).await?;
        let info = vm.info();
        self.vms().insert(info.vm_id.clone(), Arc::new(tokio::sync::Mutex::new(vm)));
        if ttl > 0 {
            self.expire(info.vm_id.clone(), Duration::from_secs(ttl));
        }
        Ok(info)
    }

    /// Deletes a VM whose time ran out, without waiting for anybody to ask.
    fn expire(&self, id: String, ttl: Duration) {
        let vms = Arc::downgrade(&self.vms);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(ttl).await;
                let Some(vms) = vms.upgrade() else { return };
                let Some(entry) = vms.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned() else {
                    return;
                };
                // A VM that is busy is active: look again one life later.
                if entry.try_lock().is_ok_and(|vm| vm.expired_by(identity::unix_now())) {
                    vms.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    return;
                }
            }
        });
    }

    /// `vm_start`: boots it.
    pub async fn start(&self, id: &str) -> Result<VmInfo, VmError> {
        let entry = self.entry(id)?;
        let mut vm = entry.lock().await;
        vm.start(&mut |_| ()).await?;
        Ok(vm.info())
    }

    /// `vm_exec`: runs one command in a started VM, then deletes the VM, however that went.
    pub async fn exec(
        &self,
        id: &str,
        command: &CommandLine,
        options: &CommandOptions,
        streams: &mut Streams,
    ) -> Result<RunReport, VmError> {
        let entry = self.entry(id)?;
        let mut vm = entry.lock().await;
        if vm.state != VmState::Started {
            return Err(VmError::State { vm_id: id.to_owned(), state: vm.state, wanted: "used" });
        }
        let outcome = vm.exec(command, options, streams).await;
        let info = vm.info();
        self.vms().remove(id);
        let stopped = vm.stop().await;
        let outcome = outcome?;
        stopped?;
        Ok(RunReport::new(&vm, &info, command, outcome, Cleanup::deleted(id, "post_exec_cleanup")))
    }

    /// `vm_stop`: ends the guest and keeps the record.
    pub async fn stop(&self, id: &str) -> Result<VmInfo, VmError> {
        let entry = self.entry(id)?;
        let mut vm = entry.lock().await;
        vm.stop().await?;
        Ok(vm.info())
    }

    /// `vm_delete`: ends and forgets it.
    pub async fn delete(&self, id: &str) -> Result<Cleanup, VmError> {
        let entry = self.vms().remove(id).ok_or_else(|| VmError::Unknown(id.to_owned()))?;
        entry.lock().await.stop().await?;
        Ok(Cleanup::deleted(id, "explicit_delete"))
    }

    /// `vm_status`: describes the VM.
    pub async fn status(&self, id: &str) -> Result<VmInfo, VmError> {
        Ok(self.entry(id)?.lock().await.info())
    }

    /// `vm_network_info`: tells whether the VM has a network.
    pub async fn network_info(&self, id: &str) -> Result<NetworkInfo, VmError> {
        let network_enabled = self.entry(id)?.lock().await.info().network_enabled;
        Ok(NetworkInfo {
            vm_id: id.to_owned(),
            network_enabled,
            outbound_connectivity_expected: false,
            reason: "the VM has no network: it was created without one".into(),
        })
    }

    /// `vm_reap_expired`: deletes every VM whose time to live has run out.
    pub async fn reap_expired(&self) -> Result<Reaped, VmError> {
        self.reap_expired_by(identity::unix_now()).await
    }

    /// The same as of another moment, in Unix seconds. A VM that runs a command is active and never expired.
    pub async fn reap_expired_by(&self, now: f64) -> Result<Reaped, VmError> {
        let entries: Vec<_> = self.vms().iter().map(|(id, entry)| (id.clone(), Arc::clone(entry))).collect();
        let mut deleted_vm_ids = Vec::new();
        for (id, entry) in entries {
            if entry.try_lock().is_ok_and(|vm| vm.expired_by(now)) {
                self.delete(&id).await?;
                deleted_vm_ids.push(id);
            }
        }
        deleted_vm_ids.sort();
        Ok(Reaped { count: deleted_vm_ids.len(), deleted_vm_ids })
    }
}
