//! Firecracker adapter: starts a Firecracker process for a [`MachineSpec`], and ends it.
//!
//! `config` writes the requests, the crate's `machine_dir` holds the named files, `jail` and the crate's `warden`
//! confine, `control` is the task that owns the process, `handle` sends requests, `api` and `vsock` are the two
//! sockets, `version` knows features and defects of versions, `save` offers files for a saved machine, `diagnosis`
//! recognises errors.
//!
//! ```text
//!              unjailed                           jailed
//!   a file is  an inherited descriptor, with a    a mount in a namespace of the VMM's own, on an empty file of
//!              link to it in the VMM's directory  its name in the VMM's directory
//!   ends with  the parent-death signal            its warden, which has the parent-death signal
//! ```

mod api;
mod config;
mod control;
mod diagnosis;
mod handle;
mod jail;
mod save;
mod version;
mod vsock;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;

pub(crate) use config::DEVICE_MODEL;
pub(crate) use handle::FirecrackerHandle;
pub use jail::Jail;
pub use version::{FirecrackerDefect, FirecrackerFeature, FirecrackerVersion};

use self::control::ProcessPipes;
use self::version::VersionedStep;
use crate::VmmError;
use crate::machine::{GuestMemory, LaunchTimes, Machine, MachineParts, MachineSpec, MachineStart, Shape};
use crate::machine_dir::{self, MachineDir};
use crate::sandbox::{SandboxPlan, VmmLimits, VmmRequirements};
use crate::spawn::{self, Containment, SpawnRequest};
use crate::warden::{self, FileAccess};

/// Vsock port on which the guest listens for the stream of [`Machine::connect`].
pub const STREAM_PORT: u32 = vsock::GUEST_PORT;

/// Longest time from Firecracker's start to the end of its launch. An idle host takes 10 ms to the first answer; the
/// rest is for a host that is swapping.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(15);

/// Remedy for a missing binary.
const OBTAINED_FROM: &str = "it comes with the runtime bundle";

/// A Firecracker installation, with version, run directory and jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firecracker {
    /// Path of `firecracker`.
    pub binary: PathBuf,
    /// Version of `binary`, from [`FirecrackerVersion::of`].
    pub version: FirecrackerVersion,
    /// Directory with one for each running machine. Made when it is missing; the next launch removes what killed
    /// processes left in it.
    pub run_dir: PathBuf,
    /// Firecracker's own jailer; `None` runs the VMM as this process's user, in our own sandbox.
    pub jail: Option<Jail>,
}

