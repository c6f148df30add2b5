//! A boot of a bundle that was just written: does its kernel come up, does its agent answer and run a command.
//!
//! Under software emulation, because that runs on every machine that can build: what is measured is the bundle, and
//! which accelerator a host's guests get is asked again on that host.

use std::path::PathBuf;
use std::time::Duration;

use pyro_core::backend::{self, Accelerator, Qemu, Vmm};
use pyro_core::command::{self, CommandError, CommandLine, CommandOptions, Streams};
use pyro_core::runtime::{BootFindings, Bundle, ProbeExec};

use crate::places;

/// Far above the 0.5 to 0.8 s that it takes here: the cores may be busy, and one that is not up by then hangs.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);
const EXEC_DEADLINE: Duration = Duration::from_secs(30);

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// QEMU is not installed.
    #[error(
        "there is no qemu-system-x86_64 on this machine: apt-get install --no-install-recommends qemu-system-x86"
    )]
    NoQemu,
    /// Waiting is not possible here.
    #[error("the machine that waits for the guest cannot be set up")]
    Setup(#[source] std::io::Error),
    /// The guest did not come up.
    #[error("the probe boot failed")]
    Boot(#[from] backend::ProbeError),
    /// The guest came up and could not run its own init.
    #[error("`/init --version` could not be run in the guest")]
    Exec(#[from] CommandError),
}

/// Boots `bundle` and runs `/init --version` in it; what was seen, and how long the boot took.
pub(super) fn boot(bundle: &Bundle) -> Result<(BootFindings, Duration), ProbeError> {
    let qemu = places::qemu().ok_or(ProbeError::NoQemu)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProbeError::Setup)?;
    runtime.block_on(boot_under(qemu, bundle))
}

async fn boot_under(qemu: PathBuf, bundle: &Bundle) -> Result<(BootFindings, Duration), ProbeError> {
    let dir = tempfile::tempdir().map_err(ProbeError::Setup)?;
    let run_dir = dir.path().to_owned();
    let vmm = Vmm::Qemu(Qemu { binary: qemu, accelerator: Accelerator::Tcg, run_dir, users: None });
    let booted = backend::probe_boot(&vmm, bundle, BOOT_DEADLINE).await?;
    let line = CommandLine::Argv(vec!["/init".into(), "--version".into()]);
    let options = CommandOptions { timeout: Some(EXEC_DEADLINE), ..CommandOptions::default() };
    let watch = booted.machine.watch();
    let outcome = command::execute(&booted.guest, &watch, &line, &options, &mut Streams::captured()).await?;
    let probe = BootFindings {
        backend: booted.machine.backend().to_string(),
        accelerator: booted.machine.accelerator().to_string(),
        agent_version: booted.agent.version.clone(),
        exec: Some(ProbeExec {
            exit_code: outcome.exit_code,
            stdout: String::from_utf8_lossy(&outcome.stdout.unwrap_or_default().bytes).into_owned(),
        }),
    };
    let took = booted.took;
    // Dropping the machine would kill it as well; waiting for its end leaves nothing behind for a moment either.
    let _ = booted.machine.stop().await;
    Ok((probe, took))
}
