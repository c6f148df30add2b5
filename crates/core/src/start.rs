//! How a guest comes to run: restored from a template, else booted, leaving a template behind for the next start.
//!
//! ```text
//!   template found ----> restore ----> runs
//!      |  none, or not to be trusted       |  refused, silent
//!      v                                   v
//!   lock it; has somebody made it meanwhile? --> restore
//!      |  no
//!      v
//!   boot, save on the way, go on with the very guest that was saved
//!   (a guest that cannot be saved runs all the same)
//! ```
//!
//! Nothing about a template is an error of a start: each way out of the first line costs time and one sentence.

mod error;
mod kept;
mod make;
mod remark;

use std::fs::File;
use std::time::Duration;

pub use error::StartError;
pub use kept::{SavedGuest, resume};
pub use pyro_vmm::DiskCache;
use pyro_vmm::{Accelerator, GuestMemory, MachineParts, MachineSpec, MachineStart, Shape, Vmm, VmmError};
pub use remark::Remark;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bug::Bug;
use crate::cause;
use crate::config::Config;
use crate::environment::{EnvironmentError, Installed, Store};
use crate::launch::{self, BootError, BootRequest, Booted, RootState};
use crate::runtime::{Bundle, INITRAMFS, KERNEL};
use crate::template::{Template, TemplateKey, TemplateKind, TemplateLookup, Templates};
use crate::timeline::{Step, Timeline};
use pyro_formats::hostfs::copy_sparse;

/// How a guest came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartMethod {
    /// From a template.
    Restored,
    /// By a cold boot.
    Booted,
    /// From its own memory, as it was saved.
    Resumed,
}

impl StartMethod {
    /// As payloads name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Booted => "booted",
            Self::Resumed => "resumed",
        }
    }
}

/// Whether a start may use templates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TemplateUse {
    /// Restore where that is possible, and leave a template behind where it is not.
    #[default]
    Templates,
    /// Boot, and leave nothing behind.
    Nothing,
}

/// All that a start is made from.
pub struct StartRequest<'a> {
    /// Where things are.
    pub config: &'a Config,
    /// Bundle with kernel and agent.
    pub bundle: &'a Bundle,
    /// Environment whose image is the root.
    pub environment: &'a Installed,
    /// VMM that runs the guest.
    pub vmm: &'a Vmm,
    /// Virtual CPUs and memory.
    pub shape: Shape,
    /// The guest's host name.
    pub hostname: String,
    /// Whether it ends with the session.
    pub oneshot: bool,
    /// The guest's writable disk.
    pub disk: StartDisk,
    /// Meaning of the guest's flushes of that disk.
    pub cache: DiskCache,
    /// Whether it may come from a template.
    pub templates: TemplateUse,
    /// Told of its steps.
    pub timeline: &'a Timeline,
}

/// The writable disk of a guest.
pub enum StartDisk {
    /// A blank one.
    Blank,
    /// A blank one, in this file, which is empty.
    New(File),
    /// A disk that holds a file system laid out as [`Store::new_disk`] does.
    Existing(File),
}

impl StartDisk {
    fn kind(&self) -> TemplateKind {
        match self {
            Self::Blank | Self::New(_) => TemplateKind::Fresh,
            Self::Existing(_) => TemplateKind::Bare,
        }
    }
}

/// A guest that runs.
pub struct Started {
    /// The guest and its VMM.
    pub booted: Booted,
    /// Where it came from.
    pub how: StartMethod,
    /// Facts that the guest depends on.
    pub origin: Origin,
    /// File that the guest's memory is mapped from, privately.
    pub memory: Option<File>,
}

/// Facts that must hold for a guest to go on from its saved memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// All that must be the same.
    pub key: TemplateKey,
    /// The rate of the host's counter that the guest's clock goes by, kHz.
    pub tsc_khz: u64,
}

/// How long a restored guest may take to answer. It takes a twentieth of a second; a host that is very busy, some.
fn restore_deadline(accelerator: Accelerator) -> Duration {
    match accelerator {
        Accelerator::Kvm => Duration::from_secs(5),
        Accelerator::Tcg => Duration::from_secs(15),
    }
}

