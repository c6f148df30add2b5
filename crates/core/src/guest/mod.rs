//! The guest client: calls over the one byte stream of a VM.
//!
//! A [`Guest`] is one session. It owns a task that drives the multiplexer; dropping the last handle ends the
//! session, and the guest then kills what the session's calls started.
//!
//! Invariant: the guest is hostile. Nothing that it sends is used as a path, a size to allocate or a name on the
//! host, everything is bounded by [`pyro_proto`], and every wait here has a deadline.

mod call;
mod disk;
mod exec;
mod files;
mod jobs;
mod trees;

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cause;
use crate::failure::FailureKind;
use pyro_proto::frame::{self, Channel, FrameError, FrameReader, MAX_MESSAGE};
use pyro_proto::link::{Link, LinkError};
use pyro_proto::message::{AgentInfo, Exec, Failure, Identity, Reply, Request};
use pyro_proto::mux::{self, Opener};
use tokio_util::compat::TokioAsyncReadCompatExt;

pub use call::Download;
pub use disk::Frozen;
pub use exec::{Execution, Input, Output, OutputEvent};
pub use files::FileContent;
pub use jobs::{JobEvent, JobOutput};

/// How long a short call may take before the guest counts as silent. A guest under software emulation on a busy
/// host, with a fork bomb inside, still answers within a few seconds.
pub const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// Why a call to the guest failed.
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
        /// What was asked.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The session ended under the call.
    #[error("the connection to the guest was lost during {what}{}", .why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Lost {
        /// What was going on.
        what: &'static str,
        /// What the multiplexer saw, where it saw something.
        why: Option<String>,
    },
    /// The guest sent something that is no answer.
    #[error("the guest broke the protocol during {what}")]
    Protocol {
        /// What was going on.
        what: &'static str,
        /// What was wrong with it.
        #[source]
        source: FrameError,
    },
    /// The guest sent a well-formed message that has no place here.
    #[error("the guest broke the protocol during {what}: {why}")]
    Unexpected {
        /// What was going on.
        what: &'static str,
        /// What was wrong with it.
        why: &'static str,
    },
    /// The guest says that it could not do it.
    #[error("the guest could not do it ({})", .0.stage)]
    Failed(#[source] Failure),
    /// What was to be sent to the guest could not be read here.
    #[error("what is sent for {what} cannot be read")]
    Source {
        /// What was going on.
        what: &'static str,
        /// Why.
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
            Self::Stream(_)
            | Self::Link(_)
            | Self::Silent { .. }
            | Self::Lost { .. }
            | Self::Protocol { .. }
            | Self::Unexpected { .. } => FailureKind::GuestFailed,
        }
    }
}

/// One session with the agent of one guest. Clones share it.
#[derive(Clone)]
pub struct Guest {
    opener: Opener,
    ended: Arc<Ended>,
}

/// What is left of a session that ended, and the task that ends with its last handle.
struct Ended {
    why: Arc<Mutex<Option<String>>>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.driver.abort();
    }
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

    /// As [`Guest::connect`], with an agent that was in the middle of another session when its memory was saved: it does
    /// not hear the first greeting.
    pub async fn reconnect(
        stream: UnixStream,
        nonce: [u8; 16],
        deadline: Duration,
    ) -> Result<Self, GuestError> {
        Self::meet(stream, nonce, deadline, Duration::from_millis(20)).await
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
        let why = Arc::new(Mutex::new(None));
        let report = Arc::clone(&why);
        let driver = tokio::spawn(async move {
            let end = match driver.await {
                Ok(()) => "the guest closed it".to_owned(),
                Err(error) => cause::chain(&error),
            };
            if let Ok(mut report) = report.lock() {
                *report = Some(end);
            }
        });
        Ok(Self { opener, ended: Arc::new(Ended { why, driver }) })
    }

    /// Gives the guest its identity: always the first call of a session.
    pub async fn identify(&self, identity: Identity) -> Result<AgentInfo, GuestError> {
        match self.call("its identity", &Request::Identify(identity)).await? {
            Reply::Identified(info) => Ok(info),
            _ => {
                Err(GuestError::Unexpected { what: "its identity", why: "the reply belongs to another call" })
            }
        }
    }

    /// Moves the guest's wall clock by so many nanoseconds, which may be none; what it is then, nanoseconds since 1970
    /// UTC, as the guest says.
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

    /// Ends the session in the guest, which then listens for a new one; before its state is saved.
    pub async fn detach(self) -> Result<(), GuestError> {
        self.done("the order to detach", &Request::Detach).await
    }

    /// Tells the guest to end all processes, write its disk and power off; it does so after this returns.
    pub async fn shutdown(&self) -> Result<(), GuestError> {
        self.done("the order to shut down", &Request::Shutdown).await
    }

    /// Starts a command. What it says comes from the [`Execution`]; dropping that kills the command and all that
    /// it started.
    pub async fn exec(&self, exec: Exec) -> Result<Execution, GuestError> {
        let mut stream = self.open("a command").await?;
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
        let conversation = async {
            let mut stream = self.open(what).await?;
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
        let reply = tokio::time::timeout(deadline, conversation)
            .await
            .map_err(|_| GuestError::Silent { what, after: deadline })??;
        match reply {
            Reply::Failed(failure) => Err(GuestError::Failed(failure)),
            other => Ok(other),
        }
    }

    async fn open(&self, what: &'static str) -> Result<mux::Stream, GuestError> {
        self.opener.clone().open().await.map_err(|_| self.lost(what))
    }

    async fn send(
        &self,
        what: &'static str,
        stream: &mut mux::Stream,
        message: &impl serde::Serialize,
    ) -> Result<(), GuestError> {
        frame::send(stream, message).await.map_err(|error| match error {
            FrameError::TooLong { .. } => GuestError::TooLong(error),
            other => self.broken(what, other),
        })
    }

    fn lost(&self, what: &'static str) -> GuestError {
        let why = self.ended.why.lock().ok().and_then(|why| why.clone());
        GuestError::Lost { what, why }
    }

    /// Tells a stream that ended from a guest that sent nonsense.
    fn broken(&self, what: &'static str, error: FrameError) -> GuestError {
        match error {
            FrameError::Io(_) | FrameError::Truncated => self.lost(what),
            source => GuestError::Protocol { what, source },
        }
    }
}
