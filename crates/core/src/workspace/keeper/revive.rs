//! Shells and services across a checkpoint with memory: what the guest's jobs were is kept beside its memory, and a guest
//! that goes on from there has them again, with what they had written lately.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyro_proto::message::JobId;
use serde::{Deserialize, Serialize};

use crate::cause;
use crate::guest::GuestError;
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::Keeper;
use crate::workspace::keeper::jobs::{JobKey, LiveJob, Output};
use crate::workspace::store::jobs::{Job as _, JobState, OUT, STREAMS, ServiceRecord, ShellRecord};
use crate::workspace::store::spool::{Spool, SpoolSize};

/// Longest list of jobs.
const LONGEST: u64 = 4 << 20;
/// How long to read what jobs had written before they are said to be back.
const READING: Duration = Duration::from_secs(5);

/// A job at a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptJob {
    id: JobId,
    record: KeptRecord,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptRecord {
    Shell(ShellRecord),
    Service(ServiceRecord),
}

/// Reads the jobs that were kept; none where the file cannot be read, since the guest goes on without them too.
pub(super) fn read(path: &Path) -> Vec<KeptJob> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

impl Keeper {
    /// Running jobs, encoded to be kept.
    pub(super) fn jobs_to_keep(&self) -> Result<Vec<u8>, WorkspaceError> {
        let live = self.all_live();
        let database = self.database();
        let mut kept = Vec::new();
        for (key, live) in live {
            let record = match &key {
                JobKey::Shell(id) => database.state.job::<ShellRecord>(id)?.map(KeptRecord::Shell),
                JobKey::Service(name) => database.state.job::<ServiceRecord>(name)?.map(KeptRecord::Service),
            };
            kept.extend(record.map(|record| KeptJob { id: live.id, record }));
        }
        Ok(serde_json::to_vec(&kept).unwrap_or_default())
    }

    /// Takes up the jobs of a guest that goes on from a checkpoint.
    pub(super) async fn revive(self: &Arc<Self>, kept: Vec<KeptJob>) {
        if kept.is_empty() {
            return;
        }
        if let Err(error) = self.try_revive(kept).await {
            (self.log)(&format!("shells and services go on unseen: {}", cause::chain(&error)));
        }
    }

    async fn try_revive(self: &Arc<Self>, kept: Vec<KeptJob>) -> Result<(), WorkspaceError> {
        let guest = self.guest()?;
        let what = "list its jobs";
        let failed = |source: GuestError| WorkspaceError::Guest { what, source };
        let there = guest.job_list().await.map_err(failed)?;
        let mut written = Vec::new();
        for KeptJob { id, record } in kept {
            let Some(info) = there.iter().find(|info| info.id == id) else { continue };
            let (key, dir) = match &record {
                KeptRecord::Shell(shell) => {
                    (JobKey::Shell(shell.shell_id.clone()), self.home.shell(&shell.shell_id))
                }
                KeptRecord::Service(service) => {
                    (JobKey::Service(service.service_name.clone()), self.home.service(&service.service_name))
                }
            };
            let spool = |name, room| {
                Spool::create(&dir, name, room).map_err(|error| WorkspaceError::file(&dir, "written", error))
            };
            let [out, err] = STREAMS;
            let redactor = self.secrets.redactor();
            let output = match &record {
                KeptRecord::Shell(_) => Output::new(spool(OUT, SpoolSize::SHELL)?, None, redactor),
                KeptRecord::Service(_) => Output::new(
                    spool(out, SpoolSize::SERVICE)?,
                    Some(spool(err, SpoolSize::SERVICE)?),
                    redactor,
                ),
            };
            (self.log)(&format!("{key:?} goes on, {} bytes written", info.written));
            // The job ran then; if it does not any more, its follower is told so.
            match record {
                KeptRecord::Shell(mut shell) => {
                    (shell.life.state, shell.life.ended_at) = (JobState::Running, None);
                    self.database().state.save_job(&shell)?;
                }
                KeptRecord::Service(service) => {
                    if !service.is_running() {
                        continue;
                    }
                    self.database().state.save_job(&service)?;
                }
            }
            let live = LiveJob::new(id, output);
            written.push((live.clone(), info.written));
            self.take_up(key, live, guest.clone());
        }
        // Output from before the snapshot is on disk when the workspace is ready.
        let read = written.iter().map(|(live, bytes)| live.has_read(*bytes));
        let _ = tokio::time::timeout(READING, futures::future::join_all(read)).await;
        Ok(())
    }
}
