//! The socket of a keeper: one task for each connection, one call at a time.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::protocol::{self, Answer, Asked, Call, Channel, GENERATION, Greeting, OLDEST};
use super::{Keeper, files};
use crate::cause;
use crate::identity::unix_now;
use crate::workspace::WorkspaceError;
use crate::workspace::layout::{self, Home};

/// Most connections at once; the next is closed unheard.
const MOST: u32 = 256;
/// How long a front end may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to say what more it wants; longer than front ends keep a connection for that.
const LULL: Duration = Duration::from_secs(40);
/// Chunks of output that wait for a front end to read.
pub(super) const AHEAD: usize = 4;
/// Shortest pause after an accept that failed, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

static CONNECTIONS: AtomicU32 = AtomicU32::new(0);

/// The socket in the workspace's directory.
pub(super) struct Listener {
    listener: UnixListener,
}

impl Listener {
    /// Takes the place of whatever an earlier keeper left. The caller holds the workspace's lock.
    pub(super) fn bind(home: &Home) -> Result<Self, WorkspaceError> {
        let (path, _dir): (_, Option<File>) = home.socket()?;
        layout::remove_if_there(&path)?;
        let listener =
            UnixListener::bind(&path).map_err(|e| WorkspaceError::file(&path, "listened on", e))?;
        Ok(Self { listener })
    }

