//! Facts that a template depends on. Two starts share a template exactly when all of them are the same for both.

use std::fmt;

use pyro_vmm::{DiskCache, Shape, Vmm};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::environment::{DISK_BYTES, Installed};
use crate::host;
use crate::hostfs::stamp;
use crate::runtime::{Bundle, INITRAMFS, KERNEL};

/// In which state its guest was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TemplateKind {
    /// A blank disk mounted and the root assembled: for new VMs, whose disk is a copy of the template's.
    Fresh,
    /// The base mounted and the writable disk never opened: for VMs that bring a disk, which the guest mounts after
    /// the restore. A saved guest must never meet a mounted disk that has changed since.
    Bare,
}

impl fmt::Display for TemplateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fresh => "fresh",
            Self::Bare => "bare",
        })
    }
}

/// All that a template depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateKey {
    /// In which state its guest was saved.
    pub kind: TemplateKind,
    /// The environment's name, such as `debian:12`.
    pub environment: String,
    /// SHA-256 of the environment's image.
    pub base: String,
    /// SHA-256 of the guest's kernel.
    pub kernel: String,
    /// SHA-256 of the initramfs, which is the agent.
    pub initramfs: String,
    /// Number of virtual CPUs.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub mem_mib: u32,
    /// Virtual size of the writable disk, bytes.
    pub disk_bytes: u64,
    /// Whether the guest's flushes reach the host's storage, where the VMM keeps that in its saved state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flushes: bool,
    /// Words of ours on the kernel's command line.
    pub kernel_args: Vec<String>,
    /// `qemu` or `firecracker`.
    pub backend: String,
    /// The VMM: its binary's path, size and time of change. That includes its version and the format of its snapshots.
    pub vmm: String,
    /// Version of the set of devices that the VMM is told to have.
    pub device_model: u32,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The host's CPU model and microcode.
    pub cpu: String,
    /// The host kernel's release.
    pub host_kernel: String,
}

impl TemplateKey {
    /// For a guest of this environment and shape, as it would be started here and now.
    pub fn new(
        kind: TemplateKind,
        bundle: &Bundle,
        environment: &Installed,
        vmm: &Vmm,
        shape: Shape,
        cache: DiskCache,
        kernel_args: &[String],
    ) -> Self {
        let artifact =
            |name: &str| bundle.manifest().artifacts.get(name).map(|a| a.sha256.clone()).unwrap_or_default();
        let manifest = environment.manifest();
        Self {
            kind,
            environment: manifest.name.clone(),
            base: manifest.rootfs.sha256.clone(),
            kernel: artifact(KERNEL),
            initramfs: artifact(INITRAMFS),
            vcpus: shape.vcpus,
            mem_mib: shape.mem_mib,
            disk_bytes: DISK_BYTES,
            flushes: vmm.backend().saves_cache() && cache == DiskCache::Writeback,
            kernel_args: kernel_args.to_vec(),
            backend: vmm.backend().to_string(),
            vmm: host::program_identity(vmm.binary()),
            device_model: vmm.device_model(),
            accelerator: vmm.accelerator().to_string(),
            cpu: host::cpu_model(),
            host_kernel: host::kernel_release(),
        }
    }

    /// The name of the template's directory: 16 digits of a digest over all of it.
    pub(super) fn id(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let mut digest = stamp::digest_bytes(&text);
        digest.truncate(16);
        digest
    }
}
