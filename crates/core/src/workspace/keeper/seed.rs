//! The beginning of a workspace: what fills it, and what later differences are measured from.
//!
//! The baseline is a disk snapshot, which old content comes from, and a manifest on the disk, by which the guest finds
//! what changed. Snapshots carry the manifest with them, so that a reset to any of them keeps it. A fork of a running
//! workspace has one with a name, which that took just before. Two disks have none of their own workspace's: the blank
//! one of a workspace that began empty, where all that is there is new, and a snapshot or stopped disk that a fork was
//! made from, which has its parent's; the fork notes its own.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use pyro_formats::archive::{Limits, OutsideLinks, Source, Written};
use pyro_formats::hostfs::HostPath;
use pyro_formats::redact::Redactor;
use pyro_proto::message::TreePut;
use tokio::sync::watch;

use crate::guest::{Guest, GuestError};
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::keeper::Database;
use crate::workspace::keeper::machine::Engine;
use crate::workspace::store::disk;
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::{Record, Seed, WORKSPACE_PATH};
use crate::workspace::store::state::BASELINE;
use crate::workspace::tree_pipe::{Moved, Packed, form_name};
use crate::workspace::wire::start::KeeperReport;

/// How long the guest holds its disk still for a copy.
const STILL: Duration = Duration::from_secs(60);
/// How often a copy is tried that took longer than that.
const TRIES: usize = 3;
/// How often whoever waits hears how far it is.
const TELL: Duration = Duration::from_millis(100);

fn failed(error: GuestError, redactor: &Redactor) -> WorkspaceError {
    match error {
        GuestError::Failed(failure) => WorkspaceError::of_guest(failure, redactor),
        error => WorkspaceError::Guest { what: "take what the workspace begins with", source: error },
    }
}

/// Notes the baseline of a fork, whose disk is its baseline now, unless it is noted there.
pub(super) async fn note_baseline(
    guest: &Guest,
    record: &Record,
    redactor: &Redactor,
) -> Result<(), WorkspaceError> {
    let failed = |error| failed(error, redactor);
    if record.is_fork() && record.manifest.is_none() {
        guest.baseline_take(None, None).await.map_err(failed)?;
        // The manifest of the parent must not come back when the VM is killed.
        guest.sync().await.map_err(failed)?;
    }
    Ok(())
}

/// Fills the new workspace from `path`, and keeps its disk as the baseline.
pub(super) async fn fill(
    engine: &Engine,
    home: &Home,
    database: &mut Database,
    path: &HostPath,
    outside_links: OutsideLinks,
    redactor: &Redactor,
    report: &mut (dyn FnMut(KeeperReport) + Send),
) -> Result<(), WorkspaceError> {
    let failed = |error| failed(error, redactor);
    let guest = &engine.handle.guest;
    let limits = Limits { outside_links, ..Limits::default() };
    let source = Source::open(path, limits)?;
    let mode = form_name(source.form());
    let (tell, mut moved) = watch::channel(Moved::default());
    let mut packed = Packed::new(
        source,
        Arc::new(move |now| {
            tell.send_replace(now);
        }),
    )?;
    let put = TreePut { dest: b"".into(), max_entries: limits.entries, max_bytes: limits.bytes };
    let sent = {
        let mut put = std::pin::pin!(guest.tree_put(put, &mut packed, |_| {}));
        loop {
            tokio::select! {
                biased;
                sent = &mut put => break sent,
                () = tokio::time::sleep(TELL) => {
                    if moved.has_changed().unwrap_or(false) {
                        report(KeeperReport::Progress { moved: *moved.borrow_and_update() });
                    }
                }
            }
        }
    };
    let (Written { totals, skipped_links }, _) = packed.finish(sent.map_err(failed))?;
    report(KeeperReport::Progress { moved: *moved.borrow() });
    guest.baseline_take(None, None).await.map_err(failed)?;
    guest.sync().await.map_err(failed)?;
    keep_baseline(guest, home, redactor).await?;
    database.record.seed = Seed {
        mode: mode.into(),
        seed_path: Some(path.shown().display().to_string()),
        destination: WORKSPACE_PATH.into(),
        entry_count: totals.entries,
        bytes_written: totals.bytes,
        skipped_link_count: totals.skipped_links,
        skipped_links,
    };
    database.state.add_snapshot(&disk::describe(home, &database.record.id, BASELINE)?)
}

/// Copies the disk while the guest holds it still.
async fn keep_baseline(guest: &Guest, home: &Home, redactor: &Redactor) -> Result<(), WorkspaceError> {
    let failed = |error| failed(error, redactor);
    for _ in 0..TRIES {
        let frozen = guest.freeze(STILL).await.map_err(failed)?;
        let copying = home.clone();
        blocking(move || {
            let path = copying.disk();
            let from = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            disk::copy(&from, &copying.snapshot(BASELINE))
        })
        .await?;
        if frozen.thaw().await.map_err(failed)? {
            return Ok(());
        }
    }
    Err(WorkspaceError::Copy(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "the guest could not hold it still for long enough",
    )))
}
