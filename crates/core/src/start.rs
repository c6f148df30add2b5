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

mod kept;
mod remark;

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub use kept::{Kept, resume};
pub use pyro_vmm::DiskCache;
use pyro_vmm::{Accelerator, GuestMemory, MachineParts, MachineSpec, MachineStart, Shape, Vmm, VmmError};
pub use remark::Remark;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cause;
use crate::config::Config;
use crate::environment::{CancelToken, DISK_BYTES, EnvironmentError, Installed, Store};
use crate::launch::{self, BootError, Booted, Root, Wish};
use crate::runtime::{Bundle, INITRAMFS, KERNEL};
use crate::template::{Key, Kind, Lookup, Maker, Saved, Template, Templates};
use crate::timeline::{Step, Timeline};
use crate::vm::VmError;
use pyro_formats::hostfs::copy_sparse;

/// How a guest came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// From a template.
    Restored,
    /// By booting.
    Booted,
    /// From its own memory, as it was saved.
    Resumed,
}

impl How {
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
pub enum Use {
    /// Restore where that is possible, and leave a template behind where it is not.
    #[default]
    Templates,
    /// Boot, and leave nothing behind.
    Nothing,
}

/// All that a start is made from.
pub struct Order<'a> {
    /// Where things are.
    pub config: &'a Config,
    /// The runtime.
    pub bundle: &'a Bundle,
    /// The environment.
    pub environment: &'a Installed,
    /// What runs it.
    pub vmm: &'a Vmm,
    /// Its size.
    pub shape: Shape,
    /// The guest's host name.
    pub hostname: String,
    /// Whether it ends with the session.
    pub oneshot: bool,
    /// Its disk.
    pub disk: Disk,
    /// What its flushes of that disk mean.
    pub cache: DiskCache,
    /// Whether it may come from a template.
    pub templates: Use,
    /// Told of its steps.
    pub timeline: &'a Timeline,
}

/// The writable disk of a guest.
pub enum Disk {
    /// A blank one.
    Blank,
    /// A blank one, in this file, which is empty.
    New(File),
    /// This one, which holds a file system laid out as [`Store::new_disk`] does.
    Existing(File),
}

impl Disk {
    fn kind(&self) -> Kind {
        match self {
            Self::Blank | Self::New(_) => Kind::Fresh,
            Self::Existing(_) => Kind::Bare,
        }
    }
}

/// A guest that runs.
pub struct Started {
    /// The guest.
    pub booted: Booted,
    /// Where it came from.
    pub how: How,
    /// What it depends on.
    pub origin: Origin,
    /// What its memory is mapped from, privately.
    pub memory: Option<File>,
}

/// What a guest depends on that is to go on from its saved memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// All that must be the same.
    pub key: Key,
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

/// What must be free for a template of a guest of this size to be written, bytes: several times what one takes.
fn least_free(mem_mib: u32) -> u64 {
    (256 << 20) + (u64::from(mem_mib) << 20) / 16
}

/// How long another start may at least take over the template before this one boots by itself. It takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
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
pub async fn start(order: Order<'_>, tell: &mut (dyn FnMut(Remark) + Send)) -> Result<Started, VmError> {
    let order = Plan::new(order);
    if order.templates == Use::Nothing {
        return order.boot().await;
    }
    let mut bad = None;
    let remark = match order.store.find(&order.key) {
        Lookup::Found(template) => match order.restore(template).await? {
            Ok(started) => return Ok(started),
            Err((inode, why)) => {
                bad = Some(inode);
                Remark::Unusable(why)
            }
        },
        Lookup::Missing => Remark::First,
        Lookup::Unusable(why) => Remark::Unusable(why),
    };
    let maker = match order.maker(tell).await {
        Ok(maker) => maker,
        Err(why) => {
            tell(Remark::NotSaved(match remark {
                Remark::Unusable(wrong) => format!("{wrong}; a new one cannot be made: {why}"),
                _ => why,
            }));
            return order.boot().await;
        }
    };
    order.timeline.mark(Step::BuildLocked);
    // Somebody may have made it while this start waited, or before it looked anew.
    if let Lookup::Found(template) = order.store.find(&order.key)
        && bad != Some(template.inode())
        && let Ok(started) = order.restore(template).await?
    {
        return Ok(started);
    }
    tell(remark);
    maker.discard(bad);
    order.boot_and_save(maker, tell).await
}

