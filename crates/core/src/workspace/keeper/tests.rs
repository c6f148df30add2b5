//! A keeper without a VM: what its life looks like after an operation that panicked.

use std::path::Path;
use std::sync::Arc;

use futures::future::FutureExt as _;
use serde_json::json;
use tokio::net::UnixStream;

use super::jobs::Jobs;
use super::*;
use crate::config::Config;
use crate::workspace::fault::Fault;
use crate::workspace::frames;
use crate::workspace::life::{LifeAction, Phase};
use crate::workspace::store::record::WorkspaceSpec;
use crate::workspace::wire::{GENERATION, Greeting, Outcome};

const ID: &str = "0123456789ab";

fn config(dir: &Path) -> Config {
    Config::below(dir, "pyro".into())
}

/// A keeper whose guest is said to run, although there is none.
fn keeper(dir: &Path, dispatch: Dispatch) -> Arc<Keeper> {
    let record = WorkspaceSpec::new("debian:12").record(ID, "cafe", 1.0);
    let (home, held) = Home::draft(dir, ID).unwrap();
    std::mem::forget(held);
    let state = State::create(&home.state_path(), &record).unwrap();
    let home = home.publish(ID).unwrap();
    let mut life = Life::starting(600.0, KEPT_SECONDS, unix_now());
    life.started(unix_now());
    let order =
        KeeperRequest { config: config(dir), backend: "qemu".into(), task: KeeperTask::Start, expiry: None };
    Arc::new(Keeper {
        home,
        order,
        dispatch,
        log: Arc::new(|_| {}),
        secrets: Secrets::new(Vec::new()).unwrap(),
        life: Mutex::new(life),
        database: Mutex::new(Database { state, record }),
        engine: tokio::sync::Mutex::new(None),
        guest: Mutex::new(None),
        connection: Arc::default(),
        trouble: Mutex::default(),
        next_command: AtomicU64::new(1),
        changed: Notify::new(),
        over: CancellationToken::new(),
        jobs: Jobs::default(),
        starting: Mutex::default(),
    })
}

fn nothing(_: Arc<Keeper>, _: &str, _: serde_json::Value, _: Caller) -> Option<serve::Operating> {
    None
}

#[tokio::test]
async fn a_panic_leaves_no_phase_set_whatever_was_admitted() {
    use LifeAction::{Delete, Describe, Reset, Retire, Snapshot, Stop, Use};
    for action in [Use, Describe, Snapshot, Reset, Stop, Delete, Retire] {
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(dir.path(), nothing);
        if action == Retire {
            drop(keeper.admit(Stop).unwrap());
        }
        let worker = Arc::clone(&keeper);
        let task = tokio::spawn(async move {
            let _admitted = worker.admit(action).unwrap();
            tokio::task::yield_now().await;
            panic!("{action:?} panics");
        });
        assert!(task.await.unwrap_err().is_panic());
        let life = keeper.life().clone();
        let after = match action {
            Use | Describe | Snapshot => Phase::Running,
            // What a panic leaves of a guest goes with the keeper, which is started anew from there.
            Reset | Stop => Phase::Stopped,
            Delete | Retire => Phase::Deleting,
        };
        assert_eq!((life.phase(), life.uses()), (after, 0), "{action:?}");
        assert_eq!(life.is_over(), after == Phase::Deleting, "{action:?}");
        if after != Phase::Deleting {
            // Nothing is in the way of the next one.
            assert!(keeper.admit(Describe).is_ok() && keeper.admit(Snapshot).is_ok(), "{action:?}");
        }
    }
}

/// A front end's connection, and the task that answers it.
async fn converse(keeper: &Arc<Keeper>) -> UnixStream {
    let (ours, keepers) = UnixStream::pair().unwrap();
    let connection = serve::Connection::of(keepers);
    tokio::spawn(serve::converse(Arc::clone(keeper), connection));
    let mut ours = ours;
    let greeting: Greeting = frames::receive(&mut ours).await.unwrap();
    assert_eq!((greeting.generation, greeting.phase), (GENERATION, Phase::Running));
    ours
}

fn panics(keeper: Arc<Keeper>, name: &str, _: serde_json::Value, caller: Caller) -> Option<serve::Operating> {
    assert_eq!(name, "stop");
    let work = async move {
        let _admitted = keeper.admit(LifeAction::Stop).unwrap();
        let _caller = caller;
        panic!("the keeper stumbles");
    };
    Some(work.boxed())
}

