//! Source of a guest's streams: the one place where a call gets a stream of its own.
//!
//! Every call, whether about files, trees, jobs, commands or the disk, opens its stream by [`StreamSource::open`] and
//! frames its bytes itself. So a stream may come from anywhere that carries bytes to the guest's agent and back: a
//! further source is a variant here, and no call changes.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use pyro_proto::message::MAX_JOBS;
use pyro_proto::mux::{ConnectionError, MAX_STREAMS, Opener, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::GuestError;
use crate::cause;

/// Streams for short calls, which so never wait for the end of long ones.
const SHORT: usize = 32;
/// Streams for commands, transfers and whatever else takes as long as it takes.
const LONG: usize = MAX_STREAMS - MAX_JOBS - SHORT;
/// How long a call waits for its place while no other ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the guest may take to end a call that was given up.
const LAST: Duration = Duration::from_secs(30);

/// Bytes to and from the guest's agent that belong to one call.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Stream of one call; the guest abandons the call when it is dropped.
pub type CallStream = Box<dyn ByteStream>;

/// Source of the streams of calls. Clones share it.
#[derive(Clone)]
pub(super) enum StreamSource {
    /// Streams of a session's multiplexer.
    Session {
        /// Opens streams on the session's connection.
        opener: Opener,
        /// Counts the streams that are open.
        slots: Slots,
        /// Task that drives the connection, and ends with the last clone.
        driver: Arc<SessionDriver>,
    },
    /// Streams that another process opens, which holds the session.
    Elsewhere(Arc<dyn OpenStream>),
}

/// Duration of a call, which tells the streams that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    /// Answered within seconds, whatever else goes on.
    Short,
    /// As long as a command, a tree or a freeze takes. Waits for the end of another where there are as many as may be.
    Long,
    /// As long as a job; the guest bounds their number.
    Job,
}

/// Counts the open streams of a session, by kind of call: their sum is [`MAX_STREAMS`].
#[derive(Clone)]
pub(super) struct Slots {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    jobs: Arc<Semaphore>,
    /// Calls that have ended, which tells a crowd that moves from one that does not.
    ended: Arc<AtomicU64>,
}

impl Slots {
    fn new() -> Self {
        let semaphore = |streams| Arc::new(Semaphore::new(streams));
        Self {
            short: semaphore(SHORT),
            long: semaphore(LONG),
            jobs: semaphore(MAX_JOBS),
            ended: Arc::default(),
        }
    }

    /// Waits until one more stream may be opened for a call of this kind, as long as others of it end.
    ///
    /// # Errors
    /// [`GuestError::Crowded`] when none ended for a minute.
    async fn take(&self, what: &'static str, kind: CallKind) -> Result<Slot, GuestError> {
        let (places, most) = match kind {
            CallKind::Short => (&self.short, SHORT),
            CallKind::Long => (&self.long, LONG),
            CallKind::Job => (&self.jobs, MAX_JOBS),
        };
        loop {
            let before = self.ended.load(Ordering::Relaxed);
            match tokio::time::timeout(PATIENCE, Arc::clone(places).acquire_owned()).await {
                Ok(Ok(place)) => return Ok(Slot { _place: place, ended: Arc::clone(&self.ended) }),
                Err(_) if before != self.ended.load(Ordering::Relaxed) => {}
                // Nobody closes a semaphore here.
                Ok(Err(_)) | Err(_) => return Err(GuestError::Crowded { what, most, after: PATIENCE }),
            }
        }
    }
}

/// Place of one stream among those of a session.
struct Slot {
    _place: OwnedSemaphorePermit,
    ended: Arc<AtomicU64>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Stream of a session, and the place that it takes there until the guest has ended the call too.
struct SlottedStream(Option<(Stream, Slot)>);

impl SlottedStream {
    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.0.as_mut().map(|(stream, _)| Pin::new(stream)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for SlottedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for SlottedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_close(cx)
    }
}

impl Drop for SlottedStream {
    fn drop(&mut self) {
        let Some((mut stream, slot)) = self.0.take() else { return };
        // A call that is over on both sides has no end to wait for.
        if stream.is_closed() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // A guest that still ends the call has its stream open, and would count one too many.
        runtime.spawn(async move {
            let ended = async {
                stream.close().await?;
                let mut rest = vec![0; 4096];
                while stream.read(&mut rest).await? > 0 {}
                Ok::<_, io::Error>(())
            };
            let _ = tokio::time::timeout(LAST, ended).await;
            drop(slot);
        });
    }
}

/// Opens streams to a guest whose session another process holds.
pub trait OpenStream: Send + Sync {
    /// Opens one stream.
    ///
    /// # Errors
    /// Whatever keeps the other process from it; [`GuestError::Stream`] carries it to the caller.
    fn open_stream(&self) -> BoxFuture<'_, io::Result<CallStream>>;
}

/// Task that drives a session's connection; aborted when dropped, which ends the session.
pub(super) struct SessionDriver {
    /// Reason for the end of the connection, once it has ended.
    end: Arc<Mutex<Option<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for SessionDriver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StreamSource {
    /// Makes the source of a session, whose connection `driver` keeps going.
    pub(super) fn session(
        opener: Opener,
        driver: impl Future<Output = Result<(), ConnectionError>> + Send + 'static,
    ) -> Self {
        let end = Arc::new(Mutex::new(None));
        let report = Arc::clone(&end);
        let task = tokio::spawn(async move {
            let reason = match driver.await {
                Ok(()) => "the guest closed it".to_owned(),
                Err(error) => cause::chain(&error),
            };
            if let Ok(mut report) = report.lock() {
                *report = Some(reason);
            }
        });
        Self::Session { opener, slots: Slots::new(), driver: Arc::new(SessionDriver { end, task }) }
    }

    /// Opens a stream for the call `what`, once there is a place for it.
    pub(super) async fn open(&self, what: &'static str, kind: CallKind) -> Result<CallStream, GuestError> {
        match self {
            Self::Session { opener, slots, .. } => {
                let slot = slots.take(what, kind).await?;
                let stream = opener.clone().open().await.map_err(|_| self.lost(what))?;
                Ok(Box::new(SlottedStream(Some((stream, slot)))))
            }
            Self::Elsewhere(source) => source.open_stream().await.map_err(GuestError::Stream),
        }
    }

    /// Error of the call `what`, whose stream ended under it.
    pub(super) fn lost(&self, what: &'static str) -> GuestError {
        match self {
            Self::Session { driver, .. } => {
                GuestError::Lost { what, why: driver.end.lock().ok().and_then(|end| end.clone()) }
            }
            Self::Elsewhere(_) => GuestError::Lost { what, why: None },
        }
    }
}
