//! The guest client: calls over the one byte stream of a VM.
//!
//! A [`Guest`] is one session. A task of its own drives the multiplexer; dropping the last handle ends the session, and
//! the guest then kills all that the session's calls started. Every call opens its stream in one place, the module
//! `source`.
//!
//! Invariant: the guest is hostile. Nothing that it sends is used as a path, a size to allocate or a name on the host,
//! everything is bounded by [`pyro_proto`], and every wait here has a deadline.

mod call;
mod disk;
mod exec;
mod files;
mod jobs;
mod places;
mod source;
mod trees;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::failure::FailureKind;
use pyro_proto::frame::{self, Channel, FrameError, FrameReader, MAX_MESSAGE};
use pyro_proto::link::{Link, LinkError};
use pyro_proto::message::{AgentInfo, ExecRequest, Failure, GuestIdentity, Reply, Request};
use pyro_proto::mux;
use tokio::sync::watch;
use tokio_util::compat::TokioAsyncReadCompatExt;

pub use call::Download;
pub use disk::Frozen;
pub use exec::{Execution, Input, Output, OutputEvent};
pub use files::FileContent;
pub use jobs::{JobEvent, JobOutput};
use places::CallKind;
use source::StreamSource;

pub use source::{ByteStream, CallStream, OpenStream};

/// Longest time that a short call may take before the guest counts as silent. A guest under software emulation on a
/// busy host, with a fork bomb inside, still answers within a few seconds.
pub const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// How long a sign of life, or its absence, is one for all calls.
const SHARED_SIGN: Duration = Duration::from_secs(5);

/// Failure of a call to the guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The stream could not be used.
    #[error("the stream to the guest cannot be used")]
    Stream(#[source] std::io::Error),
    /// No session came about.
    #[error("no session with the guest's agent")]
    Link(#[from] LinkError),
    /// Nothing came back in time.
    #[error("the guest did not answer {what} within {} s", .after.as_secs_f32())]
    Silent {
        /// The call that waited for the answer.
        what: &'static str,
        /// Time that was waited.
        after: Duration,
    },
    /// There are as many calls of its kind as may be, and none of them ends.
    #[error("{what} has no place: {most} {of} are under way in the guest, the most there may be, and none made room within {} s", .after.as_secs())]
    Crowded {
        /// The call that waited.
        what: &'static str,
        /// How many may be under way.
        most: usize,
        /// Calls of its kind, in the plural.
        of: &'static str,
        /// Time that was waited.
        after: Duration,
    },
    /// The session ended under the call.
    #[error("the connection to the guest was lost during {what}{}", .why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Lost {
        /// The call during which it happened.
        what: &'static str,
        /// Reason given by the multiplexer, where it has one.
        why: Option<String>,
    },
    /// The guest sent bytes that are no answer.
    #[error("the guest broke the protocol during {what}")]
    Protocol {
        /// The call during which it happened.
        what: &'static str,
        /// Error of the frame or message.
        #[source]
        source: FrameError,
    },
    /// The guest sent a well-formed message that has no place here.
    #[error("the guest broke the protocol during {what}: {why}")]
    Unexpected {
        /// The call during which it happened.
        what: &'static str,
        /// Reason why the message has no place.
        why: &'static str,
    },
    /// The guest reports that the call failed.
    #[error("the guest could not do it ({})", .0.stage)]
    Failed(#[source] Failure),
    /// The content to be sent to the guest could not be read on the host.
    #[error("what is sent for {what} cannot be read")]
    Source {
        /// The call that the content is for.
        what: &'static str,
        /// Error of the read.
        #[source]
        source: std::io::Error,
    },
    /// The request cannot be sent: it is longer than a request may be.
    #[error("the request is too long to send")]
    TooLong(#[source] FrameError),
}

impl GuestError {
    /// Kind of the failure, for programs.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Failed(failure) => failure.kind.into(),
            Self::Source { source, .. } => FailureKind::of_host_file(source),
            Self::TooLong(_) => FailureKind::TooLarge,
            Self::Crowded { .. } => FailureKind::Conflict,
            Self::Stream(_)
            | Self::Link(_)
            | Self::Silent { .. }
            | Self::Lost { .. }
            | Self::Protocol { .. }
            | Self::Unexpected { .. } => FailureKind::GuestFailed,
        }
    }
}

/// Place of a command that was not sent yet.
pub struct CommandPlace(CallStream);

