//! What front ends call. Each operation asks the workspace's keeper, or, where none lives and none is needed, does it
//! itself under the workspace's lock.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::net::UnixStream;

use super::holder::Holder;
use super::keepalive::KeptAlive;
use super::layout::{self, Home};
use super::record::{Record, is_id};
use super::start::{self, Remarks};
use super::state::State;
use super::transfer::absolute;
use super::view::{
    Deleted, EXECUTION_MODE, List, Reset, ResetTo, SnapshotCreated, SnapshotDeleted, SnapshotInfo,
    SnapshotList, Status, UNRESPONSIVE, Unreadable,
};
use super::{Changes, Moved, WORKSPACE_PATH, Wish, WorkspaceError, blocking, disk, nearest};
use crate::environment::PullEvent;
use crate::keeper::{
    self, Answer, Asked, Call, GENERATION, Greeting, KEPT_SECONDS, OLDEST, Order, Phase, ProtocolError, Task,
};
use crate::vm::Factory;
use crate::{host, identity};
use pyro_formats::archive::{Limits, Source};

/// How long a keeper may take to greet and to answer what it knows.
const PROMPT: Duration = Duration::from_secs(10);
/// How long it may take to greet who only looks, and can say that it does not.
const GLANCE: Duration = Duration::from_secs(2);
/// Workspaces that are looked at at once.
const LOOKS: usize = 64;
/// How long somebody else's work on a workspace is waited for, and how often it is looked at.
const MOMENT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// How long it may take over what copies a disk or ends a guest.
pub(super) const LONG: Duration = Duration::from_secs(1800);

/// The workspaces of this user.
#[derive(Clone, Debug)]
pub struct Workspaces {
    pub(super) factory: Factory,
    kept: KeptAlive,
}

/// A conversation with a keeper, after its greeting.
pub(super) struct Conversation {
    pub(super) stream: UnixStream,
    pub(super) greeting: Greeting,
}

/// A keeper that was told what to do, and will answer.
pub(super) struct Reached {
    pub(super) home: Home,
    pub(super) stream: UnixStream,
    goes_on: bool,
    /// It was asked before on this connection, and has not greeted this time.
    pub(super) again: bool,
}

