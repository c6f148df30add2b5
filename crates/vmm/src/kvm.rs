//! Cost of `/dev/kvm`, measured at the device itself. No guest is run.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Request number of `KVM_CREATE_VM`: `_IO(KVMIO, 0x01)` of linux/kvm.h.
const KVM_CREATE_VM: libc::c_ulong = 0xae01;

/// Measures how long `KVM_CREATE_VM` takes, which every start under KVM pays. The VM is destroyed again.
///
/// # Errors
/// When the device cannot be opened or creates no VM.
pub fn create_vm_cost() -> io::Result<Duration> {
    let device = File::options().read(true).write(true).open("/dev/kvm")?;
    let begin = Instant::now();
    // SAFETY: the ioctl takes a machine type by value (0 is the default) and touches none of our memory.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), KVM_CREATE_VM, 0) };
    let cost = begin.elapsed();
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(cost)
}
