//! Meeting keepers: their greeting, questions and answers.

use std::time::Duration;

use tokio::net::UnixStream;

use super::Workspaces;
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::{self, ProtocolError};
use crate::workspace::life::Phase;
use crate::workspace::store::layout::Home;
use crate::workspace::wire::{
    Call, GENERATION, Greeting, LegacyAnswer, LegacyCall, OLDEST, OLDEST_TO_STOP, Outcome, Request,
};

/// How long a keeper may take to greet and to answer what it knows.
const PROMPT: Duration = Duration::from_secs(10);
/// How long a keeper may take to greet a front end that only looks, and can say that it does not.
const GLANCE: Duration = Duration::from_secs(2);

/// A conversation with a keeper, after its greeting.
pub(super) struct Conversation {
    pub(super) stream: UnixStream,
    pub(super) greeting: Greeting,
}

/// A keeper that was told what to do, and will answer.
pub(super) struct Reached {
    pub(super) home: Home,
    pub(super) stream: UnixStream,
    goes_on: bool,
    /// Whether it was asked before on this connection, and has not greeted this time.
    pub(super) again: bool,
}

impl Conversation {
    /// Sends `call` to the keeper and waits for its answer, at most `within`.
    pub(super) async fn ask<C: Call>(
        &mut self,
        call: &C,
        within: Duration,
    ) -> Result<C::Answer, WorkspaceError> {
        self.check_generation()?;
        let talk = async {
            frames::send(&mut self.stream, &Request::new(call)).await?;
            frames::receive::<Outcome<C::Answer>>(&mut self.stream).await
        };
        match tokio::time::timeout(within, talk).await {
            Ok(Ok(outcome)) => answer_of(outcome),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(WorkspaceError::Silent),
        }
    }

    /// Asks a keeper of the generation before what it can still be asked.
    async fn ask_legacy(&mut self, call: LegacyCall, within: Duration) -> Result<(), WorkspaceError> {
        let talk = async {
            frames::send(&mut self.stream, &call.request()).await?;
            frames::receive::<LegacyAnswer>(&mut self.stream).await
        };
        match tokio::time::timeout(within, talk).await {
            Ok(Ok(answer)) => answer.failure().map_or(Ok(()), |why| Err(WorkspaceError::Legacy(why))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(WorkspaceError::Silent),
        }
    }

    /// Refuses a keeper that speaks another generation of the protocol.
    pub(super) fn check_generation(&self) -> Result<(), WorkspaceError> {
        if (OLDEST..=GENERATION).contains(&self.greeting.generation) {
            return Ok(());
        }
        Err(WorkspaceError::Generation { version: self.greeting.version.clone() })
    }
}

pub(super) fn answer_of<A>(outcome: Outcome<A>) -> Result<A, WorkspaceError> {
    match outcome {
        Outcome::Done(answer) => Ok(answer),
        Outcome::Failed(fault) => Err(WorkspaceError::Told(fault)),
    }
}

impl Workspaces {
    /// Sends `call` to the keeper of a workspace that runs without reading the workspace's database first: its time to live is
    /// its keeper's to see to. Only for a call that its keeper gives up when this side is gone: a keeper that hangs may come to
    /// it later.
    ///
    /// # Errors
    /// As [`Self::find`], and when it has no keeper.
    pub(super) async fn reach<C: Call>(&self, given: &str, call: &C) -> Result<Reached, WorkspaceError> {
        if let Some(home) = self.place(given) {
            let request = Request::new(call);
            if let Some(mut stream) = self.kept.take(home.path()) {
                match tokio::time::timeout(PROMPT, frames::send(&mut stream, &request)).await {
                    Ok(Ok(())) => return Ok(Reached { home, stream, goes_on: true, again: true }),
                    // The keeper got only part of the request, so it cannot have begun.
                    Ok(Err(_)) => {}
                    Err(_) => return Err(WorkspaceError::Silent),
                }
            }
            let met = meet_within(&home, PROMPT, Some(&request)).await?;
            if let Some(conversation) = met {
                conversation.check_generation()?;
                let Conversation { stream, greeting } = conversation;
                return Ok(Reached { home, stream, goes_on: greeting.goes_on, again: false });
            }
        }
        self.find(given).await?;
        Err(WorkspaceError::Stopped)
    }

