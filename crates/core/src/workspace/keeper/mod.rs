//! The keeper: the process that owns one workspace's VM for as long as the workspace runs.
//!
//! ```text
//!   front end --- socket ---> serve ---> dispatch (operations, told from above) ---> Keeper ---> VMM child, guest session
//!                               |                                                      |  life: what may be done when (pure)
//!                               +--> exec, attach, splice: calls with streams          |  jobs: shells and services, to files
//!   time, signals, the VM's death -------------------------------------------------->  stored: the database
//! ```
//!
//! A keeper holds the workspace's lock for its life, so that there is one of it, and is its database's only writer. When it
//! dies, however, its VM dies with it, and what is on disk is a stopped workspace.
//!
//! After a stop a keeper stays, a few MiB, until the workspace is to be deleted, unless there is no time to live.
//!
//! Invariant: an action of the workspace's life ends with the [`admitted::Admitted`] that it began with, also by a panic.

mod admitted;
mod checkpoint;
mod exec;
mod jobs;
mod lifecycle;
mod machine;
mod revive;
mod seed;
mod serve;
mod services;
mod session;
mod shells;
mod snapshot;
mod splice;
#[cfg(test)]
mod tests;

pub(crate) use serve::{Caller, Dispatch, Operating};
pub(crate) use shells::PATIENCE as SHELL_PATIENCE;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machine::Engine;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cause;
use crate::hostfs::lock::Lock;
use crate::identity::unix_now;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::life::{Due, KEPT_SECONDS, Life, Phase};
use crate::workspace::store::disk;
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::Record;
use crate::workspace::store::secrets::Secrets;
use crate::workspace::store::state::{BASELINE, State};
use crate::workspace::store::view::Status;
use crate::workspace::wire::start::{KeeperReport, KeeperRequest, KeeperTask};

/// Longest time between two looks at the clock, which may be set or stand still with the host.
const LOOK: Duration = Duration::from_secs(30);

/// Where a keeper says what it does, for its log.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// Record and database: what is true on disk.
struct Database {
    state: State,
    record: Record,
}

/// State that the tasks of a keeper share.
pub struct Keeper {
    home: Home,
    order: KeeperRequest,
    dispatch: Dispatch,
    log: Log,
    secrets: Secrets,
    life: Mutex<Life>,
    database: Mutex<Database>,
    /// Whoever has this may change what the VM is; commands only use it.
    engine: tokio::sync::Mutex<Option<Engine>>,
    /// Handle of the guest, for commands; `None` where none runs.
    guest: Mutex<Option<machine::GuestHandle>>,
    /// Held to write while there is no session with the guest, to read by all that uses it beside jobs.
    connection: Arc<tokio::sync::RwLock<()>>,
    /// What is wrong with the guest that runs.
    trouble: Mutex<Option<session::Trouble>>,
    next_command: AtomicU64,
    /// The life may be over, or something may be due at another time.
    changed: Notify,
    /// Cancelled when the keeper serves nobody any more.
    over: CancellationToken,
    /// Shells and services.
    jobs: jobs::Jobs,
    /// Services that are being started.
    starting: Mutex<BTreeSet<String>>,
}

/// Runs the keeper of the workspace in `dir` until the workspace is gone, stopped for good, or `quit` comes, which stops
/// it cleanly. `report` hears how the start goes; `abandoned` ends it before it is ready.
///
/// # Errors
/// When the start fails: nothing of it is left, and `report` has heard why.
pub async fn run(
    dir: PathBuf,
    order: KeeperRequest,
    dispatch: Dispatch,
    report: &mut (dyn FnMut(KeeperReport) + Send),
    log: Log,
    abandoned: impl Future<Output = ()>,
    quit: impl Future<Output = ()>,
) -> Result<(), WorkspaceError> {
    // To its end, whoever gives up meanwhile: what it makes must be there to be undone.
    let (files, task) = (dir.clone(), order.task.clone());
    let begun = match blocking(move || machine::prepare(files, &task)).await {
        Ok(prepared) => tokio::select! {
            biased;
            // Boxed: what it needs room for is not needed for hours afterwards.
            begun = Box::pin(begin(prepared, order, dispatch, report, &log)) => begun,
            () = abandoned => Err(WorkspaceError::KeeperLost { what: "was told to give up", log: None }),
        },
        Err(error) => Err(error),
    };
    let (keeper, listener, held) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            machine::undo(&dir);
            log(&format!("the start failed: {}", cause::chain(&error)));
            report(KeeperReport::Failed { fault: error.fault() });
            return Err(error);
        }
    };
    report(KeeperReport::Ready { status: Box::new(keeper.status()?) });
    log("ready");
    keeper.attend(listener, quit).await;
    log("over");
    drop(held);
    Ok(())
}

