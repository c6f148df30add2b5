//! Running commands: their output, and the input and signals sent to them.
//!
//! Output is pulled: nobody reads ahead, so a slow reader slows the command and not this process's memory. Input
//! waits for credit from the guest, so that a signal never queues behind input that nobody reads.

use std::sync::Arc;

use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use pyro_proto::frame::{self, Channel, FrameReader, MAX_CHUNK, MAX_MESSAGE};
use pyro_proto::message::{CommandExit, ExecEvent, ExecInput, STDIN_WINDOW, TerminalSize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::call::IDLE;
use super::source::CallStream;
use super::{Guest, GuestError};

const WHAT: &str = "a command";

/// A command that was sent to the guest. Dropping both halves kills it.
pub struct Execution {
    /// Output and end of the command.
    pub output: Output,
    /// Input and signals for the command.
    pub input: Input,
}

impl Execution {
    pub(super) fn new(guest: Guest, stream: CallStream) -> Self {
        let (read, write) = stream.split();
        let credit = Arc::new(Semaphore::new(STDIN_WINDOW));
        let output = Output {
            frames: FrameReader::new(read),
            credit: Arc::clone(&credit),
            guest: guest.clone(),
            over: false,
        };
        Self { output, input: Input { stream: write, credit, guest } }
    }
}

/// The receiving half of an [`Execution`].
pub struct Output {
    frames: FrameReader<ReadHalf<CallStream>>,
    credit: Arc<Semaphore>,
    guest: Guest,
    over: bool,
}

/// Event of a running command.
#[derive(Debug, PartialEq, Eq)]
pub enum OutputEvent<'a> {
    /// The command runs, under this process id in the guest.
    Started(u32),
    /// Bytes of the standard output, or of the terminal; at most [`MAX_CHUNK`].
    Stdout(&'a [u8]),
    /// Bytes of the standard error; at most [`MAX_CHUNK`].
    Stderr(&'a [u8]),
    /// The command ended; nothing follows.
    Exited(CommandExit),
}

impl Output {
    /// Waits for the next event. After `Exited` or an error the result is `Lost`.
    ///
    /// Waits as long as the command is silent and the guest alive: a guest that answers no ping either is
    /// [`GuestError::Silent`]. Not cancel-safe: a caller that stops waiting must drop the execution.
    pub async fn next(&mut self) -> Result<OutputEvent<'_>, GuestError> {
        if self.over {
            return Err(self.guest.lost(WHAT));
        }
        let (channel, body) = loop {
            let frame = {
                let mut next = std::pin::pin!(self.frames.next(MAX_MESSAGE));
                loop {
                    match tokio::time::timeout(IDLE, &mut next).await {
                        Ok(frame) => {
                            break frame.map(|frame| frame.map(|(channel, body)| (channel, body.len())));
                        }
                        Err(_) => self.guest.is_alive().await?,
                    }
                }
            };
            let (channel, _) = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    self.over = true;
                    return Err(self.guest.lost(WHAT));
                }
                Err(error) => {
                    self.over = true;
                    return Err(self.guest.broken(WHAT, error));
                }
            };
            if channel != Channel::Message {
                break (channel, self.frames.body());
            }
            match frame::decode::<ExecEvent>(self.frames.body()) {
                Ok(ExecEvent::Started { pid }) => return Ok(OutputEvent::Started(pid)),
                Ok(ExecEvent::StdinConsumed { bytes }) => {
                    // A guest that grants more than was sent would unbound the input that waits in it, and overflow the
                    // count.
                    if bytes as usize > STDIN_WINDOW - self.credit.available_permits().min(STDIN_WINDOW) {
                        self.over = true;
                        return Err(GuestError::Unexpected {
                            what: WHAT,
                            why: "it took more input than it was sent",
                        });
                    }
                    self.credit.add_permits(bytes as usize);
                }
                Ok(ExecEvent::Exited(exit)) => {
                    self.over = true;
                    return Ok(OutputEvent::Exited(exit));
                }
                Ok(ExecEvent::Failed(failure)) => {
                    self.over = true;
                    return Err(GuestError::Failed(failure));
                }
                Err(source) => {
                    self.over = true;
                    return Err(GuestError::Protocol { what: WHAT, source });
                }
            }
        };
        match channel {
            Channel::Stdout => Ok(OutputEvent::Stdout(body)),
            Channel::Stderr => Ok(OutputEvent::Stderr(body)),
            _ => {
                self.over = true;
                Err(GuestError::Unexpected { what: WHAT, why: "it sent input instead of output" })
            }
        }
    }
}

/// The sending half of an [`Execution`].
pub struct Input {
    stream: WriteHalf<CallStream>,
    credit: Arc<Semaphore>,
    guest: Guest,
}

/// Credit for bytes of standard input; returned when it is dropped unused.
pub struct Credit(OwnedSemaphorePermit);

impl Input {
    /// Most bytes that one [`Input::write`] takes.
    pub const MAX_WRITE: usize = if MAX_CHUNK < STDIN_WINDOW / 4 { MAX_CHUNK } else { STDIN_WINDOW / 4 };

    /// Waits until the guest has room for `len` bytes (at most [`Self::MAX_WRITE`]) of standard input. The room is
    /// made known through [`Output::next`], which must be polled meanwhile. Cancel-safe.
    pub async fn credit(&self, len: usize) -> Result<Credit, GuestError> {
        let wanted = len.min(Self::MAX_WRITE) as u32;
        let permits = Arc::clone(&self.credit).acquire_many_owned(wanted).await;
        permits.map(Credit).map_err(|_| self.guest.lost(WHAT))
    }

    /// Feeds as many of `bytes` as `credit` allows, and returns their number.
    pub async fn write(&mut self, credit: Credit, bytes: &[u8]) -> Result<usize, GuestError> {
        let bytes = &bytes[..bytes.len().min(credit.0.num_permits())];
        credit.0.forget();
        self.put(&frame::header(Channel::Stdin, bytes.len())).await?;
        self.put(bytes).await?;
        self.stream.flush().await.map_err(|_| self.guest.lost(WHAT))?;
        Ok(bytes.len())
    }

    /// Ends standard input.
    pub async fn eof(&mut self) -> Result<(), GuestError> {
        self.send(&ExecInput::Eof).await
    }

    /// Sends a signal, by its Linux number, to the command's process group.
    pub async fn signal(&mut self, number: i32) -> Result<(), GuestError> {
        self.send(&ExecInput::Signal(number)).await
    }

    /// Sets the size of the terminal.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), GuestError> {
        self.send(&ExecInput::Resize(size)).await
    }

    async fn send(&mut self, input: &ExecInput) -> Result<(), GuestError> {
        frame::send(&mut self.stream, input).await.map_err(|error| self.guest.broken(WHAT, error))
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<(), GuestError> {
        self.stream.write_all(bytes).await.map_err(|_| self.guest.lost(WHAT))
    }
}