    /// Keeps the connection of a call whose answer was read, for the next.
    pub(super) fn answered(&self, Reached { home, stream, goes_on, .. }: Reached) {
        if goes_on {
            self.kept.keep(home.path(), stream);
        }
    }

    /// Whether the keeper does not greet, some seconds from now.
    pub(super) async fn hangs(&self, home: &Home) -> bool {
        tokio::time::sleep(PROMPT).await;
        matches!(meet(home).await, Err(WorkspaceError::Silent))
    }

    /// Waits, while the keeper greets others, until it does not.
    pub(super) async fn until_it_hangs(&self, home: &Home) {
        while !self.hangs(home).await {}
    }

    /// Meets the keeper to see how it is, which takes it less time than work would.
    pub(super) async fn glance(&self, home: &Home) -> Result<Option<Conversation>, WorkspaceError> {
        meet_within(home, GLANCE, None::<&()>).await
    }

    /// Asks the keeper, if one lives. One that works long on the answer still greets others meanwhile, or it hangs.
    pub(super) async fn ask<C: Call>(
        &self,
        home: &Home,
        call: &C,
        within: Duration,
    ) -> Result<Option<C::Answer>, WorkspaceError> {
        let Some(mut conversation) = meet(home).await? else { return Ok(None) };
        tokio::select! {
            answered = conversation.ask(call, within) => answered.map(Some),
            () = self.until_it_hangs(home) => Err(WorkspaceError::Silent),
        }
    }

    /// Tells a keeper of the generation before what it can still be told; says whether such a one lives.
    pub(super) async fn tell_legacy(
        &self,
        home: &Home,
        call: LegacyCall,
        within: Duration,
    ) -> Result<bool, WorkspaceError> {
        match meet(home).await? {
            Some(mut conversation) if conversation.greeting.generation < OLDEST => {
                conversation.ask_legacy(call, within).await.map(|()| true)
            }
            _ => Ok(false),
        }
    }
}

/// Meets the keeper of `home`, if one lives.
pub(super) async fn meet(home: &Home) -> Result<Option<Conversation>, WorkspaceError> {
    meet_within(home, PROMPT, None::<&()>).await
}

/// Where the workspace is in its life, as its keeper says, if one lives.
pub(super) async fn phase(home: &Home) -> Result<Option<Phase>, WorkspaceError> {
    Ok(meet(home).await?.map(|conversation| conversation.greeting.phase))
}

async fn meet_within<R: serde::Serialize>(
    home: &Home,
    within: Duration,
    first: Option<&R>,
) -> Result<Option<Conversation>, WorkspaceError> {
    let Some(mut stream) = connect(home).await? else { return Ok(None) };
    let greeted = tokio::time::timeout(within, async {
        if let Some(request) = first {
            match frames::send(&mut stream, request).await {
                // A keeper that is gone is seen below.
                Ok(()) | Err(ProtocolError::Io(_)) => {}
                Err(error) => return Err(error),
            }
        }
        frames::receive::<Greeting>(&mut stream).await
    });
    let greeting = match greeted.await {
        Ok(Ok(greeting)) => greeting,
        // The keeper ended just now.
        Ok(Err(_)) if matches!(connect(home).await, Ok(None)) => return Ok(None),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(WorkspaceError::Silent),
    };
    if !(OLDEST_TO_STOP..=GENERATION).contains(&greeting.generation) {
        return Err(WorkspaceError::Generation { version: greeting.version });
    }
    Ok(Some(Conversation { stream, greeting }))
}

/// Connects to the keeper of `home`, if one lives.
pub(super) async fn connect(home: &Home) -> Result<Option<UnixStream>, WorkspaceError> {
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
