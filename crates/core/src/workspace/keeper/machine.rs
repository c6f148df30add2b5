//! The VM of a workspace: from what is on disk to a guest that answers.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use pyro_vmm::{DiskCache, Machine, Shape, Watch};

use crate::backend::{self, Choice, Preference, ProbePolicy};
use crate::cause;
use crate::config::Config;
use crate::environment::{Installed, Store};
use crate::guest::Guest;
use crate::hostfs::lock::Lock;
use crate::identity::unix_now;
use crate::runtime::Bundle;
use crate::start::{self, StartDisk, TemplateUse};
use crate::timeline::Timeline;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::keeper::revive::{self, KeptJob};
use crate::workspace::keeper::{Database, Keeper};
use crate::workspace::store::layout::{self, Home};
use crate::workspace::store::record::{FORKED, Record};
use crate::workspace::store::secrets::{self, Secrets};
use crate::workspace::store::state::{BASELINE, State};
use crate::workspace::store::{disk, holder};
use crate::workspace::wire::start::{KeeperReport, KeeperRequest, KeeperTask};

/// A VM that runs. Dropping it kills the VMM.
pub(super) struct Engine {
    pub(super) machine: Machine,
    pub(super) handle: GuestHandle,
    /// The guest's port, for another session on it; none where a session has a connection of its own.
    pub(super) port: Option<UnixStream>,
    /// Facts that must hold to restore the guest's memory.
    pub(super) origin: start::Origin,
    /// File that the guest's memory is mapped from, privately.
    pub(super) memory: Option<File>,
    /// Jobs that a restored guest goes on with.
    pub(super) jobs: Vec<KeptJob>,
}

/// Guest and its watch, for commands.
#[derive(Clone)]
pub(super) struct GuestHandle {
    pub(super) guest: Guest,
    pub(super) watch: Watch,
}

/// A workspace on disk that is ready to be started.
pub(super) struct Prepared {
    pub(super) home: Home,
    pub(super) held: Lock,
    pub(super) database: Database,
    pub(super) secrets: Secrets,
    /// Id to be given to a draft; `None` where the workspace has its id.
    pub(super) id: Option<String>,
    /// State that the guest comes up from.
    pub(super) from: Beginning,
}

/// State that a guest comes up from.
pub(super) enum Beginning {
    /// A blank disk, whose file is there and empty.
    Nothing,
    /// Disk of the workspace.
    Disk,
    /// Memory of a moment, and the disk of that moment.
    Memory(Checkpoint),
}

impl Beginning {
    /// The memory, where it was kept.
    pub(super) fn kept(checkpoint: Option<Checkpoint>) -> Self {
        checkpoint.map_or(Self::Disk, Self::Memory)
    }
}

/// A guest's memory as it was at a snapshot.
pub(super) struct Checkpoint {
    memory: PathBuf,
    /// Where it is beside its devices, if it is.
    ram: PathBuf,
    key: PathBuf,
    jobs: PathBuf,
    /// Our snapshot, whose disk belongs to it.
    snapshot: String,
}

impl Checkpoint {
    /// Checkpoint of a snapshot, if its memory was kept.
    pub(super) fn of(home: &Home, snapshot: &str) -> Option<Self> {
        Self::elsewhere(home, snapshot, snapshot)
    }

    /// Checkpoint of another workspace's snapshot, whose disk is ours under another name.
    fn elsewhere(home: &Home, there: &str, here: &str) -> Option<Self> {
        let (memory, ram, key) = (home.memory(there), home.ram(there), home.memory_key(there));
        let jobs = home.memory_jobs(there);
        memory.exists().then(|| Self { memory, ram, key, jobs, snapshot: here.to_owned() })
    }

    /// Opens the checkpoint's files, to restore the guest from them.
    fn open(&self) -> Result<start::SavedGuest, WorkspaceError> {
        /// An origin has a few hundred bytes.
        const LONGEST: u64 = 64 << 10;
        let mut text = Vec::new();
        let read = File::open(&self.key).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
        read.map_err(|e| WorkspaceError::file(&self.key, "read", e))?;
        let origin = serde_json::from_slice(&text);
        let origin = origin.map_err(|_| WorkspaceError::Layout { path: self.key.clone() })?;
        let ram = self.ram.exists().then(|| File::options().read(true).write(true).open(&self.ram));
        let ram = ram.transpose().map_err(|e| WorkspaceError::file(&self.ram, "opened", e))?;
        Ok(start::SavedGuest { state: disk::open(&self.memory)?, ram, origin })
    }
}

