//! Call of a tool while it runs, and what it tells of its progress.

use std::sync::Arc;
use std::time::Duration;

use pyro_core::environment::{PullEvent, Unit};
use pyro_core::workspace::{Moved, OnMoved};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::Peer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::progress::entries;

/// Between two notifications.
const PACE: Duration = Duration::from_millis(200);

/// How far something is.
#[derive(Clone, Debug, Default)]
struct Point {
    done: f64,
    total: Option<f64>,
    words: String,
}

/// Call of a tool that runs.
pub struct Call {
    points: watch::Sender<Point>,
}

/// Task that tells the client of a call's progress.
pub struct Teller {
    task: Option<JoinHandle<()>>,
    over: CancellationToken,
    _over: DropGuard,
}

impl Teller {
    /// Tells what is left to tell. Nothing may be told of a call that is answered, so wait for this before the answer.
    pub async fn end(self) {
        self.over.cancel();
        if let Some(task) = self.task {
            // One that failed tells no more either.
            let _ = task.await;
        }
    }
}

impl Call {
    /// Call whose client wants to hear of its progress if it gave a token.
    pub fn new(peer: Peer<RoleServer>, token: Option<ProgressToken>) -> (Self, Teller) {
        let (points, seen) = watch::channel(Point::default());
        let over = CancellationToken::new();
        let task = token.map(|token| tokio::spawn(tell(peer, token, seen, over.clone())));
        (Self { points }, Teller { task, _over: over.clone().drop_guard(), over })
    }

    /// Hears how far a tree has come.
    pub fn moved(&self, what: &'static str) -> OnMoved {
        let points = self.points.clone();
        Arc::new(move |moved: Moved| {
            points.send_replace(Point {
                done: moved.bytes as f64,
                total: moved.total_bytes.map(|total| total as f64),
                words: format!("{what}: {}, {} bytes", entries(moved.entries), moved.bytes),
            });
        })
    }

    /// Hears how far an environment's installation has come.
    pub fn pulled(&self) -> impl FnMut(PullEvent) + Send + 'static {
        let points = self.points.clone();
        // Phases come one after the other: each counts for as much as all before it, so that progress never goes back.
        let mut phases = 0.0;
        let mut last = None;
        move |event: PullEvent| {
            if last != Some(event.phase) {
                (last, phases) = (Some(event.phase), phases + 1.0);
            }
            let part = event.progress.map_or(0.0, |progress| match (progress.total, progress.unit) {
                (0, _) => 0.0,
                (total, Unit::Steps | Unit::Bytes) => progress.done as f64 / total as f64,
            });
            let detail = event.detail.map(|detail| format!(" {detail}")).unwrap_or_default();
            let words = format!("installing {}: {}{detail}", event.environment, event.phase);
            points.send_replace(Point { done: phases + part.min(0.99), total: None, words });
        }
    }

    /// Says what happens now.
    pub fn remark(&self, words: &str) {
        self.points.send_modify(|point| {
            point.done += 0.001;
            words.clone_into(&mut point.words);
        });
    }
}

async fn tell(
    peer: Peer<RoleServer>,
    token: ProgressToken,
    mut points: watch::Receiver<Point>,
    over: CancellationToken,
) {
    let mut told = 0.0;
    // Until the call is over or nobody can say more; in both cases what was said last is still told.
    let mut more = true;
    while more {
        more = tokio::select! {
            biased;
            changed = points.changed() => changed.is_ok(),
            () = over.cancelled() => false,
        };
        let Point { done, total, words } = points.borrow_and_update().clone();
        if done <= told {
            continue;
        }
        told = done;
        let mut progress = ProgressNotificationParam::new(token.clone(), done).with_message(words);
        progress.total = total;
        if peer.notify_progress(progress).await.is_err() {
            return;
        }
        // It ends at once, and only the pause is cut short: what was said meanwhile is still told.
        let _ = tokio::time::timeout(PACE, over.cancelled()).await;
    }
}