impl Conversation {
    /// Asks what is to be asked in it.
    pub(super) async fn ask(&mut self, call: &Call, within: Duration) -> Result<Answer, WorkspaceError> {
        let talk = async {
            keeper::send(&mut self.stream, &Asked::now(call)).await?;
            keeper::receive::<Answer>(&mut self.stream).await
        };
        match tokio::time::timeout(within, talk).await {
            Ok(Ok(Answer::Failed { fault })) => Err(WorkspaceError::Told(fault)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(WorkspaceError::Silent),
        }
    }
}

impl Workspaces {
    /// Those that `factory`'s configuration places, started with its backend.
    pub fn new(factory: Factory) -> Self {
        Self { factory, kept: KeptAlive::default() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.factory.config.workspaces_dir
    }

    pub(super) fn order(&self, task: Task) -> Order {
        Order {
            config: (*self.factory.config).clone(),
            backend: self.factory.preference.name().to_owned(),
            task,
            expiry: None,
        }
    }

    /// The id that an id or a name means, as far as it can be told without asking anybody: what is no name of one stays
    /// as it is.
    pub fn resolve(&self, given: &str) -> String {
        let named = super::check_snapshot_name(given).ok().and_then(|()| layout::named(self.root(), given));
        named.unwrap_or_else(|| given.to_owned())
    }

    /// The workspace that an id or a name means. One whose time is over is removed instead.
    ///
    /// # Errors
    /// [`WorkspaceError::Unknown`], with what it may have been meant to be.
    pub(super) async fn find(&self, given: &str) -> Result<Home, WorkspaceError> {
        if let Some(home) = self.place(given)
            && !self.expire(&home).await
        {
            return Ok(home);
        }
        layout::sweep(self.root());
        let known = layout::names(self.root()).into_iter().chain(layout::ids(self.root())?);
        Err(WorkspaceError::Unknown { given: given.to_owned(), near: nearest(given, known, 3) })
    }

    /// Says `call` to the keeper of a workspace that runs, at once. Its own time is its keeper's to see to: nothing is read of
    /// it. Only for a call that its keeper gives up when this side is gone: a keeper that hangs may come to it later.
    ///
    /// # Errors
    /// As [`Self::find`], and when it has no keeper.
    pub(super) async fn reach(&self, given: &str, call: &Call) -> Result<Reached, WorkspaceError> {
        if let Some(home) = self.place(given) {
            if let Some(mut stream) = self.kept.take(home.path()) {
                match tokio::time::timeout(PROMPT, keeper::send(&mut stream, &Asked::now(call))).await {
                    Ok(Ok(())) => return Ok(Reached { home, stream, goes_on: true, again: true }),
                    // It has none of it that it could begin.
                    Ok(Err(_)) => {}
                    Err(_) => return Err(WorkspaceError::Silent),
                }
            }
            let met = self.meet_within(&home, PROMPT, Some(call)).await?;
            if let Some(Conversation { stream, greeting }) = met {
                return Ok(Reached { home, stream, goes_on: greeting.goes_on, again: false });
            }
        }
        self.find(given).await?;
        Err(WorkspaceError::Stopped)
    }

    /// Keeps the connection of a call whose answer was read, for the next.
    pub(super) fn answered(&self, Reached { home, stream, goes_on, .. }: Reached) {
        if goes_on {
            self.kept.keep(home.path(), stream);
        }
    }

    /// Whether the keeper does not greet, some seconds from now.
    pub(super) async fn hangs(&self, home: &Home) -> bool {
        tokio::time::sleep(PROMPT).await;
        matches!(self.meet(home).await, Err(WorkspaceError::Silent))
    }

    /// Where the workspace is that an id or a name means, if there is one.
    fn place(&self, given: &str) -> Option<Home> {
        let id = if is_id(given) {
            Some(given.to_owned())
        } else if super::check_snapshot_name(given).is_ok() {
            layout::named(self.root(), given)
        } else {
            None
        };
        id.map(|id| Home::of(self.root(), &id)).filter(Home::exists)
    }

    /// Removes a stopped workspace whose time to live has been over for a day, and says whether it did.
    async fn expire(&self, home: &Home) -> bool {
        let over = |record: &Record| {
            keeper::expires_at(record.last_activity_at, record.ttl_seconds as f64)
                .is_some_and(|at| at + KEPT_SECONDS <= identity::unix_now())
        };
        let Ok(record) = home.read().and_then(|state| state.record()) else { return false };
        if !over(&record) || !matches!(keeper::connect(home).await, Ok(None)) {
            return false;
        }
        let Ok(Some(_held)) = home.try_lock() else { return false };
        // Asked again: it may have been used until the lock was ours.
        home.read().and_then(|state| state.record()).is_ok_and(|record| over(&record))
            && keeper::remove(home, record.name.as_deref(), &record.id).is_ok()
    }

    /// Meets the keeper, if one lives.
    pub(super) async fn meet(&self, home: &Home) -> Result<Option<Conversation>, WorkspaceError> {
        self.meet_within(home, PROMPT, None).await
    }

    async fn meet_within(
        &self,
        home: &Home,
        within: Duration,
        first: Option<&Call>,
    ) -> Result<Option<Conversation>, WorkspaceError> {
        let Some(mut stream) = keeper::connect(home).await? else { return Ok(None) };
        let greeted = tokio::time::timeout(within, async {
            if let Some(call) = first {
                match keeper::send(&mut stream, &Asked::now(call)).await {
                    // A keeper that is gone is seen below.
                    Ok(()) | Err(ProtocolError::Io(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            keeper::receive::<Greeting>(&mut stream).await
        });
        let greeted = greeted.await;
        let greeting = match greeted {
            Ok(Ok(greeting)) => greeting,
            // It ended just now.
            Ok(Err(_)) if matches!(keeper::connect(home).await, Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(WorkspaceError::Silent),
        };
        if !(OLDEST..=GENERATION).contains(&greeting.generation) {
            return Err(WorkspaceError::Generation { version: greeting.version });
        }
        Ok(Some(Conversation { stream, greeting }))
    }

    /// Asks the keeper, if one lives. One that works long on the answer still greets others meanwhile, or it hangs.
    pub(super) async fn ask(
        &self,
        home: &Home,
        call: &Call,
        within: Duration,
    ) -> Result<Option<Answer>, WorkspaceError> {
        let Some(mut conversation) = self.meet(home).await? else { return Ok(None) };
        let hangs = async { while !self.hangs(home).await {} };
        tokio::select! {
            answered = conversation.ask(call, within) => answered.map(Some),
            () = hangs => Err(WorkspaceError::Silent),
        }
    }

    /// Makes a workspace, its environment installed first where that is missing, and starts it.
    ///
    /// # Errors
    /// When it cannot be made or started; nothing is left of it then.
    pub async fn create(
        &self,
        mut wish: Wish,
        pull_events: impl FnMut(PullEvent) + Send + 'static,
        remarks: Remarks<'_>,
        moved: &mut (dyn FnMut(Moved) + Send),
    ) -> Result<Status, WorkspaceError> {
        wish.check(host::available_memory_mib())?;
        if let Some(path) = wish.seed_path.take() {
            // What is no tree is refused before anything is made.
            Source::open(&path, Limits::default())?;
            wish.seed_path = Some(absolute(path)?);
        }
        layout::sweep(self.root());
        let environment = self.factory.environment(&wish.environment, pull_events).await?;
        let disk = self.factory.store().blank_disk()?;
        let id = identity::new_id()?;
        let order = self.order(Task::Create {
            wish: Box::new(wish),
            environment_version: environment.manifest().version.clone(),
            disk,
            forked_from: None,
            memory: None,
            manifest: None,
        });
        start::seeded(Home::of(self.root(), &id).path(), &order, remarks, moved).await
    }

    /// All workspaces, the one that was used last first, and those that cannot be read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn list(&self) -> Result<List, WorkspaceError> {
        layout::sweep(self.root());
        let homes = layout::ids(self.root())?.into_iter().map(|id| Home::of(self.root(), &id));
        let looks = homes.map(|home| async move {
            if self.expire(&home).await {
                return None;
            }
            let looked = self.look(&home).await;
            // One that went meanwhile is not there.
            home.exists().then_some((home, looked))
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(LOOKS);
        let (mut workspaces, mut unreadable) = (Vec::new(), Vec::new());
        while let Some(looked) = looks.next().await {
            match looked {
                None => {}
                Some((_, Ok(status))) => workspaces.push(super::Listed::from(status)),
                Some((home, Err(error))) => unreadable.push(Unreadable {
                    workspace_id: super::files::id_of(&home),
                    error: crate::cause::chain(&error),
                }),
            }
        }
        workspaces.sort_by(|a, b| b.last_activity_at.total_cmp(&a.last_activity_at));
        unreadable.sort_by(|a, b| a.workspace_id.cmp(&b.workspace_id));
        Ok(List { count: workspaces.len(), workspaces, unreadable })
    }

    /// What a workspace is now, from its database and its keeper's greeting.
    async fn look(&self, home: &Home) -> Result<Status, WorkspaceError> {
        let met = self.meet_within(home, GLANCE, None).await;
        let state = home.read()?;
        let (record, count, last) = (state.record()?, state.command_count()?, state.last_command()?);
        let mut status = match &met {
            Ok(Some(Conversation { greeting, .. })) => {
                let record = Record { last_activity_at: greeting.last_activity_at, ..record };
                Status::new(record, greeting.phase, count, last.as_ref())
            }
            Ok(None) => Status::new(record, Phase::Stopped, count, last.as_ref()),
            Err(error) => {
                let mut status = Status::new(record, Phase::Stopped, count, last.as_ref());
                status.state = UNRESPONSIVE.into();
                status.metadata.insert("keeper".into(), crate::cause::chain(error));
                status
            }
        };
        status.keeper_pid = match met {
            Ok(met) => met.map(|conversation| conversation.greeting.pid),
            Err(_) => Holder::of(home).map(|holder| holder.pid()),
        };
        status.count_services(&state)?;
        Ok(status)
    }

    /// What a workspace is now.
    ///
    /// # Errors
    /// When there is no such one, or it cannot be read.
    pub async fn status(&self, given: &str) -> Result<Status, WorkspaceError> {
        self.look(&self.find(given).await?).await
    }

    /// Changes name and labels.
    ///
    /// # Errors
    /// When the name is taken, or one of them cannot be.
    pub async fn update(&self, given: &str, changes: Changes) -> Result<Status, WorkspaceError> {
        let home = self.find(given).await?;
        match self.ask(&home, &Call::Update { changes: changes.clone() }, PROMPT).await? {
            Some(Answer::Status { status }) => Ok(*status),
            Some(_) => Err(odd()),
            None => {
                let (locked, state) = self.own(&home).await?;
                let mut record = state.record()?;
                keeper::describe(self.root(), &state, &mut record, &changes)?;
                drop((state, locked));
                self.look(&home).await
            }
        }
    }

    /// Takes the lock of a workspace that no keeper has, and removes what interrupted work left.
    pub(super) async fn own(
        &self,
        home: &Home,
    ) -> Result<(crate::hostfs::lock::Lock, State), WorkspaceError> {
        let waits = home.clone();
        let locked = blocking(move || waits.lock()).await?;
        home.check()?;
        let state = State::open(&home.state_path())?;
        disk::sweep(home, &state)?;
        Ok((locked, state))
    }

    /// Ends everything of a workspace and removes it, its keeper too where that hangs.
    ///
    /// # Errors
    /// When there is no such one, or something of it cannot be removed.
    pub async fn delete(&self, given: &str) -> Result<Deleted, WorkspaceError> {
        let home = self.find(given).await?;
        let asked = match self.ask(&home, &Call::Delete, LONG).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => self.remove(&home).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => {}
            // It went while we asked: somebody else deleted it, and that is what was wanted.
            Err(_) if !home.exists() => {}
            Err(WorkspaceError::Silent | WorkspaceError::Locked) => {
                end_keeper(&home).await?;
                self.remove(&home).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(Deleted { workspace_id: super::files::id_of(&home), deleted: true, reason: "explicit_delete" })
    }

    /// Removes one that no keeper has.
    async fn remove(&self, home: &Home) -> Result<(), WorkspaceError> {
        let (held, state) = self.own(home).await?;
        let Record { name, id, .. } = state.record()?;
        drop(state);
        keeper::remove(home, name.as_deref(), &id)?;
        drop(held);
        Ok(())
    }

    /// Ends the keeper, and the guest with it, as if their power had gone: also one that hangs. Disk and history stay.
    ///
    /// # Errors
    /// When there is no such workspace, or another process than its keeper works on it.
    pub async fn force_stop(&self, given: &str) -> Result<Status, WorkspaceError> {
        let home = self.find(given).await?;
        if home.try_lock()?.is_none() {
            end_keeper(&home).await?;
        }
        self.look(&home).await
    }

    /// Ends the guest, cleanly. A stopped workspace stays so.
    ///
    /// # Errors
    /// When it is in the middle of something else.
    pub async fn stop(&self, given: &str) -> Result<Status, WorkspaceError> {
        let home = self.find(given).await?;
        match self.ask(&home, &Call::Stop, LONG).await? {
            Some(Answer::Status { status }) => Ok(*status),
            Some(_) => Err(odd()),
            None => self.look(&home).await,
        }
    }

    /// Starts a stopped workspace. One that runs goes on, and one that somebody else starts or stops just now is waited for, at
    /// most half a minute.
    ///
    /// # Errors
    /// When its guest does not come up; it is stopped then.
    pub async fn start(&self, given: &str, remarks: Remarks<'_>) -> Result<Status, WorkspaceError> {
        let until = tokio::time::Instant::now() + MOMENT;
        loop {
            let home = self.find(given).await?;
            match self.begin(&home, remarks).await {
                Err(error) if error.is_momentary() && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                begun => return begun,
            }
        }
    }

    async fn begin(&self, home: &Home, remarks: Remarks<'_>) -> Result<Status, WorkspaceError> {
        if let Some(phase) = self.phase(home).await? {
            if phase == Phase::Running {
                return self.look(home).await;
            }
            self.retire(home).await?;
        }
        // Whoever has the lock starts, or has yet to exit: to see that takes no keeper.
        if home.try_lock()?.is_none() {
            return Err(WorkspaceError::Locked);
        }
        start::start(home.path(), &self.order(Task::Start), remarks).await
    }

    pub(super) async fn phase(&self, home: &Home) -> Result<Option<Phase>, WorkspaceError> {
        Ok(self.meet(home).await?.map(|conversation| conversation.greeting.phase))
    }

    /// Makes the keeper of the stopped workspace in `dir` exit, so that this process can be its keeper.
    ///
    /// # Errors
    /// When it runs, or its keeper does not answer.
    pub async fn release(&self, dir: &Path) -> Result<(), WorkspaceError> {
        let home = Home::at(dir.to_owned());
        home.check()?;
        self.retire(&home).await?;
        blocking(move || home.lock()).await.map(drop)
    }

    /// Makes the keeper of a stopped workspace exit, which has the lock until it has.
    async fn retire(&self, home: &Home) -> Result<(), WorkspaceError> {
        self.ask(home, &Call::Retire, PROMPT).await.map(|_| ())
    }

    /// Puts the disk of a snapshot back and starts anew, whatever state the workspace is in.
    ///
    /// # Errors
    /// When there is no such snapshot, or the guest does not come up; it is stopped then.
    pub async fn reset(
        &self,
        given: &str,
        snapshot: &str,
        remarks: Remarks<'_>,
    ) -> Result<Reset, WorkspaceError> {
        let home = self.find(given).await?;
        let to = disk::find(&home.read()?, snapshot)?;
        let status = if self.phase(&home).await? == Some(Phase::Running) {
            match self.ask(&home, &Call::Reset { snapshot: snapshot.into() }, LONG).await? {
                Some(Answer::Status { status }) => *status,
                _ => return Err(odd()),
            }
        } else {
            self.retire(&home).await?;
            let order = self.order(Task::Reset { snapshot: snapshot.into() });
            start::start(home.path(), &order, remarks).await?
        };
        let SnapshotInfo { snapshot_name, kind, entry_count, bytes_written, .. } = to;
        let workspace_reset =
            ResetTo { snapshot_name, kind, destination: WORKSPACE_PATH, entry_count, bytes_written };
        Ok(Reset { status, workspace_reset })
    }

    /// Keeps a copy of the disk, running or stopped, and with `memory` of all that runs.
    ///
    /// # Errors
    /// When the name is taken, the guest does not answer, or the disk cannot be copied.
    pub async fn create_snapshot(
        &self,
        given: &str,
        name: &str,
        memory: bool,
    ) -> Result<SnapshotCreated, WorkspaceError> {
        let home = self.find(given).await?;
        let call = Call::SnapshotCreate { name: name.into(), passing: false, memory };
        let (snapshot, paused_ms) = match self.ask(&home, &call, LONG).await? {
            Some(Answer::Snapshot { snapshot, paused_ms }) => (snapshot, paused_ms),
            Some(_) => return Err(odd()),
            None if memory => return Err(WorkspaceError::Stopped),
            None => {
                let (held, state) = self.own(&home).await?;
                disk::check_new(&state, name)?;
                let snapshot = copy_stopped(&home, name).await?;
                state.add_snapshot(&snapshot)?;
                let journal = state.journal();
                blocking(move || journal.sync()).await?;
                drop((state, held));
                (snapshot, None)
            }
        };
        let workspace_id = snapshot.workspace_id.clone();
        Ok(SnapshotCreated { workspace_id, snapshot, paused_ms, execution_mode: EXECUTION_MODE })
    }

    /// The snapshots, the oldest first.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn snapshots(&self, given: &str) -> Result<SnapshotList, WorkspaceError> {
        let state = self.find(given).await?.read()?;
        let snapshots = state.snapshots()?;
        Ok(SnapshotList { workspace_id: state.record()?.id, count: snapshots.len(), snapshots })
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// When there is none of that name, or it is the baseline.
    pub async fn delete_snapshot(&self, given: &str, name: &str) -> Result<SnapshotDeleted, WorkspaceError> {
        let home = self.find(given).await?;
        if self.ask(&home, &Call::SnapshotDelete { name: name.into() }, PROMPT).await?.is_none() {
            let (held, state) = self.own(&home).await?;
            disk::delete(&home, &state, name)?;
            drop((state, held));
        }
        let workspace_id = home.read()?.record()?.id;
        Ok(SnapshotDeleted { workspace_id, snapshot_name: name.to_owned(), deleted: true })
    }
}

/// Copies the disk of a workspace whose lock the caller has.
pub(super) async fn copy_stopped(home: &Home, name: &str) -> Result<SnapshotInfo, WorkspaceError> {
    let (home, name) = (home.clone(), name.to_owned());
    blocking(move || {
        disk::copy(&disk::open(&home.disk())?, &home.snapshot(&name))?;
        let id = home.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        disk::describe(&home, &id, &name)
    })
    .await
}

/// Kills the keeper that has the workspace's lock.
async fn end_keeper(home: &Home) -> Result<(), WorkspaceError> {
    Holder::of(home).ok_or(WorkspaceError::Locked)?.kill().await
}

pub(super) fn odd() -> WorkspaceError {
    WorkspaceError::KeeperLost { what: "gave the answer to another question", log: None }
}
