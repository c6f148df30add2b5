//! Configuration of Firecracker: file names, the requests of a cold start, and the kernel's command line. Pure.
//!
//! A cold start is a handful of requests, not a configuration file, which would be half a millisecond faster: a
//! refused request has a message, while a Firecracker that fails over its file exits, and, with a request under way,
//! panics before the message is written (seen with 1.12.1).
//!
//! A saved state holds the file names that its machine was started with, and a restore opens them before they could
//! be changed. So names are relative and the same for every machine, and each machine runs in a directory of its own,
//! where they mean its own files.

use serde_json::{Value, json};

use super::version::{FirecrackerFeature, FirecrackerVersion};
use crate::VmmError;
use crate::machine::{DiskCache, GuestMemory, MachineStart, Shape, kernel_line};

/// Number of Firecracker's device model, raised with any change that makes older saved states unusable.
pub(crate) const DEVICE_MODEL: u32 = 1;

pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRAMFS: &str = "initramfs";
pub(super) const BASE: &str = "base.ext4";
pub(super) const DISK: &str = "disk.ext4";
pub(super) const MEMORY: &str = "memory";
pub(super) const STATE: &str = "state";
pub(super) const SAVED_MEMORY: &str = "memory.new";
pub(super) const SAVED_STATE: &str = "state.new";
pub(super) const VSOCK: &str = "v.sock";
pub(super) const API: &str = "api.sock";
pub(super) const LOG: &str = "log";

/// Guest's address (CID) on its vsock. All guests use the same, because each has a vsock of its own.
const GUEST_CID: u32 = 3;

/// Most vCPUs that Firecracker accepts.
const MAX_VCPUS: u8 = 32;

/// Checks shape and memory against Firecracker's abilities; [`VmmError::Spec`] when one does not fit.
pub(super) fn check(shape: Shape, memory: &GuestMemory, start: &MachineStart) -> Result<(), VmmError> {
    shape.check()?;
    if shape.vcpus > MAX_VCPUS {
        return Err(VmmError::Spec(format!("{} vCPUs ({MAX_VCPUS} are this VMM's most)", shape.vcpus)));
    }
    match (memory, start) {
        (GuestMemory::Private, MachineStart::Cold) => Ok(()),
        (GuestMemory::From(file), MachineStart::Restore { .. }) => shape.check_memory_file(file),
        (GuestMemory::Owned(_), _) => {
            Err(VmmError::Spec("this VMM cannot run a machine in a memory file of its caller".into()))
        }
        (GuestMemory::Private, MachineStart::Restore { .. }) => Err(VmmError::Spec(
            "this VMM restores from a state and a memory file, and got no memory file".into(),
        )),
        (GuestMemory::From(_), MachineStart::Cold) => {
            Err(VmmError::Spec("a machine that boots has no use for a saved memory".into()))
        }
    }
}

/// Drives of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct DriveSet {
    pub(super) base: bool,
    /// Meaning of the disk's flushes; `None` without a disk.
    pub(super) disk: Option<DiskCache>,
}

/// Writes the requests that configure and boot a machine, in their order.
pub(super) fn cold(
    shape: Shape,
    drives: DriveSet,
    kernel_args: &[String],
) -> Result<Vec<(&'static str, Value)>, VmmError> {
    // reboot=k: the only way for an x86 guest to end its VMM. panic=-1: a panic does so at once. pci=off: the machine
    // has no PCI to probe. quiet: the full log costs a boot some 5 %.
    let mut words: Vec<String> =
        ["console=ttyS0", "quiet", "reboot=k", "panic=-1", "pci=off"].map(String::from).to_vec();
    words.extend(kernel_args.iter().cloned());
    let line = kernel_line(&words)?;
    let mut requests = vec![
        ("PUT /machine-config", json!({ "vcpu_count": shape.vcpus, "mem_size_mib": shape.mem_mib })),
        (
            "PUT /boot-source",
            json!({ "kernel_image_path": KERNEL, "initrd_path": INITRAMFS, "boot_args": line }),
        ),
    ];
    if drives.base {
        requests.push(("PUT /drives/base", drive("base", BASE, true, DiskCache::Unsafe)));
    }
    if let Some(cache) = drives.disk {
        requests.push(("PUT /drives/disk", drive("disk", DISK, false, cache)));
    }
    requests.push(("PUT /vsock", json!({ "guest_cid": GUEST_CID, "uds_path": VSOCK })));
    requests.push(("PUT /actions", json!({ "action_type": "InstanceStart" })));
    Ok(requests)
}

