//! Frames on the socket between a front end and a keeper.
//!
//! A frame is a channel (one byte), a length (four bytes, little-endian) and that many bytes. A message is JSON: fields may be
//! added within a generation, and unknown ones are ignored.

use bytes::Buf;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message, bytes: an argument vector may have a few hundred KiB.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Longest chunk of output, bytes.
pub const MAX_CHUNK: usize = 256 << 10;
const HEADER: usize = 5;
/// Few messages are longer.
const USUAL: usize = 4 << 10;

/// Content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// JSON message of the protocol.
    Message,
    /// Bytes of standard output.
    Stdout,
    /// Bytes of standard error.
    Stderr,
}

/// Peer that is gone, or broke the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// Connection ended within a frame, or where one was due.
    #[error("the connection ended early")]
    Ended,
    /// There is no such channel.
    #[error("a frame of channel {0}, which does not exist")]
    Channel(u8),
    /// A frame is longer than one may be.
    #[error("a frame of {0} bytes, which is too long")]
    TooLong(usize),
    /// A message cannot be read.
    #[error("a message that cannot be read")]
    Message(#[from] serde_json::Error),
}

fn header(channel: Channel, length: usize) -> [u8; HEADER] {
    let number = match channel {
        Channel::Message => 0,
        Channel::Stdout => 1,
        Channel::Stderr => 2,
    };
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [number, a, b, c, d]
}

fn parse_header(bytes: [u8; HEADER]) -> Result<(Channel, usize), ProtocolError> {
    let [number, length @ ..] = bytes;
    let channel = match number {
        0 => Channel::Message,
        1 => Channel::Stdout,
        2 => Channel::Stderr,
        other => return Err(ProtocolError::Channel(other)),
    };
    let length = u32::from_le_bytes(length) as usize;
    let most = if channel == Channel::Message { MAX_MESSAGE } else { MAX_CHUNK };
    if length > most {
        return Err(ProtocolError::TooLong(length));
    }
    Ok((channel, length))
}

/// Writes one frame.
///
/// # Errors
/// When it is too long or the other side is gone.
pub async fn send_frame(
    writer: &mut (impl AsyncWrite + Unpin),
    channel: Channel,
    body: &[u8],
) -> Result<(), ProtocolError> {
    let head = header(channel, body.len());
    parse_header(head)?;
    // In one piece: the other side need not wake up twice.
    writer.write_all_buf(&mut Buf::chain(&head[..], body)).await?;
    Ok(writer.flush().await?)
}

/// Writes one message.
///
/// # Errors
/// As [`send_frame`].
pub async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), ProtocolError> {
    send_frame(writer, Channel::Message, &serde_json::to_vec(message)?).await
}

/// Reads one frame into `body`; `None` where the other side closed the connection between two.
///
/// # Errors
/// When the frame is not allowed, or the connection ended within it.
pub async fn receive_frame(
    reader: &mut (impl AsyncRead + Unpin),
    body: &mut Vec<u8>,
) -> Result<Option<Channel>, ProtocolError> {
    let mut head = [0; HEADER];
    if reader.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    let early = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ProtocolError::Ended,
        _ => ProtocolError::Io(error),
    };
    reader.read_exact(&mut head[1..]).await.map_err(early)?;
    let (channel, length) = parse_header(head)?;
    body.clear();
    // Grows with what really comes, not with what a length promises, but for what most messages have.
    body.reserve(length.min(USUAL));
    reader.take(length as u64).read_to_end(body).await?;
    if body.len() < length {
        return Err(ProtocolError::Ended);
    }
    Ok(Some(channel))
}

/// Reads one message.
///
/// # Errors
/// As [`receive_frame`], or when the frame is no message.
pub async fn receive<T: DeserializeOwned>(reader: &mut (impl AsyncRead + Unpin)) -> Result<T, ProtocolError> {
    let mut body = Vec::new();
    match receive_frame(reader, &mut body).await? {
        Some(Channel::Message) => Ok(serde_json::from_slice(&body)?),
        Some(_) => Err(ProtocolError::Channel(1)),
        None => Err(ProtocolError::Ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        /// Any bytes give frames and then an end or an error, never a panic or more memory than came.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            run(async {
                let mut reader = &bytes[..];
                let mut body = Vec::new();
                while let Ok(Some(_)) = receive_frame(&mut reader, &mut body).await {
                    assert!(body.len() <= bytes.len());
                }
                assert!(body.capacity() < 64 << 10);
            });
        }

        /// Frames come back as they were sent, however they are cut, and a cut in one is told.
        #[test]
        fn frames_come_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5), cut in any::<usize>()) {
            run(async {
                let mut wire = Vec::new();
                let mut ends = vec![0];
                for chunk in &chunks {
                    send_frame(&mut wire, Channel::Stdout, chunk).await.unwrap();
                    ends.push(wire.len());
                }
                let cut = cut % (wire.len() + 1);
                let mut reader = &wire[..cut];
                let (mut body, mut got) = (Vec::new(), 0);
                let end = loop {
                    match receive_frame(&mut reader, &mut body).await {
                        Ok(Some(channel)) => {
                            assert_eq!((channel, &body), (Channel::Stdout, &chunks[got]));
                            got += 1;
                        }
                        other => break other,
                    }
                };
                assert_eq!(matches!(end, Ok(None)), ends.contains(&cut), "{end:?}");
                assert_eq!(got, ends.iter().filter(|end| **end <= cut).count() - 1);
            });
        }
    }
}
