//! Many calls on one [`Link`]: a stream per call, by the yamux protocol, with bounds on their number and memory.

use std::future::poll_fn;
use std::task::Poll;

use futures::channel::{mpsc, oneshot};
use futures::io::{AsyncRead, AsyncWrite};
use futures::{FutureExt, StreamExt};
use yamux::{Config, Connection, Mode};

pub use yamux::{ConnectionError, Stream};

use crate::link::Link;

/// Most streams that a host opens at once on one connection, and so 72 MiB of undelivered bytes on each side. Whoever opens
/// them counts.
pub const MAX_STREAMS: usize = 256;
/// Bytes that yamux grants each stream.
const WINDOW: usize = 256 * 1024;
/// Bytes for streams that carry much, which otherwise wait for the peer every 256 KiB (a fifth of their speed).
const EXTRA_WINDOW: usize = 8 * 1024 * 1024;
/// Streams that yamux counts, which include those that ended and wait to be told so. One more ends the connection.
const COUNTED: usize = 2 * MAX_STREAMS;

fn config() -> Config {
    let mut config = Config::default();
    // The window is checked against the number at each step.
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(COUNTED);
    config.set_max_connection_receive_window(Some(COUNTED * WINDOW + EXTRA_WINDOW));
    // A chunk of output is one frame, and with its header one record.
    config.set_split_send_size(crate::record::MAX_PAYLOAD - 64);
    config
}

/// Opens streams on a connection that its driver keeps going; cheap to clone.
#[derive(Clone)]
pub struct Opener(mpsc::Sender<oneshot::Sender<Stream>>);

/// The connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the guest is closed")]
pub struct Closed;

impl Opener {
    /// Opens one stream; the guest hears of it with the first bytes.
    pub async fn open(&mut self) -> Result<Stream, Closed> {
        let (answer, stream) = oneshot::channel();
        futures::SinkExt::send(&mut self.0, answer).await.map_err(|_| Closed)?;
        stream.await.map_err(|_| Closed)
    }
}

/// The host's end: a handle that opens streams, and the driver, which must be polled for anything to move. The
/// driver ends when the connection does, or once every [`Opener`] is dropped and all sent bytes went out.
///
/// Streams that the guest opens are refused: nothing in this generation lets a guest call the host.
pub fn host<T>(link: Link<T>) -> (Opener, impl Future<Output = Result<(), ConnectionError>>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, mut requests) = mpsc::channel::<oneshot::Sender<Stream>>(MAX_STREAMS);
    let mut connection = Connection::new(link, config(), Mode::Client);
    let mut waiting: Option<oneshot::Sender<Stream>> = None;
    let mut closing = false;
    let driver = poll_fn(move |cx| {
        loop {
            while let Poll::Ready(inbound) = connection.poll_next_inbound(cx) {
                match inbound {
                    Some(Ok(stream)) => drop(stream),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Ok(())),
                }
            }
            if closing {
                return connection.poll_close(cx);
            }
            if waiting.is_none() {
                match requests.poll_next_unpin(cx) {
                    Poll::Ready(Some(answer)) => waiting = Some(answer),
                    Poll::Ready(None) => {
                        closing = true;
                        continue;
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            match connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    if let Some(answer) = waiting.take() {
                        let _ = answer.send(stream);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    (Opener(sender), driver)
}

/// The guest's end: calls `handle` with every stream that the host opens, until the connection ends or `stop` is
/// ready, in which case bytes written before go out first.
pub async fn guest<T>(
    link: Link<T>,
    mut handle: impl FnMut(Stream),
    stop: impl Future<Output = ()>,
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection::new(link, config(), Mode::Server);
    let mut stop = std::pin::pin!(stop.fuse());
    let mut closing = false;
    poll_fn(move |cx| {
        if !closing && stop.poll_unpin(cx).is_ready() {
            closing = true;
        }
        if closing {
            return connection.poll_close(cx);
        }
        match connection.poll_next_inbound(cx) {
            Poll::Ready(Some(Ok(stream))) => {
                handle(stream);
                // The stream's request is here already, mostly: it is begun before more is read.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
            Poll::Ready(None) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
