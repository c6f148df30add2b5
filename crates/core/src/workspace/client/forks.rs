//! Forks: workspaces made from another one, as it is now or was at a snapshot.
//!
//! What a fork of this moment is made from is a snapshot that nobody else hears of, and that is gone when all of them are
//! made: the keeper takes it away when the connection ends on which it was asked for, whatever ended that. Where no keeper
//! lives it goes with us, or, if we are killed, with the lock that we hold on the workspace: who has that next sweeps.

use std::time::Duration;

use futures::StreamExt as _;
use pyro_formats::archive::OutsideLinks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::start::{self, Remarks};
use super::{Workspaces, reach, read};
use crate::backend::Preference;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::life::Phase;
use crate::workspace::ops::{AtRest, ForkPoint, LONG};
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::WorkspaceSpec;
use crate::workspace::store::state::State;
use crate::workspace::store::view::Status;
use crate::workspace::store::{disk, secrets};
use crate::workspace::wire::start::KeeperTask;
use crate::{host, identity};

/// How long a keeper may take to remove what forks were made from.
const REMOVAL: Duration = Duration::from_secs(10);
/// Most forks at once.
pub(super) const FORKS: std::ops::RangeInclusive<u32> = 1..=64;

impl Workspaces {
    /// Makes `count` workspaces from one as it is now, its memory and processes included while it runs, or from one of its
    /// snapshots, with memory when that has it.
    ///
    /// # Errors
    /// When one of them cannot be made; the others are then deleted again.
    pub async fn fork(
        &self,
        given: &str,
        count: u32,
        snapshot: Option<&str>,
        remarks: Remarks<'_>,
    ) -> Result<Vec<Status>, WorkspaceError> {
        if !FORKS.contains(&count) {
            return Err(WorkspaceError::Count { wanted: count, most: *FORKS.end() });
        }
        let home = self.find(given).await?;
        let (origin, name, source) = match snapshot {
            Some(name) => {
                let wanted = name.to_owned();
                let origin = read(&home, move |state| {
                    disk::find(state, &wanted)?;
                    state.record()
                });
                (origin.await?, name.to_owned(), None)
            }
            None => {
                let name = format!("fork-{}", identity::new_id()?);
                let source = self.pass(&home, &name, true).await?;
                (read(&home, State::record).await?, name, Some(source))
            }
        };
        let manifest = source.as_ref().is_some_and(PassingCopy::has_memory).then(|| name.clone());
        let secrets = {
            let (home, origin) = (home.clone(), origin.clone());
            blocking(move || secrets::read(&home, &origin)).await?
        };
        let made: Vec<_> = futures::stream::iter(0..count)
            .map(|_| async {
                let wish = WorkspaceSpec {
                    environment: origin.environment.clone(),
                    vcpu_count: origin.vcpu_count,
                    mem_mib: origin.mem_mib,
                    ttl_seconds: origin.ttl_seconds,
                    name: None,
                    labels: origin.labels.clone(),
                    allow_host_compat: origin.allow_host_compat,
                    secrets: secrets.clone(),
                    seed_path: None,
                    outside_links: OutsideLinks::Refuse,
                };
                wish.check(host::available_memory_mib())?;
                let id = identity::new_id()?;
                let mut order = self.order(KeeperTask::Create {
                    wish: Box::new(wish),
                    environment_version: origin.environment_version.clone(),
                    disk: home.snapshot(&name),
                    forked_from: Some(origin.id.clone()),
                    memory: Some((home.path().to_owned(), name.clone())),
                    manifest: manifest.clone(),
                });
                if self.factory.preference == Preference::Auto {
                    // The origin's memory goes on under no other backend.
                    order.backend.clone_from(&origin.backend);
                }
                let mut said = Vec::new();
                let mut hear = |text: &str| said.push(text.to_owned());
                let made = start::start(Home::of(self.root(), &id).path(), &order, &mut hear).await;
                Ok::<_, WorkspaceError>((made?, said))
            })
            // Some wait for storage while others have the processors.
            .buffer_unordered(2 * host_parallelism())
            .collect()
            .await;
        if let Some(source) = source {
            source.release().await;
        }
        let (mut whole, mut failure) = (Vec::new(), None);
        for each in made {
            match each {
                Ok((status, said)) => {
                    said.iter().for_each(|text| remarks(text));
                    whole.push(status);
                }
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else { return Ok(whole) };
        for status in whole {
            // The first failure says more than what follows from it.
            let _ = self.delete(&status.workspace_id).await;
        }
        Err(error)
    }

    /// Copies the workspace as it is now, with `memory` its memory too while it runs, for as long as what this gives is kept.
    pub(super) async fn pass(
        &self,
        home: &Home,
        name: &str,
        memory: bool,
    ) -> Result<PassingCopy, WorkspaceError> {
        if let Some(mut conversation) = reach::meet(home).await? {
            let memory = memory && conversation.greeting.phase == Phase::Running;
            conversation.ask(&ForkPoint { name: name.to_owned(), memory }, LONG).await?;
            return Ok(PassingCopy::Asked { until: conversation.stream, memory });
        }
        let source = PassingCopy::Own { rest: self.own(home).await?, name: name.to_owned() };
        let (home, name) = (home.clone(), name.to_owned());
        blocking(move || disk::copy_stopped(&home, &name)).await?;
        Ok(source)
    }
}

/// A snapshot that nobody else hears of. However this ends, it goes.
pub(super) enum PassingCopy {
    /// The keeper has made it, and removes it.
    Asked { until: UnixStream, memory: bool },
    /// We have, under the workspace's lock.
    Own { rest: AtRest, name: String },
}

impl PassingCopy {
    /// Whether memory belongs to it; the baseline of its forks is noted on its disk then.
    fn has_memory(&self) -> bool {
        matches!(self, Self::Asked { memory: true, .. })
    }

    /// Waits until it is removed: who made it finds nothing else of it.
    pub(super) async fn release(mut self) {
        if let Self::Asked { until, .. } = &mut self {
            // A keeper that does not answer has it swept at its next start.
            let removed = async {
                until.shutdown().await?;
                until.read(&mut [0]).await
            };
            let _ = tokio::time::timeout(REMOVAL, removed).await;
        }
    }
}

impl Drop for PassingCopy {
    fn drop(&mut self) {
        if let Self::Own { rest, name } = self {
            // Files that stay are swept by the next holder of the lock.
            let _ = disk::remove_files(&rest.home, name);
        }
    }
}

fn host_parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
