//! What was measured on, so that figures of two machines or versions are not compared by mistake.

use std::collections::BTreeMap;

use pyro_vmm::{QemuVersion, Vmm};
use serde::Serialize;

use pyro_core::backend::Choice;
use pyro_core::environment::Installed;
use pyro_core::host;
use pyro_core::runtime::Bundle;
use pyro_core::vm::VmRequest;

/// Host, versions and backend.
#[derive(Clone, Debug, Serialize)]
pub struct Fingerprint {
    /// The host kernel's release.
    pub host_kernel: String,
    /// The CPU's model and microcode.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The host's memory, MiB.
    pub memory_mib: Option<u64>,
    /// Memory that a new VM could count on, MiB.
    pub memory_available_mib: Option<u64>,
    /// Runnable processes over 1, 5 and 15 minutes before the first sample: anything near the number of cores was
    /// other work.
    pub load: Option<[f64; 3]>,
    /// `qemu` or `firecracker`.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Why this backend.
    pub backend_reason: String,
    /// The VMM's version.
    pub vmm_version: Option<String>,
    /// pyro's version.
    pub pyro_version: String,
    /// Whether this pyro was compiled without optimisation: its figures are then nobody's.
    pub debug_build: bool,
    /// SHA-256 over the runtime's manifest.
    pub runtime: String,
    /// What the runtime was made from.
    pub component_versions: BTreeMap<String, String>,
    /// The environment's name.
    pub environment: String,
    /// Its version.
    pub environment_version: String,
    /// Virtual CPUs of every guest.
    pub vcpu_count: u32,
    /// Memory of every guest, MiB.
    pub mem_mib: u32,
}

impl Fingerprint {
    /// Looks at all of it.
    pub(super) async fn take(bundle: &Bundle, choice: &Choice, environment: &Installed) -> Self {
        let request = VmRequest::new(&environment.manifest().name);
        Self {
            host_kernel: host::kernel_release(),
            cpu: host::cpu_model(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: host::memory_mib(),
            memory_available_mib: host::available_memory_mib(),
            load: host::load(),
            backend: choice.vmm.backend().to_string(),
            accelerator: choice.vmm.accelerator().to_string(),
            backend_reason: choice.why.clone(),
            vmm_version: match &choice.vmm {
                Vmm::Qemu(qemu) => QemuVersion::of(&qemu.binary).await.ok().map(|version| version.text),
                Vmm::Firecracker(firecracker) => Some(firecracker.version.to_string()),
            },
            pyro_version: env!("CARGO_PKG_VERSION").into(),
            debug_build: cfg!(debug_assertions),
            runtime: bundle.digest(),
            component_versions: bundle.manifest().component_versions.clone(),
            environment: environment.manifest().name.clone(),
            environment_version: environment.manifest().version.clone(),
            vcpu_count: request.vcpu_count,
            mem_mib: request.mem_mib,
        }
    }
}