/// Client of one guest's agent. Clones share its source of streams: a session ends with the last of them.
#[derive(Clone)]
pub struct Guest {
    source: StreamSource,
    signs: Arc<tokio::sync::Mutex<Option<SignOfLife>>>,
    /// Calls that were not answered in time.
    unanswered: watch::Sender<u64>,
}

/// Last answer to a question whether the guest lives, and when it came or did not.
struct SignOfLife {
    at: Instant,
    silent: bool,
}

impl Guest {
    /// Shakes hands with the agent behind `stream` within `deadline`; `nonce` must be fresh and random.
    ///
    /// A guest that still boots answers once it is there: a HELLO waits for it in the stream.
    pub async fn connect(
        stream: UnixStream,
        nonce: [u8; 16],
        deadline: Duration,
    ) -> Result<Self, GuestError> {
        // The second greeting is spared a guest that is just slow to boot.
        Self::meet(stream, nonce, deadline, Duration::from_secs(1)).await
    }

    /// As [`Guest::connect`], with an agent that was in the middle of another session when its memory was saved: the
    /// agent discards the first greeting.
    pub async fn reconnect(
        stream: UnixStream,
        nonce: [u8; 16],
        deadline: Duration,
    ) -> Result<Self, GuestError> {
        Self::meet(stream, nonce, deadline, Duration::from_millis(20)).await
    }

    fn of(source: StreamSource) -> Self {
        Self { source, signs: Arc::default(), unanswered: watch::Sender::new(0) }
    }

