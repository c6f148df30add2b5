//! Calls about files: the front end speaks the wall's own protocol with the guest, over a stream that the keeper opened.
//!
//! ```text
//!   front end ---- frames ----> first frame: may this call be made? ---- frames ----> guest
//!             <--------------------------- bytes ----------------------------
//! ```
//!
//! The keeper admits the call, looks at its first frame, and copies bytes. A connection that ends ends the stream, and the
//! guest undoes what it had not finished.

use std::io;
use std::sync::Arc;

use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use pyro_proto::frame;
use pyro_proto::message::Request;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};

use super::Keeper;
use crate::cause;
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::{self, ProtocolError};
use crate::workspace::wire::Outcome;

/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;

/// Whether a front end may make this call of the guest by itself. All else goes through the keeper's own operations, which
/// write down what they do.
fn is_allowed(request: &Request) -> bool {
    matches!(
        request,
        Request::Ping
            | Request::FileList { .. }
            | Request::FileStat { .. }
            | Request::FileRead { .. }
            | Request::FileWrite { .. }
            | Request::FileBatch(_)
            | Request::TreePut(_)
            | Request::TreeGet { .. }
            | Request::DiffScan { .. }
    )
}

impl Keeper {
    /// Carries one call of the front end's to the guest and back, until either side ends it; gives why it could not begin.
    pub(super) async fn splice(
        self: &Arc<Self>,
        reader: &mut OwnedReadHalf,
        writer: &mut OwnedWriteHalf,
    ) -> Option<WorkspaceError> {
        let using = match self.use_guest().await {
            Ok(using) => using,
            Err(error) => return Some(error),
        };
        let mut byte = [0];
        let opened = tokio::select! {
            biased;
            opened = using.handle.guest.open_for_another() => opened,
            // Nothing is said before the stream is there: whatever comes is the end of the front end.
            _ = reader.read(&mut byte) => return None,
        };
        let stream = match opened {
            Ok(stream) => stream,
            Err(source) => return Some(WorkspaceError::Guest { what: "take another call", source }),
        };
        if let Err(error) = carry(stream, reader, writer).await {
            // The front end sees the end of its connection, or has gone itself.
            (self.log)(&format!("a call of a front end broke off: {}", cause::chain(&error)));
        }
        None
    }
}

async fn carry(
    stream: impl AsyncRead + AsyncWrite,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> Result<(), ProtocolError> {
    let stream = std::pin::pin!(stream);
    let (from_guest, mut to_guest) = stream.split();
    frames::send(writer, &Outcome::Done(())).await?;
    let Some(first) = first_frame(reader).await? else { return Ok(()) };
    to_guest.write_all(&first).await?;
    to_guest.flush().await?;
    drop(first);
    let (mut reader, mut writer) = (reader.compat(), writer.compat_write());
    tokio::select! {
        biased;
        ended = copy(from_guest, &mut writer) => Ok(ended?),
        ended = copy(&mut reader, to_guest) => Ok(ended?),
    }
}

/// Copies until the end of `from`, each piece flushed.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
    }
}

/// The first frame of a call, as it came; `None` when it is none that may be made, or the front end went.
async fn first_frame(reader: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let mut whole = vec![0; frame::HEADER];
    if reader.read_exact(&mut whole).await.is_err() {
        return Ok(None);
    }
    let mut head = [0; frame::HEADER];
    head.copy_from_slice(&whole);
    let Ok((frame::Channel::Message, length)) = frame::parse_header(head, frame::MAX_REQUEST) else {
        return Ok(None);
    };
    whole.resize(frame::HEADER + length, 0);
    reader.read_exact(&mut whole[frame::HEADER..]).await?;
    let allowed = frame::decode::<Request>(&whole[frame::HEADER..]).is_ok_and(|request| is_allowed(&request));
    Ok(allowed.then_some(whole))
}

#[cfg(test)]
mod tests {
    use pyro_proto::message::{ExecRequest, ExecStdio};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    async fn seen(request: &Request) -> Option<Vec<u8>> {
        let (mut ours, keepers) = UnixStream::pair().unwrap();
        let frame = frame::encode(request).unwrap();
        ours.write_all(&frame).await.unwrap();
        let (mut reader, _writer) = keepers.into_split();
        let first = first_frame(&mut reader).await.unwrap();
        assert!(first.is_none() || first.as_ref() == Some(&frame));
        first
    }

    #[tokio::test]
    async fn only_calls_about_files_pass() {
        assert!(seen(&Request::FileStat { path: "a".into() }).await.is_some());
        assert!(seen(&Request::Ping).await.is_some());
        let exec = ExecRequest {
            argv: vec!["true".into()],
            env: Vec::new(),
            cwd: None,
            user: None,
            stdio: ExecStdio::Output,
            timeout_ms: None,
            drain_ms: 0,
        };
        for refused in [Request::Exec(exec), Request::Shutdown, Request::Detach, Request::Clock(1)] {
            assert!(seen(&refused).await.is_none(), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_does_not_pass() {
        for bytes in [&b"\xff\xff\xff\xff"[..], b"", b"\x00"] {
            let (mut ours, keepers) = UnixStream::pair().unwrap();
            ours.write_all(bytes).await.unwrap();
            drop(ours);
            let (mut reader, _writer) = keepers.into_split();
            assert!(first_frame(&mut reader).await.unwrap().is_none(), "{bytes:?}");
        }
    }
}
