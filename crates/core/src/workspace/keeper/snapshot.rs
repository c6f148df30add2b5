//! Snapshots of a workspace while it runs.
//!
//! ```text
//!   disk           sync (it runs on)  ->  freeze -> copy -> thaw       the guest holds writers up; nobody else waits.
//!                                                                      Storage is waited for after that alone
//!     too slow     the same once more, the VM paused while its disk is frozen: time stands still for the freeze too
//!   with memory    sync (it runs on)  ->  `checkpoint`
//! ```
//!
//! Files first, then the row in the database: a row always has its files.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::admitted::Admitted;
use crate::cause;
use crate::guest::GuestError;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::keeper::machine::{Engine, GuestHandle};
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::life::{LifeAction, Phase};
use crate::workspace::store::disk::{self, Draft};
use crate::workspace::store::layout::Home;
use crate::workspace::store::state::BASELINE;
use crate::workspace::store::view::{SnapshotDeleted, SnapshotInfo, Status};
use crate::workspace::wire::SnapshotMade;

/// How long a guest may take to write out what it holds in memory. It goes on meanwhile.
const SYNC: Duration = Duration::from_secs(120);
/// How long a guest may be kept from writing: as long as it lets itself be.
const FREEZE: Duration = Duration::from_secs(60);

pub(super) fn vmm(error: pyro_vmm::VmmError) -> WorkspaceError {
    WorkspaceError::GuestEnded(cause::chain(&error))
}

/// Waits for a guest, and no longer than for its VMM.
pub(super) async fn within<T>(
    handle: &GuestHandle,
    what: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, GuestError>>,
) -> Result<T, WorkspaceError> {
    tokio::select! {
        biased;
        done = tokio::time::timeout(limit, call) => match done {
            Ok(done) => done.map_err(|source| WorkspaceError::Guest { what, source }),
            Err(_) => Err(WorkspaceError::Guest { what, source: GuestError::Silent { what, after: limit } }),
        },
        death = handle.watch.ended() => Err(WorkspaceError::GuestEnded(death.to_string())),
    }
}

impl Keeper {
    /// Keeps a copy of the disk, whether a guest runs on it or not, and with `memory` of a running guest's memory. Nothing is
    /// kept for a `caller` that is gone before the copy is whole.
    pub(crate) async fn snapshot(
        self: &Arc<Self>,
        name: String,
        memory: bool,
        caller: &mut Caller,
    ) -> Result<SnapshotMade, WorkspaceError> {
        disk::check_new(&self.database().state, &name)?;
        let _admitted = self.admit(LifeAction::Snapshot)?;
        self.kept(&name, memory, caller).await
    }

    /// Copies the workspace as [`Self::snapshot`] does, in no database, for forks: the files go with what this gives.
    pub(crate) async fn fork_point(
        self: &Arc<Self>,
        name: String,
        memory: bool,
    ) -> Result<(SnapshotMade, ForkFiles), WorkspaceError> {
        disk::check_free(&self.database().state, &name)?;
        let _admitted = self.admit(LifeAction::Snapshot)?;
        let files = ForkFiles { home: self.home.clone(), name };
        if memory {
            self.note_baseline(&files.name).await?;
        }
        let paused = self.copy(&files.name, memory, true).await?;
        let snapshot = disk::describe(&self.home, &self.database().record.id, &files.name)?;
        Ok((made(snapshot, paused), files))
    }

    /// Leaves the disk of a stopped workspace alone until what this gives is dropped.
    pub(crate) fn hold_disk(self: &Arc<Self>) -> Result<Admitted, WorkspaceError> {
        if self.phase() != Phase::Stopped {
            return Err(WorkspaceError::Runs);
        }
        self.admit(LifeAction::Snapshot)
    }

    /// Has the guest note the baseline of forks of this moment, for them to find it: as late as can be, for as little as can
    /// be to change before the copy.
    async fn note_baseline(&self, name: &str) -> Result<(), WorkspaceError> {
        let handle = self.handle().ok_or(WorkspaceError::Stopped)?;
        within(&handle, "write its disk out", SYNC, handle.guest.sync()).await?;
        let own = self.database().record.manifest.clone();
        let taken = handle.guest.baseline_take(Some(name), own.as_deref());
        within(&handle, "note what its forks begin with", SYNC, taken).await.map(drop)
    }

    async fn kept(
        self: &Arc<Self>,
        name: &str,
        memory: bool,
        caller: &mut Caller,
    ) -> Result<SnapshotMade, WorkspaceError> {
        let copied = self.copy(name, memory, false).await;
        let copied = copied.and_then(|paused| caller.check_waits().map(|()| paused));
        // Files that stay are swept at the next start.
        let paused = copied.inspect_err(|_| drop(disk::remove_files(&self.home, name)))?;
        let snapshot = disk::describe(&self.home, &self.database().record.id, name)?;
        let journal = {
            let database = self.database();
            database.state.add_snapshot(&snapshot)?;
            database.state.journal()
        };
        // Others are greeted meanwhile.
        let synced = blocking(move || journal.sync()).await;
        synced.inspect_err(|_| drop(disk::delete(&self.home, &self.database().state, name)))?;
        Ok(made(snapshot, paused))
    }