fn drive(id: &str, name: &str, read_only: bool, cache: DiskCache) -> Value {
    json!({
        "drive_id": id,
        "path_on_host": name,
        // A root device would make Firecracker add a root= of its own to the command line.
        "is_root_device": false,
        "is_read_only": read_only,
        "cache_type": match cache {
            DiskCache::Unsafe => "Unsafe",
            DiskCache::Writeback => "Writeback",
        },
        // The async engine takes up to 110 ms to set up a device.
        "io_engine": "Sync",
    })
}

/// Writes the body of the request that loads a saved machine.
pub(super) fn load(version: FirecrackerVersion) -> Value {
    let mut request = json!({
        "snapshot_path": STATE,
        "mem_backend": { "backend_type": "File", "backend_path": MEMORY },
        // The caller resumes the machine.
        "resume_vm": false,
    });
    if version.has(FirecrackerFeature::ClockRealtime) {
        request["clock_realtime"] = Value::Bool(true);
    }
    request
}

/// Writes the body of the request that saves a paused machine.
pub(super) fn save() -> Value {
    json!({
        "snapshot_type": "Full",
        "snapshot_path": SAVED_STATE,
        "mem_file_path": SAVED_MEMORY,
    })
}

/// Writes the arguments that every Firecracker gets.
pub(super) fn arguments() -> Vec<std::ffi::OsString> {
    ["--api-sock", API, "--log-path", LOG, "--level", "Warning"].map(Into::into).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { vcpus: 2, mem_mib: 256 };

    #[test]
    fn every_machine_is_told_the_same_names() {
        let drives = DriveSet { base: true, disk: Some(DiskCache::Writeback) };
        let requests = cold(SHAPE, drives, &["pyro.oneshot".into()]).unwrap();
        let names: Vec<_> = requests.iter().map(|(request, _)| *request).collect();
        assert_eq!(
            names.join(", "),
            "PUT /machine-config, PUT /boot-source, PUT /drives/base, PUT /drives/disk, PUT /vsock, PUT /actions"
        );
        let of = |index: usize| &requests[index].1;
        assert_eq!(of(1)["boot_args"], "console=ttyS0 quiet reboot=k panic=-1 pci=off pyro.oneshot");
        assert_eq!((&of(2)["path_on_host"], &of(2)["is_read_only"]), (&json!("base.ext4"), &json!(true)));
        assert_eq!(
            (&of(3)["path_on_host"], &of(3)["cache_type"]),
            (&json!("disk.ext4"), &json!("Writeback"))
        );
        assert_eq!(of(4)["uds_path"], "v.sock");
        let bare = cold(SHAPE, DriveSet { base: false, disk: Some(DiskCache::Unsafe) }, &[]).unwrap();
        assert_eq!(bare.len(), 5);
        assert_eq!(bare[2].1["cache_type"], "Unsafe");
    }

    #[test]
    fn a_kernel_line_that_would_be_cut_is_refused() {
        let drives = DriveSet { base: false, disk: None };
        assert!(matches!(cold(SHAPE, drives, &["x".repeat(2048)]), Err(VmmError::Spec(_))));
    }

    #[test]
    fn a_load_has_only_fields_that_its_version_knows() {
        let fields = |text: &str| {
            let version = FirecrackerVersion::parse(&format!("Firecracker v{text}")).unwrap();
            let Value::Object(request) = load(version) else { panic!("no object") };
            request.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(fields("1.12.1"), "mem_backend resume_vm snapshot_path");
        assert_eq!(fields("1.15.1"), "clock_realtime mem_backend resume_vm snapshot_path");
    }
}