/// Starts the guest of a workspace, and listens.
async fn begin(
    prepared: machine::Prepared,
    order: KeeperRequest,
    dispatch: Dispatch,
    report: &mut (dyn FnMut(KeeperReport) + Send),
    log: &Log,
) -> Result<(Arc<Keeper>, serve::Listener, Lock), WorkspaceError> {
    let redactor = prepared.secrets.redactor().clone();
    let (log, clean) = (Arc::clone(log), redactor.clone());
    let log: Log = Arc::new(move |line: &str| log(&clean.text(line)));
    begin_prepared(prepared, order, dispatch, report, &log).await.map_err(|error| error.redacted(&redactor))
}

async fn begin_prepared(
    prepared: machine::Prepared,
    order: KeeperRequest,
    dispatch: Dispatch,
    report: &mut (dyn FnMut(KeeperReport) + Send),
    log: &Log,
) -> Result<(Arc<Keeper>, serve::Listener, Lock), WorkspaceError> {
    let machine::Prepared { home, held, mut database, secrets, id, from } = prepared;
    let kept = order.expiry.map_or(KEPT_SECONDS, |expiry| expiry.kept_seconds);
    let ttl = order.expiry.map_or(database.record.ttl_seconds as f64, |expiry| expiry.ttl_seconds);
    let mut life = Life::starting(ttl, kept, unix_now());
    let blank = matches!(from, machine::Beginning::Nothing);
    let engine = machine::bring_up(&order, &home, &mut database.record, &secrets, from, report).await?;
    match &order.task {
        KeeperTask::Create { wish, .. } => match &wish.seed_path {
            Some(path) => {
                seed::fill(
                    &engine,
                    &home,
                    &mut database,
                    path,
                    wish.outside_links,
                    secrets.redactor(),
                    report,
                )
                .await?
            }
            None if blank => disk::sync(&home).await?,
            None => seed::note_baseline(&engine.handle.guest, &database.record, secrets.redactor()).await?,
        },
        KeeperTask::Reset { snapshot } if snapshot == BASELINE => {
            seed::note_baseline(&engine.handle.guest, &database.record, secrets.redactor()).await?;
        }
        KeeperTask::Start | KeeperTask::Reset { .. } => {}
    }
    life.started(unix_now());
    database.record.last_activity_at = unix_now();
    database.record.metadata.remove("stopped_because");
    database.state.save(&database.record)?;
    crate::workspace::store::jobs::sweep(&home, &database.state, unix_now())?;
    let home = match id {
        // The database is opened anew under its last name, which it writes beside.
        Some(id) => {
            let Database { state, record } = database;
            drop(state);
            let home = home.publish(&id)?;
            database = Database { state: State::open(&home.state_path())?, record };
            home
        }
        None => home,
    };
    let listener = serve::Listener::bind(&home)?;
    let next = database.state.last_command()?.map_or(0, |command| command.sequence) + 1;
    let keeper = Arc::new(Keeper {
        home,
        order,
        dispatch,
        log: Arc::clone(log),
        secrets,
        life: Mutex::new(life),
        database: Mutex::new(database),
        engine: tokio::sync::Mutex::new(None),
        guest: Mutex::new(None),
        connection: Arc::default(),
        trouble: Mutex::default(),
        next_command: AtomicU64::new(next),
        changed: Notify::new(),
        over: CancellationToken::new(),
        jobs: jobs::Jobs::default(),
        starting: Mutex::default(),
    });
    keeper.install(engine).await;
    Ok((keeper, listener, held))
}

