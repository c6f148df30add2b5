//! The Firecracker adapter: from a [`MachineSpec`] to a running process and back.
//!
//! `config` says what Firecracker is told, `home` is the directory in which it finds it, `jail` and the crate's `warden`
//! confine it, `control` is the task that owns the process, `api` and `vsock` are its two sockets, `version` knows what
//! can be asked of which version, `save` where a saved machine goes, `complaint` reads its words. This file ties them
//! together.
//!
//! ```text
//!              unjailed                           jailed
//!   a file is  an inherited descriptor, with a    a mount in a namespace of the VMM's own, on an empty file of
//!              link to it in the VMM's directory  its name in the VMM's directory
//!   ends with  the parent-death signal            its warden, which has the parent-death signal
//! ```

mod api;
mod complaint;
mod config;
mod control;
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
pub(crate) use handle::Handle;
pub use jail::Jail;
pub use version::{FirecrackerDefect, FirecrackerFeature, FirecrackerVersion};

use self::control::Outlets;
use self::version::Step;
use crate::VmmError;
use crate::home::{self, Home};
use crate::machine::{GuestMemory, LaunchTimes, Machine, MachineParts, MachineSpec, MachineStart, Shape};
use crate::sandbox::{Needs, Plan, VmmLimits};
use crate::spawn::{self, Containment, Order};
use crate::warden::{self, Access};

/// The vsock port on which the guest listens for the stream of [`Machine::connect`].
pub const STREAM_PORT: u32 = vsock::GUEST_PORT;

/// How long Firecracker may take from its start to its first answer. It takes 10 ms on an idle host; the rest is for a
/// host that is swapping.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(15);

/// Where to have the binaries from.
const SOURCE: &str = "it comes with the runtime bundle";

/// A Firecracker installation and how it is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firecracker {
    /// The path of `firecracker`.
    pub binary: PathBuf,
    /// What [`FirecrackerVersion::of`] says of it.
    pub version: FirecrackerVersion,
    /// Holds a directory for each running machine. Made when it is missing; what a killed process left in it goes with
    /// the next launch.
    pub run_dir: PathBuf,
    /// Firecracker's own jailer. Without one the VMM is this process's user, in a sandbox of ours.
    pub jail: Option<Jail>,
}

/// What was prepared for one process.
struct Prepared {
    order: Order,
    root: Arc<OwnedFd>,
    log: OwnedFd,
    status: Option<OwnedFd>,
    user: Option<u32>,
    /// What makes the machine, unless it is loaded.
    requests: Option<Vec<(&'static str, Value)>>,
}

impl Firecracker {
    /// Starts a machine. Returns when Firecracker answers; a cold guest is then booting, a restored one is loaded and
    /// paused.
    ///
    /// A machine is cold with [`GuestMemory::Private`], restored with [`GuestMemory::From`].
    ///
    /// # Errors
    /// When the specification is impossible, the version is known to break it, the host lacks something, or Firecracker
    /// ended or refused. Nothing is left then, neither process nor file.
    pub async fn launch(&self, spec: MachineSpec) -> Result<Machine, VmmError> {
        config::check(spec.shape, &spec.memory, &spec.start)?;
        self.version.refuse(Step::Launch)?;
        if matches!(spec.start, MachineStart::Restore { .. }) {
            self.version.refuse(Step::Restore)?;
        }
        let shape = spec.shape;
        let prepare = {
            let this = self.clone();
            // A dozen small file operations, and more when there is something to sweep: not on a runtime's worker.
            tokio::task::spawn_blocking(move || this.prepare(spec))
        };
        let prepared =
            prepare.await.map_err(|source| host("prepare the VMM's directory")(source.into()))??;
        let Prepared { order, root, log, status, user, requests } = prepared;
        let program = order.binary.clone();
        let process =
            spawn::spawn(order).await.map_err(|fault| VmmError::of_spawn(&program, SOURCE, fault))?;
        let confinement = process.confinement();
        let (pid, killer) = (process.pid(), process.killer());
        let ends = control::start(process, Outlets { log, status }).map_err(host("watch the VMM"))?;
        let now = Instant::now();
        let mut handle = Handle {
            ends,
            killer,
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
            handle.find_pid().await?;
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
                // Reaped and swept before the caller hears of it, so that a failed launch leaves nothing.
                let _ended = Box::new(handle).stop().await;
                Err(complaint::recognise(error, shape.mem_mib))
            }
        }
    }

    /// Removes what killed processes left in [`Firecracker::run_dir`]. Every launch does so too.
    pub fn sweep(&self) {
        home::sweep(&self.kind(), |id| match &self.jail {
            Some(jail) => jail.users.cgroup_directories(id),
            None => Vec::new(),
        });
    }

    /// Where the directories of all machines of this binary are; the jailer's rule.
    fn kind(&self) -> PathBuf {
        self.run_dir.join(self.binary.file_name().unwrap_or_else(|| "firecracker".as_ref()))
    }

