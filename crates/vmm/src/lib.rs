//! Starts one VMM process per microVM, drives it over its control socket, saves and restores it, and reports its
//! death.
//!
//! ```text
//!   MachineSpec --> Qemu::launch ---------+--> Machine ----- connect() -------> the guest's byte stream
//!                   Firecracker::launch --+       |   \----- watch().ended() --> Death (exit, reason, last output)
//!                                                 |
//!                                   one task owns the process, reads console and stderr, and reaps
//! ```
//!
//! [`Machine`] is the only seam: code above it names no VMM, code below it is an adapter.
//!
//! Invariant: nothing here knows what travels on the byte stream, what a workspace is, or which VM should exist.
//! Invariant: this crate reads no environment variable and prints nothing.
//! Invariant: a file that a VMM can inherit as a descriptor gets no name. Firecracker needs names: they are in one
//! directory for each machine, removed when the machine ends, or by the next launch when its owner was killed.
//! Invariant: every wait on a VMM ends: by its answer, its death, or a deadline.

mod cgroup;
mod console;
mod death;
mod error;
mod firecracker;
pub mod kvm;
mod machine;
mod machine_dir;
mod qemu;
mod sandbox;
mod spawn;
mod tsc;
mod warden;

pub use cgroup::CgroupVersion;
pub use console::OutputTail;
pub use death::{Death, DeathReason, ProcessExit, Watch};
pub use error::VmmError;
pub use firecracker::{
    Firecracker, FirecrackerDefect, FirecrackerFeature, FirecrackerVersion, Jail, STREAM_PORT,
};
pub use machine::{
    Accelerator, Backend, DiskCache, GuestMemory, LaunchTimes, Machine, MachineParts, MachineSpec,
    MachineStart, MemoryFileUse, Shape, Vmm,
};
pub use qemu::{Qemu, QemuVersion, VERBOSE_KERNEL_ARGS};
pub use sandbox::{Confinement, VmmLimits, VmmUsers};
pub use tsc::tsc_khz;

/// Path of the file that this process has open under `descriptor`.
fn proc_path(descriptor: &impl std::os::fd::AsRawFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}
