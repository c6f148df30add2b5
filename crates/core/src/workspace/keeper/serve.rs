//! The socket of a keeper: one task for each connection, one call at a time.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::Keeper;
use crate::bug::Bug;
use crate::cause;
use crate::identity::unix_now;
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::{self, Channel, ProtocolError};
use crate::workspace::store::layout::{self, Home};
use crate::workspace::wire::jobs::AttachShell;
use crate::workspace::wire::{Call, Exec, GENERATION, Greeting, GuestStream, OLDEST, Outcome, Request};

/// Most connections at once, where the limit of open files is twice that at least; the next is closed unheard.
const MOST: u64 = 4096;
/// How long a front end may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a front end may take to ask again on a connection; longer than front ends keep one for that.
const LULL: Duration = Duration::from_secs(40);
/// Chunks of output that wait for a front end to read.
const AHEAD: usize = 4;
/// Shortest pause after an accept that failed, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

static CONNECTIONS: AtomicU32 = AtomicU32::new(0);

/// Does the operation of a name, in a task of its own; `None` where there is none of that name. The message that answers it
/// comes back with the [`Caller`].
pub(crate) type Dispatch = fn(Arc<Keeper>, &str, Value, Caller) -> Option<Operating>;

/// An operation at work: the message that answers it, and its caller with whatever is kept for that.
pub(crate) type Operating = BoxFuture<'static, (Result<Vec<u8>, WorkspaceError>, Caller)>;

/// The front end that asked for an operation.
pub struct Caller {
    gone: oneshot::Receiver<()>,
    lease: Option<Box<dyn Send>>,
}

impl Caller {
    /// Waits until the front end is gone.
    pub(super) async fn gone(&mut self) {
        let _ = (&mut self.gone).await;
    }

    /// Refuses to go on for a front end that is gone.
    pub(super) fn check_waits(&mut self) -> Result<(), WorkspaceError> {
        match self.gone.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => Ok(()),
            _ => Err(WorkspaceError::GivenUp),
        }
    }

    /// Keeps `what` for as long as the front end's connection lasts.
    pub(crate) fn lease(&mut self, what: impl Send + 'static) {
        self.lease = Some(Box::new(what));
    }
}

/// The socket in the workspace's directory.
pub(super) struct Listener {
    listener: UnixListener,
    /// Most connections at once.
    most: u64,
}

impl Listener {
    /// Takes the place of whatever an earlier keeper left. The caller holds the workspace's lock.
    pub(super) fn bind(home: &Home) -> Result<Self, WorkspaceError> {
        let (path, _dir): (_, Option<File>) = home.socket()?;
        layout::remove_if_there(&path)?;
        let listener =
            UnixListener::bind(&path).map_err(|e| WorkspaceError::file(&path, "listened on", e))?;
        // Half of the descriptors are for databases, disks and output.
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Ok(Self { listener, most: files.map_or(MOST, |files| MOST.min(files / 2)) })
    }

