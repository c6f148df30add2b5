//! Bodies of requests, read within bounds: each is as long as a message may be, all that are read or parsed at once are no
//! more than two such, and one that is too much is read to its end and forgotten, so that its client hears why.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::Body;
use rmcp::model::ErrorData;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::mcp::outline::{LONGEST, Outline};

/// Bytes of all bodies at once.
const TOGETHER: usize = 2 * LONGEST;
/// A body up to here waits for no place, bytes.
const SHORT: usize = 64 << 10;
/// A client may pause for so long in a body.
const PAUSE: Duration = Duration::from_secs(30);

/// Room for bodies.
#[derive(Clone)]
pub struct Bodies(Arc<Semaphore>);

/// Body that was read.
pub struct Message {
    /// Its bytes; none where it is too much.
    pub bytes: Bytes,
    /// What is seen of it without a parser.
    pub outline: Outline,
    /// Its place, until it is parsed.
    _place: Option<OwnedSemaphorePermit>,
}

/// Body that was not read.
#[derive(Debug)]
pub enum Unread {
    /// It is too long or has too many values.
    TooMuch(ErrorData, Box<Option<rmcp::model::RequestId>>),
    /// The connection failed, or nothing came for long.
    Broken(StatusCode, &'static str),
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER)))
    }
}

impl Bodies {
    /// Reads a body.
    pub async fn read<B>(&self, body: B) -> Result<Message, Unread>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        let said = usize::try_from(body.size_hint().upper().unwrap_or(LONGEST as u64)).unwrap_or(LONGEST);
        let mut place = None;
        let (mut bytes, mut outline) = (BytesMut::new(), Outline::default());
        let mut body = body;
        loop {
            let Ok(frame) = tokio::time::timeout(PAUSE, body.frame()).await else {
                return Err(Unread::Broken(
                    StatusCode::REQUEST_TIMEOUT,
                    "the rest of the request did not come",
                ));
            };
            let part = match frame {
                None => break,
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Err(Unread::Broken(StatusCode::BAD_REQUEST, "the request broke off")),
            };
            outline.feed(&part);
            if outline.length() > LONGEST {
                break;
            }
            if outline.excess().is_some() {
                bytes = BytesMut::new();
                place = None;
                continue;
            }
            if place.is_none() && bytes.len() + part.len() > SHORT {
                place = Some(self.place(said.min(LONGEST)).await?);
                bytes.reserve(said.min(LONGEST).saturating_sub(bytes.len()));
            }
            bytes.extend_from_slice(&part);
        }
        match outline.excess() {
            Some(error) => Err(Unread::TooMuch(error, Box::new(outline.asker().flatten()))),
            None => Ok(Message { bytes: bytes.freeze(), outline, _place: place }),
        }
    }

    async fn place(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Unread> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.0).acquire_many_owned(bytes).await;
        place.map_err(|_| Unread::Broken(StatusCode::SERVICE_UNAVAILABLE, "the server is closed"))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn parts(
        parts: impl IntoIterator<Item = Vec<u8>>,
    ) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        let parts: Vec<_> = parts.into_iter().map(|part| Ok(Frame::data(Bytes::from(part)))).collect();
        StreamBody::new(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_is_read_whole_or_not_at_all() {
        let bodies = Bodies::default();
        let read = bodies.read(parts([b"{\"a\"".to_vec(), b":1}".to_vec()])).await.unwrap();
        assert_eq!(&read.bytes[..], b"{\"a\":1}");
        for (part, count, word) in
            [(b"[],".repeat(1000), 1000, "values"), (vec![b' '; 1 << 20], 129, "bytes")]
        {
            let all = std::iter::repeat_n(part, count);
            match bodies.read(parts(all)).await {
                Err(Unread::TooMuch(error, _)) => assert!(error.message.contains(word), "{error:?}"),
                _ => panic!("{word}"),
            }
        }
        assert_eq!(bodies.0.available_permits(), TOGETHER);
    }

    #[tokio::test]
    async fn long_bodies_wait_for_each_other_and_short_ones_do_not() {
        let bodies = Bodies::default();
        let long = || {
            let mut text = vec![b'x'; LONGEST];
            text[0] = b'"';
            Full::new(Bytes::from(text))
        };
        let (one, two) = (bodies.read(long()).await.unwrap(), bodies.read(long()).await.unwrap());
        let mut third = Box::pin(bodies.read(long()));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(bodies.read(Full::new(Bytes::from_static(b"{}"))).await.is_ok());
        drop(one);
        assert!(third.await.is_ok());
        drop(two);
    }
}
