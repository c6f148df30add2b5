//! Calls of front ends: each asks the workspace's keeper, or, where none lives and none is needed, acts under the
//! workspace's lock.
//!
//! ```text
//!   reach      meets keepers and asks them           keepalive  connections that can be asked again
//!   start      brings a keeper up, detached, and hears from it whether it is ready
//!   lifecycle  create, start, stop, reset, delete    forks      workspaces made from another one
//!   expiry     removes what has long been over
//!   exec       one command, its output as it comes   attach     a person's terminal joined to a shell
//!   guest      the guest's files, over a stream that the keeper splices
//!   files      one at a time      transfer  whole trees      patching  patches      diff, fresh  what differs
//!   offline    the disk of a stopped workspace
//!   shells, services, snapshots, logs
//! ```
//!
//! Invariant: no database and no file of a workspace is opened on a thread that other calls wait for.

mod attach;
mod diff;
mod exec;
mod expiry;
mod files;
mod forks;
mod fresh;
mod guest;
mod keepalive;
mod lifecycle;
mod logs;
mod offline;
mod patching;
mod reach;
mod services;
mod shells;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod transfer;
mod verified;

use std::path::Path;

use futures::StreamExt as _;
use keepalive::KeptAlive;
use pyro_formats::redact::Redactor;
use reach::Conversation;

use crate::vm::Factory;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::life::Phase;
use crate::workspace::ops::{AtRest, Operation};
use crate::workspace::store::holder::Holder;
use crate::workspace::store::layout::{self, Home};
use crate::workspace::store::naming::{check_snapshot_name, nearest};
use crate::workspace::store::record::{Record, is_id};
use crate::workspace::store::state::State;
use crate::workspace::store::view::{List, Listed, Status, Unreadable, WorkspaceState};
use crate::workspace::store::{disk, secrets};
use crate::workspace::wire::start::{KeeperRequest, KeeperTask};

pub use attach::{AttachEnd, Attached};
pub use shells::ShellReadRequest;
pub use start::Remarks;

/// Workspaces that are looked at at once.
const LOOKS: usize = 64;

/// The workspaces of this user.
#[derive(Clone, Debug)]
pub struct Workspaces {
    factory: Factory,
    kept: KeptAlive,
}

impl Workspaces {
    /// Workspaces that `factory`'s configuration places, started with its backend.
    pub fn new(factory: Factory) -> Self {
        Self { factory, kept: KeptAlive::default() }
    }

    fn root(&self) -> &Path {
        &self.factory.config.workspaces_dir
    }

    fn order(&self, task: KeeperTask) -> KeeperRequest {
        KeeperRequest {
            config: (*self.factory.config).clone(),
            backend: self.factory.preference.name().to_owned(),
            task,
            expiry: None,
        }
    }

    /// The id that an id or a name means, as far as it can be told without asking anybody: what is no name of one stays
    /// as it is.
    pub fn resolve(&self, given: &str) -> String {
        let named = check_snapshot_name(given).ok().and_then(|()| layout::named(self.root(), given));
        named.unwrap_or_else(|| given.to_owned())
    }

    /// The workspace that an id or a name means.
    ///
    /// # Errors
    /// [`WorkspaceError::Unknown`], with what it may have been meant to be.
    async fn find(&self, given: &str) -> Result<Home, WorkspaceError> {
        if let Some(home) = self.place(given) {
            return Ok(home);
        }
        let (root, given) = (self.root().to_owned(), given.to_owned());
        blocking(move || {
            layout::sweep(&root);
            let known = layout::names(&root).into_iter().chain(layout::ids(&root)?);
            let near = nearest(&given, known, 3);
            Err(WorkspaceError::Unknown { given, near })
        })
        .await
    }

    /// Where the workspace is that an id or a name means, if there is one.
    fn place(&self, given: &str) -> Option<Home> {
        let id = if is_id(given) {
            Some(given.to_owned())
        } else if check_snapshot_name(given).is_ok() {
            layout::named(self.root(), given)
        } else {
            None
        };
        id.map(|id| Home::of(self.root(), &id)).filter(Home::exists)
    }

