//! Shells and services while their guest runs: one task each follows what the guest's job writes, into files, and writes
//! down its end.
//!
//! ```text
//!   guest's job --- follower ---> spool (files), progress (who waits)
//!                      |
//!                      +--> database: exited, stopped, failed
//! ```
//!
//! Invariant: what is written down as ended has all of its output in its files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use pyro_formats::redact::{RedactedStream, Redactor};
use pyro_proto::message::{
    Bytes, CommandExit, ExecRequest, ExitStatus, FailureKind as GuestKind, JobId, MAX_JOBS,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::cause;
use crate::guest::{Guest, GuestError, JobEvent};
use crate::identity::{random, unix_now};
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::Keeper;
use crate::workspace::life::Phase;
use crate::workspace::store::jobs::{Job, JobState, ServiceRecord, ShellRecord};
use crate::workspace::store::spool::Spool;

/// How long a job that is asked to end with its workspace may take before it is killed.
const LAST_GRACE: Duration = Duration::from_secs(2);
/// How much longer ending it and reading the rest of its output may take.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// More output than any job can have written and lost: nothing is counted up to there for a guest that says so.
const MOST_LOST: u64 = 1 << 48;

/// Identity of a job: the id of a shell or the name of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum JobKey {
    Shell(String),
    Service(String),
}

/// All jobs that the guest has.
pub(super) type Jobs = Mutex<BTreeMap<JobKey, LiveJob>>;

/// A job that the guest has.
#[derive(Clone)]
pub(super) struct LiveJob {
    pub(super) id: JobId,
    pub(super) progress: watch::Receiver<Progress>,
    follower: Arc<Mutex<Option<AbortHandle>>>,
    output: Arc<Mutex<Output>>,
    sender: Arc<watch::Sender<Progress>>,
    /// State and reason to record for an end that was ordered.
    ending: Arc<Mutex<Option<JobEnding>>>,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// When it wrote last.
    pub(super) wrote: Instant,
    /// How it ended, if that is known; its output is all there then.
    pub(super) exit: Option<CommandExit>,
    /// Nothing more comes.
    pub(super) over: bool,
}

/// Why a job ends.
#[derive(Clone, Debug)]
pub(super) struct JobEnding {
    pub(super) state: JobState,
    /// `None` for the signal that did it.
    pub(super) reason: Option<String>,
}

/// Where its output goes.
pub(super) struct Output {
    pub(super) out: Spool,
    /// Standard error, where it is kept apart.
    pub(super) err: Option<Spool>,
    /// Takes the secrets out of each.
    clean: [RedactedStream; 2],
    /// Bytes that were taken from the guest: from where to go on with another session.
    cursor: u64,
}

impl Output {
    pub(super) fn new(out: Spool, err: Option<Spool>, redactor: &Redactor) -> Self {
        Self { out, err, clean: [redactor.stream(), redactor.stream()], cursor: 0 }
    }

