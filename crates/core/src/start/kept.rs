//! Guests that go on from their own memory.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use pyro_vmm::{Memory, Start, VmmError};

use super::{How, Order, Origin, Plan, Started, restore_deadline};
use crate::launch::Root;
use crate::vm::VmError;

/// Lets a guest go on from its memory, saved in `state` with the disk of `order`, or says why it cannot; it may have
/// written to the disk then.
///
/// # Errors
/// When the host has no randomness, memory or VMM.
pub async fn resume(
    order: Order<'_>,
    state: File,
    ram: Option<File>,
    origin: &Origin,
) -> Result<Result<Started, String>, VmError> {
    let order = Plan::new(order);
    if order.key != origin.key {
        return Ok(Err(
            "it was saved by another version of pyro or its environment, or on another host".into()
        ));
    }
    let disk = order.disk()?;
    let mapped = ram.as_ref().and_then(|file| file.try_clone().ok());
    let memory = ram.map_or(Memory::Private, Memory::From);
    // All of memory may be read from the state before the guest goes on.
    let loading = Duration::from_secs(u64::from(order.shape.mem_mib) / 20);
    let wish = order.wish(restore_deadline(order.vmm.accelerator()) + loading, Root::Kept);
    let loaded = order.load(disk, memory, state, origin.tsc_khz, &wish, How::Resumed).await?;
    Ok(loaded.map(|started| Started { memory: mapped, ..started }).map_err(|trouble| trouble.0))
}

/// Takes the memory out of `state`, where it is with the devices, into the file `ram`, which any number of guests can go on
/// from and share; `devices` is the state for that. The guest does not run, and its disk is not written to.
///
/// # Errors
/// When the VMM cannot.
pub async fn share(order: Order<'_>, state: File, ram: &File, devices: File) -> Result<(), VmError> {
    let order = Plan::new(order);
    let own = |file: &File| file.try_clone().map_err(|source| VmError::Disk { source });
    let vmm = |source: VmmError| VmError::from(crate::launch::BootError::Launch(source));
    ram.set_len(u64::from(order.shape.mem_mib) << 20).map_err(|source| VmError::Disk { source })?;
    // The VMM, which may be another user, opens it anew, as it does with a template's: the directory keeps others out.
    ram.set_permissions(Permissions::from_mode(0o666)).map_err(|source| VmError::Disk { source })?;
    let ahead = own(ram)?;
    // Loading looks at every page. What is not there yet is only slower.
    let _ = tokio::task::spawn_blocking(move || read_ahead(&ahead)).await;
    let spec = order.spec(order.disk()?, Memory::Filled(own(ram)?), Start::Restore { state }, &[])?;
    let mut machine = order.vmm.launch(spec).await.map_err(vmm)?;
    let saved = machine.save(devices, None).await;
    let stopped = machine.stop().await;
    saved.and(stopped).map_err(vmm)
}

/// Has the host fault in a file that a guest's memory is mapped from, holes too: who reads all of that memory otherwise
/// pays for a fault with each page. Blocks.
pub fn read_ahead(file: &File) {
    /// A single call reads no more than a device's longest request.
    const STEP: u64 = 128 << 10;
    let length = file.metadata().map_or(0, |stat| stat.len());
    let step = std::num::NonZero::new(STEP);
    for at in (0..length).step_by(STEP as usize) {
        if rustix::fs::fadvise(file, at, step, rustix::fs::Advice::WillNeed).is_err() {
            return;
        }
    }
}