    /// Takes the lock of a workspace that no keeper has, and removes what interrupted work left.
    async fn own(&self, home: &Home) -> Result<AtRest, WorkspaceError> {
        let home = home.clone();
        blocking(move || {
            let lock = home.lock()?;
            home.check()?;
            let state = State::open(&home.state_path())?;
            disk::sweep(&home, &state)?;
            Ok(AtRest { home, state, _lock: lock })
        })
        .await
    }

    /// Does `operation` in the workspace's keeper, or at rest where none lives.
    ///
    /// # Errors
    /// As [`Self::find`], and those of the operation.
    pub async fn perform<O: Operation>(
        &self,
        given: &str,
        operation: O,
    ) -> Result<O::Answer, WorkspaceError> {
        self.perform_in(&self.find(given).await?, operation).await
    }

    async fn perform_in<O: Operation>(&self, home: &Home, operation: O) -> Result<O::Answer, WorkspaceError> {
        if let Some(answer) = self.ask(home, &operation, O::PATIENCE).await? {
            return Ok(answer);
        }
        let rest = self.own(home).await?;
        blocking(move || operation.at_rest(&rest)).await
    }

    /// All workspaces, the one that was used last first, and those that cannot be read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn list(&self) -> Result<List, WorkspaceError> {
        let root = self.root().to_owned();
        let ids = blocking(move || {
            layout::sweep(&root);
            layout::ids(&root)
        });
        let homes = ids.await?.into_iter().map(|id| Home::of(self.root(), &id));
        let looks = homes.map(|home| async move {
            let looked = self.look(&home).await;
            // A workspace that went meanwhile is not listed.
            home.exists().then_some((home, looked))
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(LOOKS);
        let (mut workspaces, mut unreadable) = (Vec::new(), Vec::new());
        while let Some(looked) = looks.next().await {
            match looked {
                None => {}
                Some((_, Ok(status))) => workspaces.push(Listed::from(status)),
                Some((home, Err(error))) => unreadable
                    .push(Unreadable { workspace_id: home.id(), error: crate::cause::chain(&error) }),
            }
        }
        workspaces.sort_by(|a, b| b.last_activity_at.total_cmp(&a.last_activity_at));
        unreadable.sort_by(|a, b| a.workspace_id.cmp(&b.workspace_id));
        Ok(List { count: workspaces.len(), workspaces, unreadable })
    }

    /// Status of a workspace, from its database and its keeper's greeting.
    async fn look(&self, home: &Home) -> Result<Status, WorkspaceError> {
        let met = self.glance(home).await;
        let (record, count, last, services) = read(home, |state| {
            let services = state.jobs()?;
            Ok((state.record()?, state.command_count()?, state.last_command()?, services))
        })
        .await?;
        let mut status = match &met {
            Ok(Some(Conversation { greeting, .. })) => {
                let record = Record { last_activity_at: greeting.last_activity_at, ..record };
                let mut status = Status::new(record, greeting.phase, count, last.as_ref());
                if let Some(why) = &greeting.guest_trouble {
                    status.guest_is_unresponsive(why.clone());
                }
                status
            }
            Ok(None) => Status::new(record, Phase::Stopped, count, last.as_ref()),
            Err(error) => {
                let mut status = Status::new(record, Phase::Stopped, count, last.as_ref());
                status.state = WorkspaceState::Unresponsive;
                status.metadata.insert("keeper".into(), crate::cause::chain(error));
                status
            }
        };
        status.keeper_pid = match met {
            Ok(met) => met.map(|conversation| conversation.greeting.pid),
            Err(_) => Holder::of(home).map(|holder| holder.pid()),
        };
        status.count(&services);
        Ok(status)
    }

    /// Status of a workspace.
    ///
    /// # Errors
    /// When there is no such one, or it cannot be read.
    pub async fn status(&self, given: &str) -> Result<Status, WorkspaceError> {
        self.look(&self.find(given).await?).await
    }
}

/// Reads a workspace's database.
async fn read<T: Send + 'static>(
    home: &Home,
    work: impl FnOnce(&State) -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    let home = home.clone();
    blocking(move || work(&home.read()?)).await
}

/// Redactor that takes the workspace's secrets out of output.
async fn redactor(home: &Home) -> Result<Redactor, WorkspaceError> {
    let home = home.clone();
    blocking(move || secrets::redactor(&home)).await
}
