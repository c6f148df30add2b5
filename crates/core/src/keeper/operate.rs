//! What a keeper does to its workspace as a whole: stop, reset, copy, rename, remove.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::life::Ask;
use super::{Keeper, Phase};
use super::{machine, seed};
use crate::cause;
use crate::command::{self, CommandLine, Options, Streams};
use crate::workspace::state::{BASELINE, State};
use crate::workspace::{Changes, SnapshotInfo, Status, WorkspaceError, disk, layout};

/// How long a guest may take to end its processes and write its disk.
const CLEAN_STOP: Duration = Duration::from_secs(30);
/// How long a guest may take to write out what it holds in memory.
const SYNC: Duration = Duration::from_secs(120);

/// Runs what blocks beside the other calls.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| WorkspaceError::Locked)?
}

impl Keeper {
    /// Ends the guest: its processes, its disk written, its file systems clean. A guest that does not is ended anyway.
    pub(super) async fn stop(&self, why: &str) -> Result<Status, WorkspaceError> {
        if self.life().phase() != Phase::Stopped {
            self.admit(Ask::Stop)?;
            let mut engine = self.engine.lock().await;
            if let Some(engine) = engine.take() {
                let ended = async {
                    engine.handle.guest.shutdown().await.ok()?;
                    Some(engine.handle.watch.ended().await)
                };
                let clean = tokio::time::timeout(CLEAN_STOP, ended).await.is_ok_and(|ended| ended.is_some());
                self.forget_guest();
                let stopped = engine.machine.stop().await;
                let how = if clean { why.to_owned() } else { format!("{why}; its guest had to be killed") };
                self.books().record.metadata.insert("stopped_because".into(), how);
                self.done(Ask::Stop, false);
                stopped.map_err(|error| WorkspaceError::GuestEnded(cause::chain(&error)))?;
            } else {
                self.done(Ask::Stop, false);
            }
            self.books().state.sync()?;
        }
        self.status()
    }

    /// Puts the disk of a snapshot in place of the guest's and starts anew. The guest is not asked.
    pub(super) async fn reset(self: &Arc<Self>, snapshot: String) -> Result<Status, WorkspaceError> {
        disk::find(&self.books().state, &snapshot)?;
        self.admit(Ask::Reset)?;
        let reset = async {
            let mut engine = self.engine.lock().await;
            self.forget_guest();
            if let Some(engine) = engine.take() {
                engine.machine.stop().await.map_err(|e| WorkspaceError::GuestEnded(cause::chain(&e)))?;
            }
            drop(engine);
            let home = self.home.clone();
            let to_baseline = snapshot == BASELINE;
            blocking(move || disk::restore(&home, &snapshot)).await?;
            let mut record = self.books().record.clone();
            machine::note_reset(&mut record);
            let mut log = |report| (self.log)(&format!("{report:?}"));
            let started = machine::bring_up(&self.order, &self.home, &mut record, &mut log).await;
            {
                let mut books = self.books();
                // Who renamed it meanwhile is not undone.
                record.name.clone_from(&books.record.name);
                record.labels.clone_from(&books.record.labels);
                books.record = record;
                books.state.save(&books.record)?;
            }
            let started = started?;
            if to_baseline {
                let record = self.books().record.clone();
                seed::note_baseline(&started.handle.guest, &record).await?;
            }
            self.install(started).await;
            Ok(())
        };
        let done = reset.await;
        self.done(Ask::Reset, done.is_ok());
        if let Err(error) = &done {
            (self.log)(&format!("the reset failed: {}", cause::chain(error)));
        }
        done.and_then(|()| self.status())
    }

    /// Keeps a copy of the disk, whether a guest runs on it or not.
    pub(super) async fn snapshot(&self, name: String, passing: bool) -> Result<SnapshotInfo, WorkspaceError> {
        if !passing {
            disk::check_new(&self.books().state, &name)?;
        }
        self.admit(Ask::Snapshot)?;
        let made = self.snapshot_admitted(name, passing).await;
        self.done(Ask::Snapshot, true);
        made
    }