    /// How long the guest stood still for its memory.
    async fn copy(
        self: &Arc<Self>,
        name: &str,
        memory: bool,
        passing: bool,
    ) -> Result<Option<Duration>, WorkspaceError> {
        if self.handle().is_some() {
            self.check_session()?;
        }
        match self.handle() {
            Some(handle) if memory => {
                within(&handle, "write its disk out", SYNC, handle.guest.sync()).await?;
                self.copy_with_memory(name, passing).await.map(Some)
            }
            None if memory => Err(WorkspaceError::Stopped),
            Some(handle) => {
                let copy = match self.copy_frozen(&handle, name, None).await? {
                    Some(copy) => Some(copy),
                    None => {
                        let mut engine = self.engine.lock().await;
                        let engine = engine.as_mut().ok_or(WorkspaceError::Stopped)?;
                        self.copy_frozen(&handle, name, Some(engine)).await?
                    }
                };
                let copy = copy.ok_or(WorkspaceError::Restless)?;
                blocking(move || copy.finish()).await.map(|()| None)
            }
            None => {
                let copy = self.fill(name).await?;
                blocking(move || copy.finish()).await.map(|()| None)
            }
        }
    }

    /// Copies the disk as it is now.
    pub(super) async fn fill(&self, name: &str) -> Result<Draft, WorkspaceError> {
        let (home, to) = (self.home.clone(), self.home.snapshot(name));
        blocking(move || {
            let copy = Draft::new(&to)?;
            copy.fill(&disk::open(&home.disk())?)?;
            Ok(copy)
        })
        .await
    }

    /// Copies the disk of a guest that holds it still; nothing where it did not hold it long enough. A machine is paused
    /// meanwhile.
    async fn copy_frozen(
        &self,
        handle: &GuestHandle,
        name: &str,
        mut paused: Option<&mut Engine>,
    ) -> Result<Option<Draft>, WorkspaceError> {
        let frozen = within(handle, "hold its disk still", SYNC, handle.guest.freeze(FREEZE)).await?;
        if let Some(engine) = &mut paused {
            engine.machine.pause().await.map_err(vmm)?;
        }
        let copy = self.fill(name).await;
        if let Some(engine) = &mut paused {
            engine.machine.resume().await.map_err(vmm)?;
        }
        let whole = within(handle, "let its disk go", FREEZE, frozen.thaw()).await?;
        copy.map(|copy| whole.then_some(copy))
    }

    /// Removes a snapshot.
    pub(crate) async fn delete_snapshot(
        self: &Arc<Self>,
        name: String,
    ) -> Result<SnapshotDeleted, WorkspaceError> {
        let _admitted = self.admit(LifeAction::Describe)?;
        let keeper = Arc::clone(self);
        blocking(move || {
            let database = keeper.database();
            disk::delete(&keeper.home, &database.state, &name)?;
            Ok(SnapshotDeleted {
                workspace_id: database.record.id.clone(),
                snapshot_name: name,
                deleted: true,
            })
        })
        .await
    }

    /// Puts a snapshot in place of what is there: its disk, and the processes too if its memory was kept. The guest is
    /// not asked. It runs on while the disk is copied: where there is no room for that, nothing has changed.
    pub(crate) async fn reset(self: &Arc<Self>, snapshot: String) -> Result<Status, WorkspaceError> {
        disk::find(&self.database().state, &snapshot)?;
        let admitted = self.admit(LifeAction::Snapshot)?;
        let (home, name) = (self.home.clone(), snapshot.clone());
        let copy = blocking(move || disk::draft_of(&home, &name)).await?;
        let mut admitted = admitted.reset()?;
        match self.reset_admitted(snapshot, copy).await {
            Ok(()) => admitted.with_guest(),
            Err(error) => {
                (self.log)(&format!("the reset failed: {}", cause::chain(&error)));
                return Err(error);
            }
        }
        drop(admitted);
        self.status()
    }

    async fn reset_admitted(self: &Arc<Self>, snapshot: String, copy: Draft) -> Result<(), WorkspaceError> {
        let mut engine = self.engine.lock().await;
        self.forget_guest();
        self.lose_jobs("workspace_reset");
        if let Some(engine) = engine.take() {
            engine.machine.stop().await.map_err(vmm)?;
        }
        drop(engine);
        blocking(move || copy.finish()).await?;
        let mut record = self.database().record.clone();
        crate::workspace::keeper::machine::note_reset(&mut record);
        let mut log = |report| (self.log)(&format!("{report:?}"));
        let from = crate::workspace::keeper::machine::Beginning::kept(
            crate::workspace::keeper::machine::Checkpoint::of(&self.home, &snapshot),
        );
        let up = crate::workspace::keeper::machine::bring_up(
            &self.order,
            &self.home,
            &mut record,
            &self.secrets,
            from,
            &mut log,
        );
        let started = up.await;
        {
            let mut database = self.database();
            // A rename that came meanwhile is not undone.
            record.name.clone_from(&database.record.name);
            record.labels.clone_from(&database.record.labels);
            database.record = record;
            database.state.save(&database.record)?;
        }
        let started = started?;
        if snapshot == BASELINE {
            let record = self.database().record.clone();
            crate::workspace::keeper::seed::note_baseline(
                &started.handle.guest,
                &record,
                self.secrets.redactor(),
            )
            .await?;
        }
        self.install(started).await;
        Ok(())
    }
}

fn made(snapshot: SnapshotInfo, paused: Option<Duration>) -> SnapshotMade {
    SnapshotMade { snapshot, paused_ms: paused.map(|paused| paused.as_secs_f64() * 1e3) }
}

/// The files of a copy that only forks are made from, removed when this is dropped.
pub(crate) struct ForkFiles {
    home: Home,
    name: String,
}

impl Drop for ForkFiles {
    fn drop(&mut self) {
        // Files that stay are swept at the next start.
        let _ = disk::remove_files(&self.home, &self.name);
    }
}