/// Files, pipes and requests prepared for one launch.
struct PreparedLaunch {
    request: SpawnRequest,
    root: Arc<OwnedFd>,
    log: OwnedFd,
    status: Option<OwnedFd>,
    user: Option<u32>,
    /// API requests that configure and boot the machine; `None` when it is loaded.
    requests: Option<Vec<(&'static str, Value)>>,
}

impl Firecracker {
    /// Starts a machine and returns when Firecracker answers: a cold guest is then booting, a restored one is loaded
    /// and paused.
    ///
    /// A cold start takes [`GuestMemory::Private`], a restore [`GuestMemory::From`]; no other pair is possible.
    ///
    /// # Errors
    /// When the specification is impossible, the version is known to break it, the host lacks something, or Firecracker
    /// ended or refused. Nothing is left then, neither process nor file.
    pub async fn launch(&self, spec: MachineSpec) -> Result<Machine, VmmError> {
        config::check(spec.shape, &spec.memory, &spec.start)?;
        self.version.refuse(VersionedStep::Launch)?;
        if matches!(spec.start, MachineStart::Restore { .. }) {
            self.version.refuse(VersionedStep::Restore)?;
        }
        let shape = spec.shape;
        let prepare = {
            let this = self.clone();
            // A dozen file operations, more with a sweep, block, so no runtime worker does them.
            tokio::task::spawn_blocking(move || this.prepare(spec))
        };
        let prepared =
            prepare.await.map_err(|source| host("prepare the VMM's directory")(source.into()))??;
        let PreparedLaunch { request, root, log, status, user, requests } = prepared;
        let program = request.binary.clone();
        let process = spawn::spawn(request)
            .await
            .map_err(|fault| VmmError::of_spawn(&program, OBTAINED_FROM, fault))?;
        let confinement = process.confinement();
        let (pid, pidfd) = (process.pid(), process.pidfd());
        let channels =
            control::start(process, ProcessPipes { log, status }).map_err(host("watch the VMM"))?;
        let now = Instant::now();
        let mut handle = FirecrackerHandle {
            channels,
            pidfd,
            pid,
            root,
            api: None,
            version: self.version,
            shape,
            user,
            confinement,
            paused: false,
            launch_times: LaunchTimes { answered: now, ready: now },
            saved: false,
        };
        let started = tokio::time::timeout(LAUNCH_DEADLINE, async {
            handle.find_vmm_pid().await?;
            handle.launch_times.answered = Instant::now();
            match requests {
                None => handle.load().await?,
                Some(requests) => handle.boot(requests).await?,
            }
            handle.launch_times.ready = Instant::now();
            Ok(())
        })
        .await
        .unwrap_or(Err(VmmError::Deadline { command: "its launch", after: LAUNCH_DEADLINE }));
        match started {
            Ok(()) => Ok(Machine::from_firecracker(handle)),
            Err(error) => {
                // The process is reaped and its directory removed before the caller gets the error, so that a failed
                // launch leaves nothing.
                let _ended = Box::new(handle).stop().await;
                Err(diagnosis::recognise(error, shape.mem_mib))
            }
        }
    }

    /// Removes the directories and cgroups that killed processes left in [`Firecracker::run_dir`]. Every launch does
    /// so first.
    pub fn sweep(&self) {
        machine_dir::sweep(&self.machines_dir(), |id| match &self.jail {
            Some(jail) => jail.users.cgroup_directories(id),
            None => Vec::new(),
        });
    }

    /// Directory of all machines of this binary, by the jailer's rule: the run directory and the binary's file name.
    fn machines_dir(&self) -> PathBuf {
        self.run_dir.join(self.binary.file_name().unwrap_or_else(|| "firecracker".as_ref()))
    }

    fn prepare(&self, spec: MachineSpec) -> Result<PreparedLaunch, VmmError> {
        self.sweep();
        let MachineSpec { shape, parts, memory, start } = spec;
        let longest_file = longest_file(shape, &parts)?;
        let drives = config::DriveSet {
            base: parts.base.is_some(),
            disk: parts.disk.is_some().then_some(parts.cache),
        };
        let requests = match start {
            MachineStart::Cold => Some(config::cold(shape, drives, &parts.kernel_args)?),
            MachineStart::Restore { .. } => None,
        };
        let files = files(parts, memory, start);
        let vmm_args = config::arguments();
        let (machine_dir, mut request, status, user) = match &self.jail {
            None => self.unjailed(files, shape, longest_file, vmm_args)?,
            Some(jail) => self.jailed(jail, files, shape, longest_file, vmm_args)?,
        };
        let log = machine_dir.pipe(config::LOG).map_err(host("make a pipe for the VMM's log"))?;
        if let Some(user) = user {
            jail::give_to_user(&log, user).map_err(host("give the VMM its log"))?;
        }
        request.directory = machine_dir.root_path();
        let root = machine_dir.root().clone();
        request.drop_with_process = Some(Box::new(machine_dir));
        Ok(PreparedLaunch { request, root, log, status, user, requests })
    }