/// Takes the workspace's lock and brings its files into order for `task`. Blocks.
pub(super) fn prepare(dir: PathBuf, task: &KeeperTask) -> Result<Prepared, WorkspaceError> {
    let home = Home::at(dir);
    match task {
        KeeperTask::Create { wish, environment_version, disk: source, forked_from, memory, manifest } => {
            let id = home.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (draft, held) = holder::lock_and_sign(|| Home::draft(home.root(), &id))?;
            if let Some(name) = &wish.name {
                let _names = layout::lock_names(draft.root())?;
                layout::take_name(draft.root(), name, &id)?;
            }
            let mut record = wish.record(&id, environment_version, unix_now());
            record.manifest.clone_from(manifest);
            if let Some(origin) = forked_from {
                record.metadata.insert(FORKED.into(), origin.clone());
                record.forked_from = Some(origin.clone());
            }
            let state = State::create(&draft.state_path(), &record)?;
            secrets::keep(&draft, &wish.secrets)?;
            let secrets = Secrets::new(wish.secrets.clone())?;
            // The baseline never changes, so it may share its file with the snapshot that it comes from.
            if forked_from.is_some() {
                disk::link_or_copy(source, &draft.snapshot(BASELINE))?;
            } else {
                let blank = File::open(source).map_err(|e| WorkspaceError::file(source, "opened", e))?;
                disk::copy(&blank, &draft.snapshot(BASELINE))?;
            }
            state.add_snapshot(&disk::describe(&draft, &id, BASELINE)?)?;
            let from =
                if forked_from.is_some() {
                    disk::restore(&draft, BASELINE)?;
                    let memory = memory.as_ref();
                    Beginning::kept(memory.and_then(|(dir, name)| {
                        Checkpoint::elsewhere(&Home::at(dir.clone()), name, BASELINE)
                    }))
                } else {
                    layout::new_file(&draft.disk())?;
                    Beginning::Nothing
                };
            Ok(Prepared {
                home: draft,
                held,
                database: Database { state, record },
                secrets,
                id: Some(id),
                from,
            })
        }
        KeeperTask::Start | KeeperTask::Reset { .. } => {
            home.check()?;
            let (home, held) = holder::lock_and_sign(|| {
                let held = match task {
                    // The caller looks again whether the workspace runs by now, which waiting here would not show.
                    KeeperTask::Start => home.try_lock()?.ok_or(WorkspaceError::Locked)?,
                    _ => home.lock()?,
                };
                Ok((home, held))
            })?;
            let state = State::open(&home.state_path())?;
            disk::sweep(&home, &state)?;
            let mut record = state.record()?;
            if let KeeperTask::Reset { snapshot } = task {
                disk::find(&state, snapshot)?;
                disk::restore(&home, snapshot)?;
                note_reset(&mut record);
                state.save(&record)?;
            }
            let secrets = Secrets::new(secrets::read(&home, &record)?)?;
            let from = match task {
                KeeperTask::Reset { snapshot } => Beginning::kept(Checkpoint::of(&home, snapshot)),
                _ => Beginning::Disk,
            };
            Ok(Prepared { home, held, database: Database { state, record }, secrets, id: None, from })
        }
    }
}

/// Counts a reset that is done.
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
        // The directory is no draft of ours, or not far enough to have a name.
        let _ = draft.path().exists().then(|| draft.remove());
        return;
    };
    let name = state.record().ok().and_then(|record| record.name);
    drop(state);
    // A draft that cannot be removed now is swept later: nobody holds its lock any more.
    let _ = draft.remove();
    if let Some(name) = name
        && let Ok(_names) = layout::lock_names(root)
    {
        layout::free_name(root, &name, &id);
    }
}

/// Starts the guest of the workspace, or lets it go on from where its memory was kept; if it does not, it is started from
/// the disk of that moment.
pub(super) async fn bring_up(
    order: &KeeperRequest,
    home: &Home,
    record: &mut Record,
    secrets: &Secrets,
    from: Beginning,
    report: &mut (dyn FnMut(KeeperReport) + Send),
) -> Result<Engine, WorkspaceError> {
    let inputs = StartInputs::find(order, record).await?;
    let (mut resumed, mut jobs) = (None, Vec::new());
    let blank = matches!(from, Beginning::Nothing);
    if let Beginning::Memory(checkpoint) = from {
        match resume(&checkpoint, inputs.order(record, StartDisk::Existing(disk::open_disk(home)?))).await {
            Ok(started) => {
                resumed = Some(started);
                jobs = revive::read(&checkpoint.jobs);
            }
            Err(why) => {
                report(KeeperReport::Remark {
                    text: format!("memory=left (it starts from its disk): {why}"),
                });
                // The restored guest may have written to its disk.
                let home = home.clone();
                blocking(move || disk::restore(&home, &checkpoint.snapshot)).await?;
            }
        }
    }
    let started = match resumed {
        Some(started) => started,
        None => {
            let mut tell = |remark: start::Remark| report(KeeperReport::Remark { text: remark.to_string() });
            let disk = disk::open_disk(home)?;
            let disk = if blank { StartDisk::New(disk) } else { StartDisk::Existing(disk) };
            start::start(inputs.order(record, disk), &mut tell).await?
        }
    };
    let start::Started { booted, how, origin, memory } = started;
    record.backend = booted.machine.backend().to_string();
    record.accelerator = booted.machine.accelerator().to_string();
    record.metadata.insert("backend_reason".into(), inputs.choice.why.clone());
    record.metadata.insert("start".into(), how.name().into());
    give(&booted.guest, secrets).await?;
    let handle = GuestHandle { guest: booted.guest, watch: booted.machine.watch() };
    Ok(Engine { machine: booted.machine, handle, port: booted.port, origin, memory, jobs })
}

