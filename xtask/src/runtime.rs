//! The runtime bundle of this checkout: kernel, initramfs and agent, what they were seen to do, and the guest of the
//! floor that `pyro bench` compares them with.
//!
//! core writes the manifest and keeps the safety rule; this file only brings the parts together, and [`probe`] boots
//! what was written. A bundle of the same parts that was seen to boot already is left as it is.

mod probe;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use pyro_core::cause;
use pyro_core::runtime::{
    AGENT, ArtifactKind, Bundle, BundleBuilder, FIRECRACKER, FLOOR, INITRAMFS, JAILER, KERNEL, RuntimeError,
};

use crate::agent::{self, Agent};
use crate::digest;
use crate::error::TaskError;
use crate::firecracker::{self, Binaries};
use crate::floor;
use crate::kernel::{self, Kernel};
use crate::places::Places;
use crate::progress::{clock, say};

pub use probe::ProbeError;

/// The kernel's licence, and where its source is, as its licence asks to be told.
const KERNEL_LICENCE: &str = "GPL-2.0-only WITH Linux-syscall-note";

/// Firecracker's, as its NOTICE tells it; the licence's text is LICENSE-APACHE, the same for every work under it.
const FIRECRACKER_LICENCE: &str = "Apache-2.0; Copyright 2018-2025 Amazon.com, Inc. or its affiliates; portions Copyright \
                                   2017 The Chromium OS Authors, BSD-3-Clause; the binaries are those of the release, unmodified";

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The bundle could not be written or is not fit.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The bundle was written and did not boot.
    #[error("the runtime was written and could not be booted, so it claims nothing")]
    Probe(#[from] ProbeError),
}

/// Makes the bundle and measures it.
///
/// # Errors
/// When a part cannot be built, or the result cannot be written or does not boot.
pub fn make(places: &Places) -> Result<(), TaskError> {
    let begin = Instant::now();
    let kernel = kernel::build(places)?;
    let agent = agent::build(places)?;
    let floor = floor::build(places)?;
    let firecracker = match firecracker::obtain(places) {
        Ok(binaries) => Some(binaries),
        Err(error) => {
            say(&format!("[runtime] without firecracker, QEMU runs all guests: {}", cause::chain(&error)));
            None
        }
    };
    let (dir, stamps) = (places.runtime(), places.cache.join("stamps"));
    let components = components(&kernel, &agent, firecracker.is_some());
    let parts = Parts { kernel: &kernel, agent: &agent, floor: &floor, firecracker: firecracker.as_ref() };
    if is_current(&dir, &stamps, &parts, &components)? {
        say(&format!("[runtime] {} is current", dir.display()));
        return Ok(());
    }
    let bundle = write(&dir, &stamps, &parts, components).map_err(BundleError::from)?;
    say("[runtime] booting it once");
    let took = measure(bundle)?;
    let (boot, all) = (took.as_secs_f32(), clock(begin.elapsed()));
    say(&format!("[runtime] {} is ready: it boots in {boot:.1} s (made in {all})", dir.display()));
    Ok(())
}

/// Files that go into the bundle.
struct Parts<'a> {
    kernel: &'a Kernel,
    agent: &'a Agent,
    floor: &'a Path,
    /// `None` where the release could not be had.
    firecracker: Option<&'a Binaries>,
}

/// Sources of the bundle's parts, in words that need no other file.
fn components(kernel: &Kernel, agent: &Agent, firecracker: bool) -> BTreeMap<String, String> {
    let record = &kernel.record;
    let source = format!(
        "Debian source package linux {version}; as the package {package}, `apt-get install {package}={version}`, with \
         xtask/kernel/guest.config of pyro",
        version = record.source_version,
        package = record.source_package,
    );
    let firecrackers = [
        ("firecracker", firecracker::VERSION.to_owned()),
        ("firecracker_licence", FIRECRACKER_LICENCE.into()),
    ];
    let own = [
        ("agent", agent.version.clone()),
        ("agent_licence", env!("CARGO_PKG_LICENSE").into()),
        ("kernel", record.release.clone()),
        ("kernel_configuration", record.fragment_sha256.clone()),
        ("kernel_licence", KERNEL_LICENCE.into()),
        ("kernel_source", source),
        ("kernel_toolchain", record.toolchain.clone()),
    ];
    let all = own.into_iter().chain(firecrackers.into_iter().filter(|_| firecracker));
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Whether the bundle in `dir` is of these parts and was seen to run commands.
fn is_current(
    dir: &Path,
    stamps: &Path,
    parts: &Parts<'_>,
    components: &BTreeMap<String, String>,
) -> Result<bool, TaskError> {
    let Ok(bundle) = Bundle::open(dir, stamps) else { return Ok(false) };
    if bundle.verify_all().is_err() {
        return Ok(false);
    }
    let manifest = bundle.manifest();
    let Parts { kernel, agent, floor, firecracker } = parts;
    let mut files: Vec<(_, &Path)> = vec![
        (KERNEL, &kernel.vmlinux),
        (INITRAMFS, &agent.initramfs),
        (AGENT, &agent.program),
        (FLOOR, floor),
    ];
    if let Some(binaries) = firecracker {
        files.extend([(FIRECRACKER, &*binaries.firecracker), (JAILER, &*binaries.jailer)]);
    }
    if manifest.artifacts.len() != files.len() {
        return Ok(false);
    }
    for (name, path) in files {
        let sha256 = digest::of_file(path, stamps)?;
        if manifest.artifacts.get(name).is_none_or(|artifact| artifact.sha256 != sha256) {
            return Ok(false);
        }
    }
    let measured = manifest.capabilities.vm_boot && manifest.capabilities.guest_exec;
    Ok(measured
        && manifest.component_versions == *components
        && manifest.bundle_version == env!("CARGO_PKG_VERSION"))
}

fn write(
    dir: &Path,
    stamps: &Path,
    parts: &Parts<'_>,
    components: BTreeMap<String, String>,
) -> Result<Bundle, RuntimeError> {
    let Parts { kernel, agent, floor, firecracker } = parts;
    let mut builder = BundleBuilder::new(env!("CARGO_PKG_VERSION"))
        .artifact(KERNEL, &kernel.vmlinux, "vmlinux", &kernel.record.source_version, ArtifactKind::Real)
        .artifact(INITRAMFS, &agent.initramfs, "initramfs.cpio", &agent.version, ArtifactKind::Real)
        .artifact(AGENT, &agent.program, "pyro-agent", &agent.version, ArtifactKind::Real)
        .artifact(FLOOR, *floor, "floor.cpio", env!("CARGO_PKG_VERSION"), ArtifactKind::Real);
    if let Some(Binaries { firecracker, jailer, .. }) = firecracker {
        let version = firecracker::VERSION;
        builder = builder
            .artifact(FIRECRACKER, firecracker, "firecracker", version, ArtifactKind::Real)
            .artifact(JAILER, jailer, "jailer", version, ArtifactKind::Real);
    }
    let builder =
        components.into_iter().fold(builder, |builder, (name, version)| builder.component(name, version));
    builder.write(dir, stamps)
}

/// Boots the bundle and writes what was seen into its manifest; how long the boot took.
fn measure(bundle: Bundle) -> Result<Duration, BundleError> {
    let measurement = bundle.measurement()?;
    let (probe, took) = probe::boot(&bundle)?;
    bundle.raise(measurement.finish(probe)?)?;
    Ok(took)
}
