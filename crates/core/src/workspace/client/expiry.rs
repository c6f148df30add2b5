//! Removal of stopped workspaces whose time to live has long been over.
//!
//! Invariant: nothing is removed on one reading of one clock, since a wall clock may be wrong by days, nor by a call that only
//! looks. The first call that finds a workspace over leaves a notice in its directory; a later one removes it when the
//! kernel's own clock has gone on for an hour since, in the same boot, and nobody used the workspace meanwhile.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Workspaces, reach};
use crate::hostfs::clock::BootClock;
use crate::identity::unix_now;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::life::{KEPT_SECONDS, expires_at};
use crate::workspace::store::layout::{self, Home};
use crate::workspace::store::naming;

/// Boot time between the two readings, seconds.
const APART: f64 = 3600.0;

/// First reading at which a workspace was over.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Notice {
    read_at: BootClock,
    /// Last activity that the reading was of, Unix seconds.
    last_activity_at: f64,
}

impl Workspaces {
    /// Removes the stopped workspaces that are over by two readings, and leaves notices in those that are by one. A workspace
    /// that cannot be looked at stays.
    pub(super) async fn sweep_expired(&self) {
        let root = self.root().to_owned();
        let old = blocking(move || {
            let ids = layout::ids(&root)?;
            Ok::<_, WorkspaceError>(ids.into_iter().map(|id| Home::of(&root, &id)).filter(is_old).collect())
        });
        let old: Vec<Home> = old.await.unwrap_or_default();
        for home in old {
            if matches!(reach::connect(&home).await, Ok(None)) {
                let swept = blocking(move || match BootClock::now() {
                    Some(clock) => sweep(&home, unix_now(), clock),
                    None => Ok(false),
                });
                let _ = swept.await;
            }
        }
    }
}

/// Whether the database was written long enough ago, by the file system's clock, for the workspace to be over.
fn is_old(home: &Home) -> bool {
    let written = std::fs::metadata(home.state_path()).and_then(|stat| stat.modified());
    let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age >= Duration::from_secs_f64(KEPT_SECONDS))
}

/// Removes a workspace that is over, or notes that it is; says whether it is gone. Blocks.
fn sweep(home: &Home, now: f64, clock: BootClock) -> Result<bool, WorkspaceError> {
    let Some(_held) = home.try_lock()? else { return Ok(false) };
    let record = home.read()?.record()?;
    let path = home.expiry_notice();
    let expires = expires_at(record.last_activity_at, record.ttl_seconds as f64);
    if expires.is_none_or(|at| at + KEPT_SECONDS > now) {
        layout::remove_if_there(&path)?;
        return Ok(false);
    }
    let earlier = read(&path).filter(|notice| notice.last_activity_at == record.last_activity_at);
    match earlier.and_then(|notice| clock.seconds_since(&notice.read_at)) {
        Some(seconds) if seconds >= APART => {
            naming::remove(home, record.name.as_deref(), &record.id)?;
            Ok(true)
        }
        Some(_) => Ok(false),
        None => {
            let notice = Notice { read_at: clock, last_activity_at: record.last_activity_at };
            let text = serde_json::to_vec(&notice).unwrap_or_default();
            std::fs::write(&path, text).map_err(|error| WorkspaceError::file(&path, "written", error))?;
            Ok(false)
        }
    }
}

fn read(path: &Path) -> Option<Notice> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::store::record::WorkspaceSpec;
    use crate::workspace::store::state::State;

    const ID: &str = "0123456789ab";

    fn workspace(root: &Path, ttl: u64) -> Home {
        let record =
            WorkspaceSpec { ttl_seconds: ttl, ..WorkspaceSpec::new("debian:12") }.record(ID, "cafe", 1000.0);
        let (home, held) = Home::draft(root, ID).unwrap();
        State::create(&home.state_path(), &record).unwrap();
        drop(held);
        home.publish(ID).unwrap()
    }

    fn clock(boot: &str, seconds: f64) -> BootClock {
        BootClock { boot_id: boot.into(), seconds }
    }

    const OVER: f64 = 1000.0 + 600.0 + KEPT_SECONDS;

    #[test]
    fn it_takes_two_readings_an_hour_of_boot_time_apart() {
        let dir = tempfile::tempdir().unwrap();
        let home = workspace(dir.path(), 600);
        assert!(!sweep(&home, OVER - 1.0, clock("a", 0.0)).unwrap());
        assert!(!home.expiry_notice().exists());
        assert!(!sweep(&home, OVER, clock("a", 10.0)).unwrap());
        assert!(
            !sweep(&home, OVER + 1e6, clock("a", 10.0 + APART - 1.0)).unwrap(),
            "the wall clock alone counts for nothing"
        );
        assert!(home.exists());
        assert!(sweep(&home, OVER, clock("a", 10.0 + APART)).unwrap());
        assert!(!home.exists());
    }

    #[test]
    fn another_boot_or_another_use_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let home = workspace(dir.path(), 600);
        assert!(!sweep(&home, OVER, clock("a", 10.0)).unwrap());
        assert!(!sweep(&home, OVER, clock("b", 1e6)).unwrap());
        let state = State::open(&home.state_path()).unwrap();
        let mut record = state.record().unwrap();
        record.last_activity_at += 1.0;
        state.save(&record).unwrap();
        assert!(!sweep(&home, OVER + 1.0, clock("b", 1e6 + 2.0 * APART)).unwrap());
        assert!(!sweep(&home, 2000.0, clock("b", 1e6 + 2.5 * APART)).unwrap());
        assert!(!home.expiry_notice().exists(), "a clock that was put right takes its notice back");
        assert!(home.exists());
    }

    #[test]
    fn without_a_time_to_live_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = workspace(dir.path(), 0);
        for hours in 0..3 {
            assert!(!sweep(&home, 1e12, clock("a", f64::from(hours) * 2.0 * APART)).unwrap());
        }
        assert!(home.exists() && !home.expiry_notice().exists());
    }

    #[test]
    fn a_notice_that_cannot_be_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let home = workspace(dir.path(), 600);
        std::fs::write(home.expiry_notice(), "{").unwrap();
        assert!(!sweep(&home, OVER, clock("a", 1e9)).unwrap());
        assert_eq!(read(&home.expiry_notice()).unwrap().read_at, clock("a", 1e9));
    }
}