    /// The next connection; `None` when there are too many, or one could not be had.
    pub(super) async fn accept(&self) -> Option<Connection> {
        match self.listener.accept().await {
            Ok((stream, _)) => Connection::new(stream, self.most),
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }

    /// Stops listening and removes the socket, if its directory is still there.
    pub(super) fn close(self, home: &Home) {
        let _ = std::fs::remove_file(home.path().join("keeper.sock"));
    }
}

/// A connection, counted.
pub(super) struct Connection(Option<UnixStream>);

impl Connection {
    fn new(stream: UnixStream, most: u64) -> Option<Self> {
        let connection = Self(Some(stream));
        (u64::from(CONNECTIONS.fetch_add(1, Ordering::Relaxed)) < most).then_some(connection)
    }
}

#[cfg(test)]
impl Connection {
    pub(super) fn of(stream: UnixStream) -> Self {
        CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Self(Some(stream))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Greets, and hears and answers calls: one, or several where all but the last are commands.
pub(super) async fn converse(keeper: Arc<Keeper>, mut connection: Connection) {
    let Some(stream) = connection.0.take() else { return };
    let (mut reader, mut writer) = stream.into_split();
    let greeting = greeting(&keeper);
    let heard = async {
        frames::send(&mut writer, &greeting).await?;
        frames::receive::<Request<Value>>(&mut reader).await
    };
    // A front end that only looks whether somebody is there says nothing.
    let Ok(Ok(mut request)) = tokio::time::timeout(PATIENCE, heard).await else { return };
    loop {
        if !(OLDEST..=GENERATION).contains(&request.generation) {
            return;
        }
        let goes_on = request.call == Exec::NAME;
        if !answer_call(&keeper, request, &mut reader, &mut writer).await || !goes_on {
            return;
        }
        request = tokio::select! {
            biased;
            heard = tokio::time::timeout(LULL, frames::receive(&mut reader)) => match heard {
                Ok(Ok(request)) => request,
                _ => return,
            },
            // Nobody waits for what is not asked.
            () = keeper.over.cancelled() => return,
        };
    }
}

fn greeting(keeper: &Keeper) -> Greeting {
    let trouble = keeper.trouble();
    let life = keeper.life();
    Greeting {
        generation: GENERATION,
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        phase: life.phase(),
        running_commands: life.uses(),
        last_activity_at: life.last_activity(unix_now()),
        goes_on: true,
        guest_generation: u32::from(pyro_proto::GENERATION),
        guest_trouble: trouble,
    }
}

/// Answers one call, and says whether its answer was taken. A front end that is gone takes its command with it; an operation
/// on the workspace as a whole that was begun is finished all the same, unless it can still be undone.
async fn answer_call(
    keeper: &Arc<Keeper>,
    request: Request<Value>,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> bool {
    let streaming = async {
        match request.call.as_str() {
            // Sent before the greeting was heard, and given up since.
            Exec::NAME if !waits(reader) => None,
            Exec::NAME => exec(keeper, request.ask, reader, writer).await,
            AttachShell::NAME => match parse::<AttachShell>(request.ask) {
                Ok(attach) => keeper.attach(attach, reader, writer).await.map(message::<AttachShell>),
                Err(error) => Some(Err(error)),
            },
            GuestStream::NAME => keeper.splice(reader, writer).await.map(Err),
            _ => return Err(request),
        }
        .map_or(Ok(None), |answer| Ok(Some(answer)))
    };
    // A panic is an answer: whoever waits is told that it was pyro.
    let (answer, lease) = match AssertUnwindSafe(streaming).catch_unwind().await {
        Ok(Ok(Some(answer))) => (answer, None),
        Ok(Ok(None)) => return false,
        Ok(Err(request)) => match operate(keeper, request, reader).await {
            Some(answered) => answered,
            None => return false,
        },
        Err(panic) => (Err(Bug::of_panic(&*panic).into()), None),
    };
    let answer = answer.unwrap_or_else(|error| {
        (keeper.log)(&cause::chain(&error));
        let error = error.redacted(keeper.secrets.redactor());
        serde_json::to_vec(&Outcome::<()>::Failed(error.fault())).unwrap_or_default()
    });
    let sent = tokio::time::timeout(PATIENCE, frames::send_frame(writer, Channel::Message, &answer)).await;
    let sent = matches!(sent, Ok(Ok(())));
    if let (Some(lease), true) = (lease, sent) {
        // Nothing more is said: whatever comes, or an end, is the end of it.
        let _ = reader.read(&mut [0]).await;
        drop(lease);
    }
    sent
}

fn parse<C: Call>(ask: Value) -> Result<C, WorkspaceError> {
    Ok(serde_json::from_value(ask).map_err(ProtocolError::Message)?)
}

/// The message that answers `C`.
fn message<C: Call>(answer: Result<C::Answer, WorkspaceError>) -> Result<Vec<u8>, WorkspaceError> {
    Ok(serde_json::to_vec(&Outcome::Done(answer?)).map_err(ProtocolError::Message)?)
}

type Answered = (Result<Vec<u8>, WorkspaceError>, Option<Box<dyn Send>>);

/// Does an operation in a task of its own: it goes on when its front end is gone, and hears of that. `None` when the front
/// end is gone.
async fn operate(
    keeper: &Arc<Keeper>,
    request: Request<Value>,
    reader: &mut OwnedReadHalf,
) -> Option<Answered> {
    // Given up before it was begun: so it does not begin.
    if !waits(reader) {
        return None;
    }
    let (stays, gone) = oneshot::channel();
    let caller = Caller { gone, lease: None };
    let Some(operation) = (keeper.dispatch)(Arc::clone(keeper), &request.call, request.ask, caller) else {
        return Some((Err(WorkspaceError::UnknownCall(request.call)), None));
    };
    let working = tokio::spawn(operation);
    let mut byte = [0];
    tokio::select! {
        biased;
        done = working => Some(match done {
            Ok((answer, caller)) => (answer, caller.lease),
            Err(error) => (Err(Bug::from(error).into()), None),
        }),
        // Nothing is said until a call is answered: whatever comes, or an end, is the end of it.
        _ = reader.read(&mut byte) => {
            drop(stays);
            None
        }
    }
}

/// Whether the front end is still there: nothing is said until a call is answered but an end, which is a failure where the
/// greeting was never read.
fn waits(reader: &OwnedReadHalf) -> bool {
    matches!(reader.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Runs a command with its output going out; `None` when the front end is gone.
async fn exec(
    keeper: &Arc<Keeper>,
    ask: Value,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> Option<Result<Vec<u8>, WorkspaceError>> {
    let parsed = parse::<Exec>(ask).and_then(|Exec { command, timeout_ms, secret_env }| {
        let command = command.command().ok_or(ProtocolError::Ended)?;
        Ok((command, timeout_ms.map(Duration::from_millis), secret_env))
    });
    let (command, timeout, secret_env) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return Some(Err(error)),
    };
    let (chunks, mut output) = mpsc::channel::<(Channel, Vec<u8>)>(AHEAD);
    let running = keeper.exec(command, timeout, &secret_env, chunks);
    let writing = async move {
        while let Some((channel, bytes)) = output.recv().await {
            frames::send_frame(writer, channel, &bytes).await?;
        }
        Ok::<_, ProtocolError>(())
    };
    let mut byte = [0];
    tokio::select! {
        biased;
        // In this order: the answer is on its way before the guest hears that nobody listens to the command any more.
        (answer, written) = async { tokio::join!(biased; running, writing) } =>
            written.is_ok().then(|| message::<Exec>(answer)),
        // Nothing is said until a call is answered: whatever comes, or an end, is the end of it.
        _ = reader.read(&mut byte) => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// However much of the greeting was read.
    #[tokio::test]
    async fn a_front_end_that_is_gone_is_seen() {
        for read in [false, true] {
            let (mut ours, keepers) = UnixStream::pair().unwrap();
            let (mut reader, mut writer) = keepers.into_split();
            writer.write_all(b"greeting").await.unwrap();
            ours.write_all(b"call").await.unwrap();
            if read {
                ours.read_exact(&mut [0; 8]).await.unwrap();
            }
            reader.read_exact(&mut [0; 4]).await.unwrap();
            assert!(waits(&reader));
            drop(ours);
            reader.readable().await.unwrap();
            assert!(!waits(&reader), "{read}");
        }
    }
}
