//! Changes to a workspace as a whole: stop, rename, remove. Copies of it are in `snapshot`.

use std::sync::Arc;
use std::time::Duration;

use super::Keeper;
use crate::cause;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::life::{LifeAction, Phase};
use crate::workspace::store::layout::Home;
use crate::workspace::store::naming;
use crate::workspace::store::record::Record;
use crate::workspace::store::state::State;
use crate::workspace::store::view::Status;

/// How long a guest may take to end its processes and write its disk.
const CLEAN_STOP: Duration = Duration::from_secs(30);

impl Keeper {
    /// Ends the guest: its processes, its disk written, its file systems clean. A guest that does not end is killed.
    pub(crate) async fn stop(self: &Arc<Self>, why: &str) -> Result<Status, WorkspaceError> {
        if self.life().phase() != Phase::Stopped {
            let admitted = self.admit(LifeAction::Stop)?;
            self.end_jobs("workspace_stopped").await;
            // Held until the VM is gone: nobody removes its files before.
            let mut slot = self.engine.lock().await;
            let mut stopped = Ok(());
            if let Some(engine) = slot.take() {
                let ended = async {
                    engine.handle.guest.shutdown().await.ok()?;
                    Some(engine.handle.watch.ended().await)
                };
                let clean = tokio::time::timeout(CLEAN_STOP, ended).await.is_ok_and(|ended| ended.is_some());
                self.forget_guest();
                self.lose_jobs("workspace_stopped");
                stopped = engine.machine.stop().await;
                let how = if clean { why.to_owned() } else { format!("{why}; its guest had to be killed") };
                self.database().record.metadata.insert("stopped_because".into(), how);
            }
            drop(admitted);
            stopped.map_err(|error| WorkspaceError::GuestEnded(cause::chain(&error)))?;
            drop(slot);
            self.database().state.sync()?;
        }
        self.status()
    }

    /// Changes the workspace's record: `change` is given a copy, writes it down, and then the copy holds.
    pub(crate) async fn change_record(
        self: &Arc<Self>,
        change: impl FnOnce(&Home, &State, &mut Record) -> Result<(), WorkspaceError> + Send + 'static,
    ) -> Result<Status, WorkspaceError> {
        let _admitted = self.admit(LifeAction::Describe)?;
        let keeper = Arc::clone(self);
        blocking(move || {
            let mut database = keeper.database();
            let mut record = database.record.clone();
            change(&keeper.home, &database.state, &mut record)?;
            database.record = record;
            Ok::<_, WorkspaceError>(())
        })
        .await?;
        self.status()
    }

    /// Ends everything and removes it.
    pub(crate) async fn delete(self: &Arc<Self>) -> Result<(), WorkspaceError> {
        let _admitted = self.admit(LifeAction::Delete)?;
        self.forget_guest();
        self.lose_jobs("workspace_deleted");
        let engine = self.engine.lock().await.take();
        if let Some(engine) = engine {
            // A guest that cannot be stopped is gone soon after, or works in a removed directory.
            let _ = engine.machine.stop().await;
        }
        let (home, name, id) = {
            let database = self.database();
            (self.home.clone(), database.record.name.clone(), database.record.id.clone())
        };
        blocking(move || naming::remove(&home, name.as_deref(), &id)).await
    }

    /// Lets another keeper take over a stopped workspace.
    pub(crate) fn retire(self: &Arc<Self>) -> Result<(), WorkspaceError> {
        self.admit(LifeAction::Retire).map(drop)
    }

    /// Where the workspace is in its life.
    pub(crate) fn phase(&self) -> Phase {
        self.life().phase()
    }
}
