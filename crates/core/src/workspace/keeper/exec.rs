//! Runs a command of a workspace: output to the front end as it comes, first and last MiB to the history.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::{fs, io};

use pyro_formats::redact::RedactedStream;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::admitted::UsingGuest;
use crate::capture::{Capture, Captured};
use crate::cause;
use crate::command::{self, CommandError, CommandLine, CommandOptions, Outcome, Streams};
use crate::identity::unix_now;
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::{Channel, MAX_CHUNK};
use crate::workspace::keeper::Keeper;
use crate::workspace::store::history::Bounds;
use crate::workspace::store::record::{Command, WORKSPACE_PATH};
use crate::workspace::store::secrets::SecretEnv;
use crate::workspace::wire::{Exited, Place};

/// The exit code of a command that was killed because nobody waits for it any more, or with its guest.
const KILLED: i32 = 128 + 9;

/// Output on its way to a front end.
pub(super) type Chunk = (Channel, Vec<u8>);
type Kept = Arc<Mutex<Capture>>;

/// A stream of a command: without the secrets, kept, and passed on no faster than it is read.
struct Pipe {
    channel: Channel,
    sender: PollSender<Chunk>,
    kept: Kept,
    redacted: RedactedStream,
    /// Bytes without secrets, yet to be passed on.
    clean: Vec<u8>,
}

impl Pipe {
    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        while !self.clean.is_empty() {
            ready!(self.sender.poll_reserve(cx)).map_err(gone)?;
            let rest = self.clean.split_off(self.clean.len().min(MAX_CHUNK));
            let chunk = (self.channel, std::mem::replace(&mut self.clean, rest));
            self.sender.send_item(chunk).map_err(gone)?;
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(&self.clean);
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_pass_on(cx))?;
        let bytes = &bytes[..bytes.len().min(MAX_CHUNK)];
        let this = &mut *self;
        this.redacted.push(bytes, &mut this.clean);
        this.keep();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pass_on(cx)
    }

    /// The end: what could have been the beginning of a secret was none.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass_on(cx))?;
        let this = &mut *self;
        this.redacted.finish(&mut this.clean);
        this.keep();
        this.poll_pass_on(cx)
    }
}

/// A command that runs; whatever becomes of it is written down once.
struct Running<'a> {
    keeper: &'a Keeper,
    using: UsingGuest,
    entry: Command,
    begin: Instant,
    stdout: Kept,
    stderr: Kept,
    over: bool,
}

impl Running<'_> {
    /// Writes the end of the command down; gives why that failed, which is no failure of the command.
    fn end(&mut self, exit_code: i32, duration: Duration, interrupted: Option<String>) -> Option<String> {
        self.over = true;
        let take =
            |kept: &Kept| std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner)).finish();
        let (stdout, stderr) = (take(&self.stdout), take(&self.stderr));
        let entry = &mut self.entry;
        entry.exit_code = exit_code;
        entry.duration_ms = crate::vm::millis(duration);
        entry.recorded_at = unix_now();
        (entry.stdout_bytes, entry.stdout_truncated) = (stdout.total, stdout.truncated);
        (entry.stderr_bytes, entry.stderr_truncated) = (stderr.total, stderr.truncated);
        entry.interrupted = interrupted.map(|why| self.keeper.secrets.redactor().text(&why));
        self.keeper.record(&self.entry, &stdout, &stderr)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.end(KILLED, self.begin.elapsed(), Some("cancelled".into()));
        }
    }
}

/// Lets go of what the streams hold back.
async fn end(streams: &mut Streams) -> io::Result<()> {
    streams.stdout.shutdown().await?;
    streams.stderr.shutdown().await
}

impl Keeper {
    /// Adds a command to the history. Gives why it, or its output, is not there: the command ended as it did all the same.
    pub(super) fn record(&self, entry: &Command, stdout: &Captured, stderr: &Captured) -> Option<String> {
        // Files first: a row has its files, or was told of with the one that is missing; files without a row are swept.
        let kept = self
            .keep(entry.sequence, "stdout", stdout)
            .and_then(|()| self.keep(entry.sequence, "stderr", stderr));
        let bytes = (stdout.bytes.len() + stderr.bytes.len()) as u64;
        let added = self.database().state.add_command(entry, bytes, Bounds::ALL);
        let written = added.and_then(|dropped| self.home.forget_output(&dropped));
        let error = kept.and(written).err()?;
        let why = self.secrets.redactor().text(&cause::chain(&error));
        (self.log)(&format!("command {} is not kept: {why}", entry.sequence));
        Some(why)
    }