    fn prepare(&self, spec: MachineSpec) -> Result<Prepared, VmmError> {
        self.sweep();
        let MachineSpec { shape, parts, memory, start } = spec;
        let longest_file = longest_file(shape, &parts)?;
        let drives =
            config::Drives { base: parts.base.is_some(), disk: parts.disk.is_some().then_some(parts.cache) };
        let requests = match start {
            MachineStart::Cold => Some(config::cold(shape, drives, &parts.kernel_args)?),
            MachineStart::Restore { .. } => None,
        };
        let files = files(parts, memory, start);
        let of_vmm = config::arguments();
        let (home, mut order, status, user) = match &self.jail {
            None => self.unjailed(files, shape, longest_file, of_vmm)?,
            Some(jail) => self.jailed(jail, files, shape, longest_file, of_vmm)?,
        };
        let log = home.pipe(config::LOG).map_err(host("make a pipe for the VMM's log"))?;
        if let Some(user) = user {
            jail::own(&log, user).map_err(host("give the VMM its log"))?;
        }
        order.directory = home.root_path();
        let root = home.root().clone();
        order.leftover = Some(Box::new(home));
        Ok(Prepared { order, root, log, status, user, requests })
    }

    fn unjailed(
        &self,
        files: Vec<Named>,
        shape: Shape,
        longest_file: u64,
        of_vmm: Vec<std::ffi::OsString>,
    ) -> Result<Half, VmmError> {
        let home = Home::make(&self.kind(), home::any_name).map_err(host("make the VMM's directory"))?;
        let (mut inherit, mut opens) = (Vec::new(), Vec::new());
        for (name, file, access) in files {
            home.link(name, &file).map_err(host("name a file for the VMM"))?;
            opens.push((file.as_raw_fd(), access));
            inherit.push(file);
        }
        let mut args = vec!["--id".into(), home.id().into()];
        args.extend(of_vmm);
        let needs = Needs {
            shape,
            limits: VmmLimits::FIRECRACKER,
            longest_file,
            spare_threads: jail::SPARE_THREADS,
            kvm: true,
            home: Some(home.root_path()),
            opens,
        };
        let plan = Plan::new(needs, None, self.run_dir.clone());
        let order = order(&self.binary, args, inherit, Containment::Sandbox(Box::new(plan)));
        Ok((home, order, None, None))
    }

    fn jailed(
        &self,
        jail: &Jail,
        files: Vec<Named>,
        shape: Shape,
        longest_file: u64,
        of_vmm: Vec<std::ffi::OsString>,
    ) -> Result<Half, VmmError> {
        let (home, user) = jail.users.home(&self.kind())?;
        let mut mounts = Vec::new();
        for (name, file, access) in &files {
            mounts.push(jail.admit(&home, user, &jail::Part { name, file, access: *access })?);
        }
        let (status, theirs) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| host("make a pipe for the VMM's end")(errno.into()))?;
        let args = jail.arguments(&self.binary, &self.run_dir, user, shape, longest_file, of_vmm);
        let cgroup = jail.users.cgroups.is_some();
        let warden = warden::Order { mounts, status: theirs, user: Some(user), cgroup };
        let order = order(&jail.binary, args, Vec::new(), Containment::Warden(warden));
        Ok((home, order, Some(status), Some(user)))
    }
}

/// A file with its name and what the VMM may do with it.
type Named = (&'static str, OwnedFd, Access);

/// What the two ways to run have to say: the directory, the order, where its end is reported, and its user.
type Half = (Home, Order, Option<OwnedFd>, Option<u32>);

/// The files that the VMM opens.
fn files(parts: MachineParts, memory: GuestMemory, start: MachineStart) -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    let mut add = |name, file: File, access| all.push((name, file.into(), access));
    match start {
        MachineStart::Cold => {
            add(config::KERNEL, parts.kernel, Access::Read);
            add(config::INITRAMFS, parts.initramfs, Access::Read);
        }
        MachineStart::Restore { state } => add(config::STATE, state, Access::Read),
    }
    if let GuestMemory::From(file) = memory {
        add(config::MEMORY, file, Access::Read);
    }
    if let Some(base) = parts.base {
        add(config::BASE, base, Access::Read);
    }
    if let Some(disk) = parts.disk {
        add(config::DISK, disk, Access::Write);
    }
    all
}

/// How long the longest file is that the machine may write, in bytes: its disk, or its memory when it is saved.
fn longest_file(shape: Shape, parts: &MachineParts) -> Result<u64, VmmError> {
    let disk = parts.disk.as_ref().map_or(Ok(0), |disk| disk.metadata().map(|metadata| metadata.len()));
    Ok(disk.map_err(host("look at the disk"))?.max(shape.memory_bytes()))
}

fn order(
    binary: &Path,
    args: Vec<std::ffi::OsString>,
    inherit: Vec<OwnedFd>,
    containment: Containment,
) -> Order {
    Order {
        binary: binary.to_owned(),
        args,
        inherit,
        directory: "/".into(),
        stdout: true,
        containment,
        leftover: None,
    }
}

fn host(doing: &'static str) -> impl Fn(std::io::Error) -> VmmError {
    move |source| VmmError::Host { doing, source }
}
