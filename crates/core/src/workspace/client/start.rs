//! Bringing a keeper up: detached from us, and heard until it says that it is ready or why not.
//!
//! Its order goes to its standard input, its reports come from its standard output. While it starts, an end of its input
//! means that nobody waits for it any more; when it is ready it lets go of both.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::ProtocolError;
use crate::workspace::store::view::Status;
use crate::workspace::tree_pipe::Moved;
use crate::workspace::wire::start::{KeeperReport, KeeperRequest};

/// Hears why a start is no plain restore.
pub type Remarks<'a> = &'a mut (dyn FnMut(&str) + Send);

/// How long a keeper may take, whatever it does: copying a disk of 16 GiB and several boots that hang.
const PATIENCE: Duration = Duration::from_secs(900);
/// A keeper waits for hours, and many of them do: what is freed goes back to the host. The GNU C library reads this.
const FRUGAL: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "65536"), ("MALLOC_TOP_PAD_", "16384")];
/// Longest line that a keeper says.
const LINE: u64 = 1 << 20;
/// As much of what it said on standard error is shown.
const TAIL: u64 = 4096;

/// As [`seeded`], of a workspace that is filled with nothing.
pub async fn start(
    dir: &Path,
    order: &KeeperRequest,
    remarks: Remarks<'_>,
) -> Result<Status, WorkspaceError> {
    seeded(dir, order, remarks, &mut |_| {}).await
}

/// Starts the keeper of the workspace in `dir` and waits until it serves. Dropping the future makes it give up.
pub async fn seeded(
    dir: &Path,
    order: &KeeperRequest,
    remarks: Remarks<'_>,
    moved: &mut (dyn FnMut(Moved) + Send),
) -> Result<Status, WorkspaceError> {
    let program = &order.config.executable;
    let failed = |source| WorkspaceError::Spawn { program: program.clone(), source };
    // Ours are close-on-exec; what we were handed by whoever started us may not be.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut child = Command::new(program)
        .args(["keeper", "run", "--ordered"])
        .arg(dir)
        .env_clear()
        .envs(FRUGAL)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let heard = tokio::time::timeout(PATIENCE, converse(&mut child, order, remarks, moved)).await;
    match heard {
        Ok(Ok(Some(status))) => Ok(status),
        Ok(Err(error @ WorkspaceError::Told(_))) => {
            let _ = child.wait().await;
            Err(error)
        }
        Ok(Ok(None) | Err(_)) => {
            let _ = child.start_kill();
            let mut said = Vec::new();
            if let Some(stderr) = child.stderr.take() {
                let _ =
                    tokio::time::timeout(Duration::from_secs(1), stderr.take(TAIL).read_to_end(&mut said))
                        .await;
            }
            let _ = child.wait().await;
            let log = String::from_utf8_lossy(&said).trim().to_owned();
            let log = (!log.is_empty()).then_some(log);
            Err(WorkspaceError::KeeperLost { what: "ended before it was ready", log })
        }
        Err(_) => {
            let _ = child.kill().await;
            Err(WorkspaceError::KeeperLost { what: "was not ready for a quarter of an hour", log: None })
        }
    }
}

/// Gives the order and hears what comes of it; `None` where the keeper ends without a word.
async fn converse(
    child: &mut Child,
    order: &KeeperRequest,
    remarks: Remarks<'_>,
    moved: &mut (dyn FnMut(Moved) + Send),
) -> Result<Option<Status>, WorkspaceError> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Ok(None) };
    let mut line = serde_json::to_vec(order).map_err(ProtocolError::Message)?;
    line.push(b'\n');
    let io = |error: std::io::Error| WorkspaceError::Protocol(error.into());
    stdin.write_all(&line).await.map_err(io)?;
    stdin.flush().await.map_err(io)?;
    let mut lines = BufReader::new(stdout.take(64 * LINE));
    loop {
        line.clear();
        let read = (&mut lines).take(LINE).read_until(b'\n', &mut line).await.map_err(io)?;
        if read == 0 {
            return Ok(None);
        }
        match serde_json::from_slice(&line).map_err(ProtocolError::Message)? {
            KeeperReport::Remark { text } => remarks(&text),
            KeeperReport::Progress { moved: now } => moved(now),
            KeeperReport::Ready { status } => return Ok(Some(*status)),
            KeeperReport::Failed { fault } => return Err(WorkspaceError::Told(fault)),
        }
    }
}