    /// End of the session, and why it ended where that is known; a session that another process holds never ends here. The
    /// future keeps no session open.
    pub fn ended(&self) -> impl Future<Output = Option<String>> + Send + 'static + use<> {
        self.source.ended()
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.source.is_over()
    }

    /// Number of calls that were not answered in time; changes with the next one.
    pub fn unanswered(&self) -> watch::Receiver<u64> {
        self.unanswered.subscribe()
    }

    async fn meet(
        stream: UnixStream,
        nonce: [u8; 16],
        deadline: Duration,
        mut pause: Duration,
    ) -> Result<Self, GuestError> {
        stream.set_nonblocking(true).map_err(GuestError::Stream)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(GuestError::Stream)?.compat();
        // Padding is for a guest stuck in half a record of an earlier session.
        let retry = || {
            let wait = tokio::time::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(8));
            wait
        };
        let (link, _agreement) =
            tokio::time::timeout(deadline, Link::connect(stream, nonce, retry))
                .await
                .map_err(|_| GuestError::Silent { what: "the handshake", after: deadline })??;
        let (opener, driver) = mux::host(link);
        Ok(Self::of(StreamSource::session(opener, driver)))
    }

    /// Gives the guest its identity: always the first call of a session.
    pub async fn identify(&self, identity: GuestIdentity) -> Result<AgentInfo, GuestError> {
        match self.call("its identity", &Request::Identify(identity)).await? {
            Reply::Identified(info) => Ok(info),
            _ => {
                Err(GuestError::Unexpected { what: "its identity", why: "the reply belongs to another call" })
            }
        }
    }

    /// Moves the guest's wall clock by so many nanoseconds, which may be zero; returns its new time, nanoseconds since
    /// 1970 UTC, by the guest's word.
    pub async fn clock(&self, by_ns: i64) -> Result<u64, GuestError> {
        match self.call("the time", &Request::Clock(by_ns)).await? {
            Reply::Clock(unix_time_ns) => Ok(unix_time_ns),
            _ => Err(GuestError::Unexpected { what: "the time", why: "the reply belongs to another call" }),
        }
    }

    /// Lets a guest that waits for it mount its disk and assemble its root.
    pub async fn assemble(&self) -> Result<(), GuestError> {
        self.done("the order to assemble its root", &Request::Assemble).await
    }

    /// Asks for a sign of life.
    pub async fn ping(&self) -> Result<(), GuestError> {
        self.done("a ping", &Request::Ping).await
    }

    /// Asks for a sign of life on behalf of a call that has heard nothing for a while. Calls that ask at the same time share
    /// the answer: a guest with hundreds of silent commands is not asked hundreds of times.
    async fn is_alive(&self) -> Result<(), GuestError> {
        let mut last = self.signs.lock().await;
        if let Some(sign) = last.as_ref().filter(|sign| sign.at.elapsed() < SHARED_SIGN) {
            let (what, after) = ("a ping", CALL_DEADLINE);
            return if sign.silent { Err(GuestError::Silent { what, after }) } else { Ok(()) };
        }
        let answered = self.ping().await;
        let silent = matches!(answered, Err(GuestError::Silent { .. }));
        *last = (silent || answered.is_ok()).then(|| SignOfLife { at: Instant::now(), silent });
        answered
    }

    /// Ends the session in the guest, which then listens for a new one; before its state is saved.
    pub async fn detach(self) -> Result<(), GuestError> {
        self.done("the order to detach", &Request::Detach).await
    }

    /// Tells the guest to end all processes, write its disk and power off, all of it after this returns.
    pub async fn shutdown(&self) -> Result<(), GuestError> {
        self.done("the order to shut down", &Request::Shutdown).await
    }

    /// Waits for a place among the commands of the session.
    ///
    /// # Errors
    /// When the session is over, or there are as many commands as may be.
    pub async fn place_for_command(&self) -> Result<CommandPlace, GuestError> {
        self.open("a command", CallKind::Long).await.map(CommandPlace)
    }

    /// Starts a command in a place that was waited for. Its output comes from the [`Execution`]; dropping that kills the
    /// command and all that it started.
    pub async fn exec(&self, place: CommandPlace, exec: ExecRequest) -> Result<Execution, GuestError> {
        let CommandPlace(mut stream) = place;
        self.send("a command", &mut stream, &Request::Exec(exec)).await?;
        Ok(Execution::new(self.clone(), stream))
    }

    async fn done(&self, what: &'static str, request: &Request) -> Result<(), GuestError> {
        match self.call(what, request).await? {
            Reply::Done => Ok(()),
            _ => Err(GuestError::Unexpected { what, why: "the reply belongs to another call" }),
        }
    }

    async fn call(&self, what: &'static str, request: &Request) -> Result<Reply, GuestError> {
        self.call_within(what, request, CALL_DEADLINE).await
    }

    async fn call_within(
        &self,
        what: &'static str,
        request: &Request,
        deadline: Duration,
    ) -> Result<Reply, GuestError> {
        let kind = if matches!(request, Request::Ping) { CallKind::Ping } else { CallKind::Short };
        // Its time begins when it has its place.
        let mut stream = self.open(what, kind).await?;
        let conversation = async {
            self.send(what, &mut stream, request).await?;
            let mut frames = FrameReader::new(stream);
            match frames.next(MAX_MESSAGE).await {
                Ok(Some((Channel::Message, body))) => {
                    frame::decode::<Reply>(body).map_err(|source| GuestError::Protocol { what, source })
                }
                Ok(Some(_)) => Err(GuestError::Unexpected { what, why: "bytes where a reply belongs" }),
                Ok(None) => Err(self.lost(what)),
                Err(error) => Err(self.broken(what, error)),
            }
        };
        let reply = tokio::time::timeout(deadline, conversation).await.map_err(|_| {
            self.unanswered.send_modify(|count| *count += 1);
            GuestError::Silent { what, after: deadline }
        })??;
        match reply {
            Reply::Failed(failure) => Err(GuestError::Failed(failure)),
            other => Ok(other),
        }
    }

    /// Guest whose session another process holds, which opens the streams of calls.
    pub fn through(source: Arc<dyn OpenStream>) -> Self {
        Self::of(StreamSource::Elsewhere(source))
    }

    /// Opens a stream for a call of another process, which speaks the wall's protocol on it by itself.
    ///
    /// # Errors
    /// When the session is over, or there are as many such calls as may be.
    pub async fn open_for_another(&self) -> Result<CallStream, GuestError> {
        self.open("a call of another process", CallKind::Transfer).await
    }

    async fn open(&self, what: &'static str, kind: CallKind) -> Result<CallStream, GuestError> {
        self.source.open(what, kind).await
    }

    async fn send(
        &self,
        what: &'static str,
        stream: &mut CallStream,
        message: &impl serde::Serialize,
    ) -> Result<(), GuestError> {
        frame::send(stream, message).await.map_err(|error| match error {
            FrameError::TooLong { .. } => GuestError::TooLong(error),
            other => self.broken(what, other),
        })
    }

    fn lost(&self, what: &'static str) -> GuestError {
        self.source.lost(what)
    }

    /// Tells a stream that ended from a guest that sent nonsense.
    fn broken(&self, what: &'static str, error: FrameError) -> GuestError {
        match error {
            FrameError::Io(_) | FrameError::Truncated => self.lost(what),
            source => GuestError::Protocol { what, source },
        }
    }
}
