//! Snapshots of a workspace while it runs.
//!
//! ```text
//!   disk           sync (it runs on)  ->  freeze -> copy -> thaw       the guest holds writers up; nobody else waits
//!                                                                      to storage only after that
//!     too slow     the same once more, the VM paused while its disk is frozen: time stands still for the freeze too
//!   with memory    sync (it runs on)  ->  pause -> copy, save -> resume     nothing is frozen: memory and disk are of
//!                                                                            one moment
//! ```
//!
//! Files first, then the row in the database: a row always has its files.

use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::Keeper;
use super::life::Ask;
use super::machine::{Engine, Handle};
use super::operate::blocking;
use crate::cause;
use crate::guest::GuestError;
use crate::workspace::disk::{self, Draft};
use crate::workspace::{SnapshotInfo, WorkspaceError};

/// How long a guest may take to write out what it holds in memory. It goes on meanwhile.
const SYNC: Duration = Duration::from_secs(120);
/// How long a guest may be kept from writing: as long as it lets itself be.
const FREEZE: Duration = Duration::from_secs(60);

fn vmm(error: pyro_vmm::VmmError) -> WorkspaceError {
    WorkspaceError::GuestEnded(cause::chain(&error))
}

/// Waits for a guest, and no longer than for its VMM.
async fn within<T>(
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
    /// Keeps a copy of the disk, whether a guest runs on it or not, and with `memory` of a running guest's memory. One in
    /// passing is in no database.
    pub(super) async fn snapshot(
        &self,
        name: String,
        passing: bool,
        memory: bool,
    ) -> Result<SnapshotInfo, WorkspaceError> {
        if !passing {
            disk::check_new(&self.books().state, &name)?;
        }
        self.admit(Ask::Snapshot)?;
        let made = self.snapshot_admitted(name, passing, memory).await;
        self.done(Ask::Snapshot, true);
        made
    }

    async fn snapshot_admitted(
        &self,
        name: String,
        passing: bool,
        memory: bool,
    ) -> Result<SnapshotInfo, WorkspaceError> {
        if let Err(error) = self.copy(&name, memory).await {
            // What stays is swept at the next start.
            let _ = disk::remove_files(&self.home, &name);
            return Err(error);
        }
        let info = disk::describe(&self.home, &self.books().record.id, &name)?;
        if !passing {
            let books = self.books();
            books.state.add_snapshot(&info)?;
            books.state.sync()?;
        }
        Ok(info)
    }

    async fn copy(&self, name: &str, memory: bool) -> Result<(), WorkspaceError> {
        match self.handle() {
            Some(handle) if memory => {
                within(&handle, "write its disk out", SYNC, handle.guest.sync()).await?;
                self.copy_with_memory(name).await
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
                blocking(move || copy.finish()).await
            }
            None => {
                let copy = self.fill(name).await?;
                blocking(move || copy.finish()).await
            }
        }
    }

    /// Copies the disk as it is now.
    async fn fill(&self, name: &str) -> Result<Draft, WorkspaceError> {
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

    /// Copies memory and disk of one moment.
    async fn copy_with_memory(&self, name: &str) -> Result<(), WorkspaceError> {
        let mut engine = self.engine.lock().await;
        let engine = engine.as_mut().ok_or(WorkspaceError::Stopped)?;
        if !engine.machine.backend().has_port() {
            return Err(WorkspaceError::NotYet("a snapshot with memory under Firecracker"));
        }
        let memory = Draft::new(&self.home.memory(name))?;
        let key = Draft::new(&self.home.memory_key(name))?;
        let jobs = Draft::new(&self.home.memory_jobs(name))?;
        let origin = serde_json::to_vec(&engine.origin).unwrap_or_default();
        let state = own(memory.file())?;
        if let Some(mapped) = engine.memory.as_ref().map(own).transpose()? {
            blocking(move || {
                read_ahead(&mapped);
                Ok(())
            })
            .await?;
        }
        let begin = std::time::Instant::now();
        let running = self.jobs_to_keep()?;
        engine.machine.pause().await.map_err(vmm)?;
        let (saved, copy) = tokio::join!(engine.machine.save(state, None), self.fill(name));
        engine.machine.resume().await.map_err(vmm)?;
        (self.log)(&format!("memory kept: the guest stood still for {} ms", begin.elapsed().as_millis()));
        saved.map_err(|error| WorkspaceError::Save(Box::new(error)))?;
        let copy = copy?;
        blocking(move || {
            use std::io::Write as _;
            key.file().write_all(&origin).map_err(WorkspaceError::Copy)?;
            key.finish()?;
            jobs.file().write_all(&running).map_err(WorkspaceError::Copy)?;
            jobs.finish()?;
            memory.finish()?;
            copy.finish()
        })
        .await
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
        let from = super::machine::Checkpoint::of(&self.home, &snapshot);
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

/// Has the host fault in what a guest's memory is mapped from, holes too, while the guest runs: a save reads every page,
/// and each would cost a fault of its own. Blocks.
fn read_ahead(file: &File) {
    // What is not there yet is only slower.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::WillNeed);
}

fn own(file: &File) -> Result<File, WorkspaceError> {
    file.try_clone().map_err(WorkspaceError::Copy)
}
