//! The session with the guest: made again when it was lost, as by root in the guest who writes to its port, and said to be
//! lost where that cannot be. A guest that answers nothing, with its session whole, is said to be silent.
//!
//! ```text
//!   session over --> meet again, nobody using it --> on it goes             jobs are followed from where they were
//!        ^                  |  twice not
//!        |                  v
//!        +---- trouble, said by status, calls refused; tried again, more and more seldom
//!
//!   call unanswered --> ping --> silent: said by status; calls may try --> answered: over
//! ```

use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use pyro_vmm::Watch;

use super::Keeper;
use super::machine::{Engine, GuestHandle};
use super::snapshot::{vmm, within};
use crate::cause;
use crate::guest::Guest;
use crate::identity;
use crate::workspace::error::WorkspaceError;

/// How long one try to begin another session may take: as long as a stop may wait for it.
const TRY: Duration = Duration::from_secs(8);
/// How long calls of a lost session may take to see that.
const LAST_CALLS: Duration = Duration::from_secs(2);
/// Pause after a try that failed; doubled with each to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Tries before it is said that there is no session: the VM may just be ending.
const QUIET_TRIES: u32 = 2;
/// How long a session that lasts has lasted: one that was lost sooner counts as a try that failed, since a guest can end each
/// as soon as it has begun.
const STEADY: Duration = Duration::from_secs(30);

/// What is wrong with a guest that runs.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    why: String,
    /// There is no session, so that no call can be made.
    lost: bool,
}

impl Keeper {
    /// Refuses what needs the guest, where there is no session with it.
    pub(super) fn check_session(&self) -> Result<(), WorkspaceError> {
        match &*self.trouble.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Trouble { why, lost: true }) => Err(WorkspaceError::GuestLost(why.clone())),
            _ => Ok(()),
        }
    }

    /// Why the guest that runs answers nothing, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|trouble| trouble.why.clone())
    }

    /// Forgets what was wrong, with the guest or since it answers again; says whether something was.
    pub(super) fn clear_trouble(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    fn note_trouble(&self, why: &str, lost: bool) {
        let why = self.secrets.redactor().text(why);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none() {
            (self.log)(&format!("the guest does not answer: {why}"));
        }
        *trouble = Some(Trouble { why, lost });
    }

    /// Watches over the sessions with the guest of `handle` until its VM ends.
    pub(super) fn tend_session(self: &Arc<Self>, handle: &GuestHandle) {
        let (keeper, watch) = (Arc::downgrade(self), handle.watch.clone());
        tokio::spawn(async move {
            let ended = watch.clone();
            tokio::select! {
                biased;
                _ = ended.ended() => {}
                () = tend(&keeper, &watch) => {}
            }
        });
    }

    /// Makes the session again, unless somebody did or the VM of `watch` has ended.
    async fn mend_session(self: &Arc<Self>, watch: &Watch) -> Result<(), WorkspaceError> {
        let mut slot = self.engine.lock().await;
        let Some(engine) = slot.as_mut().filter(|_| watch.try_ended().is_none()) else { return Ok(()) };
        if !engine.handle.guest.is_over() {
            return Ok(());
        }
        let _alone = tokio::time::timeout(LAST_CALLS, self.connection.write()).await;
        self.unfollow_jobs();
        self.meet_again(engine, TRY).await?;
        (self.log)("another session with the guest began");
        self.clear_trouble();
        Ok(())
    }

    /// Begins another session with the guest that goes on here.
    pub(super) async fn meet_again(
        self: &Arc<Self>,
        engine: &mut Engine,
        limit: Duration,
    ) -> Result<(), WorkspaceError> {
        let nonce = identity::random()?;
        let what = "begin a session";
        engine.handle.guest = match &engine.port {
            Some(port) => {
                let stream = port.try_clone().map_err(WorkspaceError::Copy)?;
                within(&engine.handle, what, limit, Guest::reconnect(stream, nonce, limit)).await?
            }
            None => {
                let stream: UnixStream = engine.machine.connect(limit).await.map_err(vmm)?;
                within(&engine.handle, what, limit, Guest::connect(stream, nonce, limit)).await?
            }
        };
        self.give_guest(engine.handle.clone());
        self.follow_jobs(&engine.handle.guest);
        Ok(())
    }
}

async fn tend(keeper: &Weak<Keeper>, watch: &Watch) {
    let (mut pause, mut tries) = (PAUSE, 0);
    loop {
        let Some((ended, mut unanswered)) = keeper.upgrade().and_then(|keeper| {
            let guest = keeper.handle()?.guest;
            Some((guest.ended(), guest.unanswered()))
        }) else {
            return;
        };
        let begun = Instant::now();
        let lost = tokio::select! {
            biased;
            why = ended => why.unwrap_or_else(|| "its driver ended".to_owned()),
            changed = unanswered.changed() => {
                if changed.is_ok() {
                    until_it_answers(keeper).await;
                }
                continue;
            }
        };
        if begun.elapsed() > STEADY {
            (pause, tries) = (PAUSE, 0);
        }
        let mut why = format!("the session with it was lost ({lost})");
        loop {
            let Some(keeper) = keeper.upgrade() else { return };
            match tries {
                0 => (keeper.log)(&why),
                QUIET_TRIES.. => keeper.note_trouble(&why, true),
                _ => {}
            }
            if tries > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            tries += 1;
            match keeper.mend_session(watch).await {
                Ok(()) => break,
                Err(error) => {
                    why = format!(
                        "the session with it was lost ({lost}), and another does not begin: {}",
                        cause::chain(&error)
                    );
                }
            }
        }
    }
}

/// Asks the guest for a sign of life until it gives one, or its session ends; says that it is silent meanwhile.
async fn until_it_answers(keeper: &Weak<Keeper>) {
    loop {
        let Some(keeper) = keeper.upgrade() else { return };
        let Some(GuestHandle { guest, .. }) = keeper.handle() else { return };
        match guest.ping().await {
            Ok(()) => {
                if keeper.clear_trouble() {
                    (keeper.log)("the guest answers again");
                }
                return;
            }
            Err(_) if guest.is_over() => return,
            Err(error) => keeper.note_trouble(&cause::chain(&error), false),
        }
        drop(keeper);
        // A guest that answers nonsense does so at once.
        tokio::time::sleep(PAUSE).await;
    }
}