/// How far the rate of the host's time-stamp counter may be from the one that a template's guest was told. A measurement
/// is exact to 75 parts in a million; a guest's clock goes wrong by a millisecond a second at this.
const RATE_TOLERANCE: f64 = 1e-3;
/// How long a kernel that hung may hang again, for its console's sake.
const DIAGNOSIS: Duration = Duration::from_secs(10);
/// No `dummy0` beside the loopback interface.
const NO_DUMMY_ARG: &str = "dummy.numdummies=0";
/// The kernel asks its processors at once whether nobody reads what it is to free, and does not wait for its ticks: freezing a
/// file system waits three times for that, 30 ms each.
const EXPEDITED_ARG: &str = "rcupdate.rcu_expedited=1";
/// Tells the agent to leave the disk alone until it is ordered to assemble its root.
const BARE_ARG: &str = "pyro.bare";

/// Starts a guest.
///
/// # Errors
/// When it cannot even be booted.
pub async fn start(
    request: StartRequest<'_>,
    tell: &mut (dyn FnMut(Remark) + Send),
) -> Result<Started, StartError> {
    let plan = StartPlan::new(request);
    if plan.templates == TemplateUse::Nothing {
        return plan.boot().await;
    }
    let mut bad = None;
    let remark = match plan.store.find(&plan.key) {
        TemplateLookup::Found(template) => match plan.restore(template).await? {
            Ok(started) => return Ok(started),
            Err((inode, why)) => {
                bad = Some(inode);
                Remark::Unusable(why)
            }
        },
        TemplateLookup::Missing => Remark::First,
        TemplateLookup::Unusable(why) => Remark::Unusable(why),
    };
    let maker = match plan.maker(tell).await {
        Ok(maker) => maker,
        Err(why) => {
            tell(Remark::NotSaved(match remark {
                Remark::Unusable(wrong) => format!("{wrong}; a new one cannot be made: {why}"),
                _ => why,
            }));
            return plan.boot().await;
        }
    };
    plan.timeline.mark(Step::BuildLocked);
    // Somebody may have made it while this start waited, or before it looked anew.
    if let TemplateLookup::Found(template) = plan.store.find(&plan.key)
        && bad != Some(template.inode())
        && let Ok(started) = plan.restore(template).await?
    {
        return Ok(started);
    }
    tell(remark);
    maker.discard(bad);
    plan.boot_and_save(maker, tell).await
}

/// Makes the template for `request`, whose disk is not used, unless it is there. Says whether it was made.
///
/// # Errors
/// When the guest does not boot; what keeps it from being saved is told as a remark.
pub async fn warm(
    request: StartRequest<'_>,
    tell: &mut (dyn FnMut(Remark) + Send),
) -> Result<bool, StartError> {
    let plan = StartPlan::new(request);
    if let TemplateLookup::Found(_) = plan.store.find(&plan.key) {
        return Ok(false);
    }
    let maker = match plan.maker(tell).await {
        Ok(maker) => maker,
        Err(why) => {
            tell(Remark::NotSaved(why));
            return Ok(false);
        }
    };
    if let TemplateLookup::Found(_) = plan.store.find(&plan.key) {
        return Ok(false);
    }
    maker.discard(None);
    let Some(saved) = plan.boot_saved(maker, tell).await? else { return Ok(false) };
    let _ = saved.machine.stop().await;
    Ok(saved.outcome.is_ok())
}

/// A request with what follows from it.
struct StartPlan<'a> {
    request: StartRequest<'a>,
    store: Templates,
    environments: Store,
    kernel_args: Vec<String>,
    key: TemplateKey,
}

impl<'a> std::ops::Deref for StartPlan<'a> {
    type Target = StartRequest<'a>;
    fn deref(&self) -> &StartRequest<'a> {
        &self.request
    }
}

impl<'a> StartPlan<'a> {
    fn new(request: StartRequest<'a>) -> Self {
        let kind = request.disk.kind();
        Self::of_kind(request, kind)
    }

    /// For a guest that began as one of this kind, whatever disk it is given now.
    fn of_kind(request: StartRequest<'a>, kind: TemplateKind) -> Self {
        let bare = kind == TemplateKind::Bare && request.templates == TemplateUse::Templates;
        let words = [
            Some(NO_DUMMY_ARG),
            Some(EXPEDITED_ARG),
            launch::kernel_arg(request.vmm.backend()),
            bare.then_some(BARE_ARG),
        ];
        let kernel_args: Vec<_> = words.into_iter().flatten().map(str::to_owned).collect();
        let key = TemplateKey::new(
            kind,
            request.bundle,
            request.environment,
            request.vmm,
            request.shape,
            request.cache,
            &kernel_args,
        );
        Self {
            store: Templates::new(request.config.template_dir.clone()),
            environments: Store::new(request.config.environment_dir.clone()),
            kernel_args,
            key,
            request,
        }
    }

