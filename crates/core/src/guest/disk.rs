//! The guest's disk: writing it out, freezing it, and comparing it with a baseline.

use std::time::Duration;

use futures::io::WriteHalf;
use pyro_proto::frame;
use pyro_proto::message::{ExecInput, FREEZE_MS, FileChange, Reply, Request};

use super::call::GuestCall;
use super::files::MOST_TEXT;
use super::source::CallStream;
use super::{CALL_DEADLINE, Guest, GuestError};

const ELSE: &str = "the reply belongs to another call";
/// Most differences that are accepted.
const MOST_CHANGES: usize = 1_000_000;
/// Longest time that a guest may take to write its dirty pages, before it is frozen. It answers pings meanwhile.
const WRITING: Duration = Duration::from_secs(120);

impl Guest {
    /// Writes everything to the disk; takes as long as the guest needs and is alive.
    pub async fn sync(&self) -> Result<(), GuestError> {
        self.finished("the order to write everything out", &Request::Sync).await
    }

    /// Writes everything to the disk and then holds up all writers, until [`Frozen::thaw`], until the result is
    /// dropped, until the session ends, or for `most`, which is at most a minute.
    pub async fn freeze(&self, most: Duration) -> Result<Frozen, GuestError> {
        let what = "the order to freeze";
        let max_ms = u64::try_from(most.as_millis()).unwrap_or(FREEZE_MS).min(FREEZE_MS);
        let (mut call, write) = self.begin(what, &Request::Freeze { max_ms }).await?;
        let reply = tokio::time::timeout(WRITING, call.reply()).await;
        match reply.map_err(|_| GuestError::Silent { what, after: WRITING })?? {
            Reply::Done => Ok(Frozen { call, write }),
            _ => Err(call.unexpected(ELSE)),
        }
    }

    /// Stores the present state of the workspace as the baseline `name`, and forgets all others but `keep`; returns the
    /// number of entries. `None` stands for the unnamed baseline.
    pub async fn baseline_take(&self, name: Option<&str>, keep: Option<&str>) -> Result<u64, GuestError> {
        let [name, keep] = [name, keep].map(|name| name.map(str::to_owned));
        let take = Request::BaselineTake { name, keep };
        let (mut call, _write) = self.begin("the baseline", &take).await?;
        match call.reply().await? {
            Reply::Baseline { entries } => Ok(entries),
            _ => Err(call.unexpected(ELSE)),
        }
    }

    /// Lists the differences from that baseline, in order of the paths (name by name), and counts the entries compared;
    /// `None` where there are more differences than are taken. For a file that was only touched the content must tell. Paths
    /// come from the guest: not for use on the host.
    pub async fn diff_scan(
        &self,
        baseline: Option<&str>,
    ) -> Result<(Vec<FileChange>, Option<u64>), GuestError> {
        let scan = Request::DiffScan { baseline: baseline.map(str::to_owned) };
        let (mut call, _write) = self.begin("the comparison with the baseline", &scan).await?;
        let (mut all, mut text) = (Vec::new(), 0);
        loop {
            match call.reply().await? {
                Reply::Changes(changes) => {
                    text += changes.iter().map(|change| change.path.0.len()).sum::<usize>();
                    all.extend(changes);
                    if all.len() > MOST_CHANGES || text > MOST_TEXT {
                        all.truncate(MOST_CHANGES);
                        return Ok((all, None));
                    }
                }
                Reply::Scanned { entries } => return Ok((all, Some(entries))),
                _ => return Err(call.unexpected(ELSE)),
            }
        }
    }
}

/// Frozen disk, by the guest's word; thawed when dropped.
pub struct Frozen {
    call: GuestCall,
    write: WriteHalf<CallStream>,
}

impl Frozen {
    /// Lets writing go on. Returns whether the disk was frozen until now: `false` when the time was up before, and
    /// bytes read from the disk meanwhile may be of several moments.
    pub async fn thaw(mut self) -> Result<bool, GuestError> {
        let what = "the order to thaw";
        // A guest whose time was up does not listen any more; its answer has come already.
        let _ = frame::send(&mut self.write, &ExecInput::Eof).await;
        let reply = tokio::time::timeout(CALL_DEADLINE, self.call.reply()).await;
        match reply.map_err(|_| GuestError::Silent { what, after: CALL_DEADLINE })?? {
            Reply::Thawed { timed_out } => Ok(!timed_out),
            _ => Err(self.call.unexpected(ELSE)),
        }
    }
}