/// Makes the template for `order`, whose disk is not used, unless it is there. Says whether it was made.
///
/// # Errors
/// When the guest does not boot; what keeps it from being saved is told as a remark.
pub async fn warm(order: Order<'_>, tell: &mut (dyn FnMut(Remark) + Send)) -> Result<bool, VmError> {
    let order = Plan::new(order);
    if let Lookup::Found(_) = order.store.find(&order.key) {
        return Ok(false);
    }
    let maker = match order.maker(tell).await {
        Ok(maker) => maker,
        Err(why) => {
            tell(Remark::NotSaved(why));
            return Ok(false);
        }
    };
    if let Lookup::Found(_) = order.store.find(&order.key) {
        return Ok(false);
    }
    maker.discard(None);
    let Some(saved) = order.boot_saved(maker, tell).await? else { return Ok(false) };
    let _ = saved.machine.stop().await;
    Ok(saved.outcome.is_ok())
}

/// An order with what follows from it.
struct Plan<'a> {
    order: Order<'a>,
    store: Templates,
    environments: Store,
    kernel_args: Vec<String>,
    key: Key,
}

impl<'a> std::ops::Deref for Plan<'a> {
    type Target = Order<'a>;
    fn deref(&self) -> &Order<'a> {
        &self.order
    }
}

impl<'a> Plan<'a> {
    fn new(order: Order<'a>) -> Self {
        let kind = order.disk.kind();
        Self::of_kind(order, kind)
    }

    /// For a guest that began as one of this kind, whatever disk it is given now.
    fn of_kind(order: Order<'a>, kind: Kind) -> Self {
        let bare = kind == Kind::Bare && order.templates == Use::Templates;
        let words = [
            Some(NO_DUMMY_ARG),
            Some(EXPEDITED_ARG),
            launch::kernel_arg(order.vmm.backend()),
            bare.then_some(BARE_ARG),
        ];
        let kernel_args: Vec<_> = words.into_iter().flatten().map(str::to_owned).collect();
        let key = Key::new(
            kind,
            order.bundle,
            order.environment,
            order.vmm,
            order.shape,
            order.cache,
            &kernel_args,
        );
        Self {
            store: Templates::new(order.config.template_dir.clone()),
            environments: Store::new(order.config.environment_dir.clone()),
            kernel_args,
            key,
            order,
        }
    }

    fn wish(&self, deadline: Duration, root: Root) -> Wish {
        Wish { hostname: self.hostname.clone(), oneshot: self.oneshot, root, deadline }
    }

    fn boot_deadline(&self) -> Duration {
        self.config.boot_deadline.unwrap_or_else(|| launch::boot_deadline(self.vmm.accelerator()))
    }