    fn wish(&self, deadline: Duration, root: RootState) -> BootRequest {
        BootRequest { hostname: self.hostname.clone(), oneshot: self.oneshot, root, deadline }
    }

    fn boot_deadline(&self) -> Duration {
        self.config.boot_deadline.unwrap_or_else(|| launch::boot_deadline(self.vmm.accelerator()))
    }

    /// Parts of a machine, its files opened anew.
    fn spec(
        &self,
        disk: File,
        memory: GuestMemory,
        start: MachineStart,
        more_args: &[&str],
    ) -> Result<MachineSpec, StartError> {
        let words = self.kernel_args.iter().cloned().chain(more_args.iter().map(|word| (*word).to_owned()));
        let parts = MachineParts {
            kernel: self.bundle.open_artifact(KERNEL)?,
            initramfs: self.bundle.open_artifact(INITRAMFS)?,
            base: Some(self.environment.open_base()?),
            disk: Some(disk),
            cache: self.cache,
            kernel_args: words.collect(),
        };
        Ok(MachineSpec { shape: self.shape, parts, memory, start })
    }

    /// The guest's own disk, for a cold boot.
    fn disk(&self) -> Result<File, StartError> {
        match &self.request.disk {
            StartDisk::Blank => Ok(self.environments.new_disk(&self.config.scratch_dir)?),
            StartDisk::New(file) => {
                let blank = self.environments.open_blank_disk()?;
                fill(file, &blank).and_then(|()| file.try_clone()).map_err(StartError::Disk)
            }
            StartDisk::Existing(disk) => disk.try_clone().map_err(StartError::Disk),
        }
    }

    /// Boots without regard to templates.
    async fn boot(&self) -> Result<Started, StartError> {
        let deadline = self.boot_deadline();
        let spec = self.spec(self.disk()?, GuestMemory::Private, MachineStart::Cold, &[])?;
        let booted = launch::boot(self.vmm, spec, &self.wish(deadline, self.root()), self.timeline).await;
        match booted {
            Ok(booted) => Ok(self.started(booted, StartMethod::Booted, pyro_vmm::tsc_khz())),
            Err(error) => Err(self.diagnose(error, deadline).await),
        }
    }

    fn started(&self, booted: Booted, how: StartMethod, tsc_khz: u64) -> Started {
        Started { booted, how, origin: Origin { key: self.key.clone(), tsc_khz }, memory: None }
    }

    fn bare(&self) -> bool {
        self.kernel_args.iter().any(|word| word == BARE_ARG)
    }

    /// State of the root file system when the guest answers.
    fn root(&self) -> RootState {
        if self.bare() { RootState::Assemble } else { RootState::Ready }
    }

    /// A kernel that hangs says nothing on a quiet console: lets it hang once more, talking.
    async fn diagnose(&self, error: BootError, deadline: Duration) -> StartError {
        if let BootError::Deadline { after, console } = &error
            && console.trim().is_empty()
            && let Ok(disk) = self.environments.new_disk(&self.config.scratch_dir)
            && let Ok(spec) =
                self.spec(disk, GuestMemory::Private, MachineStart::Cold, pyro_vmm::VERBOSE_KERNEL_ARGS)
        {
            let wish = self.wish(deadline.min(DIAGNOSIS), RootState::Ready);
            let again = launch::boot(self.vmm, spec, &wish, &Timeline::begin(None)).await;
            if let Err(BootError::Deadline { console, .. }) = again {
                return BootError::Deadline { after: *after, console }.into();
            }
        }
        error.into()
    }