#[tokio::test]
async fn an_operation_that_panics_is_answered_as_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), panics);
    let mut connection = converse(&keeper).await;
    frames::send(&mut connection, &json!({"generation": GENERATION, "call": "stop", "ask": {}}))
        .await
        .unwrap();
    let Outcome::Failed(Fault { kind, message, momentary, .. }) =
        frames::receive::<Outcome<()>>(&mut connection).await.unwrap()
    else {
        panic!("it was done");
    };
    assert_eq!(kind, crate::failure::FailureKind::Bug);
    assert!(message.contains("the keeper stumbles") && message.contains("bug") && !momentary, "{message}");
    assert_eq!(keeper.life().phase(), Phase::Stopped);
}

#[tokio::test]
async fn a_call_that_it_does_not_know_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), nothing);
    let mut connection = converse(&keeper).await;
    frames::send(&mut connection, &json!({"generation": GENERATION, "call": "dance", "ask": {}}))
        .await
        .unwrap();
    let outcome = frames::receive::<Outcome<()>>(&mut connection).await.unwrap();
    assert!(matches!(outcome, Outcome::Failed(fault) if fault.message.contains("dance")));
}

/// What is kept of a stream that said this.
fn captured(text: &str) -> crate::capture::Captured {
    crate::capture::Captured { bytes: text.into(), total: text.len() as u64, truncated: false }
}

#[test]
fn a_command_that_cannot_be_written_down_is_told_so_and_its_row_is_kept_where_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), nothing);
    let entry = |sequence| crate::workspace::store::record::Command {
        sequence,
        command: "true".into(),
        cwd: "/workspace".into(),
        exit_code: 7,
        duration_ms: 3,
        recorded_at: 1.5,
        stdout_bytes: 0,
        stderr_bytes: 9,
        stdout_truncated: false,
        stderr_truncated: false,
        interrupted: None,
    };
    assert_eq!(keeper.record(&entry(1), &captured("out"), &captured("")), None);
    // Its output finds no place: who reads the history sees that it is missing.
    std::fs::remove_dir_all(keeper.home.path().join("logs")).unwrap();
    let why = keeper.record(&entry(2), &captured(""), &captured("nine byte")).unwrap();
    assert!(why.contains("2.stderr cannot be written"), "{why}");
    assert_eq!(keeper.database().state.last_command().unwrap(), Some(entry(2)));
    // Nor does its row.
    let state = State::open_to_read(&keeper.home.state_path()).unwrap();
    keeper.database().state = state;
    let why = keeper.record(&entry(3), &captured(""), &captured("")).unwrap();
    assert!(why.contains("state of the workspace"), "{why}");
    assert_eq!(keeper.database().state.last_command().unwrap(), Some(entry(2)));
}

#[tokio::test]
async fn a_reset_that_finds_no_room_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), nothing);
    std::fs::write(keeper.home.disk(), "now").unwrap();
    std::fs::write(keeper.home.snapshot("before"), "before").unwrap();
    let snapshot = disk::describe(&keeper.home, ID, "before").unwrap();
    keeper.database().state.add_snapshot(&snapshot).unwrap();
    // A directory in its place is as good as no room for the copy.
    let draft = keeper.home.path().join(".new-disk.ext4");
    std::fs::create_dir(&draft).unwrap();
    assert!(keeper.reset("before".into()).await.is_err());
    assert_eq!(keeper.life().phase(), Phase::Running);
    assert_eq!(std::fs::read(keeper.home.disk()).unwrap(), b"now");
    std::fs::remove_dir(&draft).unwrap();
    // The next one gets past the copy, to a guest that cannot be started here.
    assert!(keeper.reset("before".into()).await.is_err());
    assert_eq!(keeper.life().phase(), Phase::Stopped);
    assert_eq!(std::fs::read(keeper.home.disk()).unwrap(), b"before");
    assert!(!draft.exists());
}

#[test]
fn one_job_too_many_is_told_apart_from_a_guest_without_room() {
    use pyro_proto::message::{Failure, FailureKind as GuestKind};
    let failed = |kind, errno| {
        let failure = Failure { kind, stage: "job".into(), errno, message: "no".into() };
        jobs::not_started(crate::guest::GuestError::Failed(failure))
    };
    let full = failed(GuestKind::Exhausted, None);
    assert!(matches!(full, WorkspaceError::JobsFull(_)), "{full:?}");
    assert_eq!(full.kind(), crate::failure::FailureKind::Conflict);
    assert_eq!(full.hint(), Some(crate::hint::Hint::EndJob));
    // The guest's kernel had no process for it, and its program was not there.
    for (kind, errno) in [(GuestKind::Exhausted, Some(11)), (GuestKind::NotFound, None)] {
        let failure = failed(kind, errno);
        assert!(matches!(failure, WorkspaceError::Job { .. }), "{failure:?}");
    }
}
