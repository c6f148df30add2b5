//! Operations on a workspace, one in each file.
//!
//! A file has the operation's words, its own type of answer, how a keeper does it ([`Operation::in_keeper`]) and how it is done
//! where no keeper lives ([`Operation::at_rest`]). Words and answer are tied together by [`Call`], so that the answer to another
//! question cannot be read. The list below is the only other place that knows of an operation here.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt as _;

use crate::hostfs::lock::Lock;
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::ProtocolError;
use crate::workspace::keeper::{self, Caller, Keeper, Log, Operating};
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::Record;
use crate::workspace::store::state::State;
use crate::workspace::store::view::Status;
use crate::workspace::wire::start::{KeeperReport, KeeperRequest};
use crate::workspace::wire::{Call, Outcome};

/// How long a keeper may take to answer what it only has to look up or write down.
pub(crate) const PROMPT: Duration = Duration::from_secs(10);
/// How long a keeper may take over what copies a disk or ends a guest.
pub(crate) const LONG: Duration = Duration::from_secs(1800);

/// Operation on a workspace.
pub trait Operation: Call {
    /// How long a keeper may take over it.
    const PATIENCE: Duration;

    /// Performs the operation in the workspace's keeper and goes on when the front end is gone, unless it can still be undone;
    /// `caller` tells of that.
    fn in_keeper(
        self,
        keeper: &Arc<Keeper>,
        caller: &mut Caller,
    ) -> impl Future<Output = Result<Self::Answer, WorkspaceError>> + Send;

    /// Performs the operation where no keeper lives, under the workspace's lock. Blocks.
    ///
    /// # Errors
    /// [`WorkspaceError::Stopped`], unless the operation can do without a guest.
    fn at_rest(self, _rest: &AtRest) -> Result<Self::Answer, WorkspaceError> {
        Err(WorkspaceError::Stopped)
    }
}

/// A workspace that no keeper has: its database, open to write, under its lock.
pub struct AtRest {
    pub(crate) home: Home,
    pub(crate) state: State,
    pub(crate) _lock: Lock,
}

impl AtRest {
    /// Changes the workspace's record: `change` is given it and writes it down.
    pub(crate) fn change_record(
        &self,
        change: impl FnOnce(&Home, &State, &mut Record) -> Result<(), WorkspaceError>,
    ) -> Result<Status, WorkspaceError> {
        let mut record = self.state.record()?;
        change(&self.home, &self.state, &mut record)?;
        Status::stopped(&self.state)
    }
}

macro_rules! operations {
    ($($module:ident: $operation:ident),* $(,)?) => {
        $(mod $module; pub use $module::$operation;)*

        /// Does the call of this name; the outcome is the message that answers it.
        fn dispatch(
            keeper: Arc<Keeper>,
            name: &str,
            ask: serde_json::Value,
            caller: Caller,
        ) -> Option<Operating> {
            Some(match name {
                $(<$operation as Call>::NAME => perform::<$operation>(keeper, ask, caller).boxed(),)*
                _ => return None,
            })
        }

        #[cfg(test)]
        const NAMES: &[&str] = &[$(<$operation as Call>::NAME),*];
    };
}

operations! {
    close_shell: CloseShell,
    create_snapshot: CreateSnapshot,
    delete: Delete,
    delete_snapshot: DeleteSnapshot,
    fork_point: ForkPoint,
    hold_disk: HoldDisk,
    look_at_shell: LookAtShell,
    open_shell: OpenShell,
    reset: Reset,
    retire: Retire,
    signal_shell: SignalShell,
    start_service: StartService,
    stop: Stop,
    stop_service: StopService,
    update: Update,
    write_shell: WriteShell,
}

async fn perform<O: Operation>(
    keeper: Arc<Keeper>,
    ask: serde_json::Value,
    mut caller: Caller,
) -> (Result<Vec<u8>, WorkspaceError>, Caller) {
    let done = async {
        let operation: O = serde_json::from_value(ask).map_err(ProtocolError::Message)?;
        let answer = operation.in_keeper(&keeper, &mut caller).await?;
        Ok(serde_json::to_vec(&Outcome::Done(answer)).map_err(ProtocolError::Message)?)
    };
    let done = done.await;
    (done, caller)
}

/// Runs the keeper of the workspace in `dir`, with all operations: see [`keeper::run`].
///
/// # Errors
/// When the start fails: nothing of it is left, and `report` has heard why.
pub async fn run_keeper(
    dir: std::path::PathBuf,
    request: KeeperRequest,
    report: &mut (dyn FnMut(KeeperReport) + Send),
    log: Log,
    abandoned: impl Future<Output = ()>,
    quit: impl Future<Output = ()>,
) -> Result<(), WorkspaceError> {
    keeper::run(dir, request, dispatch, report, log, abandoned, quit).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_operations_have_one_name() {
        let names: std::collections::BTreeSet<_> = NAMES.iter().collect();
        assert_eq!(names.len(), NAMES.len());
    }
}
