//! Guests that go on from their own memory.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use pyro_vmm::GuestMemory;
use rustix::fs::{FlockOperation, flock};

use super::{Origin, StartError, StartMethod, StartPlan, StartRequest, Started, restore_deadline};
use crate::launch::RootState;

/// A guest that was saved.
pub struct SavedGuest {
    /// Device state, with all of memory unless that has a file of its own.
    pub state: File,
    /// Guest memory, which never changes; opened for reading and writing, as a VMM wants it.
    pub ram: Option<File>,
    /// Facts that the guest depends on.
    pub origin: Origin,
}

/// Lets a guest go on with the disk of `request`, as that was when it was saved, or says why it cannot; it may have written
/// to the disk then.
///
/// # Errors
/// When the host has no randomness, memory or VMM.
pub async fn resume(
    request: StartRequest<'_>,
    saved: SavedGuest,
) -> Result<Result<Started, String>, StartError> {
    let SavedGuest { state, ram, origin } = saved;
    let plan = StartPlan::of_kind(request, origin.key.kind);
    if plan.key != origin.key {
        return Ok(Err(
            "it was saved by another version of pyro or its environment, or on another host".into()
        ));
    }
    let disk = plan.disk()?;
    let open = || [Some(&state), ram.as_ref()].into_iter().flatten().map(Open::to_all).collect();
    let open: io::Result<Vec<_>> = open();
    let open = open.map_err(StartError::Disk)?;
    let mapped = ram.as_ref().and_then(|file| file.try_clone().ok());
    // All of memory may be read from the state before the guest goes on.
    let loading = if ram.is_some() { 0 } else { u64::from(plan.shape.mem_mib) / 20 };
    let deadline = restore_deadline(plan.vmm.accelerator()) + Duration::from_secs(loading);
    let memory = ram.map_or(GuestMemory::Private, GuestMemory::From);
    let wish = plan.wish(deadline, RootState::Kept);
    let loaded = plan.load(disk, memory, state, origin.tsc_khz, &wish, StartMethod::Resumed).await?;
    drop(open);
    Ok(loaded.map(|started| Started { memory: mapped, ..started }).map_err(|trouble| trouble.0))
}

/// A file that its owner alone may open, and everybody while there is one of this: a VMM is another user, and opens its
/// files anew. (The directory keeps others out all the same.)
struct Open(File);

impl Open {
    fn to_all(file: &File) -> io::Result<Self> {
        // A description of its own: the VMM inherits the other one, and would hold its lock.
        let own = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        // Waits for no longer than somebody takes to close it.
        flock(&own, FlockOperation::LockShared)?;
        own.set_permissions(Permissions::from_mode(0o666))?;
        Ok(Self(own))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Only the last holder gets the lock; the others leave the mode to it.
        if flock(&self.0, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = self.0.set_permissions(Permissions::from_mode(0o600));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_open_to_all_as_long_as_anybody_needs_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        let mode = || file.metadata().unwrap().permissions().mode() & 0o777;
        let first = Open::to_all(&file).unwrap();
        let second = Open::to_all(&file).unwrap();
        drop(first);
        assert_eq!(mode(), 0o666);
        let third = Open::to_all(&file).unwrap();
        drop(second);
        assert_eq!(mode(), 0o666);
        drop(third);
        assert_eq!(mode(), 0o600);
    }
}
