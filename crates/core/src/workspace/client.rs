//! What front ends call. Each operation asks the workspace's keeper, or, where none lives and none is needed, does it
//! itself under the workspace's lock.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::net::UnixStream;

use super::layout::{self, Home};
use super::record::{Record, is_id};
use super::start::{self, Remarks};
use super::state::State;
use super::view::{
    Deleted, EXECUTION_MODE, List, LogEntry, Logs, Reset, ResetTo, SnapshotCreated, SnapshotDeleted,
    SnapshotInfo, SnapshotList, Status,
};
use super::{Changes, Moved, WORKSPACE_PATH, Wish, WorkspaceError, disk, nearest, secrets};
use crate::archive::{Limits, OutsideLinks, Source};
use crate::environment::PullEvent;
use crate::keeper::{self, Answer, Call, GENERATION, Greeting, KEPT_SECONDS, OLDEST, Order, Phase, Task};
use crate::vm::Factory;
use crate::{host, identity};

/// How long a keeper may take to greet and to answer what it knows.
const PROMPT: Duration = Duration::from_secs(30);
/// How long it may take over what copies a disk or ends a guest.
const LONG: Duration = Duration::from_secs(1800);
/// Most forks at once.
pub(super) const FORKS: std::ops::RangeInclusive<u32> = 1..=64;
/// Longest kept stream: the first and the last MiB, and a line between them.
const KEPT: u64 = (2 * crate::capture::KEPT as u64) + 256;

/// The workspaces of this user.
#[derive(Clone, Debug)]
pub struct Workspaces {
    pub(super) factory: Factory,
}

/// A conversation with a keeper, after its greeting.
pub(super) struct Conversation {
    pub(super) stream: UnixStream,
    pub(super) greeting: Greeting,
}

impl Workspaces {
    /// Those that `factory`'s configuration places, started with its backend.
    pub fn new(factory: Factory) -> Self {
        Self { factory }
    }

    pub(super) fn root(&self) -> &Path {
        &self.factory.config.workspaces_dir
    }

    fn order(&self, task: Task) -> Order {
        Order {
            config: (*self.factory.config).clone(),
            backend: self.factory.preference.name().to_owned(),
            task,
            expiry: None,
        }
    }

