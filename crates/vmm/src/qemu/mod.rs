//! QEMU adapter: starts a QEMU process for a [`MachineSpec`], and ends it.
//!
//! `command_line` writes QEMU's arguments, `control` is the task that owns the process, `qmp` is the wire format of
//! its control socket, `handle` sends commands, `migrate` saves and restores, `changes` copies the memory pages that
//! a machine changed, `diagnosis` recognises errors on stderr.

mod changes;
mod command_line;
mod control;
mod diagnosis;
mod handle;
mod migrate;
mod qmp;

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

pub(crate) use command_line::DEVICE_MODEL;
pub use command_line::VERBOSE_KERNEL_ARGS;
pub(crate) use handle::QemuHandle;

use crate::cgroup::MachineCgroup;
use crate::machine::{Accelerator, GuestMemory, Machine, MachineSpec, MachineStart};
use crate::machine_dir::{self, MachineDir};
use crate::sandbox::{SandboxPlan, VmmLimits, VmmRequirements, VmmUsers, check_readable};
use crate::spawn::{self, Containment, SpawnRequest, VmmProcess};
use crate::{VmmError, tsc};

/// Longest launch; one that reads memory from a state gets more. QEMU's first answer takes 30 ms on an idle host; the
/// rest is for a host that is swapping.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(15);

/// Longest run of `--version`.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// Threads of QEMU beside one for each vCPU: at most 64 for disks, and a few others.
const SPARE_THREADS: u64 = 80;

/// Remedy for a missing binary.
const OBTAINED_FROM: &str = "on Debian: the package qemu-system-x86";

/// A QEMU installation, with accelerator, run directory and users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Path of `qemu-system-x86_64`.
    pub binary: PathBuf,
    /// Executor of guest instructions.
    pub accelerator: Accelerator,
    /// Directory for machines' locks, and mount point of a VMM's root directory in its own mount namespace. Made when
    /// it is missing; the next launch removes what killed processes left in it.
    pub run_dir: PathBuf,
    /// Users and cgroups for machines, which only root can give; `None` runs them as this process's user.
    pub users: Option<VmmUsers>,
}

/// Version of a QEMU binary, as `--version` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuVersion {
    /// Major version, the first number.
    pub major: u32,
    /// Minor version, the second number.
    pub minor: u32,
    /// Patch level, the third number; 0 when it is not printed.
    pub micro: u32,
    /// Whole version text, with a distribution's suffix.
    pub text: String,
}

impl Qemu {
    /// Starts a machine and returns when QEMU answers: a cold guest is then booting, a restored one is loaded and
    /// paused.
    ///
    /// # Errors
    /// When the specification is impossible, the host lacks something, or QEMU ended or refused. Nothing is left
    /// running then.
    pub async fn launch(&self, spec: MachineSpec) -> Result<Machine, VmmError> {
        let MachineSpec { shape, parts, memory, start } = spec;
        command_line::check(shape, &memory)?;
        // The first measurement computes for some milliseconds, so no runtime worker does it. A restored guest got
        // the rate at its boot.
        let khz = match start {
            MachineStart::Cold => {
                tokio::task::spawn_blocking(tsc::tsc_khz).await.unwrap_or_else(|_| tsc::tsc_khz())
            }
            MachineStart::Restore { .. } => 0,
        };

        if self.users.is_some() {
            check_readable("the kernel", &parts.kernel)?;
            check_readable("the initramfs", &parts.initramfs)?;
        }
        let disk = parts.disk.as_ref().map_or(Ok(0), |disk| disk.metadata().map(|metadata| metadata.len()));
        let disk = disk.map_err(|source| VmmError::Host { doing: "look at the disk", source })?;
        let longest_file = disk.max(shape.memory_bytes());

        let (qmp, qmp_theirs) = pair()?;
        let (port, port_theirs) = pair()?;
        let (console, console_theirs) = pair()?;
        let shares = matches!(memory, GuestMemory::Owned(_));
        let mapped = match &memory {
            GuestMemory::From(file) => {
                let metadata = file.metadata();
                let host = |source| VmmError::Host { doing: "look at the guest's memory file", source };
                Some(metadata.map_err(host)?.ino())
            }
            GuestMemory::Private | GuestMemory::Owned(_) => None,
        };
        let memory_beside = shares || mapped.is_some();
        let restores = matches!(start, MachineStart::Restore { .. });
        // Without a memory file, all of memory is read from the state.
        let reading = if restores && !memory_beside { u64::from(shape.mem_mib) / 20 } else { 0 };
        let limit = LAUNCH_DEADLINE + Duration::from_secs(reading);
        let line = command_line::QemuCommandLine {
            accelerator: self.accelerator,
            shape,
            tsc_khz: khz,
            parts,
            memory,
            restores,
            qmp: qmp_theirs,
            port: port_theirs,
            console: console_theirs,
        };
        let command_line::QemuArguments { args, inherit, reopened, .. } = line.build()?;
        let requirements = VmmRequirements {
            shape,
            limits: VmmLimits::QEMU,
            longest_file,
            spare_threads: SPARE_THREADS,
            kvm: self.accelerator == Accelerator::Kvm,
            working_dir: None,
            reopened,
        };
        let this = self.clone();
        // File operations block, so no runtime worker does them.
        let contained = tokio::task::spawn_blocking(move || this.plan_sandbox(requirements));
        let (plan, group, machine_dir) = contained.await.map_err(|source| VmmError::Host {
            doing: "prepare the VMM's sandbox",
            source: source.into(),
        })??;
        let request = SpawnRequest {
            binary: self.binary.clone(),
            args,
            inherit,
            directory: "/".into(),
            stdout: false,
            containment: Containment::Sandbox(Box::new(plan)),
            drop_with_process: machine_dir.map(|machine_dir| Box::new(machine_dir) as _),
        };
        let process = spawn::spawn(request)
            .await
            .map_err(|fault| VmmError::of_spawn(&self.binary, OBTAINED_FROM, fault))?;

        let (process, joined) = add_process(process, group).await?;

        let mut handle = QemuHandle::new(process, self.accelerator, shape, shares, qmp, console, port)?;
        handle.confinement.cgroup = joined;
        handle.mapped = mapped;
        let started = tokio::time::timeout(limit, async {
            handle.negotiate(memory_beside).await?;
            handle.launch_times.answered = Instant::now();
            if let MachineStart::Restore { state } = start {
                handle.load(state).await?;
            }
            handle.launch_times.ready = Instant::now();
            Ok(())
        })
        .await
        .unwrap_or(Err(VmmError::Deadline { command: "its launch", after: limit }));
        match started {
            Ok(()) => Ok(Machine::from_qemu(handle)),
            Err(error) => {
                // The process is reaped before the caller gets the error, so that a failed launch leaves nothing.
                let _ended = handle.stop().await;
                Err(diagnosis::recognise(error, shape.mem_mib))
            }
        }
    }

