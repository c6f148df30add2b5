//! What a keeper does to its workspace as a whole: stop, rename, remove. Copies of it are in `snapshot`.

use std::sync::Arc;
use std::time::Duration;

use super::life::Ask;
use super::{Keeper, Phase};
use crate::cause;
use crate::workspace::state::State;
use crate::workspace::{Changes, Status, WorkspaceError, blocking, layout};

/// How long a guest may take to end its processes and write its disk.
const CLEAN_STOP: Duration = Duration::from_secs(30);

impl Keeper {
    /// Ends the guest: its processes, its disk written, its file systems clean. A guest that does not is ended anyway.
    pub(super) async fn stop(&self, why: &str) -> Result<Status, WorkspaceError> {
        if self.life().phase() != Phase::Stopped {
            self.admit(Ask::Stop)?;
            self.end_jobs("workspace_stopped").await;
            let mut engine = self.engine.lock().await;
            if let Some(engine) = engine.take() {
                let ended = async {
                    engine.handle.guest.shutdown().await.ok()?;
                    Some(engine.handle.watch.ended().await)
                };
                let clean = tokio::time::timeout(CLEAN_STOP, ended).await.is_ok_and(|ended| ended.is_some());
                self.forget_guest();
                self.lose_jobs("workspace_stopped");
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
        self.lose_jobs("workspace_deleted");
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
