//! The runtime bundle: kernel, initramfs and agent, with a manifest that says what they are and what was measured.
//!
//! ```text
//!   BundleBuilder --write--> Bundle (all capabilities false)
//!        Bundle --measurement--> Measurement --finish(what a real boot showed)--> Evidence
//!        Bundle --raise(Evidence)--> Bundle (capabilities as measured)
//! ```
//!
//! Invariant (the safety rule): no manifest says `vm_boot`, `guest_exec` or `guest_network` while any artifact it
//! describes is a shim or a placeholder, declared or recognised. `builder.rs` holds the only code that writes a
//! manifest; it cannot be given a capability, only [`Evidence`], which exists only for the digests that were probed.
//! The same rule is checked whenever a manifest is read, so that an edited file does not get around it.
//!
//! Nothing here boots anything: the caller probes and hands in what it saw.

mod builder;
mod bundle;
mod error;
mod evidence;
mod manifest;
mod recognise;

pub use builder::BundleBuilder;
pub use bundle::Bundle;
pub use error::RuntimeError;
pub use evidence::{BootFindings, Evidence, Measurement, ProbeExec};
pub use manifest::{Artifact, ArtifactKind, Capabilities, Manifest};

/// The manifest's name in a bundle.
pub const MANIFEST: &str = "manifest.json";
/// The layout of manifests that this code writes and reads.
pub const SCHEMA: u32 = 1;
/// The only platform there is so far.
pub const PLATFORM: &str = "linux-x86_64";

/// The artifact that is the guest kernel.
pub const KERNEL: &str = "kernel";
/// The artifact that is the guest's initial file system.
pub const INITRAMFS: &str = "initramfs";
/// The artifact that is the agent by itself.
pub const AGENT: &str = "agent";
/// The artifact that is Firecracker. A runtime without it runs guests under QEMU.
pub const FIRECRACKER: &str = "firecracker";
/// The artifact that is Firecracker's jailer, of the same version.
pub const JAILER: &str = "jailer";
/// The artifact that is the initial file system of the floor, which `pyro bench` compares starts with: a program that
/// answers lines, and nothing of ours. A runtime without it runs guests all the same.
pub const FLOOR: &str = "floor";