    fn keep(&self, sequence: u64, stream: &str, captured: &Captured) -> Result<(), WorkspaceError> {
        if captured.bytes.is_empty() {
            return Ok(());
        }
        let path = self.home.output(sequence, stream);
        let write = || {
            let mut file =
                fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(&captured.bytes)
        };
        // Half of it would look like all of it.
        let written = write().inspect_err(|_| drop(fs::remove_file(&path)));
        written.map_err(|e| WorkspaceError::file(&path, "written", e))
    }

    /// Runs a command, with secrets as variables. Dropping the future kills it, and writes that down.
    pub(super) async fn exec(
        self: &Arc<Self>,
        command: CommandLine,
        timeout: Option<Duration>,
        secret_env: &[SecretEnv],
        chunks: mpsc::Sender<Chunk>,
    ) -> Result<Exited, WorkspaceError> {
        let env = self.secrets.env(secret_env)?;
        let redactor = self.secrets.redactor();
        let using = self.use_guest().await?;
        let sequence = self.next_command.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) = (Kept::default(), Kept::default());
        let pipe = |channel, kept: &Kept| Pipe {
            channel,
            sender: PollSender::new(chunks.clone()),
            kept: Arc::clone(kept),
            redacted: redactor.stream(),
            clean: Vec::new(),
        };
        let mut streams = Streams {
            stdout: Box::new(pipe(Channel::Stdout, &stdout)),
            stderr: Box::new(pipe(Channel::Stderr, &stderr)),
            ..Streams::discarded()
        };
        drop(chunks);
        let entry = Command {
            sequence,
            command: redactor.text(&command.redacted(redactor).to_string()),
            cwd: WORKSPACE_PATH.into(),
            exit_code: 0,
            duration_ms: 0,
            recorded_at: 0.0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            stdout_truncated: false,
            stderr_truncated: false,
            interrupted: None,
        };
        let begin = Instant::now();
        let mut running = Running { keeper: self, using, entry, begin, stdout, stderr, over: false };
        let handle = running.using.handle.clone();
        // The directory is named, so that a workspace whose guest removed it says so instead of starting elsewhere.
        let options =
            CommandOptions { timeout, env, cwd: Some(WORKSPACE_PATH.into()), ..CommandOptions::default() };
        let ended = command::execute(&handle.guest, &handle.watch, &command, &options, &mut streams).await;
        let ended = match end(&mut streams).await {
            Err(error) if ended.is_ok() => Err(CommandError::Output(error)),
            _ => ended,
        };
        match ended {
            Ok(Outcome { unanswered: true, duration, .. }) => {
                let error = WorkspaceError::CommandUnknown;
                running.end(command::TIMED_OUT, duration, Some(error.to_string()));
                Err(error)
            }
            Ok(Outcome { exit_code, timed_out, duration, .. }) => {
                let unrecorded = running.end(exit_code, duration, timed_out.then(|| "timeout".into()));
                let duration_ms = running.entry.duration_ms;
                let command = running.entry.command.clone();
                let place = Place::of(&self.database().record);
                let duration_us = u64::try_from(duration.as_micros()).ok();
                Ok(Exited {
                    sequence,
                    exit_code,
                    duration_ms,
                    duration_us,
                    timed_out,
                    command,
                    place,
                    unrecorded,
                })
            }
            Err(CommandError::Output(error)) => {
                running.end(KILLED, begin.elapsed(), Some("cancelled".into()));
                Err(CommandError::Output(error).into())
            }
            Err(CommandError::VmDied(death)) => {
                let why = death.to_string();
                running.end(KILLED, begin.elapsed(), Some(why.clone()));
                Err(WorkspaceError::GuestEnded(why))
            }
            Err(error) => {
                running.end(KILLED, begin.elapsed(), Some(cause::chain(&error)));
                Err(error.into())
            }
        }
    }
}