impl Keeper {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that it was used, once in [`LOOK`]: nobody's command waits for that, and who looks while there is a keeper is
    /// told by it.
    fn remember_use(&self) {
        let now = unix_now();
        let used = self.life().last_activity(now);
        // Whoever has them may wait for somebody, and nobody is to wait for that to be greeted.
        let Ok(written) = self.database.try_lock().map(|database| database.record.last_activity_at) else {
            return;
        };
        if used > written && now > written + LOOK.as_secs_f64() {
            self.remember();
        }
    }

    /// Writes down when there was activity, for those who look without asking.
    fn remember(&self) {
        let (at, deleting) = {
            let life = self.life();
            (life.last_activity(unix_now()), life.phase() == Phase::Deleting)
        };
        if deleting {
            return;
        }
        let mut database = self.database();
        database.record.last_activity_at = at;
        if let Err(error) = database.state.save(&database.record) {
            (self.log)(&format!("the record cannot be written: {}", cause::chain(&error)));
        }
    }

    /// All about the workspace.
    fn status(&self) -> Result<Status, WorkspaceError> {
        let (phase, activity) = {
            let life = self.life();
            (life.phase(), life.last_activity(unix_now()))
        };
        let database = self.database();
        let record = Record { last_activity_at: activity, ..database.record.clone() };
        let (count, last) = (database.state.command_count()?, database.state.last_command()?);
        let mut status = Status::new(record, phase, count, last.as_ref());
        status.keeper_pid = Some(std::process::id());
        if let Some(why) = self.trouble() {
            status.guest_is_unresponsive(why);
        }
        status.count_services(&database.state)?;
        Ok(status)
    }

    /// Serves until the life is over.
    async fn attend(self: &Arc<Self>, listener: serve::Listener, quit: impl Future<Output = ()>) {
        let mut calls = tokio::task::JoinSet::new();
        let mut quit = std::pin::pin!(quit);
        // By a clock that nobody sets: a wall clock that is put forward by a day deletes nothing.
        let mut stopped_at: Option<Instant> = None;
        loop {
            if self.life().is_over() {
                break;
            }
            let now = unix_now();
            let (due, next, stopped, kept) = {
                let life = self.life();
                (life.due(now), life.next_due(now), life.phase() == Phase::Stopped, life.kept())
            };
            stopped_at = stopped.then(|| stopped_at.unwrap_or_else(Instant::now));
            let rest = kept - stopped_at.map_or(0.0, |at| at.elapsed().as_secs_f64());
            match due {
                Some(Due::Stop) => {
                    (self.log)("idle for its time to live: stopping");
                    if let Err(error) = self.stop("it was idle for its time to live").await {
                        (self.log)(&cause::chain(&error));
                    }
                    continue;
                }
                Some(Due::Delete) if rest <= 0.0 => {
                    (self.log)("kept long enough: deleting");
                    if let Err(error) = self.delete().await {
                        (self.log)(&cause::chain(&error));
                    }
                    continue;
                }
                Some(Due::Delete) | None => self.remember_use(),
            }
            let wait = next.map_or(f64::MAX, |(at, _)| at - now);
            let wait = if due.is_some() { wait.max(rest) } else { wait };
            let wait = Duration::from_secs_f64(wait.clamp(0.01, LOOK.as_secs_f64()));
            tokio::select! {
                biased;
                () = &mut quit => {
                    (self.log)("told to end: stopping");
                    if self.life().phase() == Phase::Running
                        && let Err(error) = self.stop("its keeper was told to end").await
                    {
                        (self.log)(&cause::chain(&error));
                    }
                    break;
                }
                () = self.changed.notified() => {}
                connection = listener.accept() => {
                    if let Some(connection) = connection {
                        calls.spawn(serve::converse(Arc::clone(self), connection));
                    }
                }
                Some(_) = calls.join_next() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        listener.close(&self.home);
        self.over.cancel();
        // Last words are on their way; who does not take them is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            while calls.join_next().await.is_some() {}
        })
        .await;
        if let Some(engine) = self.engine.lock().await.take() {
            let _ = engine.machine.stop().await;
        }
    }
}
