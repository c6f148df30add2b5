//! Frames: how one call's stream is cut into messages and chunks of bytes.
//!
//! ```text
//!   u32 LE: length in the low 24 bits, channel in the high 8 | that many bytes
//! ```
//!
//! Channel 0 carries a message ([`crate::message`], postcard); the other channels carry bytes as they are, which
//! spares a copy through the serialiser where it counts.

use std::io;

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use serde::{Deserialize, Serialize};

/// Bytes before each frame's body.
pub const HEADER: usize = 4;
/// Most bytes in one chunk: twice the capacity of a pipe, so that a full pipe is one chunk.
pub const MAX_CHUNK: usize = 128 * 1024;
/// Most bytes of a request: an argument list and environment as long as Linux itself would take, and some.
pub const MAX_REQUEST: usize = 4 * 1024 * 1024;
/// Most bytes of any other message.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Content of a frame, by its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// A message of [`crate::message`].
    Message = 0,
    /// Bytes for the command's standard input.
    Stdin = 1,
    /// Bytes from the command's standard output, or from its terminal.
    Stdout = 2,
    /// Bytes from the command's standard error.
    Stderr = 3,
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the stream failed")]
    Io(#[from] io::Error),
    /// The stream ended inside a frame.
    #[error("the stream ended in the middle of a frame")]
    Truncated,
    /// The frame is longer than its channel allows.
    #[error("a frame of {len} bytes, where at most {limit} are allowed")]
    TooLong {
        /// Announced length, bytes.
        len: usize,
        /// Longest allowed length, bytes.
        limit: usize,
    },
    /// The channel does not exist.
    #[error("a frame on the unknown channel {0}")]
    Channel(u8),
    /// The message does not belong to this generation.
    #[error("a message that is not understood")]
    Message(#[source] postcard::Error),
}

/// Splits a header into channel and length; refuses unknown channels and frames that are too long. `limit` bounds
/// messages, in bytes.
pub fn parse_header(header: [u8; HEADER], limit: usize) -> Result<(Channel, usize), FrameError> {
    let word = u32::from_le_bytes(header);
    let (len, channel) = ((word & 0xff_ffff) as usize, (word >> 24) as u8);
    let channel = match channel {
        0 => Channel::Message,
        1 => Channel::Stdin,
        2 => Channel::Stdout,
        3 => Channel::Stderr,
        other => return Err(FrameError::Channel(other)),
    };
    let limit = if channel == Channel::Message { limit } else { MAX_CHUNK };
    if len > limit { Err(FrameError::TooLong { len, limit }) } else { Ok((channel, len)) }
}

/// Makes a frame's header; `len` must be below 2^24.
pub fn header(channel: Channel, len: usize) -> [u8; HEADER] {
    (u32::from(channel as u8) << 24 | (len as u32 & 0xff_ffff)).to_le_bytes()
}

/// Encodes `message` as a whole frame.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut out = postcard::to_extend(message, vec![0; HEADER]).map_err(FrameError::Message)?;
    let len = out.len() - HEADER;
    if len > MAX_REQUEST {
        return Err(FrameError::TooLong { len, limit: MAX_REQUEST });
    }
    out[..HEADER].copy_from_slice(&header(Channel::Message, len));
    Ok(out)
}

/// Parses a message frame's body.
pub fn decode<'a, M: Deserialize<'a>>(body: &'a [u8]) -> Result<M, FrameError> {
    postcard::from_bytes(body).map_err(FrameError::Message)
}

/// Reads frames from a stream, reusing one buffer.
pub struct FrameReader<R> {
    io: R,
    /// As long as the longest frame so far; only the first `len` bytes belong to the last frame.
    buffer: Vec<u8>,
    len: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `io`.
    pub fn new(io: R) -> Self {
        Self { io, buffer: Vec::new(), len: 0 }
    }

    /// Reads the next frame, whose body is valid until the next call; `None` when the stream ended between two frames.
    /// A message longer than `limit` bytes is refused before it is read. Not cancel-safe.
    pub async fn next(&mut self, limit: usize) -> Result<Option<(Channel, &[u8])>, FrameError> {
        let mut head = [0; HEADER];
        let mut have = 0;
        while have < HEADER {
            match self.io.read(&mut head[have..]).await? {
                0 if have == 0 => return Ok(None),
                0 => return Err(FrameError::Truncated),
                n => have += n,
            }
        }
        let (channel, len) = parse_header(head, limit)?;
        self.len = 0;
        while self.len < len {
            // Grow only as the bytes come: an announced length costs nothing.
            let end = len.min(self.len + MAX_MESSAGE);
            if self.buffer.len() < end {
                self.buffer.resize(end, 0);
            }
            match self.io.read(&mut self.buffer[self.len..end]).await? {
                0 => return Err(FrameError::Truncated),
                n => self.len += n,
            }
        }
        Ok(Some((channel, self.body())))
    }
}

impl<R> FrameReader<R> {
    /// Gives the stream back, to write the answer to.
    pub fn into_inner(self) -> R {
        self.io
    }

    /// Body of the frame that was read last.
    pub fn body(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

/// Writes one message and flushes it.
pub async fn send(io: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), FrameError> {
    io.write_all(&encode(message)?).await?;
    Ok(io.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_bounded_frame(bytes: Vec<u8>) {
            let mut reader = FrameReader::new(&bytes[..]);
            block_on(async {
                while let Ok(Some((_, body))) = reader.next(1024).await {
                    assert!(body.len() <= MAX_CHUNK);
                    let _ = decode::<crate::message::ExecEvent>(body);
                    let _ = decode::<crate::message::Request>(body);
                    let _ = decode::<crate::message::Reply>(body);
                }
            });
        }

        #[test]
        fn any_cut_is_truncated_or_clean(cut in 0_usize..64) {
            let whole = encode(&crate::message::Reply::Done).unwrap();
            let cut = cut % whole.len();
            let mut reader = FrameReader::new(&whole[..cut]);
            match block_on(reader.next(MAX_MESSAGE)) {
                Ok(None) => prop_assert_eq!(cut, 0),
                Err(FrameError::Truncated) => prop_assert!(cut > 0),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let head = header(Channel::Message, 0xff_ffff);
        let mut reader = FrameReader::new(&head[..]);
        assert!(matches!(block_on(reader.next(MAX_REQUEST)), Err(FrameError::TooLong { .. })));
        let head = header(Channel::Message, MAX_REQUEST);
        let mut reader = FrameReader::new(&head[..]);
        assert!(matches!(block_on(reader.next(MAX_REQUEST)), Err(FrameError::Truncated)));
        assert!(reader.buffer.capacity() < 2 * MAX_MESSAGE);
    }
}
