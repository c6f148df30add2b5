//! Making, starting, stopping and removing workspaces.

use std::path::Path;
use std::time::Duration;

use pyro_formats::archive::{Limits, Source};

use super::start::{self, Remarks};
use super::{Workspaces, reach};
use crate::environment::PullEvent;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::life::Phase;
use crate::workspace::ops::{self, LONG, PROMPT};
use crate::workspace::store::disk;
use crate::workspace::store::holder::Holder;
use crate::workspace::store::layout::{self, Home};
use crate::workspace::store::record::{WORKSPACE_PATH, WorkspaceChanges, WorkspaceSpec};
use crate::workspace::store::view::{Deleted, Reset, ResetTo, SnapshotInfo, Status};
use crate::workspace::tree_pipe::{Moved, absolute};
use crate::workspace::wire::LegacyCall;
use crate::workspace::wire::start::KeeperTask;
use crate::{host, identity};

/// How long somebody else's work on a workspace is waited for, and how often it is looked at.
const MOMENT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

impl Workspaces {
    /// Makes a workspace, its environment installed first where that is missing, and starts it.
    ///
    /// # Errors
    /// When it cannot be made or started; nothing is left of it then.
    pub async fn create(
        &self,
        mut wish: WorkspaceSpec,
        pull_events: impl FnMut(PullEvent) + Send + 'static,
        remarks: Remarks<'_>,
        moved: &mut (dyn FnMut(Moved) + Send),
    ) -> Result<Status, WorkspaceError> {
        wish.check(host::available_memory_mib())?;
        if let Some(path) = wish.seed_path.take() {
            // A path that is no tree is refused before anything is made.
            Source::open(&path, Limits::default())?;
            wish.seed_path = Some(absolute(path)?);
        }
        layout::sweep(self.root());
        let environment = self.factory.environment(&wish.environment, pull_events).await?;
        let disk = self.factory.store().blank_disk()?;
        let id = identity::new_id()?;
        let order = self.order(KeeperTask::Create {
            wish: Box::new(wish),
            environment_version: environment.manifest().version.clone(),
            disk,
            forked_from: None,
            memory: None,
            manifest: None,
        });
        let made = start::seeded(Home::of(self.root(), &id).path(), &order, remarks, moved).await;
        self.sweep_expired().await;
        made
    }

    /// Changes name and labels.
    ///
    /// # Errors
    /// When the name is taken, or one of them cannot be.
    pub async fn update(&self, given: &str, changes: WorkspaceChanges) -> Result<Status, WorkspaceError> {
        self.perform(given, ops::Update { changes }).await
    }

    /// Ends everything of a workspace and removes it, its keeper too where that hangs.
    ///
    /// # Errors
    /// When there is no such one, or something of it cannot be removed.
    pub async fn delete(&self, given: &str) -> Result<Deleted, WorkspaceError> {
        let home = self.find(given).await?;
        match self.delete_in(&home).await {
            Ok(()) => {}
            // The workspace went while we asked: somebody else deleted it, and that is what was wanted.
            Err(_) if !home.exists() => {}
            Err(WorkspaceError::Silent | WorkspaceError::Locked) => {
                end_keeper(&home).await?;
                self.remove(&home).await?;
            }
            Err(error) => return Err(error),
        }
        self.sweep_expired().await;
        Ok(Deleted { workspace_id: home.id(), deleted: true, reason: "explicit_delete" })
    }

    async fn delete_in(&self, home: &Home) -> Result<(), WorkspaceError> {
        if self.tell_legacy(home, LegacyCall::Delete, LONG).await? {
            return Ok(());
        }
        self.perform_in(home, ops::Delete {}).await
    }

    /// Removes one that no keeper has.
    async fn remove(&self, home: &Home) -> Result<(), WorkspaceError> {
        let rest = self.own(home).await?;
        blocking(move || ops::Operation::at_rest(ops::Delete {}, &rest)).await
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
        if self.tell_legacy(&home, LegacyCall::Stop, LONG).await? {
            return self.look(&home).await;
        }
        let stopped = self.ask(&home, &ops::Stop {}, LONG).await?;
        self.sweep_expired().await;
        match stopped {
            Some(status) => Ok(status),
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
                begun => {
                    self.sweep_expired().await;
                    return begun;
                }
            }
        }
    }

    async fn begin(&self, home: &Home, remarks: Remarks<'_>) -> Result<Status, WorkspaceError> {
        if let Some(phase) = reach::phase(home).await? {
            if phase == Phase::Running {
                return self.look(home).await;
            }
            self.retire(home).await?;
        }
        // Whoever has the lock starts, or has yet to exit: to see that takes no keeper.
        if home.try_lock()?.is_none() {
            return Err(WorkspaceError::Locked);
        }
        start::start(home.path(), &self.order(KeeperTask::Start), remarks).await
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
        if self.tell_legacy(home, LegacyCall::Retire, PROMPT).await? {
            return Ok(());
        }
        self.ask(home, &ops::Retire {}, PROMPT).await.map(|_| ())
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
        let name = snapshot.to_owned();
        let to = super::read(&home, move |state| disk::find(state, &name)).await?;
        let status = if reach::phase(&home).await? == Some(Phase::Running) {
            let reset = ops::Reset { snapshot: snapshot.into() };
            self.ask(&home, &reset, LONG).await?.ok_or(WorkspaceError::Stopped)?
        } else {
            self.retire(&home).await?;
            let order = self.order(KeeperTask::Reset { snapshot: snapshot.into() });
            start::start(home.path(), &order, remarks).await?
        };
        let SnapshotInfo { snapshot_name, kind, entry_count, bytes_written, .. } = to;
        let workspace_reset =
            ResetTo { snapshot_name, kind, destination: WORKSPACE_PATH, entry_count, bytes_written };
        Ok(Reset { status, workspace_reset })
    }
}

/// Kills the keeper that has the workspace's lock.
async fn end_keeper(home: &Home) -> Result<(), WorkspaceError> {
    Holder::of(home).ok_or(WorkspaceError::Locked)?.kill().await
}
