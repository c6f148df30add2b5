//! Forks: workspaces made from another one, as it is now or was at a snapshot.
//!
//! What a fork of this moment is made from is a snapshot that nobody else hears of, and that is gone when all of them are
//! made: the keeper takes it away when the connection ends on which it was asked for, whatever ended that. Where no keeper
//! lives it goes with us, or, if we are killed, with the lock that we hold on the workspace: who has that next sweeps.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::client::{LONG, copy_stopped, odd};
use super::layout::Home;
use super::start::{self, Remarks};
use super::{Status, Wish, WorkspaceError, Workspaces, disk, secrets};
use crate::backend::Preference;
use crate::hostfs::lock::Lock;
use crate::keeper::{Answer, Call, Phase, Task};
use crate::{host, identity};
use pyro_formats::archive::OutsideLinks;

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
        let (origin, name, passing) = match snapshot {
            Some(name) => {
                let state = home.read()?;
                disk::find(&state, name)?;
                (state.record()?, name.to_owned(), None)
            }
            None => {
                let name = format!("fork-{}", identity::new_id()?);
                let passing = self.pass(&home, &name).await?;
                (home.read()?.record()?, name, Some(passing))
            }
        };
        let manifest = passing.as_ref().is_some_and(Passing::has_memory).then(|| name.clone());
        let secrets = secrets::read(&home, &origin)?;
        let made: Vec<_> = futures::stream::iter(0..count)
            .map(|_| async {
                let wish = Wish {
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
                let mut order = self.order(Task::Create {
                    wish: Box::new(wish),
                    environment_version: origin.environment_version.clone(),
                    disk: home.snapshot(&name),
                    forked_from: Some(origin.id.clone()),
                    memory: Some((home.path().to_owned(), name.clone())),
                    manifest: manifest.clone(),
                });
                if self.factory.preference == Preference::Auto {
                    // Its memory goes on under no other.
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
        if let Some(passing) = passing {
            passing.release().await;
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

    /// Copies the workspace as it is now, its memory too while it runs, for as long as what this gives is kept.
    async fn pass(&self, home: &Home, name: &str) -> Result<Passing, WorkspaceError> {
        if let Some(mut conversation) = self.meet(home).await? {
            let memory = conversation.greeting.phase == Phase::Running;
            let call = Call::SnapshotCreate { name: name.to_owned(), passing: true, memory };
            return match conversation.ask(&call, LONG).await? {
                Answer::Snapshot { .. } => Ok(Passing::Asked { until: conversation.stream, memory }),
                _ => Err(odd()),
            };
        }
        let (held, _) = self.own(home).await?;
        let passing = Passing::Own { home: home.clone(), name: name.to_owned(), _held: held };
        copy_stopped(home, name).await?;
        Ok(passing)
    }
}

/// A snapshot that only forks are made from. However this ends, it goes.
enum Passing {
    /// The keeper has made it, and removes it.
    Asked { until: UnixStream, memory: bool },
    /// We have, under the workspace's lock.
    Own { home: Home, name: String, _held: Lock },
}

impl Passing {
    /// Whether memory belongs to it; the baseline of its forks is noted on its disk then.
    fn has_memory(&self) -> bool {
        matches!(self, Self::Asked { memory: true, .. })
    }

    /// Waits until it is removed: who made forks finds nothing else of them.
    async fn release(mut self) {
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

impl Drop for Passing {
    fn drop(&mut self) {
        if let Self::Own { home, name, .. } = self {
            // What stays is swept by who has the lock next.
            let _ = disk::remove_files(home, name);
        }
    }
}

fn host_parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
