//! Places of calls in a session: how many streams of each kind may be open at once.
//!
//! The multiplexer ends a connection on which one stream too many is opened, so whoever opens one takes a place first. A place
//! is free again when the guest has ended the call too, so that both sides count alike.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use pyro_proto::message::MAX_JOBS;
use pyro_proto::mux::{MAX_STREAMS, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::GuestError;

/// Streams for signs of life, which wait for nothing else.
const PINGS: usize = 8;
/// Streams for short calls, which so never wait for the end of long ones.
const SHORT: usize = 24;
/// Streams for calls about files, which so never wait for the end of commands.
const TRANSFERS: usize = 48;
/// Streams for commands and whatever else takes as long as it takes.
const LONG: usize = MAX_STREAMS - PINGS - SHORT - TRANSFERS - MAX_JOBS;
/// How long a call waits for its place while no other of its kind ends.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a transfer waits at all: its front end waits no longer.
const LONGEST_TRANSFER_WAIT: Duration = Duration::from_secs(20);

/// Kind of a call, which tells the places that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    /// A sign of life.
    Ping,
    /// Answered within seconds, whatever else goes on.
    Short,
    /// A call of a front end about files.
    Transfer,
    /// As long as a command or a freeze takes.
    Long,
    /// As long as a job; the guest bounds their number.
    Job,
}

impl CallKind {
    /// Calls of this kind, in the plural.
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "signs of life",
            Self::Short => "short calls",
            Self::Transfer => "transfers of files",
            Self::Long => "commands",
            Self::Job => "shells and services",
        }
    }
}

/// Places for one kind of call.
struct Pool {
    free: Arc<Semaphore>,
    most: usize,
    /// Calls of this kind that have ended, which tells a crowd that moves from one that does not.
    ended: Arc<AtomicU64>,
}

impl Pool {
    fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most, ended: Arc::default() }
    }
}

/// Places of a session, by kind of call: their sum is [`MAX_STREAMS`].
pub(super) struct Places {
    pings: Pool,
    short: Pool,
    transfers: Pool,
    long: Pool,
    jobs: Pool,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            pings: Pool::new(PINGS),
            short: Pool::new(SHORT),
            transfers: Pool::new(TRANSFERS),
            long: Pool::new(LONG),
            jobs: Pool::new(MAX_JOBS),
        }
    }

    /// Waits, in turn, until one more stream may be opened for a call of this kind, as long as others of it end.
    ///
    /// # Errors
    /// [`GuestError::Crowded`] when none ended for a minute, or a transfer has waited for 20 s.
    pub(super) async fn take(&self, what: &'static str, kind: CallKind) -> Result<Place, GuestError> {
        let pool = match kind {
            CallKind::Ping => &self.pings,
            CallKind::Short => &self.short,
            CallKind::Transfer => &self.transfers,
            CallKind::Long => &self.long,
            CallKind::Job => &self.jobs,
        };
        let wait = if kind == CallKind::Transfer { LONGEST_TRANSFER_WAIT } else { LONGEST_WAIT };
        let mut turn = std::pin::pin!(Arc::clone(&pool.free).acquire_owned());
        loop {
            let before = pool.ended.load(Ordering::Relaxed);
            match tokio::time::timeout(wait, &mut turn).await {
                Ok(Ok(permit)) => return Ok(Place { _permit: permit, ended: Arc::clone(&pool.ended) }),
                Err(_) if kind != CallKind::Transfer && before != pool.ended.load(Ordering::Relaxed) => {}
                // Nobody closes a semaphore here.
                Ok(Err(_)) | Err(_) => {
                    let (most, of) = (pool.most, kind.name());
                    return Err(GuestError::Crowded { what, most, of, after: wait });
                }
            }
        }
    }
}