/// Inputs of a guest's start, beside its disk.
struct StartInputs<'a> {
    config: &'a Config,
    bundle: Bundle,
    choice: Choice,
    environment: Installed,
    timeline: Timeline,
}

impl<'a> StartInputs<'a> {
    async fn find(order: &'a KeeperRequest, record: &Record) -> Result<Self, WorkspaceError> {
        let config = &order.config;
        let bundle = Bundle::open(&config.bundle_dir, &config.cache_dir)?;
        let preference: Preference = order.backend.parse().unwrap_or_default();
        let choice = backend::choose(config, &bundle, preference, ProbePolicy::IfNeeded).await?;
        let store = Store::new(config.environment_dir.clone());
        let installed = store.installed_version(&record.environment, &record.environment_version)?;
        let environment = installed.ok_or_else(|| WorkspaceError::NotInstalled {
            environment: record.environment.clone(),
            version: record.environment_version.clone(),
        })?;
        Ok(Self { config, bundle, choice, environment, timeline: Timeline::begin(None) })
    }

    fn order(&self, record: &Record, disk: StartDisk) -> start::StartRequest<'_> {
        start::StartRequest {
            config: self.config,
            bundle: &self.bundle,
            environment: &self.environment,
            vmm: &self.choice.vmm,
            shape: Shape {
                vcpus: u8::try_from(record.vcpu_count).unwrap_or(u8::MAX),
                mem_mib: record.mem_mib,
            },
            hostname: format!("pyro-{}", record.id),
            oneshot: false,
            disk,
            cache: DiskCache::Writeback,
            templates: TemplateUse::Templates,
            timeline: &self.timeline,
        }
    }
}

/// Lets a guest go on from its memory, or says why it does not.
async fn resume(checkpoint: &Checkpoint, order: start::StartRequest<'_>) -> Result<start::Started, String> {
    let kept = checkpoint.open().map_err(|error| cause::chain(&error))?;
    start::resume(order, kept).await.map_err(|error| cause::chain(&error))?
}

/// Puts the secrets into the guest's memory, where commands read them.
async fn give(guest: &Guest, secrets: &Secrets) -> Result<(), WorkspaceError> {
    for (name, value) in secrets.values() {
        let put = guest.secret_put(name, value).await;
        put.map_err(|source| WorkspaceError::Guest { what: "keep its secrets", source })?;
    }
    Ok(())
}

impl Keeper {
    /// Makes a started VM the workspace's, with the jobs that it goes on with, and watches for its end.
    pub(super) async fn install(self: &Arc<Self>, mut engine: Engine) {
        let (handle, kept) = (engine.handle.clone(), std::mem::take(&mut engine.jobs));
        *self.engine.lock().await = Some(engine);
        self.give_guest(handle.clone());
        self.tend_session(&handle);
        let keeper = Arc::downgrade(self);
        tokio::spawn(async move {
            let death = handle.watch.ended().await;
            if let Some(keeper) = keeper.upgrade() {
                keeper.guest_died(&death.to_string()).await;
            }
        });
        self.revive(kept).await;
    }

    /// Gives the VM to commands.
    pub(super) fn give_guest(&self, handle: GuestHandle) {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }

    /// Handle of the guest, where one runs.
    pub(super) fn handle(&self) -> Option<GuestHandle> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn forget_guest(&self) {
        self.clear_trouble();
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A VM ended. When nobody ended it on purpose, the workspace is stopped.
    async fn guest_died(&self, why: &str) {
        // Whoever is at work on the VM goes first: a reset has started another by then.
        let mut engine = self.engine.lock().await;
        if engine.as_ref().is_none_or(|engine| engine.handle.watch.try_ended().is_none()) {
            return;
        }
        self.lose_guest(&mut engine, why);
    }

    /// Ends what can be used no more.
    pub(super) fn lose_guest(&self, engine: &mut Option<Engine>, why: &str) {
        *engine = None;
        self.forget_guest();
        self.lose_jobs("guest_ended");
        (self.log)(&format!("the guest ended: {why}"));
        let why = self.secrets.redactor().text(why);
        self.database().record.metadata.insert("stopped_because".into(), why);
        self.life().guest_ended();
        self.remember();
        self.changed.notify_one();
    }
}
