//! The guest of a running workspace from a front end's side: calls over streams that its keeper opens and splices.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use pyro_formats::redact::Redactor;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::Workspaces;
use super::reach::{self, Conversation};
use crate::guest::{CallStream, Guest, GuestError, OpenStream};
use crate::workspace::error::WorkspaceError;
use crate::workspace::life::Phase;
use crate::workspace::store::layout::Home;
use crate::workspace::wire::GuestStream;

/// How long a keeper may take to open a stream: the guest may be between two sessions.
const OPENING: Duration = Duration::from_secs(30);

/// A workspace whose guest is called.
pub(super) struct RunningGuest {
    pub(super) home: Home,
    pub(super) guest: Guest,
    pub(super) redactor: Redactor,
}

/// Opens streams through the keeper of a workspace.
struct ThroughKeeper(Home);

impl OpenStream for ThroughKeeper {
    fn open_stream(&self) -> BoxFuture<'_, io::Result<CallStream>> {
        async {
            let opened = open(&self.0).await;
            opened.map_err(|error| io::Error::other(Refused(error)))
        }
        .boxed()
    }
}

/// Why a keeper opened no stream, on its way through an error of input and output.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Refused(WorkspaceError);

async fn open(home: &Home) -> Result<CallStream, WorkspaceError> {
    let Some(mut conversation) = reach::meet(home).await? else { return Err(WorkspaceError::Stopped) };
    if conversation.greeting.guest_generation != u32::from(pyro_proto::GENERATION) {
        return Err(WorkspaceError::Generation { version: conversation.greeting.version });
    }
    conversation.ask(&GuestStream {}, OPENING).await?;
    let Conversation { stream, .. } = conversation;
    Ok(Box::new(stream.compat()))
}

impl Workspaces {
    /// The guest of a workspace that runs, to be called.
    pub(super) async fn running_guest(&self, given: &str) -> Result<RunningGuest, WorkspaceError> {
        let home = self.find(given).await?;
        let redactor = super::redactor(&home).await?;
        let guest = Guest::through(Arc::new(ThroughKeeper(home.clone())));
        Ok(RunningGuest { home, guest, redactor })
    }
}

impl RunningGuest {
    /// Why a call to the guest failed, without the workspace's secrets. One that broke off says whether the guest is still there.
    pub(super) async fn failed(&self, error: GuestError) -> WorkspaceError {
        match error {
            GuestError::Failed(failure) => WorkspaceError::of_guest(failure, &self.redactor),
            GuestError::Stream(error) => match error.downcast::<Refused>() {
                Ok(Refused(error)) => error,
                Err(error) => self.broken(GuestError::Stream(error)).await,
            },
            GuestError::Source { source, .. } => WorkspaceError::Source(source),
            error => self.broken(error).await,
        }
    }

    async fn broken(&self, source: GuestError) -> WorkspaceError {
        let stopped = super::read(&self.home, |state| Ok(state.record()?.metadata.remove("stopped_because")));
        match reach::phase(&self.home).await.ok().flatten() {
            Some(Phase::Running) => WorkspaceError::Guest { what: "do what it was asked", source },
            Some(_) => {
                let why = stopped.await.ok().flatten();
                WorkspaceError::GuestEnded(why.unwrap_or_else(|| "its VM is gone".into()))
            }
            None => WorkspaceError::KeeperLost { what: "ended during the call", log: None },
        }
    }
}