    fn unjailed(
        &self,
        files: Vec<NamedFile>,
        shape: Shape,
        longest_file: u64,
        vmm_args: Vec<std::ffi::OsString>,
    ) -> Result<LaunchSetup, VmmError> {
        let machine_dir = MachineDir::make(&self.machines_dir(), machine_dir::random_name)
            .map_err(host("make the VMM's directory"))?;
        let (mut inherit, mut reopened) = (Vec::new(), Vec::new());
        for (name, file, access) in files {
            machine_dir.link(name, &file).map_err(host("name a file for the VMM"))?;
            reopened.push((file.as_raw_fd(), access));
            inherit.push(file);
        }
        let mut args = vec!["--id".into(), machine_dir.id().into()];
        args.extend(vmm_args);
        let requirements = VmmRequirements {
            shape,
            limits: VmmLimits::FIRECRACKER,
            longest_file,
            spare_threads: jail::SPARE_THREADS,
            kvm: true,
            working_dir: Some(machine_dir.root_path()),
            reopened,
        };
        let plan = SandboxPlan::new(requirements, None, self.run_dir.clone());
        let request = spawn_request(&self.binary, args, inherit, Containment::Sandbox(Box::new(plan)));
        Ok((machine_dir, request, None, None))
    }

    fn jailed(
        &self,
        jail: &Jail,
        files: Vec<NamedFile>,
        shape: Shape,
        longest_file: u64,
        vmm_args: Vec<std::ffi::OsString>,
    ) -> Result<LaunchSetup, VmmError> {
        let (machine_dir, user) = jail.users.machine_dir(&self.machines_dir())?;
        let mut mounts = Vec::new();
        for (name, file, access) in &files {
            mounts.push(jail.mount_file(
                &machine_dir,
                user,
                &jail::JailFile { name, file, access: *access },
            )?);
        }
        let (status, theirs) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| host("make a pipe for the VMM's end")(errno.into()))?;
        let args = jail.arguments(&self.binary, &self.run_dir, user, shape, longest_file, vmm_args);
        let cgroup = jail.users.cgroups.is_some();
        let warden = warden::WardenConfig { mounts, status: theirs, user: Some(user), cgroup };
        let request = spawn_request(&jail.binary, args, Vec::new(), Containment::Warden(warden));
        Ok((machine_dir, request, Some(status), Some(user)))
    }
}

/// Name of a file in the VMM's directory, the file, and the VMM's access to it.
type NamedFile = (&'static str, OwnedFd, FileAccess);

/// Result of preparing a run, jailed or not: machine directory, spawn request, the warden's status pipe, and the
/// VMM's user id.
type LaunchSetup = (MachineDir, SpawnRequest, Option<OwnedFd>, Option<u32>);

/// The files that the VMM opens.
fn files(parts: MachineParts, memory: GuestMemory, start: MachineStart) -> Vec<NamedFile> {
    let mut all: Vec<NamedFile> = Vec::new();
    let mut add = |name, file: File, access| all.push((name, file.into(), access));
    match start {
        MachineStart::Cold => {
            add(config::KERNEL, parts.kernel, FileAccess::Read);
            add(config::INITRAMFS, parts.initramfs, FileAccess::Read);
        }
        MachineStart::Restore { state } => add(config::STATE, state, FileAccess::Read),
    }
    if let GuestMemory::From(file) = memory {
        add(config::MEMORY, file, FileAccess::Read);
    }
    if let Some(base) = parts.base {
        add(config::BASE, base, FileAccess::Read);
    }
    if let Some(disk) = parts.disk {
        add(config::DISK, disk, FileAccess::Write);
    }
    all
}

/// How long the longest file is that the machine may write, in bytes: its disk, or its memory when it is saved.
fn longest_file(shape: Shape, parts: &MachineParts) -> Result<u64, VmmError> {
    let disk = parts.disk.as_ref().map_or(Ok(0), |disk| disk.metadata().map(|metadata| metadata.len()));
    Ok(disk.map_err(host("look at the disk"))?.max(shape.memory_bytes()))
}

fn spawn_request(
    binary: &Path,
    args: Vec<std::ffi::OsString>,
    inherit: Vec<OwnedFd>,
    containment: Containment,
) -> SpawnRequest {
    SpawnRequest {
        binary: binary.to_owned(),
        args,
        inherit,
        directory: "/".into(),
        stdout: true,
        containment,
        drop_with_process: None,
    }
}

fn host(doing: &'static str) -> impl Fn(std::io::Error) -> VmmError {
    move |source| VmmError::Host { doing, source }
}