    /// The workspace that an id or a name means. One whose time is over is removed instead.
    ///
    /// # Errors
    /// [`WorkspaceError::Unknown`], with what it may have been meant to be.
    pub(super) async fn find(&self, given: &str) -> Result<Home, WorkspaceError> {
        let id = if is_id(given) {
            Some(given.to_owned())
        } else if super::check_snapshot_name(given).is_ok() {
            layout::named(self.root(), given)
        } else {
            None
        };
        if let Some(home) = id.map(|id| Home::of(self.root(), &id)).filter(Home::exists)
            && !self.expire(&home).await
        {
            return Ok(home);
        }
        layout::sweep(self.root());
        let known = layout::names(self.root()).into_iter().chain(layout::ids(self.root())?);
        Err(WorkspaceError::Unknown { given: given.to_owned(), near: nearest(given, known, 3) })
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
        let Some(mut stream) = keeper::connect(home).await? else { return Ok(None) };
        let greeted = tokio::time::timeout(PROMPT, keeper::receive::<Greeting>(&mut stream)).await;
        let greeting = match greeted {
            Ok(Ok(greeting)) => greeting,
            // It ended just now.
            Ok(Err(_)) if matches!(keeper::connect(home).await, Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(silent()),
        };
        if !(OLDEST..=GENERATION).contains(&greeting.generation) {
            return Err(WorkspaceError::Generation { version: greeting.version });
        }
        Ok(Some(Conversation { stream, greeting }))
    }

    /// Asks the keeper, if one lives.
    pub(super) async fn ask(
        &self,
        home: &Home,
        call: &Call,
        within: Duration,
    ) -> Result<Option<Answer>, WorkspaceError> {
        let Some(mut conversation) = self.meet(home).await? else { return Ok(None) };
        let talk = async {
            keeper::send(&mut conversation.stream, call).await?;
            keeper::receive::<Answer>(&mut conversation.stream).await
        };
        match tokio::time::timeout(within, talk).await {
            Ok(Ok(Answer::Failed { fault })) => Err(WorkspaceError::Told(fault)),
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(silent()),
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
        if let Some(path) = &mut wish.seed_path {
            // What is no tree is refused before anything is made.
            Source::open(path, Limits::default())?;
            *path = std::path::absolute(&path).map_err(|e| WorkspaceError::file(path, "found", e))?;
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
        });
        start::seeded(Home::of(self.root(), &id).path(), &order, remarks, moved).await
    }

    /// Makes `count` workspaces from one as it is now, its memory and processes included while it runs, or from one of its
    /// snapshots, with memory when that has it.
    ///
    /// # Errors
    /// When one of them cannot be made; the others are then deleted again.
    pub async fn fork(
        &self,
        given: &str,
        count: u32,
        snapshot: Option<&str>,
        remarks: Remarks<'_>,
    ) -> Result<Vec<Status>, WorkspaceError> {
        if !FORKS.contains(&count) {
            return Err(WorkspaceError::Count { wanted: count, most: *FORKS.end() });
        }
        let home = self.find(given).await?;
        let (origin, name, passing) = match snapshot {
            Some(name) => {
                let state = home.read()?;
                disk::find(&state, name)?;
                (state.record()?, name.to_owned(), None)
            }
            None => {
                let name = format!("fork-{}", identity::new_id()?);
                let passing = Passing(home.clone(), name.clone());
                let running = self.phase(&home).await? == Some(Phase::Running);
                let memory = running && home.read()?.record()?.backend == "qemu";
                self.snapshot(&home, &name, true, memory).await?;
                (home.read()?.record()?, name, Some(passing))
            }
        };
        let secrets = secrets::read(&home, &origin)?;
        let made: Vec<_> = futures::stream::iter(0..count)
            .map(|_| async {
                let wish = Wish {
                    environment: origin.environment.clone(),
                    vcpu_count: origin.vcpu_count,
                    mem_mib: origin.mem_mib,
                    ttl_seconds: origin.ttl_seconds,
                    name: None,
                    labels: origin.labels.clone(),
                    allow_host_compat: origin.allow_host_compat,
                    secrets: secrets.clone(),
                    seed_path: None,
                    outside_links: OutsideLinks::Refuse,
                };
                wish.check(host::available_memory_mib())?;
                let id = identity::new_id()?;
                let order = self.order(Task::Create {
                    wish: Box::new(wish),
                    environment_version: origin.environment_version.clone(),
                    disk: home.snapshot(&name),
                    forked_from: Some(origin.id.clone()),
                    memory: Some((home.path().to_owned(), name.clone())),
                });
                let mut said = Vec::new();
                let mut hear = |text: &str| said.push(text.to_owned());
                let made = start::start(Home::of(self.root(), &id).path(), &order, &mut hear).await;
                Ok::<_, WorkspaceError>((made?, said))
            })
            .buffer_unordered(host_parallelism())
            .collect()
            .await;
        drop(passing);
        let (mut whole, mut failure) = (Vec::new(), None);
        for each in made {
            match each {
                Ok((status, said)) => {
                    said.iter().for_each(|text| remarks(text));
                    whole.push(status);
                }
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else { return Ok(whole) };
        for status in whole {
            // The first failure says more than what follows from it.
            let _ = self.delete(&status.workspace_id).await;
        }
        Err(error)
    }

    /// All workspaces, the one that was used last first.
    ///
    /// # Errors
    /// When the directory cannot be read; one workspace that cannot is left out.
    pub async fn list(&self) -> Result<List, WorkspaceError> {
        layout::sweep(self.root());
        let homes = layout::ids(self.root())?.into_iter().map(|id| Home::of(self.root(), &id));
        let looks = homes.map(|home| async move {
            if self.expire(&home).await { None } else { self.look(&home).await.ok() }
        });
        let mut found: Vec<Status> = futures::stream::iter(looks)
            .buffer_unordered(32)
            .filter_map(|status| async { status })
            .collect()
            .await;
        found.sort_by(|a, b| b.last_activity_at.total_cmp(&a.last_activity_at));
        let workspaces: Vec<_> = found.into_iter().map(super::Listed::from).collect();
        Ok(List { count: workspaces.len(), workspaces })
    }

    /// What a workspace is now, from its database and its keeper's greeting.
    async fn look(&self, home: &Home) -> Result<Status, WorkspaceError> {
        let met = self.meet(home).await;
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
                status.state = "unknown".into();
                status.metadata.insert("keeper".into(), crate::cause::chain(error));
                status
            }
        };
        status.keeper_pid = met.ok().flatten().map(|conversation| conversation.greeting.pid);
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

    /// Takes the lock of a workspace that no keeper has.
    pub(super) async fn own(
        &self,
        home: &Home,
    ) -> Result<(crate::environment::lock::Lock, State), WorkspaceError> {
        let waits = home.clone();
        let locked = tokio::task::spawn_blocking(move || waits.lock()).await;
        let locked = locked.map_err(|_| WorkspaceError::Locked)??;
        home.check()?;
        Ok((locked, State::open(&home.state_path())?))
    }

    /// Ends everything of a workspace and removes it.
    ///
    /// # Errors
    /// When there is no such one, or something of it cannot be removed.
    pub async fn delete(&self, given: &str) -> Result<Deleted, WorkspaceError> {
        let home = self.find(given).await?;
        let id = home.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self.ask(&home, &Call::Delete, LONG).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let (held, state) = self.own(&home).await?;
                let name = state.record()?.name;
                drop(state);
                keeper::remove(&home, name.as_deref(), &id)?;
                drop(held);
            }
            // It went while we asked: somebody else deleted it, and that is what was wanted.
            Err(_) if !home.exists() => {}
            Err(error) => return Err(error),
        }
        Ok(Deleted { workspace_id: id, deleted: true, reason: "explicit_delete" })
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

    /// Starts a stopped workspace. One that runs goes on.
    ///
    /// # Errors
    /// When its guest does not come up; it is stopped then.
    pub async fn start(&self, given: &str, remarks: Remarks<'_>) -> Result<Status, WorkspaceError> {
        let home = self.find(given).await?;
        if let Some(phase) = self.phase(&home).await? {
            if phase == Phase::Running {
                return self.look(&home).await;
            }
            self.retire(&home).await?;
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
        self.retire(&Home::at(dir.to_owned())).await
    }

    /// Makes the keeper of a stopped workspace exit.
    async fn retire(&self, home: &Home) -> Result<(), WorkspaceError> {
        // The next keeper waits for its lock.
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
        let snapshot = self.snapshot(&home, name, false, memory).await?;
        let workspace_id = snapshot.workspace_id.clone();
        Ok(SnapshotCreated { workspace_id, snapshot, execution_mode: EXECUTION_MODE })
    }

    async fn snapshot(
        &self,
        home: &Home,
        name: &str,
        passing: bool,
        memory: bool,
    ) -> Result<SnapshotInfo, WorkspaceError> {
        let call = Call::SnapshotCreate { name: name.into(), passing, memory };
        match self.ask(home, &call, LONG).await? {
            Some(Answer::Snapshot { snapshot }) => return Ok(snapshot),
            Some(_) => return Err(odd()),
            None if memory => return Err(WorkspaceError::Stopped),
            None => {}
        }
        let (held, state) = self.own(home).await?;
        if !passing {
            disk::check_new(&state, name)?;
        }
        let (copying, name) = (home.clone(), name.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            let path = copying.disk();
            let from = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            disk::copy(&from, &copying.snapshot(&name))?;
            let id = copying.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            disk::describe(&copying, &id, &name)
        })
        .await;
        let info = copied.map_err(|_| WorkspaceError::Locked)??;
        if !passing {
            state.add_snapshot(&info)?;
        }
        drop((state, held));
        Ok(info)
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

    /// The history with what was kept of each command's output.
    ///
    /// # Errors
    /// When there is no such workspace, or it cannot be read.
    pub async fn logs(&self, given: &str) -> Result<Logs, WorkspaceError> {
        let home = self.find(given).await?;
        let state = home.read()?;
        let entry = |command: super::Command| LogEntry {
            stdout: read_text(&home.output(command.sequence, "stdout")),
            stderr: read_text(&home.output(command.sequence, "stderr")),
            stdout_file: home.output(command.sequence, "stdout").display().to_string(),
            stderr_file: home.output(command.sequence, "stderr").display().to_string(),
            sequence: command.sequence,
            command: command.command,
            cwd: command.cwd,
            exit_code: command.exit_code,
            duration_ms: command.duration_ms,
            execution_mode: EXECUTION_MODE,
            recorded_at: command.recorded_at,
            stdout_bytes: command.stdout_bytes,
            stderr_bytes: command.stderr_bytes,
            stdout_truncated: command.stdout_truncated,
            stderr_truncated: command.stderr_truncated,
            interrupted: command.interrupted,
        };
        let entries: Vec<_> = state.commands()?.into_iter().map(entry).collect();
        Ok(Logs { workspace_id: state.record()?.id, count: entries.len(), entries })
    }
}

/// A snapshot that only forks are made from.
struct Passing(Home, String);

impl Drop for Passing {
    fn drop(&mut self) {
        // What stays is swept when the workspace is started next.
        let _ = disk::remove_files(&self.0, &self.1);
    }
}

fn host_parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A kept stream as text. One without a file was empty.
fn read_text(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(KEPT).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn silent() -> WorkspaceError {
    WorkspaceError::KeeperLost { what: "does not answer", log: None }
}

pub(super) fn odd() -> WorkspaceError {
    WorkspaceError::KeeperLost { what: "gave the answer to another question", log: None }
}
