//! A session's byte stream over a raw one: the handshake, then records, as `AsyncRead` + `AsyncWrite`.
//!
//! [`Link`] carries the multiplexer. It buffers written bytes until it is flushed or a record is full, so
//! a small frame header and its body cross the wall in one write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::handshake::{Agreement, GuestHandshake, GuestStep, HandshakeError, HostHandshake, Nonce};
use crate::record::{self, Decoder, HEADER, MAX_PAYLOAD, MAX_RECORD, TRAILER};

/// Why a session did not come about.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The raw stream failed.
    #[error("the byte stream to the peer failed")]
    Io(#[from] io::Error),
    /// The raw stream ended before the handshake did.
    #[error("the peer closed the byte stream during the handshake")]
    Closed,
    /// The peers have no generation in common.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Session over a raw byte stream.
pub struct Link<T> {
    io: T,
    input: Decoder,
    /// The record being filled: header, payload so far.
    output: Vec<u8>,
    /// Bytes of a sealed `output` that went out already; `None` while it is being filled.
    sent: Option<usize>,
    tag: [u8; TRAILER],
}

impl<T: AsyncRead + AsyncWrite + Unpin> Link<T> {
    fn new(io: T, rx: [u8; TRAILER], tx: [u8; TRAILER], rest: &[u8]) -> Self {
        let mut output = Vec::with_capacity(MAX_RECORD);
        output.extend([0; HEADER]);
        Self { io, input: Decoder::new(rx, rest), output, sent: None, tag: tx }
    }

    /// Says HELLO as the host. `retry` is awaited between two HELLOs; each later one is preceded by as much padding
    /// as ends any record that an earlier session left half-read in the guest.
    ///
    /// Gives up only when the stream ends or `retry` never comes back: put a deadline around it.
    pub async fn connect<R: Future<Output = ()>>(
        mut io: T,
        nonce: Nonce,
        mut retry: impl FnMut() -> R,
    ) -> Result<(Self, Agreement), LinkError> {
        let mut host = HostHandshake::new(nonce);
        let mut buffer = vec![0; 16 * 1024];
        io.write_all(&host.hello()).await?;
        io.flush().await?;
        loop {
            let again = std::pin::pin!(retry());
            let n = match futures::future::select(io.read(&mut buffer), again).await {
                futures::future::Either::Left((n, _)) => n?,
                futures::future::Either::Right(((), _)) => {
                    io.write_all(&vec![0xff; MAX_RECORD]).await?;
                    io.write_all(&host.hello()).await?;
                    io.flush().await?;
                    continue;
                }
            };
            if n == 0 {
                return Err(LinkError::Closed);
            }
            let mut input = &buffer[..n];
            if let Some((agreement, confirm)) = host.advance(&mut input)? {
                io.write_all(&confirm).await?;
                io.flush().await?;
                let link = Self::new(io, agreement.tags.to_host, agreement.tags.to_guest, input);
                return Ok((link, agreement));
            }
        }
    }

    /// Waits for a host's HELLO as the guest, discarding whatever comes before; `fresh` makes unused nonces.
    pub async fn accept(mut io: T, mut fresh: impl FnMut() -> Nonce) -> Result<(Self, Agreement), LinkError> {
        let mut guest = GuestHandshake::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let n = io.read(&mut buffer).await?;
            if n == 0 {
                return Err(LinkError::Closed);
            }
            let mut input = &buffer[..n];
            while let Some(step) = guest.advance(&mut input, &mut fresh)? {
                match step {
                    GuestStep::Answer(bytes) => {
                        io.write_all(&bytes).await?;
                        io.flush().await?;
                    }
                    GuestStep::Established(agreement) => {
                        let link = Self::new(io, agreement.tags.to_guest, agreement.tags.to_host, input);
                        return Ok((link, agreement));
                    }
                }
            }
        }
    }

    /// Sends the sealed record, if there is one.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(sent) = self.sent {
            if sent == self.output.len() {
                self.output.truncate(HEADER);
                self.sent = None;
                break;
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.output[sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent = Some(sent + n),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn seal(&mut self) {
        let len = self.output.len() - HEADER;
        if self.sent.is_none() && len > 0 {
            self.output[..HEADER].copy_from_slice(&record::header(len as u32));
            self.output.extend(self.tag);
            self.sent = Some(0);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Link<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            match this.input.payload() {
                Ok(Some(bytes)) => {
                    let n = bytes.len().min(out.len());
                    out[..n].copy_from_slice(&bytes[..n]);
                    this.input.consume(n);
                    return Poll::Ready(Ok(n));
                }
                Ok(None) => {}
                Err(desync) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, desync))),
            }
            let n = ready!(Pin::new(&mut this.io).poll_read(cx, this.input.space()))?;
            if n == 0 {
                return Poll::Ready(if this.input.at_boundary() {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                });
            }
            this.input.filled(n);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Link<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.sent.is_none() && self.output.len() == HEADER + MAX_PAYLOAD {
            self.seal();
        }
        ready!(self.poll_send(cx))?;
        let n = bytes.len().min(HEADER + MAX_PAYLOAD - self.output.len());
        self.output.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}
