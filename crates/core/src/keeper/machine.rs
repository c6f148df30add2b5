//! The VM of a workspace: from what is on disk to a guest that answers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::PoisonError;

use pyro_vmm::{Cache, Machine, Shape, Watch};

use super::order::{Order, Report, Task};
use super::{Books, Keeper};
use crate::backend::{self, Preference, Probe};
use crate::environment::Store;
use crate::environment::lock::Lock;
use crate::guest::Guest;
use crate::identity::unix_now;
use crate::runtime::Bundle;
use crate::start::{self, Disk, Use};
use crate::timeline::Timeline;
use crate::workspace::layout::{self, Home};
use crate::workspace::state::{BASELINE, State};
use crate::workspace::{Record, WorkspaceError, disk};

/// No `dummy0` beside the loopback interface.
const KERNEL_ARGS: [&str; 1] = ["dummy.numdummies=0"];

/// A VM that runs. Dropping it kills the VMM.
pub(super) struct Engine {
    pub(super) machine: Machine,
    pub(super) handle: Handle,
}

/// What commands use of it.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) guest: Guest,
    pub(super) watch: Watch,
}

/// A workspace on disk that is ready to be started.
pub(super) struct Prepared {
    pub(super) home: Home,
    pub(super) held: Lock,
    pub(super) books: Books,
    /// Its id, where it is a draft that has yet to be given it.
    pub(super) id: Option<String>,
}

/// Takes the workspace's lock and brings its files into order for `task`. Blocks.
pub(super) fn prepare(dir: PathBuf, task: &Task) -> Result<Prepared, WorkspaceError> {
    let home = Home::at(dir);
    match task {
        Task::Create { wish, environment_version, disk: source, forked_from } => {
            let id = home.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (draft, held) = Home::draft(home.root(), &id)?;
            if let Some(name) = &wish.name {
                let _names = layout::lock_names(draft.root())?;
                layout::take_name(draft.root(), name, &id)?;
            }
            let mut record = wish.record(&id, environment_version, unix_now());
            if let Some(origin) = forked_from {
                record.metadata.insert("forked_from".into(), origin.clone());
            }
            let state = State::create(&draft.state_path(), &record)?;
            // The baseline never changes, so it may share its file with the snapshot that it comes from.
            if forked_from.is_some() {
                disk::link_or_copy(source, &draft.snapshot(BASELINE))?;
            } else {
                let blank = File::open(source).map_err(|e| WorkspaceError::file(source, "opened", e))?;
                disk::copy(&blank, &draft.snapshot(BASELINE))?;
            }
            state.add_snapshot(&disk::describe(&draft, &id, BASELINE)?)?;
            disk::restore(&draft, BASELINE)?;
            Ok(Prepared { home: draft, held, books: Books { state, record }, id: Some(id) })
        }
        Task::Start | Task::Reset { .. } => {
            home.check()?;
            let held = home.lock()?;
            let state = State::open(&home.state_path())?;
            disk::sweep(&home, &state)?;
            let mut record = state.record()?;
            if let Task::Reset { snapshot } = task {
                disk::find(&state, snapshot)?;
                disk::restore(&home, snapshot)?;
                note_reset(&mut record);
                state.save(&record)?;
            }
            Ok(Prepared { home, held, books: Books { state, record }, id: None })
        }
    }
}

/// It was reset now.
pub(super) fn note_reset(record: &mut Record) {
    record.reset_count += 1;
    record.last_reset_at = Some(unix_now());
}

/// Removes what a start that failed has left of a new workspace in `dir`; others keep what they have.
pub(super) fn undo(dir: &Path) {
    let Some(root) = dir.parent() else { return };
    let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let draft = Home::at(root.join(format!(".new-{id}")));
    let Ok(state) = draft.read() else {
        // It was never a draft of ours, or not far enough to have a name.
        let _ = draft.path().exists().then(|| draft.remove());
        return;
    };
    let name = state.record().ok().and_then(|record| record.name);
    drop(state);
    // What cannot be removed now is swept later: nobody holds its lock any more.
    let _ = draft.remove();
    if let Some(name) = name
        && let Ok(_names) = layout::lock_names(root)
    {
        layout::free_name(root, &name, &id);
    }
}

/// Starts the guest of the workspace from its disk.
pub(super) async fn bring_up(
    order: &Order,
    home: &Home,
    record: &mut Record,
    report: &mut (dyn FnMut(Report) + Send),
) -> Result<Engine, WorkspaceError> {
    let config = &order.config;
    let bundle = Bundle::open(&config.bundle_dir, &config.cache_dir)?;
    let preference: Preference = order.backend.parse().unwrap_or_default();
    let choice = backend::choose(config, &bundle, preference, Probe::IfNeeded).await?;
    let store = Store::new(config.environment_dir.clone());
    let environment =
        store.installed_version(&record.environment, &record.environment_version)?.ok_or_else(|| {
            WorkspaceError::NotInstalled {
                environment: record.environment.clone(),
                version: record.environment_version.clone(),
            }
        })?;
    let timeline = Timeline::begin(None);
    let order = start::Order {
        config,
        bundle: &bundle,
        environment: &environment,
        vmm: &choice.vmm,
        shape: Shape { vcpus: u8::try_from(record.vcpu_count).unwrap_or(u8::MAX), mem_mib: record.mem_mib },
        hostname: format!("pyro-{}", record.id),
        kernel_args: KERNEL_ARGS.map(str::to_owned).to_vec(),
        disk: Disk::Existing(disk::open_disk(home)?),
        cache: Cache::Writeback,
        templates: Use::Templates,
        timeline: &timeline,
    };
    let started =
        start::start(order, &mut |remark| report(Report::Remark { text: remark.to_string() })).await?;
    let start::Started { booted, how } = started;
    record.backend = booted.machine.backend().to_string();
    record.accelerator = booted.machine.accelerator().to_string();
    record.metadata.insert("backend_reason".into(), choice.why.clone());
    record.metadata.insert("start".into(), how.name().into());
    let handle = Handle { guest: booted.guest, watch: booted.machine.watch() };
    Ok(Engine { machine: booted.machine, handle })
}

impl Keeper {
    /// Makes a started VM the workspace's, and watches for its end.
    pub(super) async fn install(self: &Arc<Self>, engine: Engine) {
        let handle = engine.handle.clone();
        *self.engine.lock().await = Some(engine);
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.clone());
        let keeper = Arc::downgrade(self);
        tokio::spawn(async move {
            let death = handle.watch.ended().await;
            if let Some(keeper) = keeper.upgrade() {
                keeper.guest_died(&death.to_string()).await;
            }
        });
    }

    /// Takes the VM away from commands.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn forget_guest(&self) {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A VM ended. When nobody ended it on purpose, the workspace is stopped.
    async fn guest_died(&self, why: &str) {
        // Whoever is at work on the VM goes first: a reset has started another by then.
        let mut engine = self.engine.lock().await;
        if engine.as_ref().is_none_or(|engine| engine.handle.watch.try_ended().is_none()) {
            return;
        }
        *engine = None;
        self.forget_guest();
        self.lose_jobs("guest_ended");
        (self.log)(&format!("the guest ended: {why}"));
        self.books().record.metadata.insert("stopped_because".into(), why.to_owned());
        self.life().guest_ended();
        self.remember();
        self.changed.notify_one();
    }
}