    /// Restores a template. What keeps the template from being used is the inner error, with which one it was.
    async fn restore(&self, template: Template) -> Result<Result<Started, (u64, String)>, StartError> {
        self.timeline.mark(Step::TemplateOpened);
        let inode = template.inode();
        let Template { memory, state, disk: saved, tsc_khz, .. } = template;
        let disk = match (&self.request.disk, saved) {
            (StartDisk::Existing(disk), _) => disk.try_clone().map_err(StartError::Disk)?,
            (StartDisk::New(file), Some(saved)) => match fill(file, &saved).and_then(|()| file.try_clone()) {
                Ok(disk) => disk,
                Err(source) if source.kind() == std::io::ErrorKind::StorageFull => {
                    return Err(StartError::Disk(source));
                }
                Err(error) => return Ok(Err((inode, cause::chain(&error)))),
            },
            (StartDisk::Blank, Some(saved)) => {
                match self.environments.copy_disk(&saved, &self.config.scratch_dir) {
                    Ok(disk) => disk,
                    Err(error @ EnvironmentError::NoSpace { .. }) => return Err(error.into()),
                    Err(error) => return Ok(Err((inode, cause::chain(&error)))),
                }
            }
            (StartDisk::Blank | StartDisk::New(_), None) => return Ok(Err((inode, "it has no disk".into()))),
        };
        self.timeline.mark(Step::DiskMade);
        let wish = self.wish(restore_deadline(self.vmm.accelerator()), self.root());
        let mapped = memory.try_clone().ok();
        match self.load(disk, GuestMemory::From(memory), state, tsc_khz, &wish, StartMethod::Restored).await?
        {
            Ok(started) => Ok(Ok(Started { memory: mapped, ..started })),
            // A disk that cannot be mounted is not the template's fault, and no other start would do better.
            Err(Unloaded(_, Some(error))) if self.bare() => Err(error.into()),
            Err(Unloaded(why, _)) => Ok(Err((inode, why))),
        }
    }

    /// Loads a saved guest and lets it go on. The inner error has nothing to do with this host.
    async fn load(
        &self,
        disk: File,
        memory: GuestMemory,
        state: File,
        tsc_khz: u64,
        wish: &BootRequest,
        how: StartMethod,
    ) -> Result<Result<Started, Unloaded>, StartError> {
        let spec = self.spec(disk, memory, MachineStart::Restore { state }, &[])?;
        // An emulated guest reads the host's counter, by the rate that it was told when it booted. Measured beside the
        // start of the VMM, which has a processor of its own to keep busy.
        let emulated = self.vmm.accelerator() == Accelerator::Tcg;
        #[expect(
            clippy::disallowed_methods,
            reason = "awaited later; a bug there costs the template, not the start"
        )]
        let rate = emulated.then(|| tokio::task::spawn_blocking(pyro_vmm::tsc_khz));
        let booted = launch::boot(self.vmm, spec, wish, self.timeline).await;
        if let Some(rate) = rate {
            let wrong = match rate.await {
                Ok(now_khz) if same_rate(tsc_khz, now_khz) => None,
                Ok(now_khz) => Some(format!(
                    "its guest's clock goes by a counter of {tsc_khz} kHz, and this host's has {now_khz}"
                )),
                Err(ended) => Some(Bug::from(ended).to_string()),
            };
            if let Some(why) = wrong {
                if let Ok(booted) = booted {
                    let _ = booted.machine.stop().await;
                }
                return Ok(Err(Unloaded(why, None)));
            }
        }
        match booted {
            Ok(booted) => Ok(Ok(self.started(booted, how, tsc_khz))),
            // An error that is not the template's would keep a boot from succeeding too.
            Err(
                error @ (BootError::Randomness(_)
                | BootError::Launch(
                    VmmError::BinaryMissing { .. }
                    | VmmError::Spawn { .. }
                    | VmmError::OutOfMemory { .. }
                    | VmmError::Host { .. },
                )),
            ) => Err(error.into()),
            Err(error) => Ok(Err(Unloaded(
                first_line(&cause::chain(&error)),
                matches!(error, BootError::Root(_)).then_some(error),
            ))),
        }
    }
}

/// Why a saved guest did not go on, and the error if it could not mount its disk.
struct Unloaded(String, Option<BootError>);

/// Makes `file` a copy of the disk `from`.
fn fill(file: &File, from: &File) -> std::io::Result<()> {
    file.set_len(0)?;
    copy_sparse(from, file).map(drop)
}

fn same_rate(then_khz: u64, now_khz: u64) -> bool {
    (then_khz as f64 - now_khz as f64).abs() <= now_khz as f64 * RATE_TOLERANCE
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}
