//! What a front end and a keeper say to each other over the workspace's socket.
//!
//! The keeper greets, so that a front end knows which generation it talks to; then one [`Call`]; then chunks of output, if the
//! call has any, and one [`Answer`]. A front end that closes the connection cancels its call. A connection is one call, but
//! after a command another call may follow, for a while.
//!
//! Who wants a command's end soon says its call before it has heard the greeting. So each call says of which generation it is,
//! and a keeper that does not speak it does nothing but greet.
//!
//! A frame is a channel (one byte), a length (four bytes, little-endian) and so many bytes. Messages are JSON: fields may
//! be added within a generation, and what is not known is ignored.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bytes::Buf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::files::{FileAsk, FileReply};
use super::life::Phase;
use super::{ServiceAsk, ShellAsk};
use crate::command::CommandLine;
use crate::failure::FailureKind;
use crate::hint::{self, Hint};
use crate::workspace::{Changes, Record, SecretEnv, Service, Shell, ShellSize, SnapshotInfo, Status};

/// The generation that this pyro speaks, as a keeper and as a front end.
pub const GENERATION: u32 = 3;
/// The oldest keeper that this front end drives.
pub const OLDEST: u32 = 3;
/// Longest message, bytes: an argument vector may have a few hundred KiB.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Longest chunk of output, bytes.
pub const MAX_CHUNK: usize = 256 << 10;
const HEADER: usize = 5;
/// Few messages are longer.
const USUAL: usize = 4 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A message.
    Message,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The other side did not keep to the protocol, or is gone.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// It ended within a frame, or where one was due.
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

/// The first thing that a keeper says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    /// Which protocol it speaks.
    pub generation: u32,
    /// Its version, for people.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Where the workspace is in its life.
    pub phase: Phase,
    /// Unix seconds.
    pub last_activity_at: f64,
    /// Commands that run.
    #[serde(default)]
    pub running_commands: u32,
    /// Whether it hears another call when a command is answered.
    #[serde(default)]
    pub goes_on: bool,
}

/// What is asked of a keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// What the workspace is now.
    Status,
    /// Run a command.
    Exec {
        /// What.
        command: Words,
        /// Killed after so many milliseconds.
        timeout_ms: Option<u64>,
        /// Secrets in its environment.
        #[serde(default)]
        secret_env: Vec<SecretEnv>,
    },
    /// Change name or labels.
    Update {
        /// How.
        changes: Changes,
    },
    /// Keep a copy of the disk.
    SnapshotCreate {
        /// Under this name.
        name: String,
        /// Not shown, and removed with the connection: what forks are made from.
        #[serde(default)]
        passing: bool,
        /// Keep the guest's memory too.
        #[serde(default)]
        memory: bool,
    },
    /// Remove a copy of the disk.
    SnapshotDelete {
        /// Which.
        name: String,
    },
    /// Go back to a copy of the disk.
    Reset {
        /// Which.
        snapshot: String,
    },
    /// End the guest, cleanly.
    Stop,
    /// End everything and remove it.
    Delete,
    /// Exit, so that another keeper can start the stopped workspace.
    Retire,
    /// Something about a shell.
    Shell {
        /// What.
        ask: ShellAsk,
    },
    /// Join a shell: what is typed comes as chunks of [`Channel::Stdout`], between messages that are [`super::Joined`].
    ShellAttach {
        /// Which.
        shell_id: String,
        /// The terminal's.
        size: ShellSize,
    },
    /// Something about a service.
    Service {
        /// What.
        ask: ServiceAsk,
    },
    /// Something with its files.
    Files {
        /// What.
        ask: FileAsk,
    },
}

/// A call, and the generation of who makes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked<C> {
    /// Which protocol it is of.
    pub generation: u32,
    /// What is asked.
    pub ask: C,
}

impl<'a> Asked<&'a Call> {
    /// A call of this generation.
    pub fn now(ask: &'a Call) -> Self {
        Self { generation: GENERATION, ask }
    }
}

