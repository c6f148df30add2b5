//! Calls of more than one request and one reply: bytes one way, messages the other.
//!
//! However long a call takes, it is only given up when the guest answers no ping either. Dropping a call abandons it,
//! and the guest undoes unfinished changes.

use std::time::Duration;

use futures::future::{Either, select};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use pyro_proto::frame::{self, Channel, FrameReader, HEADER, MAX_MESSAGE};
use pyro_proto::message::{ExecInput, Reply, Request, TreeTotals};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::places::CallKind;
use super::source::CallStream;
use super::{Guest, GuestError};

/// Silence after which the guest is asked for a sign of life.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// Bytes that are sent in one frame.
const PIECE: usize = 64 * 1024;

/// Message or bytes from the guest in a call.
pub(super) enum CallMessage<'a> {
    /// Bytes, and the channel that they came on.
    Bytes(Channel, &'a [u8]),
    /// A message that is no failure.
    Reply(Reply),
}

/// Receiving half of a call.
pub(super) struct GuestCall {
    guest: Guest,
    what: &'static str,
    frames: FrameReader<ReadHalf<CallStream>>,
}

impl Guest {
    /// Opens a stream and sends `request` on it.
    pub(super) async fn begin(
        &self,
        what: &'static str,
        request: &Request,
    ) -> Result<(GuestCall, WriteHalf<CallStream>), GuestError> {
        self.begin_as(CallKind::Long, what, request).await
    }

    /// As [`Self::begin`], for a call of this kind.
    pub(super) async fn begin_as(
        &self,
        kind: CallKind,
        what: &'static str,
        request: &Request,
    ) -> Result<(GuestCall, WriteHalf<CallStream>), GuestError> {
        let mut stream = self.open(what, kind).await?;
        self.send(what, &mut stream, request).await?;
        let (read, write) = stream.split();
        Ok((GuestCall { guest: self.clone(), what, frames: FrameReader::new(read) }, write))
    }

    /// Sends all of `source` with `request`; returns the answer. `progress` gets the guest's reports meanwhile.
    pub(super) async fn upload(
        &self,
        what: &'static str,
        request: &Request,
        source: impl AsyncRead + Unpin,
        mut progress: impl FnMut(TreeTotals),
    ) -> Result<Reply, GuestError> {
        let (mut call, mut write) = self.begin(what, request).await?;
        let listen = std::pin::pin!(async {
            loop {
                match call.next().await? {
                    CallMessage::Reply(Reply::Progress(amount)) => progress(amount),
                    CallMessage::Reply(reply) => return Ok(reply),
                    CallMessage::Bytes(..) => return Err(call.unexpected("bytes where a reply belongs")),
                }
            }
        });
        let feed = std::pin::pin!(feed(what, source, &mut write));
        // A guest that refuses answers at once, and the rest need not be sent.
        match select(listen, feed).await {
            Either::Left((reply, _)) => reply,
            Either::Right((Err(error), _)) => Err(error),
            Either::Right((Ok(()), listen)) => listen.await,
        }
    }
}

/// Sends all of `source` and its end. A guest that takes no more is no error here: its answer is.
async fn feed(
    what: &'static str,
    mut source: impl AsyncRead + Unpin,
    write: &mut WriteHalf<CallStream>,
) -> Result<(), GuestError> {
    let mut buffer = vec![0; HEADER + PIECE];
    loop {
        let n =
            source.read(&mut buffer[HEADER..]).await.map_err(|source| GuestError::Source { what, source })?;
        if n == 0 {
            let _ = frame::send(write, &ExecInput::Eof).await;
            return Ok(());
        }
        buffer[..HEADER].copy_from_slice(&frame::header(Channel::Stdin, n));
        if write.write_all(&buffer[..HEADER + n]).await.is_err() {
            return Ok(());
        }
    }
}

impl GuestCall {
    /// Waits for the guest's next message or bytes. Not cancel-safe: a caller that stops waiting must drop the call.
    pub(super) async fn next(&mut self) -> Result<CallMessage<'_>, GuestError> {
        let channel = {
            let mut next = std::pin::pin!(self.frames.next(MAX_MESSAGE));
            loop {
                match tokio::time::timeout(IDLE, &mut next).await {
                    Ok(Ok(Some((channel, _)))) => break channel,
                    Ok(Ok(None)) => return Err(self.guest.lost(self.what)),
                    Ok(Err(error)) => return Err(self.guest.broken(self.what, error)),
                    Err(_) => self.guest.is_alive().await?,
                }
            }
        };
        match channel {
            Channel::Message => match frame::decode(self.frames.body()) {
                Ok(Reply::Failed(failure)) => Err(GuestError::Failed(failure)),
                Ok(reply) => Ok(CallMessage::Reply(reply)),
                Err(source) => Err(GuestError::Protocol { what: self.what, source }),
            },
            Channel::Stdin => Err(self.unexpected("it sent input instead of output")),
            channel => Ok(CallMessage::Bytes(channel, self.frames.body())),
        }
    }

    /// Waits for the next message; bytes are an error.
    pub(super) async fn reply(&mut self) -> Result<Reply, GuestError> {
        let what = self.what;
        match self.next().await? {
            CallMessage::Reply(reply) => Ok(reply),
            CallMessage::Bytes(..) => {
                Err(GuestError::Unexpected { what, why: "bytes where a reply belongs" })
            }
        }
    }

    pub(super) fn unexpected(&self, why: &'static str) -> GuestError {
        GuestError::Unexpected { what: self.what, why }
    }
}

/// Download from the guest, in pieces.
pub struct Download {
    call: GuestCall,
    /// Kept open: its end would end the call.
    _write: WriteHalf<CallStream>,
    left: u64,
    last: Option<Reply>,
}

impl Download {
    pub(super) fn new(call: GuestCall, write: WriteHalf<CallStream>, most: u64) -> Self {
        Self { call, _write: write, left: most, last: None }
    }

    /// Waits for the next bytes, at most 128 KiB; `None` when all have come. More than were asked for are an error. Not
    /// cancel-safe.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, GuestError> {
        if self.last.is_some() {
            return Ok(None);
        }
        let what = self.call.what;
        match self.call.next().await? {
            CallMessage::Reply(reply) => {
                self.last = Some(reply);
                Ok(None)
            }
            CallMessage::Bytes(_, bytes) => {
                self.left = self
                    .left
                    .checked_sub(bytes.len() as u64)
                    .ok_or(GuestError::Unexpected { what, why: "it sent more than was asked for" })?;
                Ok(Some(bytes))
            }
        }
    }

    /// The guest's reply after the bytes, once it has come.
    pub(super) fn last(&self) -> Option<&Reply> {
        self.last.as_ref()
    }
}
