//! One call of a tool while it runs: what it tells of its progress.

use std::sync::Arc;
use std::time::Duration;

use pyro_core::environment::{PullEvent, Unit};
use pyro_core::workspace::{Moved, OnMoved};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::Peer;
use tokio::sync::watch;

/// Between two notifications.
const PACE: Duration = Duration::from_millis(200);

/// How far something is.
#[derive(Clone, Debug, Default)]
struct Point {
    done: f64,
    total: Option<f64>,
    words: String,
}

/// One call.
pub struct Call {
    points: watch::Sender<Point>,
    teller: Option<tokio::task::JoinHandle<()>>,
}

impl Call {
    /// One whose client wants to hear of its progress if it gave a token.
    pub fn new(peer: Peer<RoleServer>, token: Option<ProgressToken>) -> Self {
        let (points, seen) = watch::channel(Point::default());
        let teller = token.map(|token| tokio::spawn(tell(peer, token, seen)));
        Self { points, teller }
    }

    /// Hears how far a tree has come.
    pub fn moved(&self, what: &'static str) -> OnMoved {
        let points = self.points.clone();
        Arc::new(move |moved: Moved| {
            points.send_replace(Point {
                done: moved.bytes as f64,
                total: moved.total_bytes.map(|total| total as f64),
                words: format!("{what}: {} entries, {} bytes", moved.entries, moved.bytes),
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

impl Drop for Call {
    fn drop(&mut self) {
        // Nothing may be told of a call that is answered.
        if let Some(teller) = self.teller.take() {
            teller.abort();
        }
    }
}

async fn tell(peer: Peer<RoleServer>, token: ProgressToken, mut points: watch::Receiver<Point>) {
    let mut told = 0.0;
    while points.changed().await.is_ok() {
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
        tokio::time::sleep(PACE).await;
    }
}
