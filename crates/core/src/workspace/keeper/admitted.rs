//! Admission to the workspace's life, and its end.

use std::sync::Arc;

use tokio::sync::OwnedRwLockReadGuard;

use super::Keeper;
use super::machine::GuestHandle;
use crate::identity::unix_now;
use crate::workspace::error::WorkspaceError;
use crate::workspace::life::LifeAction;

/// Something that the workspace's life was asked for and allows, until this is dropped: by its end, its failure, its
/// cancellation or a panic.
pub(crate) struct Admitted {
    keeper: Arc<Keeper>,
    ask: LifeAction,
    /// For a reset: whether a guest runs at its end.
    runs: bool,
}

impl Admitted {
    /// Goes on from a copy to a reset: nothing else is admitted in between.
    pub(super) fn reset(mut self) -> Result<Self, WorkspaceError> {
        self.keeper.life().reset_after_copy(unix_now())?;
        self.ask = LifeAction::Reset;
        Ok(self)
    }

    /// Says that a guest runs at the end of this.
    pub(super) fn with_guest(&mut self) {
        self.runs = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.keeper.life().done(self.ask, self.runs, unix_now());
        if self.ask != LifeAction::Use {
            self.keeper.remember();
        }
        self.keeper.changed.notify_one();
    }
}

/// A use of the guest: activity of the workspace, and a session that nobody ends meanwhile.
pub(crate) struct UsingGuest {
    pub(super) handle: GuestHandle,
    _admitted: Admitted,
    _session: OwnedRwLockReadGuard<()>,
}

impl Keeper {
    /// Begins what `ask` says, where the workspace's life allows it now.
    pub(super) fn admit(self: &Arc<Self>, ask: LifeAction) -> Result<Admitted, WorkspaceError> {
        self.life().admit(ask, unix_now())?;
        let admitted = Admitted { keeper: Arc::clone(self), ask, runs: false };
        if ask != LifeAction::Use {
            self.remember();
        }
        Ok(admitted)
    }

    /// Begins a use of the guest; refused where none runs.
    pub(crate) async fn use_guest(self: &Arc<Self>) -> Result<UsingGuest, WorkspaceError> {
        let session = Arc::clone(&self.connection).read_owned().await;
        let admitted = self.admit(LifeAction::Use)?;
        let handle = self.handle().ok_or(WorkspaceError::Stopped)?;
        self.check_session()?;
        Ok(UsingGuest { handle, _admitted: admitted, _session: session })
    }
}
