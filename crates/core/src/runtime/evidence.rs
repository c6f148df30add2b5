//! Evidence: that exactly these artifacts were booted and what they then did.
//!
//! [`Evidence`] has one source, [`Measurement::finish`], and a measurement has one, a bundle of real artifacts whose
//! digests were just verified. Whoever boots hands in what the guest said; it must be the agent of this bundle that
//! spoke, and the files must still be the same afterwards.

use std::fs::File;

use super::manifest::{ArtifactKind, Record};
use super::{AGENT, Bundle, INITRAMFS, KERNEL, RuntimeError};
use crate::hostfs::stamp::{self, Content};

/// Findings of a boot of a bundle's kernel and initramfs.
#[derive(Clone, Debug)]
pub struct BootFindings {
    /// The VMM that booted it, such as `qemu`.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The version with which the agent in the guest identified itself.
    pub agent_version: String,
    /// Result of `/init --version`, run in the guest by the agent; `None` when it could not be run.
    pub exec: Option<ProbeExec>,
}

/// The outcome of one command in the guest.
#[derive(Clone, Debug)]
pub struct ProbeExec {
    /// Exit code of the command.
    pub exit_code: i32,
    /// Standard output of the command.
    pub stdout: String,
}

/// A bundle about to be probed: the files to boot, verified.
#[derive(Debug)]
pub struct Measurement {
    kernel: File,
    initramfs: File,
    record: Record,
}

/// Proof that a bundle booted. Good for one set of artifact digests.
#[derive(Debug)]
pub struct Evidence {
    pub(super) record: Record,
}

impl Bundle {
    /// Verifies every artifact anew and opens those to boot.
    ///
    /// # Errors
    /// When an artifact is a shim or placeholder, missing, or changed: there is nothing to measure then.
    pub fn measurement(&self) -> Result<Measurement, RuntimeError> {
        let artifacts = &self.manifest().artifacts;
        if let Some((name, artifact)) = artifacts.iter().find(|(_, a)| a.kind != ArtifactKind::Real) {
            let why = format!("its {name} is a declared {}", artifact.kind.word());
            return Err(RuntimeError::Evidence(why));
        }
        for name in artifacts.keys() {
            self.open_hashed(name)?;
        }
        let agent = artifacts
            .get(AGENT)
            .ok_or_else(|| RuntimeError::NoArtifact { root: self.root().to_owned(), name: AGENT.into() })?;
        let digests = artifacts.iter().map(|(name, a)| (name.clone(), a.sha256.clone())).collect();
        Ok(Measurement {
            kernel: self.open_hashed(KERNEL)?,
            initramfs: self.open_hashed(INITRAMFS)?,
            record: Record {
                artifacts: digests,
                backend: String::new(),
                accelerator: String::new(),
                agent_version: agent.version.clone(),
                exec_stdout: None,
            },
        })
    }
}

impl Measurement {
    /// The kernel to boot, its offset 0.
    pub fn kernel(&self) -> &File {
        &self.kernel
    }

    /// The initramfs to boot, its offset 0.
    pub fn initramfs(&self) -> &File {
        &self.initramfs
    }

    /// Turns what the boot showed into evidence.
    ///
    /// # Errors
    /// When another agent than this bundle's answered, its command did not do what the agent does, or a file
    /// changed meanwhile.
    pub fn finish(self, probe: BootFindings) -> Result<Evidence, RuntimeError> {
        let Self { kernel, initramfs, mut record } = self;
        let refuse = |why: String| Err(RuntimeError::Evidence(why));
        if record.agent_version.is_empty() || probe.agent_version != record.agent_version {
            return refuse(format!(
                "agent {:?} answered, and this runtime has {:?}",
                probe.agent_version, record.agent_version
            ));
        }
        if let Some(exec) = &probe.exec {
            let said = exec.stdout.split_whitespace().any(|word| word == record.agent_version);
            if exec.exit_code != 0 || !said {
                return refuse(format!(
                    "`/init --version` in the guest ended with {} and said {:?}",
                    exec.exit_code,
                    exec.stdout.chars().take(200).collect::<String>()
                ));
            }
        }
        for (name, file) in [(KERNEL, &kernel), (INITRAMFS, &initramfs)] {
            let now = stamp::digest(file, Content::Whole, &mut |_| true);
            if now.ok().as_ref() != record.artifacts.get(name) {
                return refuse(format!("its {name} changed while it was being probed"));
            }
        }
        record.backend = probe.backend;
        record.accelerator = probe.accelerator;
        record.exec_stdout = probe.exec.map(|exec| exec.stdout);
        Ok(Evidence { record })
    }
}