    /// Bytes of one stream, `None` for its end, without the secrets.
    fn push(&mut self, is_err: bool, bytes: Option<&[u8]>) {
        let mut clean = Vec::new();
        let stream = &mut self.clean[usize::from(is_err)];
        match bytes {
            Some(bytes) => stream.push(bytes, &mut clean),
            // Held-back bytes that could have begun a secret did not.
            None => stream.finish(&mut clean),
        }
        let spool = self.err.as_mut().filter(|_| is_err).unwrap_or(&mut self.out);
        // A host whose disk is full keeps less: what is missing is told to whoever reads it.
        let _ = spool.push(&clean);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Variables as a guest is told them.
pub(super) fn variables(env: Vec<(OsString, OsString)>) -> Vec<(Bytes, Bytes)> {
    let bytes = |text: OsString| Bytes(text.into_vec());
    env.into_iter().map(|(name, value)| (bytes(name), bytes(value))).collect()
}

/// As payloads have it: 128 and the signal's number when one ended it.
pub(super) fn exit_code(exit: CommandExit) -> i32 {
    match exit.status {
        ExitStatus::Code(code) => i32::from(code),
        ExitStatus::Signal(signal) => 128 + i32::from(signal),
    }
}

impl LiveJob {
    pub(super) fn new(id: JobId, output: Output) -> Self {
        let (sender, progress) = watch::channel(Progress { wrote: Instant::now(), exit: None, over: false });
        Self {
            id,
            progress,
            follower: Arc::default(),
            output: Arc::new(Mutex::new(output)),
            sender: Arc::new(sender),
            ending: Arc::default(),
        }
    }

    /// Waits for its end, and until all of its output is there.
    pub(super) async fn over(&self) -> Option<CommandExit> {
        let mut progress = self.progress.clone();
        progress.wait_for(|progress| progress.over).await.ok().and_then(|progress| progress.exit)
    }

    /// Waits until so many bytes of its output were read, or all that there will be.
    pub(super) async fn has_read(&self, bytes: u64) {
        let mut progress = self.progress.clone();
        let read = progress.wait_for(|progress| progress.over || locked(&self.output).cursor >= bytes);
        let _ = read.await;
    }

    fn end_as(&self, ending: JobEnding) {
        locked(&self.ending).get_or_insert(ending);
    }
}

/// Why a job did not start. The guest refuses one more than it has room for without asking its kernel.
pub(super) fn not_started(source: GuestError) -> WorkspaceError {
    match &source {
        GuestError::Failed(failure) if failure.kind == GuestKind::Exhausted && failure.errno.is_none() => {
            WorkspaceError::JobsFull(MAX_JOBS)
        }
        _ => WorkspaceError::Job { what: "the job cannot be started", source },
    }
}

impl Keeper {
    pub(super) fn guest(&self) -> Result<Guest, WorkspaceError> {
        let handle = self.handle().ok_or(WorkspaceError::Stopped)?;
        self.check_session()?;
        Ok(handle.guest)
    }

    pub(super) fn all_live(&self) -> BTreeMap<JobKey, LiveJob> {
        locked(&self.jobs).clone()
    }

    /// Follows a job that the guest has.
    pub(super) fn take_up(self: &Arc<Self>, key: JobKey, live: LiveJob, guest: Guest) {
        locked(&self.jobs).insert(key.clone(), live.clone());
        self.follow(key, &live, guest);
    }

    pub(super) fn live(&self, key: &JobKey) -> Option<LiveJob> {
        locked(&self.jobs).get(key).cloned()
    }

    /// Starts a job and follows it; gives its process id in the guest. `record` is written down before any of its end
    /// can be.
    pub(super) async fn start_job<J: Job>(
        self: &Arc<Self>,
        key: JobKey,
        exec: ExecRequest,
        output: Output,
        record: impl FnOnce(u32) -> J,
    ) -> Result<(LiveJob, J), WorkspaceError> {
        let guest = self.guest()?;
        let id = JobId(random()?);
        let pid = guest.job_start(id, exec).await.map_err(not_started)?;
        let record = record(pid);
        let saved = self.database().state.save_job(&record);
        if let Err(error) = saved {
            // A job that is not on record must not run.
            let _ = guest.job_stop(id, Duration::ZERO).await;
            return Err(error);
        }
        let live = LiveJob::new(id, output);
        self.take_up(key, live.clone(), guest);
        if self.life().phase() != Phase::Running {
            // The guest ended while the job began.
            self.lose_jobs("workspace_stopped");
            return Err(WorkspaceError::Stopped);
        }
        Ok((live, record))
    }

    /// Follows all jobs on, over another session.
    pub(super) fn follow_jobs(self: &Arc<Self>, guest: &Guest) {
        for (key, live) in self.all_live() {
            self.follow(key, &live, guest.clone());
        }
    }

    /// Follows none for a moment.
    pub(super) fn unfollow_jobs(&self) {
        for live in locked(&self.jobs).values() {
            if let Some(follower) = locked(&live.follower).take() {
                follower.abort();
            }
        }
    }

    fn follow(self: &Arc<Self>, key: JobKey, live: &LiveJob, guest: Guest) {
        let (keeper, following) = (Arc::downgrade(self), live.clone());
        let task = tokio::spawn(async move {
            let ended = read_on(&following, &guest).await;
            if let Some(keeper) = Weak::upgrade(&keeper) {
                keeper.job_ended(&key, &following, &guest, ended).await;
            }
        });
        *locked(&live.follower) = Some(task.abort_handle());
    }

    /// A job ended, or cannot be followed any more.
    async fn job_ended(
        &self,
        key: &JobKey,
        live: &LiveJob,
        guest: &Guest,
        ended: Result<CommandExit, GuestError>,
    ) {
        let exit = match ended {
            Ok(exit) => exit,
            Err(error) => {
                // The guest ended too, mostly, and whoever notices that ends the job.
                (self.log)(&format!("{key:?} is lost: {}", cause::chain(&error)));
                return;
            }
        };
        // Services that left something running keep their job, so that it can be stopped.
        let stays = exit.left_running && matches!(key, JobKey::Service(_));
        if !stays {
            locked(&self.jobs).remove(key);
        }
        let written = match key {
            JobKey::Shell(id) => self.write_end::<ShellRecord>(id, live, exit),
            JobKey::Service(name) => self.write_end::<ServiceRecord>(name, live, exit),
        };
        if let Err(error) = written {
            (self.log)(&format!("the end of {key:?} cannot be written down: {}", cause::chain(&error)));
        }
        live.sender.send_modify(|progress| (progress.exit, progress.over) = (Some(exit), true));
        if !stays && let Err(error) = guest.job_forget(live.id).await {
            (self.log)(&format!("{key:?} is not forgotten: {}", cause::chain(&error)));
        }
    }

    fn write_end<J: Job>(&self, name: &str, live: &LiveJob, exit: CommandExit) -> Result<(), WorkspaceError> {
        let ending = locked(&live.ending).clone();
        let database = self.database();
        let Some(mut job) = database.state.job::<J>(name)? else { return Ok(()) };
        let by_signal = || match exit.status {
            ExitStatus::Signal(9) => "sigkill".to_owned(),
            _ => "sigterm".to_owned(),
        };
        let (state, reason) = match ending {
            Some(JobEnding { state, reason }) => (state, Some(reason.unwrap_or_else(by_signal))),
            None => (J::ENDED_BY_ITSELF, None),
        };
        job.end(state, unix_now(), Some(exit_code(exit)), reason);
        database.state.save_job(&job)
    }

    /// Ends a job: TERM to all of it, KILL after `grace`. Its end is written down when this returns.
    pub(super) async fn stop_job(
        &self,
        live: &LiveJob,
        grace: Duration,
        ending: JobEnding,
    ) -> Result<(), WorkspaceError> {
        live.end_as(ending);
        let what = "the job cannot be ended";
        let guest = self.guest()?;
        let stopped = guest.job_stop(live.id, grace).await;
        if let Err(source) = stopped
            // The job was over and forgotten by then.
            && !live.progress.borrow().over
        {
            return Err(WorkspaceError::Job { what, source });
        }
        let silent = GuestError::Silent { what: "the end of a job", after: LAST_WORDS };
        let over = tokio::time::timeout(LAST_WORDS, live.over()).await;
        over.map_err(|_| WorkspaceError::Job { what, source: silent })?;
        Ok(())
    }

    /// Forgets a job that ended and left something running, which was stopped.
    pub(super) async fn forget_job(&self, key: &JobKey, live: &LiveJob) {
        locked(&self.jobs).remove(key);
        if let Ok(guest) = self.guest() {
            // A job that cannot be forgotten now goes with the guest.
            let _ = guest.job_forget(live.id).await;
        }
    }

    /// Ends all jobs before their guest is ended, so that their last words and exit codes are written down.
    pub(super) async fn end_jobs(&self, reason: &str) {
        let jobs: Vec<LiveJob> = locked(&self.jobs).values().cloned().collect();
        let ends = jobs.iter().map(|live| {
            let ending = JobEnding { state: JobState::Stopped, reason: Some(reason.to_owned()) };
            self.stop_job(live, LAST_GRACE, ending)
        });
        let all = tokio::time::timeout(LAST_GRACE + LAST_WORDS, futures::future::join_all(ends)).await;
        for error in all.into_iter().flatten().filter_map(Result::err) {
            (self.log)(&cause::chain(&error));
        }
    }

    /// There is no guest any more, and no job of it.
    pub(super) fn lose_jobs(&self, reason: &str) {
        for live in std::mem::take(&mut *locked(&self.jobs)).into_values() {
            if let Some(follower) = locked(&live.follower).take() {
                follower.abort();
            }
            {
                let output = &mut *locked(&live.output);
                output.push(false, None);
                output.push(true, None);
            }
            live.sender.send_modify(|progress| progress.over = true);
        }
        let database = self.database();
        let now = unix_now();
        let ended = database.state.end_jobs::<ShellRecord>(now, reason);
        if let Err(error) = ended.and_then(|()| database.state.end_jobs::<ServiceRecord>(now, reason)) {
            (self.log)(&format!("the end of jobs cannot be written down: {}", cause::chain(&error)));
        }
    }
}

/// Writes down what a job says, until its end.
async fn read_on(live: &LiveJob, guest: &Guest) -> Result<CommandExit, GuestError> {
    let cursor = locked(&live.output).cursor;
    let mut events = guest.job_attach(live.id, cursor).await?;
    {
        let mut output = locked(&live.output);
        let lost = events.at().saturating_sub(cursor);
        if lost > MOST_LOST {
            let (what, why) = ("a job's output", "it begins where nothing can be");
            return Err(GuestError::Unexpected { what, why });
        }
        output.out.skip(lost);
        output.cursor += lost;
    }
    loop {
        let (bytes, is_err) = match events.next().await? {
            JobEvent::Stdout(bytes) => (bytes, false),
            JobEvent::Stderr(bytes) => (bytes, true),
            JobEvent::Exited(exit) => {
                let output = &mut *locked(&live.output);
                output.push(false, None);
                output.push(true, None);
                return Ok(exit);
            }
        };
        {
            let output = &mut *locked(&live.output);
            output.cursor += bytes.len() as u64;
            output.push(is_err, Some(bytes));
        }
        live.sender.send_modify(|progress| progress.wrote = Instant::now());
    }
}