/// Place of one stream among those of a session; free again when it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    ended: Arc<AtomicU64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Stream of a session with its place.
pub(super) struct PlacedStream {
    /// `None` only while it is dropped.
    inner: Option<(Stream, Place)>,
    /// Whether the guest heard of the call: a stream is opened by the first bytes on it.
    begun: bool,
}

impl PlacedStream {
    pub(super) fn new(stream: Stream, place: Place) -> Self {
        Self { inner: Some((stream, place)), begun: false }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        let inner = self.inner.as_mut().map(|(stream, _)| Pin::new(stream));
        inner.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for PlacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for PlacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.begun = true;
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_close(cx)
    }
}

impl Drop for PlacedStream {
    fn drop(&mut self) {
        let Some((mut stream, place)) = self.inner.take() else { return };
        if !self.begun || stream.is_closed() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // A guest that still ends the call has its stream open, and would count one too many. A guest that never ends its calls
        // has no place for more of them; the end of the session ends this too.
        runtime.spawn(async move {
            let ended = async {
                stream.close().await?;
                let mut rest = [0; 512];
                while stream.read(&mut rest).await? > 0 {}
                Ok::<_, io::Error>(())
            };
            let _ = ended.await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_as_many_as_the_streams() {
        let places = Places::new();
        let all = [&places.pings, &places.short, &places.transfers, &places.long, &places.jobs];
        assert_eq!(all.map(|pool| pool.most).iter().sum::<usize>(), MAX_STREAMS);
    }

    async fn fill(places: &Places, kind: CallKind, most: usize) -> Vec<Place> {
        let mut taken = Vec::new();
        for _ in 0..most {
            taken.push(places.take("a call", kind).await.unwrap());
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_does_not_move_is_told_and_others_do_not_wait_for_it() {
        let places = Places::new();
        let taken = fill(&places, CallKind::Long, LONG).await;
        let begin = tokio::time::Instant::now();
        let error = places.take("a command", CallKind::Long).await.err().unwrap();
        assert!(matches!(error, GuestError::Crowded { most: LONG, .. }), "{error}");
        assert_eq!(begin.elapsed(), LONGEST_WAIT);
        // Signs of life come and go meanwhile, and say nothing of the crowd.
        let mut waiting = std::pin::pin!(places.take("a command", CallKind::Long));
        for _ in 0..20 {
            assert!(tokio::time::timeout(Duration::from_secs(4), &mut waiting).await.is_err());
            for kind in [CallKind::Ping, CallKind::Short, CallKind::Transfer, CallKind::Job] {
                drop(places.take("another", kind).await.unwrap());
            }
            if begin.elapsed() >= LONGEST_WAIT * 2 - Duration::from_secs(5) {
                break;
            }
        }
        assert!(waiting.await.is_err());
        drop(taken);
        assert!(places.take("a command", CallKind::Long).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longest_is_next_however_long_that_is() {
        let places = Places::new();
        let mut taken = fill(&places, CallKind::Long, LONG).await;
        let mut first = std::pin::pin!(places.take("the first", CallKind::Long));
        let mut second = std::pin::pin!(places.take("the second", CallKind::Long));
        for _ in 0..3 {
            // The crowd moves, and the place that became free went to somebody who had asked before.
            assert!(tokio::time::timeout(Duration::from_secs(40), &mut first).await.is_err());
            places.long.ended.fetch_add(1, Ordering::Relaxed);
        }
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut second).await.is_err());
        drop(taken.pop());
        let place = first.await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut second).await.is_err());
        drop(place);
        assert!(second.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_is_told_before_its_front_end_gives_up() {
        let places = Places::new();
        let _taken = fill(&places, CallKind::Transfer, TRANSFERS).await;
        let begin = tokio::time::Instant::now();
        let error = places.take("a transfer", CallKind::Transfer).await.err().unwrap();
        assert!(error.to_string().contains("48 transfers of files"), "{error}");
        assert_eq!(begin.elapsed(), LONGEST_TRANSFER_WAIT);
    }
}