    async fn snapshot_admitted(&self, name: String, passing: bool) -> Result<SnapshotInfo, WorkspaceError> {
        // Most of what the guest holds goes to its disk while it still runs.
        if let Some(handle) = self.handle() {
            let sync = CommandLine::Argv(vec!["/bin/sync".into()]);
            let options = Options { timeout: Some(SYNC), cwd: Some("/".into()), ..Options::default() };
            let mut streams = Streams::kept_only();
            command::execute(&handle.guest, &handle.watch, &sync, &options, &mut streams)
                .await
                .map_err(WorkspaceError::Sync)?;
        }
        let home = self.home.clone();
        let id = self.books().record.id.clone();
        let mut engine = self.engine.lock().await;
        let paused = |error: pyro_vmm::VmmError| WorkspaceError::GuestEnded(cause::chain(&error));
        if let Some(engine) = engine.as_mut() {
            engine.machine.pause().await.map_err(paused)?;
        }
        let copied = blocking(move || {
            let path = home.disk();
            let from = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            disk::copy(&from, &home.snapshot(&name))?;
            disk::describe(&home, &id, &name)
        })
        .await;
        if let Some(engine) = engine.as_mut() {
            engine.machine.resume().await.map_err(paused)?;
        }
        let info = copied?;
        if !passing {
            let books = self.books();
            books.state.add_snapshot(&info)?;
            books.state.sync()?;
        }
        Ok(info)
    }

    /// Removes a snapshot.
    pub(super) fn delete_snapshot(&self, name: &str) -> Result<(), WorkspaceError> {
        self.admit(Ask::Describe)?;
        let deleted = disk::delete(&self.home, &self.books().state, name);
        self.done(Ask::Describe, true);
        deleted
    }

    /// Changes name and labels.
    pub(super) async fn update(self: &Arc<Self>, changes: Changes) -> Result<Status, WorkspaceError> {
        self.admit(Ask::Describe)?;
        let keeper = Arc::clone(self);
        let updated = blocking(move || {
            let mut books = keeper.books();
            let mut record = books.record.clone();
            describe(keeper.home.root(), &books.state, &mut record, &changes)?;
            books.record = record;
            Ok(())
        })
        .await;
        self.done(Ask::Describe, true);
        updated.and_then(|()| self.status())
    }

    /// Ends everything and removes it.
    pub(super) async fn delete(&self) -> Result<(), WorkspaceError> {
        self.admit(Ask::Delete)?;
        self.forget_guest();
        if let Some(engine) = self.engine.lock().await.take() {
            // It is gone soon after, or its directory is for nothing.
            let _ = engine.machine.stop().await;
        }
        let (home, name, id) = {
            let books = self.books();
            (self.home.clone(), books.record.name.clone(), books.record.id.clone())
        };
        let removed = blocking(move || remove(&home, name.as_deref(), &id)).await;
        self.changed.notify_one();
        removed
    }

    /// Lets another keeper take over a stopped workspace.
    pub(super) fn retire(&self) -> Result<(), WorkspaceError> {
        self.admit(Ask::Retire)?;
        self.changed.notify_one();
        Ok(())
    }
}

/// Changes name and labels of a record and writes it down. The caller holds the workspace's lock. Blocks.
pub(crate) fn describe(
    root: &std::path::Path,
    state: &State,
    record: &mut crate::workspace::Record,
    changes: &Changes,
) -> Result<(), WorkspaceError> {
    record.labels = changes.labels_after(record)?;
    let (before, after) = (record.name.clone(), changes.name_after(record)?);
    let _names = layout::lock_names(root)?;
    if let Some(name) = &after {
        layout::take_name(root, name, &record.id)?;
    }
    record.name.clone_from(&after);
    state.save(record)?;
    if let Some(name) = before.filter(|name| after.as_ref() != Some(name)) {
        layout::free_name(root, &name, &record.id);
    }
    Ok(())
}

/// Removes a workspace and its name. The caller holds its lock. Blocks.
pub(crate) fn remove(home: &layout::Home, name: Option<&str>, id: &str) -> Result<(), WorkspaceError> {
    home.remove()?;
    if let Some(name) = name {
        let _names = layout::lock_names(home.root())?;
        layout::free_name(home.root(), name, id);
    }
    Ok(())
}
