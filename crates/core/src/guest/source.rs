//! Source of a guest's streams: the one place where a call gets a stream of its own.
//!
//! Every call, whether about files, trees, jobs, commands or the disk, opens its stream by [`StreamSource::open`] and
//! frames its bytes itself. So a stream may come from anywhere that carries bytes to the guest's agent and back: a
//! further source is a variant here, and no call changes.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use pyro_proto::mux::{ConnectionError, Opener};
use tokio::sync::watch;

use super::GuestError;
use super::places::{CallKind, PlacedStream, Places};
use crate::cause;

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
        /// Places of its streams.
        places: Arc<Places>,
        /// Task that drives the connection, and ends with the last clone.
        driver: Arc<SessionDriver>,
    },
    /// Streams that another process opens, which holds the session.
    Elsewhere(Arc<dyn OpenStream>),
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
    end: watch::Receiver<Option<String>>,
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
        let (report, end) = watch::channel(None);
        let task = tokio::spawn(async move {
            let reason = match driver.await {
                Ok(()) => "the guest closed it".to_owned(),
                Err(error) => cause::chain(&error),
            };
            report.send_replace(Some(reason));
        });
        let (places, driver) = (Arc::new(Places::new()), Arc::new(SessionDriver { end, task }));
        Self::Session { opener, places, driver }
    }

    /// Opens a stream for the call `what`, once there is a place for it.
    pub(super) async fn open(&self, what: &'static str, kind: CallKind) -> Result<CallStream, GuestError> {
        match self {
            Self::Session { opener, places, .. } => {
                let place = places.take(what, kind).await?;
                let stream = opener.clone().open().await.map_err(|_| self.lost(what))?;
                Ok(Box::new(PlacedStream::new(stream, place)))
            }
            Self::Elsewhere(source) => source.open_stream().await.map_err(GuestError::Stream),
        }
    }

    /// End of the session, and why it ended; never, where another process holds it. Keeps no session open.
    pub(super) fn ended(&self) -> impl Future<Output = Option<String>> + Send + 'static + use<> {
        let end = match self {
            Self::Session { driver, .. } => Some(driver.end.clone()),
            Self::Elsewhere(_) => None,
        };
        async move {
            match end {
                // A driver that was dropped reports nothing, and is over too.
                Some(mut end) => end.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()),
                None => std::future::pending().await,
            }
        }
    }

    /// Whether the session has ended.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Session { driver, .. } => driver.end.borrow().is_some(),
            Self::Elsewhere(_) => false,
        }
    }

    /// Error of the call `what`, whose stream ended under it.
    pub(super) fn lost(&self, what: &'static str) -> GuestError {
        match self {
            Self::Session { driver, .. } => GuestError::Lost { what, why: driver.end.borrow().clone() },
            Self::Elsewhere(_) => GuestError::Lost { what, why: None },
        }
    }
}