    /// Makes the sandbox's plan, the cgroup and the directory that reserves the user id. Blocks.
    fn plan_sandbox(
        &self,
        requirements: VmmRequirements,
    ) -> Result<(SandboxPlan, Option<MachineCgroup>, Option<MachineDir>), VmmError> {
        let host = |doing| move |source| VmmError::Host { doing, source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.run_dir)
            .map_err(host("make the directory for running machines"))?;
        let Some(users) = &self.users else {
            return Ok((SandboxPlan::new(requirements, None, self.run_dir.clone()), None, None));
        };
        let machines_dir = self.run_dir.join("qemu");
        machine_dir::sweep(&machines_dir, |id| users.cgroup_directories(id));
        let (machine_dir, user) = users.machine_dir(&machines_dir)?;
        let memory = requirements.shape.memory_bytes() + (u64::from(requirements.limits.overhead_mib) << 20);
        let threads = u64::from(requirements.shape.vcpus) + requirements.spare_threads;
        // Where cgroups are read-only, the machine has none.
        let group = users
            .cgroups
            .and_then(|cgroups| MachineCgroup::make(cgroups, machine_dir.id(), memory, threads).ok());
        Ok((SandboxPlan::new(requirements, Some(user), self.run_dir.clone()), group, Some(machine_dir)))
    }
}

impl QemuVersion {
    /// Runs `binary --version`.
    ///
    /// # Errors
    /// When the binary is missing, cannot run, does not answer within 10 s, or is no QEMU.
    pub async fn of(binary: &Path) -> Result<QemuVersion, VmmError> {
        let mut command = tokio::process::Command::new(binary);
        command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(VERSION_DEADLINE, command.output())
            .await
            .map_err(|_| VmmError::Deadline { command: "--version", after: VERSION_DEADLINE })?
            .map_err(|source| VmmError::of_run(binary, OBTAINED_FROM, source))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        QemuVersion::parse(&printed).ok_or_else(|| VmmError::Version {
            binary: binary.to_owned(),
            output: printed.chars().take(200).collect(),
        })
    }

    /// Reads `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
    fn parse(printed: &str) -> Option<QemuVersion> {
        let text = printed.lines().next()?.strip_prefix("QEMU emulator version ")?.trim();
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(QemuVersion {
            major: next()?,
            minor: next()?,
            micro: next().unwrap_or(0),
            text: text.to_owned(),
        })
    }
}

/// Moves the starting QEMU into its cgroup; gives whether that worked. The process is passed through, so that its id
/// stays reserved even when the caller is cancelled.
async fn add_process(
    process: VmmProcess,
    group: Option<MachineCgroup>,
) -> Result<(VmmProcess, bool), VmmError> {
    let Some(group) = group else { return Ok((process, false)) };
    let joining = tokio::task::spawn_blocking(move || {
        let joined = group.add_process(process.pid()).is_ok();
        (process, joined)
    });
    joining.await.map_err(|source| VmmError::Host { doing: "limit the VMM", source: source.into() })
}

/// Makes a pair of connected stream sockets, both close-on-exec.
fn pair() -> Result<(OwnedFd, OwnedFd), VmmError> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| VmmError::Host { doing: "make a socket pair", source: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let read = |text| QemuVersion::parse(text).map(|v| (v.major, v.minor, v.micro));
        assert_eq!(read("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright"), Some((7, 2, 22)));
        assert_eq!(read("QEMU emulator version 10.0.0"), Some((10, 0, 0)));
        assert_eq!(read("QEMU emulator version 9.1"), Some((9, 1, 0)));
        assert_eq!(read("qemu-img version 7.2.22"), None);
        assert_eq!(read("QEMU emulator version unknown"), None);
        assert_eq!(read(""), None);
    }
}
