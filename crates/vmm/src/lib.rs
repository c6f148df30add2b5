//! One VMM process per microVM: spawn it, talk to its control socket, save and restore it, notice its death.
//!
//! ```text
//!   Spec --> Qemu::launch --> Machine ----- take_stream() --> the guest's byte stream
//!                                |   \----- watch().ended() --> Death (how, why, last words)
//!                                |
//!                            one task owns the process: it reads QMP, console and stderr, and reaps
//! ```
//!
//! [`Machine`] is the one seam: what stands above it names no VMM, what stands below it is an adapter.
//!
//! Invariant: nothing here knows what travels on the byte stream, what a workspace is, or which VM should exist.
//! Invariant: this crate reads no environment variable, prints nothing and creates no named file. Everything a VMM
//! gets, it gets as an inherited descriptor, so nothing is left behind when it dies, however it dies.
//! Invariant: every wait on a VMM ends: by its answer, its death, or a deadline.

mod console;
mod death;
mod error;
pub mod kvm;
mod machine;
mod qemu;
mod spawn;
mod tsc;

pub use console::Tail;
pub use death::{Death, Exit, Reason, Watch};
pub use error::VmmError;
pub use machine::{Accelerator, Backend, Launched, Machine, Memory, Parts, Shape, Spec, Start};
pub use qemu::{QEMU_DEVICE_MODEL, Qemu, QemuVersion, VERBOSE_KERNEL_ARGS};
pub use tsc::tsc_khz;
