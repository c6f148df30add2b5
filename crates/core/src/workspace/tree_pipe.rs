//! Trees on their way: a thread packs or unpacks them at one end of a pipe, and calls have the other.
//!
//! Invariant: what unpacks on the host ends, and has tidied up, before whoever asked for it goes on or is gone.

use std::io;
use std::io::{BufReader, BufWriter};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;

use pyro_formats::archive::{ArchiveError, Form, Sink, Source, Totals, Unpacked, Written};
use pyro_formats::hostfs::HostPath;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::workspace::error::WorkspaceError;

const BUFFER: usize = 256 << 10;

/// How far a tree has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Files, directories and links so far.
    pub entries: u64,
    /// Bytes of content so far.
    pub bytes: u64,
    /// Bytes of content in all, where that is known.
    pub total_bytes: Option<u64>,
}

/// Hears how far a tree has come, at least once an entry and once a MiB, from another thread.
pub type OnMoved = Arc<dyn Fn(Moved) + Send + Sync>;

fn told(on_moved: &OnMoved, totals: Totals, total_bytes: Option<u64>) {
    on_moved(Moved { entries: totals.entries, bytes: totals.bytes, total_bytes });
}

/// How payloads name what a source is.
pub(crate) fn form_name(form: Form) -> &'static str {
    match form {
        Form::Directory => "directory",
        Form::Tar | Form::TarGz => "tar_archive",
    }
}

/// As whoever has another working directory finds it.
pub(crate) fn absolute(path: HostPath) -> Result<HostPath, WorkspaceError> {
    let shown = path.shown().to_owned();
    path.absolute().map_err(|e| WorkspaceError::file(&shown, "found", e))
}

/// Work on a thread of its own, which is waited for also when nobody wants its result any more.
pub(crate) struct Worker<T> {
    thread: Option<JoinHandle<()>>,
    outcome: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Worker<T> {
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> Result<Self, WorkspaceError> {
        let (sender, outcome) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("pyro-tree".into())
            .spawn(move || {
                // A receiver that lost interest has dropped the other end.
                let _ = sender.send(work());
            })
            .map_err(pipe_failed)?;
        Ok(Self { thread: Some(thread), outcome })
    }

    pub(crate) async fn outcome(&mut self) -> Result<T, WorkspaceError> {
        (&mut self.outcome).await.map_err(|_| crate::bug::Bug::lost("a thread for a tree").into())
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pipe_failed(source: io::Error) -> WorkspaceError {
    ArchiveError::Stream { source }.into()
}

fn pipe() -> io::Result<(StdStream, UnixStream)> {
    let (blocking, other) = StdStream::pair()?;
    other.set_nonblocking(true)?;
    Ok((blocking, UnixStream::from_std(other)?))
}

/// A tree as a tar stream. It only ends where the tree does: what goes wrong before is an error of reading.
pub(crate) struct Packed {
    stream: UnixStream,
    outcome: oneshot::Receiver<Result<Written, ArchiveError>>,
    ended: Option<Result<Written, ArchiveError>>,
}

impl Packed {
    /// Packs `source` in a thread of its own.
    pub(crate) fn new(source: Source, on_moved: OnMoved) -> Result<Self, WorkspaceError> {
        let (blocking, stream) = pipe().map_err(pipe_failed)?;
        let (sender, outcome) = oneshot::channel();
        let pack = move || {
            let total = source.count()?.map(|totals| totals.bytes);
            let mut progress = |totals: Totals| {
                told(&on_moved, totals, total);
                ControlFlow::Continue(())
            };
            let mut to = BufWriter::with_capacity(BUFFER, blocking);
            // Ends early when nobody reads any more.
            source.write_to(&mut to, &mut progress)
        };
        std::thread::Builder::new()
            .name("pyro-pack".into())
            .spawn(move || {
                let _ = sender.send(pack());
            })
            .map_err(pipe_failed)?;
        Ok(Self { stream, outcome, ended: None })
    }

    /// Totals of what was packed, with the transfer's result: a failure to pack says more than what followed from it.
    pub(crate) fn finish<T>(self, sent: Result<T, WorkspaceError>) -> Result<(Written, T), WorkspaceError> {
        match self.ended {
            Some(Err(error)) => Err(error.into()),
            Some(Ok(written)) => Ok((written, sent?)),
            None => sent.and(Err(pipe_failed(io::ErrorKind::UnexpectedEof.into()))),
        }
    }
}

impl AsyncRead for Packed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.ended.is_none() {
            let ended = ready!(Pin::new(&mut self.outcome).poll(cx));
            let lost = |_| Err(ArchiveError::Stream { source: io::ErrorKind::UnexpectedEof.into() });
            self.ended = Some(ended.unwrap_or_else(lost));
        }
        Poll::Ready(match &self.ended {
            Some(Ok(_)) => Ok(()),
            _ => Err(io::Error::other("it cannot be packed")),
        })
    }
}

/// Asks whether nobody wants the result any more.
pub(crate) type Asked<'a> = &'a dyn Fn() -> bool;

/// A tar stream that is read on a thread.
pub(crate) struct Unpacking<T> {
    /// Dropped before the thread is waited for, which is how that ends.
    stream: Option<UnixStream>,
    cancelled: Arc<AtomicBool>,
    worker: Worker<Result<T, ArchiveError>>,
}

impl<T> Drop for Unpacking<T> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.stream = None;
    }
}

impl Unpacking<Unpacked> {
    /// Makes what `sink` says of it.
    pub(crate) fn new(sink: Sink, on_moved: OnMoved) -> Result<Self, WorkspaceError> {
        Self::with(move |stream, asked| {
            sink.unpack(stream, &mut |totals: Totals| {
                told(&on_moved, totals, None);
                if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        })
    }
}

impl<T: Send + 'static> Unpacking<T> {
    /// Lets `work` read it.
    pub(crate) fn with(
        work: impl FnOnce(&mut dyn io::Read, Asked<'_>) -> Result<T, ArchiveError> + Send + 'static,
    ) -> Result<Self, WorkspaceError> {
        let (blocking, stream) = pipe().map_err(pipe_failed)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        let worker = Worker::start(move || {
            let asked = || flag.load(Ordering::Relaxed);
            work(&mut BufReader::with_capacity(BUFFER, blocking), &asked)
        })?;
        Ok(Self { stream: Some(stream), cancelled, worker })
    }

    /// The next bytes. What is taken no more is thrown away: the end says why.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt as _;
        if let Some(stream) = &mut self.stream
            && stream.write_all(bytes).await.is_err()
        {
            self.stream = None;
        }
    }

    /// Whether bytes are still taken.
    pub(crate) fn takes(&self) -> bool {
        self.stream.is_some()
    }

    /// There are no more bytes: what came of them.
    pub(crate) async fn finish(mut self) -> Result<T, WorkspaceError> {
        self.stream = None;
        Ok(self.worker.outcome().await??)
    }
}