    /// What a machine is made of, its files opened anew.
    fn spec(
        &self,
        disk: File,
        memory: GuestMemory,
        start: MachineStart,
        more_args: &[&str],
    ) -> Result<MachineSpec, VmError> {
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
    fn disk(&self) -> Result<File, VmError> {
        match &self.order.disk {
            Disk::Blank => Ok(self.environments.new_disk(&self.config.scratch_dir)?),
            Disk::New(file) => {
                let blank = self.environments.open_blank_disk()?;
                fill(file, &blank).and_then(|()| file.try_clone()).map_err(|source| VmError::Disk { source })
            }
            Disk::Existing(disk) => disk.try_clone().map_err(|source| VmError::Disk { source }),
        }
    }

    /// Boots without regard to templates.
    async fn boot(&self) -> Result<Started, VmError> {
        let deadline = self.boot_deadline();
        let spec = self.spec(self.disk()?, GuestMemory::Private, MachineStart::Cold, &[])?;
        let booted = launch::boot(self.vmm, spec, &self.wish(deadline, self.root()), self.timeline).await;
        match booted {
            Ok(booted) => Ok(self.started(booted, How::Booted, pyro_vmm::tsc_khz())),
            Err(error) => Err(self.diagnose(error, deadline).await),
        }
    }

    fn started(&self, booted: Booted, how: How, tsc_khz: u64) -> Started {
        Started { booted, how, origin: Origin { key: self.key.clone(), tsc_khz }, memory: None }
    }

    fn bare(&self) -> bool {
        self.kernel_args.iter().any(|word| word == BARE_ARG)
    }

    /// What a guest with its own disk has to do before it can be used.
    fn root(&self) -> Root {
        if self.bare() { Root::Assemble } else { Root::Ready }
    }

    /// A kernel that hangs says nothing on a quiet console: lets it hang once more, talking.
    async fn diagnose(&self, error: BootError, deadline: Duration) -> VmError {
        if let BootError::Deadline { after, console } = &error
            && console.trim().is_empty()
            && let Ok(disk) = self.environments.new_disk(&self.config.scratch_dir)
            && let Ok(spec) =
                self.spec(disk, GuestMemory::Private, MachineStart::Cold, pyro_vmm::VERBOSE_KERNEL_ARGS)
        {
            let wish = self.wish(deadline.min(DIAGNOSIS), Root::Ready);
            let again = launch::boot(self.vmm, spec, &wish, &Timeline::begin(None)).await;
            if let Err(BootError::Deadline { console, .. }) = again {
                return BootError::Deadline { after: *after, console }.into();
            }
        }
        error.into()
    }

    /// Restores a template. What keeps the template from being used is the inner error, with which one it was.
    async fn restore(&self, template: Template) -> Result<Result<Started, (u64, String)>, VmError> {
        self.timeline.mark(Step::TemplateOpened);
        let inode = template.inode();
        let Template { memory, state, disk: saved, tsc_khz, .. } = template;
        let disk = match (&self.order.disk, saved) {
            (Disk::Existing(disk), _) => disk.try_clone().map_err(|source| VmError::Disk { source })?,
            (Disk::New(file), Some(saved)) => match fill(file, &saved).and_then(|()| file.try_clone()) {
                Ok(disk) => disk,
                Err(source) if source.kind() == std::io::ErrorKind::StorageFull => {
                    return Err(VmError::Disk { source });
                }
                Err(error) => return Ok(Err((inode, cause::chain(&error)))),
            },
            (Disk::Blank, Some(saved)) => {
                match self.environments.copy_disk(&saved, &self.config.scratch_dir) {
                    Ok(disk) => disk,
                    Err(error @ EnvironmentError::NoSpace { .. }) => return Err(error.into()),
                    Err(error) => return Ok(Err((inode, cause::chain(&error)))),
                }
            }
            (Disk::Blank | Disk::New(_), None) => return Ok(Err((inode, "it has no disk".into()))),
        };
        self.timeline.mark(Step::DiskMade);
        let wish = self.wish(restore_deadline(self.vmm.accelerator()), self.root());
        let mapped = memory.try_clone().ok();
        match self.load(disk, GuestMemory::From(memory), state, tsc_khz, &wish, How::Restored).await? {
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
        wish: &Wish,
        how: How,
    ) -> Result<Result<Started, Unloaded>, VmError> {
        let spec = self.spec(disk, memory, MachineStart::Restore { state }, &[])?;
        // An emulated guest reads the host's counter, by the rate that it was told when it booted. Measured beside the
        // start of the VMM, which has a processor of its own to keep busy.
        let emulated = self.vmm.accelerator() == Accelerator::Tcg;
        let rate = emulated.then(|| tokio::task::spawn_blocking(pyro_vmm::tsc_khz));
        let booted = launch::boot(self.vmm, spec, wish, self.timeline).await;
        if let Some(rate) = rate {
            let now_khz = rate.await.unwrap_or_default();
            if !same_rate(tsc_khz, now_khz) {
                if let Ok(booted) = booted {
                    let _ = booted.machine.stop().await;
                }
                let why = format!(
                    "its guest's clock goes by a counter of {tsc_khz} kHz, and this host's has {now_khz}"
                );
                return Ok(Err(Unloaded(why, None)));
            }
        }
        match booted {
            Ok(booted) => Ok(Ok(self.started(booted, how, tsc_khz))),
            // What has nothing to do with the template would keep a boot from succeeding too.
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

    /// Becomes the one who makes the template, or says why there cannot be one.
    async fn maker(&self, tell: &mut (dyn FnMut(Remark) + Send)) -> Result<Maker, String> {
        let root = &self.config.template_dir;
        let (free, least) = (crate::environment::free(root), least_free(self.shape.mem_mib));
        if free < least {
            let (free, least) = (free >> 20, least >> 20);
            return Err(format!("{free} MiB are free on {}, and {least} MiB should be", root.display()));
        }
        let (store, key) = (self.store.clone(), self.key.clone());
        let cancel = CancelToken::new();
        let on_drop = CancelOnDrop(cancel.clone());
        let (waits, mut waiting) = tokio::sync::oneshot::channel();
        let mut waits = Some(waits);
        let mut made = tokio::task::spawn_blocking(move || {
            Maker::new(store, key, &cancel, &mut || {
                let _ = waits.take().map(|waits| waits.send(()));
            })
        });
        let made = tokio::select! {
            biased;
            made = &mut made => made,
            // A closed channel is no wait.
            Ok(()) = &mut waiting => {
                tell(Remark::Waiting);
                // As long as the maker's guest may take to boot, and to be saved; then this one boots by itself.
                let patience = self.boot_deadline().max(PATIENCE);
                match tokio::time::timeout(patience, &mut made).await {
                    Ok(made) => made,
                    Err(_) => {
                        return Err(format!(
                            "another start has been making it for {} s, and may be stopped",
                            patience.as_secs()
                        ));
                    }
                }
            }
        };
        drop(on_drop);
        match made {
            Ok(Ok(maker)) => Ok(maker),
            Ok(Err(error)) => Err(cause::chain(&error)),
            Err(_) => Err("the thread that waits for its lock ended".into()),
        }
    }

    /// Boots a guest to be saved: its disk, itself, and a second descriptor of its port if it has one.
    async fn boot_for(&self, maker: &Maker) -> Result<(File, Booted, Option<UnixStream>), VmError> {
        let host = |source| VmError::Disk { source };
        let disk = match self.key.kind {
            Kind::Fresh => self.environments.new_disk(&self.config.scratch_dir)?,
            // Nothing but holes: whatever a guest shows later cannot be from here.
            Kind::Bare => {
                let disk = tempfile::tempfile_in(&self.config.scratch_dir).map_err(host)?;
                disk.set_len(DISK_BYTES).map_err(host)?;
                disk
            }
        };
        let kept = disk.try_clone().map_err(host)?;
        // One that is faster to fault in than a file on a disk, where the VMM can run in it.
        let memory = if self.vmm.backend().owns_memory() {
            GuestMemory::Owned(maker.memory().map_err(host)?)
        } else {
            GuestMemory::Private
        };
        let deadline = self.boot_deadline();
        let root = if self.bare() { Root::Later } else { Root::Ready };
        let spec = self.spec(disk, memory, MachineStart::Cold, &[])?;
        let (booted, port) = match launch::boot_keeping_port(
            self.vmm,
            spec,
            &Wish { oneshot: false, ..self.wish(deadline, root) },
            self.timeline,
        )
        .await
        {
            Ok(booted) => booted,
            Err(error) => return Err(self.diagnose(error, deadline).await),
        };
        self.timeline.mark(Step::BuildBooted);
        Ok((kept, booted, port))
    }

    /// Boots a guest and saves it. What keeps the template from being made is told; without a guest to go on with there is
    /// nothing.
    async fn boot_saved(
        &self,
        maker: Maker,
        tell: &mut (dyn FnMut(Remark) + Send),
    ) -> Result<Option<Saved>, VmError> {
        let (disk, booted, port) = self.boot_for(&maker).await?;
        let saved = maker.save(booted, port, disk, self.timeline).await;
        if let Err(error) = saved.as_ref().and_then(|saved| saved.outcome.as_ref()) {
            tell(Remark::NotSaved(cause::chain(error)));
        }
        Ok(saved.ok())
    }

    /// Boots, saves what has booted, and goes on with it.
    async fn boot_and_save(
        &self,
        maker: Maker,
        tell: &mut (dyn FnMut(Remark) + Send),
    ) -> Result<Started, VmError> {
        let Some(saved) = self.boot_saved(maker, tell).await? else { return self.boot().await };
        if !matches!(self.order.disk, Disk::Blank) {
            // Its disk was one without a name: it cannot be given another.
            let _ = saved.machine.stop().await;
            if let Lookup::Found(template) = self.store.find(&self.key)
                && let Ok(started) = self.restore(template).await?
            {
                return Ok(Started { how: How::Booted, ..started });
            }
            return self.boot().await;
        }
        let wish = self.wish(self.boot_deadline(), Root::Ready);
        let again = launch::meet(saved.machine, saved.port, true, &wish, Instant::now(), self.timeline).await;
        match again {
            Ok(booted) => Ok(self.started(booted, How::Booted, pyro_vmm::tsc_khz())),
            Err(error) => {
                tell(Remark::NotSaved(format!(
                    "the guest did not go on after it was saved: {}",
                    first_line(&cause::chain(&error))
                )));
                self.boot().await
            }
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

struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}