    /// The next connection; `None` when there are too many, or one could not be had.
    pub(super) async fn accept(&self) -> Option<Connection> {
        match self.listener.accept().await {
            Ok((stream, _)) => Connection::new(stream),
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
    fn new(stream: UnixStream) -> Option<Self> {
        let connection = Self(Some(stream));
        (CONNECTIONS.fetch_add(1, Ordering::Relaxed) < MOST).then_some(connection)
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
        protocol::send(&mut writer, &greeting).await?;
        protocol::receive::<Asked<Call>>(&mut reader).await
    };
    // Who only looks whether somebody is there says nothing.
    let Ok(Ok(mut asked)) = tokio::time::timeout(PATIENCE, heard).await else { return };
    loop {
        let Asked { generation, ask } = asked;
        let goes_on = matches!(ask, Call::Exec { .. });
        if !(OLDEST..=GENERATION).contains(&generation)
            || !call(&keeper, ask, &mut reader, &mut writer).await
            || !goes_on
        {
            return;
        }
        asked = tokio::select! {
            biased;
            heard = tokio::time::timeout(LULL, protocol::receive(&mut reader)) => match heard {
                Ok(Ok(asked)) => asked,
                _ => return,
            },
            // Nobody waits for what is not asked.
            () = keeper.over.cancelled() => return,
        };
    }
}

fn greeting(keeper: &Keeper) -> Greeting {
    let life = keeper.life();
    Greeting {
        generation: GENERATION,
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        phase: life.phase(),
        running_commands: life.uses(),
        last_activity_at: life.last_activity(unix_now()),
        goes_on: true,
    }
}

/// Answers one call, and says whether its answer was taken. A front end that is gone takes its command with it; what is begun
/// to the workspace as a whole is finished.
async fn call(
    keeper: &Arc<Keeper>,
    call: Call,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> bool {
    let mut uses = match &call {
        Call::Exec { .. }
        | Call::Shell { .. }
        | Call::ShellAttach { .. }
        | Call::Service { .. }
        | Call::Files { .. } => Some(Arc::clone(&keeper.connection).read_owned().await),
        _ => None,
    };
    // One in passing is there as long as this connection.
    let mut passing = None;
    let answer = match call {
        Call::SnapshotCreate { name, passing: true, memory } => {
            let worker = Arc::clone(keeper);
            let made = tokio::spawn(async move { worker.pass(name, memory).await }).await;
            match made {
                Ok(made) => made.map(|(made, until)| {
                    passing = Some(until);
                    made.into()
                }),
                Err(_) => return false,
            }
        }
        // Said before the greeting was heard, and given up since.
        Call::Exec { .. } if !waits(reader) => return false,
        Call::Exec { command, timeout_ms, secret_env } => match command.command() {
            Some(command) => {
                let timeout = timeout_ms.map(Duration::from_millis);
                let (chunks, output) = mpsc::channel(AHEAD);
                let running = keeper.exec(command, timeout, &secret_env, chunks);
                match stream_output(running, output, reader, writer).await {
                    Some(answer) => answer,
                    None => return false,
                }
            }
            None => Err(WorkspaceError::Protocol(protocol::ProtocolError::Ended)),
        },
        Call::Shell { .. } | Call::Service { .. } => {
            // In a task of its own too: what it began it finishes, but it does not wait for nobody.
            let (stays, gone) = oneshot::channel();
            let (worker, uses) = (Arc::clone(keeper), uses.take());
            let working = tokio::spawn(async move {
                let _uses = uses;
                match call {
                    Call::Shell { ask } => worker.shell(ask, gone).await,
                    Call::Service { ask } => worker.service(ask, gone).await,
                    _ => Err(WorkspaceError::Protocol(protocol::ProtocolError::Ended)),
                }
            });
            let mut byte = [0];
            tokio::select! {
                biased;
                answer = working => match answer {
                    Ok(answer) => answer,
                    Err(_) => return false,
                },
                _ = reader.read(&mut byte) => {
                    drop(stays);
                    return false;
                }
            }
        }
        Call::ShellAttach { shell_id, size } => match keeper.attach(&shell_id, size, reader, writer).await {
            Some(answer) => answer,
            None => return false,
        },
        Call::Files { ask } => match files::call(keeper, ask, reader, writer).await {
            Some(answer) => answer,
            None => return false,
        },
        other => {
            // In a task of its own: it goes on when this connection ends.
            let worker = Arc::clone(keeper);
            match tokio::spawn(async move { operate(&worker, other).await }).await {
                Ok(answer) => answer,
                Err(_) => return false,
            }
        }
    };
    let answer = answer.unwrap_or_else(|error| {
        (keeper.log)(&cause::chain(&error));
        let error = error.redacted(keeper.secrets.redactor());
        Answer::Failed { fault: error.fault() }
    });
    let sent = tokio::time::timeout(PATIENCE, protocol::send(writer, &answer)).await;
    let sent = matches!(sent, Ok(Ok(())));
    if passing.is_some() && sent {
        // Nothing more is said.
        let _ = reader.read(&mut [0]).await;
    }
    sent
}

/// Whether the front end is still there: nothing is said until a call is answered but an end, which is a failure where the
/// greeting was never read.
fn waits(reader: &OwnedReadHalf) -> bool {
    matches!(reader.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Runs a command with its output going out; `None` when the front end is gone.
pub(super) async fn stream_output(
    running: impl Future<Output = Result<Answer, WorkspaceError>>,
    mut output: mpsc::Receiver<(Channel, Vec<u8>)>,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> Option<Result<Answer, WorkspaceError>> {
    let writing = async move {
        while let Some((channel, bytes)) = output.recv().await {
            protocol::send_frame(writer, channel, &bytes).await?;
        }
        Ok::<_, protocol::ProtocolError>(())
    };
    let mut byte = [0];
    tokio::select! {
        biased;
        // In this order: the answer is on its way before the guest hears that nobody listens to the command any more.
        (answer, written) = async { tokio::join!(biased; running, writing) } => written.is_ok().then_some(answer),
        // Nothing is said until a call is answered: whatever comes, or an end, is the end of it.
        _ = reader.read(&mut byte) => None,
    }
}

async fn operate(keeper: &Arc<Keeper>, call: Call) -> Result<Answer, WorkspaceError> {
    let status = |status| Answer::Status { status: Box::new(status) };
    Ok(match call {
        Call::Status => status(keeper.status()?),
        Call::Update { changes } => status(keeper.update(changes).await?),
        Call::Stop => status(keeper.stop("it was told to").await?),
        Call::Reset { snapshot } => status(keeper.reset(snapshot).await?),
        Call::SnapshotCreate { name, memory, .. } => keeper.snapshot(name, memory).await?.into(),
        Call::SnapshotDelete { name } => {
            keeper.delete_snapshot(&name)?;
            Answer::Done
        }
        Call::Delete => {
            keeper.delete().await?;
            Answer::Done
        }
        Call::Retire => {
            keeper.retire()?;
            Answer::Done
        }
        Call::Exec { .. }
        | Call::Shell { .. }
        | Call::ShellAttach { .. }
        | Call::Service { .. }
        | Call::Files { .. } => {
            return Err(WorkspaceError::Protocol(protocol::ProtocolError::Ended));
        }
    })
}

/// Connects to the keeper of `home`, if one lives.
pub(crate) async fn connect(home: &Home) -> Result<Option<UnixStream>, WorkspaceError> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    let (path, _dir) = home.socket()?;
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Some(stream)),
        // A socket that nobody listens on refuses at once; one whose listener hangs takes connections all the same.
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(None),
        // As many wait to be heard as may.
        Err(error) if error.kind() == WouldBlock => Err(WorkspaceError::Silent),
        Err(error) => Err(WorkspaceError::file(&path, "connected to", error)),
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
