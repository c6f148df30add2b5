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

use super::life::Ask;
use super::machine::{Engine, Handle};
use super::{Answer, Keeper};
use crate::cause;
use crate::guest::GuestError;
use crate::workspace::disk::{self, Draft};
use crate::workspace::layout::Home;
use crate::workspace::{SnapshotInfo, WorkspaceError, blocking};

/// How long a guest may take to write out what it holds in memory. It goes on meanwhile.
const SYNC: Duration = Duration::from_secs(120);
/// How long a guest may be kept from writing: as long as it lets itself be.
const FREEZE: Duration = Duration::from_secs(60);

pub(super) fn vmm(error: pyro_vmm::VmmError) -> WorkspaceError {
    WorkspaceError::GuestEnded(cause::chain(&error))
}

/// Waits for a guest, and no longer than for its VMM.
pub(super) async fn within<T>(
    handle: &Handle,
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
    /// Keeps a copy of the disk, whether a guest runs on it or not, and with `memory` of a running guest's memory.
    pub(super) async fn snapshot(
        self: &Arc<Self>,
        name: String,
        memory: bool,
    ) -> Result<Made, WorkspaceError> {
        disk::check_new(&self.books().state, &name)?;
        self.admit(Ask::Snapshot)?;
        let made = self.kept(&name, memory).await;
        self.done(Ask::Snapshot, true);
        made
    }

    /// As [`Self::snapshot`], in no database and gone with what this gives.
    pub(super) async fn pass(
        self: &Arc<Self>,
        name: String,
        memory: bool,
    ) -> Result<(Made, Passing), WorkspaceError> {
        disk::check_free(&self.books().state, &name)?;
        self.admit(Ask::Snapshot)?;
        let passing = Passing { home: self.home.clone(), name };
        let copied = async {
            if memory {
                self.note_baseline(&passing.name).await?;
            }
            self.copy(&passing.name, memory, true).await
        };
        let copied = copied.await;
        self.done(Ask::Snapshot, true);
        let paused = copied?;
        let snapshot = disk::describe(&self.home, &self.books().record.id, &passing.name)?;
        Ok((Made { snapshot, paused }, passing))
    }

    /// Has the guest note the baseline of forks of this moment, for them to find it: as late as can be, for as little as can
    /// be to change before the copy.
    async fn note_baseline(&self, name: &str) -> Result<(), WorkspaceError> {
        let handle = self.handle().ok_or(WorkspaceError::Stopped)?;
        within(&handle, "write its disk out", SYNC, handle.guest.sync()).await?;
        let own = self.books().record.manifest.clone();
        let taken = handle.guest.baseline_take(Some(name), own.as_deref());
        within(&handle, "note what its forks begin with", SYNC, taken).await.map(drop)
    }

    async fn kept(self: &Arc<Self>, name: &str, memory: bool) -> Result<Made, WorkspaceError> {
        let copied = self.copy(name, memory, false).await;
        // What stays is swept at the next start.
        let paused = copied.inspect_err(|_| drop(disk::remove_files(&self.home, name)))?;
        let snapshot = disk::describe(&self.home, &self.books().record.id, name)?;
        let journal = {
            let books = self.books();
            books.state.add_snapshot(&snapshot)?;
            books.state.journal()
        };
        // Others are greeted meanwhile.
        let synced = blocking(move || journal.sync()).await;
        synced.inspect_err(|_| drop(disk::delete(&self.home, &self.books().state, name)))?;
        Ok(Made { snapshot, paused })
    }

    /// How long the guest stood still for its memory.
    async fn copy(
        self: &Arc<Self>,
        name: &str,
        memory: bool,
        passing: bool,
    ) -> Result<Option<Duration>, WorkspaceError> {
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
        handle: &Handle,
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
    pub(super) fn delete_snapshot(&self, name: &str) -> Result<(), WorkspaceError> {
        self.admit(Ask::Describe)?;
        let deleted = disk::delete(&self.home, &self.books().state, name);
        self.done(Ask::Describe, true);
        deleted
    }

    /// Puts a snapshot in place of what is there: its disk, and the processes too if its memory was kept. The guest is
    /// not asked.
    pub(super) async fn reset(
        self: &Arc<Self>,
        snapshot: String,
    ) -> Result<crate::workspace::Status, WorkspaceError> {
        disk::find(&self.books().state, &snapshot)?;
        self.admit(Ask::Reset)?;
        let done = self.reset_admitted(snapshot).await;
        self.done(Ask::Reset, done.is_ok());
        if let Err(error) = &done {
            (self.log)(&format!("the reset failed: {}", cause::chain(error)));
        }
        done.and_then(|()| self.status())
    }

    async fn reset_admitted(self: &Arc<Self>, snapshot: String) -> Result<(), WorkspaceError> {
        let mut engine = self.engine.lock().await;
        self.forget_guest();
        self.lose_jobs("workspace_reset");
        if let Some(engine) = engine.take() {
            engine.machine.stop().await.map_err(vmm)?;
        }
        drop(engine);
        let (home, name) = (self.home.clone(), snapshot.clone());
        blocking(move || disk::restore(&home, &name)).await?;
        let mut record = self.books().record.clone();
        super::machine::note_reset(&mut record);
        let mut log = |report| (self.log)(&format!("{report:?}"));
        let from = super::machine::Beginning::kept(super::machine::Checkpoint::of(&self.home, &snapshot));
        let up =
            super::machine::bring_up(&self.order, &self.home, &mut record, &self.secrets, from, &mut log);
        let started = up.await;
        {
            let mut books = self.books();
            // Who renamed it meanwhile is not undone.
            record.name.clone_from(&books.record.name);
            record.labels.clone_from(&books.record.labels);
            books.record = record;
            books.state.save(&books.record)?;
        }
        let started = started?;
        if snapshot == crate::workspace::BASELINE {
            let record = self.books().record.clone();
            super::seed::note_baseline(&started.handle.guest, &record).await?;
        }
        self.install(started).await;
        Ok(())
    }
}

/// A snapshot that was made.
pub(super) struct Made {
    pub(super) snapshot: SnapshotInfo,
    /// How long the guest stood still for its memory.
    pub(super) paused: Option<Duration>,
}

impl From<Made> for Answer {
    fn from(Made { snapshot, paused }: Made) -> Self {
        let paused_ms = paused.map(|paused| paused.as_secs_f64() * 1e3);
        Self::Snapshot { snapshot, paused_ms }
    }
}

/// A snapshot that only forks are made from.
pub(super) struct Passing {
    home: Home,
    name: String,
}

impl Drop for Passing {
    fn drop(&mut self) {
        // What stays is swept at the next start.
        let _ = disk::remove_files(&self.home, &self.name);
    }
}