/// The last thing that a keeper says of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// What the workspace is now.
    Status {
        /// All of it.
        status: Box<Status>,
    },
    /// The command ended.
    Exited {
        /// Its number in the history.
        sequence: u64,
        /// Its exit code.
        exit_code: i32,
        /// How long it ran.
        duration_ms: u64,
        /// The same, where it is known so well.
        #[serde(default)]
        duration_us: Option<u64>,
        /// Whether its time was up.
        timed_out: bool,
        /// The command as it may be shown.
        command: String,
        /// Where it ran.
        place: Box<Place>,
    },
    /// The copy that was made.
    Snapshot {
        /// It.
        snapshot: SnapshotInfo,
        /// How long the guest stood still for its memory, ms.
        #[serde(default)]
        paused_ms: Option<f64>,
    },
    /// It could not be done.
    Failed {
        /// Why.
        fault: Fault,
    },
    /// A shell as it is now.
    Shell {
        /// It.
        shell: Box<Shell>,
    },
    /// A service as it is now.
    Service {
        /// It.
        service: Box<Service>,
    },
    /// What is said of files; of a call that has several, all but the last come before it.
    Files {
        /// It.
        reply: FileReply,
    },
}

/// Where a command ran, for those who would have to read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The workspace's id.
    pub workspace_id: String,
    /// Its environment.
    pub environment: String,
    /// That environment's version.
    pub environment_version: String,
    /// The VMM.
    pub backend: String,
    /// What executed the guest's instructions.
    pub accelerator: String,
}

impl Place {
    /// Where the commands of the workspace of `record` run.
    pub(super) fn of(record: &Record) -> Self {
        Self {
            workspace_id: record.id.clone(),
            environment: record.environment.clone(),
            environment_version: record.environment_version.clone(),
            backend: record.backend.clone(),
            accelerator: record.accelerator.clone(),
        }
    }
}

/// A failure as it crosses a process boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Kind of the failure, for programs.
    pub kind: FailureKind,
    /// What failed and why, for people.
    pub message: String,
    /// What to do next. Earlier keepers said it in words of the command line, as `hint`, which are not shown.
    #[serde(default, rename = "action", deserialize_with = "hint::known")]
    pub hint: Option<Hint>,
    /// Whether what is in the way is somebody else's work, which ends by itself.
    #[serde(default)]
    pub momentary: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// A command's words: whether a shell is to read them is decided by how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words(Vec<Word>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Bytes(Vec<u8>),
}

impl Words {
    /// Those of a command.
    pub fn new(command: &CommandLine) -> Self {
        let word = |word: &OsStr| match word.to_str() {
            Some(text) => Word::Text(text.to_owned()),
            None => Word::Bytes(word.as_bytes().to_vec()),
        };
        Self(match command {
            CommandLine::Shell(line) => vec![word(line)],
            CommandLine::Argv(words) => words.iter().map(|each| word(each)).collect(),
        })
    }

    /// The command; `None` where there is nothing to run.
    pub fn command(self) -> Option<CommandLine> {
        let word = |word| match word {
            Word::Text(text) => OsString::from(text),
            Word::Bytes(bytes) => OsString::from_vec(bytes),
        };
        CommandLine::from_words(self.0.into_iter().map(word).collect())
    }
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
/// When it is none that may be, or the connection ended within it.
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
/// As [`receive_frame`], or when something else came.
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

    #[test]
    fn words_keep_bytes_that_are_no_text() {
        let words = vec![OsString::from("printf"), OsString::from_vec(vec![0xff, b'x'])];
        let command = CommandLine::from_words(words).unwrap();
        let call = Call::Exec { command: Words::new(&command), timeout_ms: Some(5), secret_env: Vec::new() };
        let back: Call = serde_json::from_slice(&serde_json::to_vec(&call).unwrap()).unwrap();
        let Call::Exec { command: words, .. } = back else { panic!("{back:?}") };
        assert_eq!(words.command(), Some(command));
    }

    #[test]
    fn what_a_newer_keeper_adds_is_ignored() {
        let text =
            r#"{"generation":1,"version":"9","pid":1,"phase":"started","last_activity_at":1.5,"new":{}}"#;
        assert_eq!(serde_json::from_str::<Greeting>(text).unwrap().phase, Phase::Running);
    }

    #[test]
    fn a_fault_of_another_version_is_read() {
        let earlier = r#"{"kind":"state","message":"no","hint":"`pyro x`","momentary":true}"#;
        let fault =
            Fault { kind: FailureKind::WrongState, message: "no".into(), hint: None, momentary: true };
        assert_eq!(serde_json::from_str::<Fault>(earlier).unwrap(), fault);
        let later = r#"{"kind":"new","message":"no","action":{"new":{"a":1}},"more":[]}"#;
        let fault = Fault { kind: FailureKind::Failed, momentary: false, ..fault };
        assert_eq!(serde_json::from_str::<Fault>(later).unwrap(), fault);
        let fault = Fault { hint: Some(Hint::StartWorkspace), ..fault };
        let text = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault, "{text}");
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
