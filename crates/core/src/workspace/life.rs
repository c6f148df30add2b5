//! Rules of a workspace's life: the deciding part of a keeper, pure and without a clock of its own.
//!
//! ```text
//!   starting --> running <--> snapshotting           idle for its time to live, or told to: stopping
//!      |          |   ^
//!      |          |   +---- resetting ----+
//!      v          v                       v
//!   (fails)    stopping --> stopped <-----+ (fails)     24 h after its time was up: deleting
//!                             |  ^
//!                             v  |
//!                         snapshotting
//! ```

use serde::{Deserialize, Serialize};

/// How long a workspace whose time to live is over is kept, stopped, before it is deleted, seconds.
pub const KEPT_SECONDS: f64 = 86_400.0;

/// Where a workspace is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Guest is coming up.
    Starting,
    /// Guest answers calls.
    #[serde(rename = "started")]
    Running,
    /// Disk is being put back, the guest started anew.
    Resetting,
    /// Guest is being ended.
    Stopping,
    /// Nothing runs; its disk and history stay.
    Stopped,
    /// Workspace is about to be gone.
    Deleting,
}

impl Phase {
    /// Name of the phase in payloads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "started",
            Self::Resetting => "resetting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Action asked of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeAction {
    /// To use its guest: a command.
    Use,
    /// To change its name or labels, or to remove a snapshot.
    Describe,
    /// To keep a copy of its disk.
    Snapshot,
    /// To go back to a copy of its disk.
    Reset,
    /// To end its guest.
    Stop,
    /// To be gone.
    Delete,
    /// To let another keeper take over.
    Retire,
}

impl LifeAction {
    fn verb(self) -> &'static str {
        match self {
            Self::Use => "used",
            Self::Describe => "changed",
            Self::Snapshot => "copied",
            Self::Reset => "reset",
            Self::Stop => "stopped",
            Self::Delete => "deleted",
            Self::Retire => "handed over",
        }
    }
}

/// Action that the workspace's phase does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the workspace is {phase}{}: it cannot be {verb} now", if *.copying { ", its disk being copied" } else { "" })]
pub struct Refusal {
    /// Phase of the workspace.
    pub phase: Phase,
    /// Whether its disk is being copied.
    pub copying: bool,
    verb: &'static str,
}

impl Refusal {
    /// Whether the refusal is only because nothing runs, and lasts.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped && !self.copying
    }
}

/// Step that the time to live demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To be stopped.
    Stop,
    /// To be deleted.
    Delete,
}

/// The life of one workspace, as its keeper sees it. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    phase: Phase,
    /// Commands that run.
    uses: u32,
    copying: bool,
    last_activity: f64,
    /// Seconds; 0 for none.
    ttl: f64,
    kept: f64,
}

impl Life {
    /// Life of a workspace whose guest is coming up. `ttl` and `kept` in seconds; a `ttl` of 0 is none.
    pub fn starting(ttl: f64, kept: f64, now: f64) -> Self {
        Self { phase: Phase::Starting, uses: 0, copying: false, last_activity: now, ttl, kept }
    }

    /// How long the stopped workspace is kept when its time to live is over, seconds.
    pub fn kept(&self) -> f64 {
        self.kept
    }

    /// Phase of the workspace.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How many commands run.
    pub fn uses(&self) -> u32 {
        self.uses
    }

    /// When something was last asked of it, Unix seconds; now, while a command runs.
    pub fn last_activity(&self, now: f64) -> f64 {
        if self.uses > 0 || self.copying { now.max(self.last_activity) } else { self.last_activity }
    }

    /// Whether `ask` may be followed now. When it may, it counts as begun: [`Life::done`] must be told of its end.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn admit(&mut self, ask: LifeAction, now: f64) -> Result<(), Refusal> {
        let settled = matches!(self.phase, Phase::Running | Phase::Stopped);
        let may = match ask {
            LifeAction::Use => self.phase == Phase::Running,
            LifeAction::Describe => settled || self.phase == Phase::Resetting,
            LifeAction::Snapshot => settled && !self.copying,
            // A guest that answers no more is ended all the same.
            LifeAction::Reset => settled && !self.copying,
            LifeAction::Stop => self.phase == Phase::Running && !self.copying,
            LifeAction::Delete => self.phase != Phase::Deleting,
            LifeAction::Retire => self.phase == Phase::Stopped && !self.copying,
        };
        if !may {
            return Err(Refusal { phase: self.phase, copying: self.copying, verb: ask.verb() });
        }
        match ask {
            LifeAction::Use => self.uses += 1,
            LifeAction::Describe => {}
            LifeAction::Snapshot => self.copying = true,
            LifeAction::Reset => self.phase = Phase::Resetting,
            LifeAction::Stop => self.phase = Phase::Stopping,
            LifeAction::Delete | LifeAction::Retire => self.phase = Phase::Deleting,
        }
        self.touch(now);
        Ok(())
    }

    /// Goes on from a copy of the disk to a reset, with nothing in between.
    ///
    /// # Errors
    /// Why not; the copy goes on then.
    pub fn reset_after_copy(&mut self, now: f64) -> Result<(), Refusal> {
        self.copying = false;
        self.admit(LifeAction::Reset, now).inspect_err(|_| self.copying = true)
    }

    /// Ends the action `ask`; for a reset, `runs` says whether a guest runs.
    pub fn done(&mut self, ask: LifeAction, runs: bool, now: f64) {
        match ask {
            LifeAction::Use => self.uses = self.uses.saturating_sub(1),
            LifeAction::Snapshot => self.copying = false,
            LifeAction::Reset if self.phase == Phase::Resetting => {
                self.phase = if runs { Phase::Running } else { Phase::Stopped };
            }
            LifeAction::Stop if self.phase == Phase::Stopping => self.phase = Phase::Stopped,
            LifeAction::Describe
            | LifeAction::Reset
            | LifeAction::Stop
            | LifeAction::Delete
            | LifeAction::Retire => {}
        }
        if ask != LifeAction::Stop {
            self.touch(now);
        }
    }

    /// The guest has come up.
    pub fn started(&mut self, now: f64) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
            self.touch(now);
        }
    }

    /// The guest ended by itself, or its VMM did.
    pub fn guest_ended(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Stopped;
        }
    }

    fn touch(&mut self, now: f64) {
        // A clock that was set back takes no life away.
        self.last_activity = self.last_activity.max(now);
    }

    /// When its time to live is over if nothing happens; `None` without one.
    pub fn expires_at(&self, now: f64) -> Option<f64> {
        expires_at(self.last_activity(now), self.ttl)
    }

    /// Next step that the time to live demands, and when.
    pub fn next_due(&self, now: f64) -> Option<(f64, Due)> {
        let expires = self.expires_at(now)?;
        match self.phase {
            Phase::Running => Some((expires, Due::Stop)),
            Phase::Stopped => Some((expires + self.kept, Due::Delete)),
            _ => None,
        }
    }

    /// Step that the time to live demands now.
    pub fn due(&self, now: f64) -> Option<Due> {
        self.next_due(now).filter(|(at, _)| *at <= now && !self.copying).map(|(_, due)| due)
    }

    /// Whether a keeper has anything left to do.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Deleting || self.phase == Phase::Stopped && self.ttl == 0.0 && !self.copying
    }
}

/// When a time to live of `ttl` seconds is over; `None` for 0, which is none.
pub fn expires_at(last_activity: f64, ttl: f64) -> Option<f64> {
    (ttl > 0.0).then_some(last_activity + ttl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_stopped_when_idle_and_deleted_a_day_later() {
        let mut life = Life::starting(600.0, KEPT_SECONDS, 1000.0);
        assert_eq!(life.next_due(1000.0), None);
        life.started(1010.0);
        assert_eq!(life.next_due(1010.0), Some((1610.0, Due::Stop)));
        life.admit(LifeAction::Use, 1500.0).unwrap();
        // A running command is activity, however long it runs.
        assert_eq!(life.due(9999.0), None);
        life.done(LifeAction::Use, true, 9999.0);
        assert_eq!((life.due(10598.9), life.due(10599.0)), (None, Some(Due::Stop)));
        life.admit(LifeAction::Stop, 10599.0).unwrap();
        life.done(LifeAction::Stop, false, 10601.0);
        let (at, due) = life.next_due(10601.0).unwrap();
        assert_eq!(due, Due::Delete);
        assert!((KEPT_SECONDS + 600.0..KEPT_SECONDS + 610.0).contains(&(at - 10599.0)), "{at}");
        assert!(!life.is_over());
    }

    #[test]
    fn without_a_time_to_live_nothing_is_ever_due() {
        let mut life = Life::starting(0.0, KEPT_SECONDS, 0.0);
        life.started(0.0);
        assert_eq!(life.next_due(1e12), None);
        life.guest_ended();
        assert_eq!(life.next_due(1e12), None);
        assert!(life.is_over());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit(LifeAction),
        Done(usize, bool),
        ResetAfterCopy,
        Started,
        Ended,
        Later(u32),
    }

    fn asks() -> impl Strategy<Value = LifeAction> {
        use LifeAction::{Delete, Describe, Reset, Retire, Snapshot, Stop, Use};
        prop::sample::select(vec![Use, Describe, Snapshot, Reset, Stop, Delete, Retire])
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => asks().prop_map(Step::Admit),
            4 => (any::<usize>(), any::<bool>()).prop_map(|(which, runs)| Step::Done(which, runs)),
            1 => Just(Step::ResetAfterCopy),
            1 => Just(Step::Started),
            1 => Just(Step::Ended),
            2 => (0_u32..2000).prop_map(Step::Later),
        ]
    }

    proptest! {
        /// Whatever is asked in whatever order: one thing at a time has the disk, counts fit, a deleted one never
        /// lives again, nothing is due while something is going on, and expiry never moves back.
        #[test]
        fn no_order_of_things_breaks_it(steps in prop::collection::vec(steps(), 0..60), ttl in prop::sample::select(vec![0.0, 600.0])) {
            let mut now = 1000.0;
            let mut life = Life::starting(ttl, KEPT_SECONDS, now);
            let mut going: Vec<LifeAction> = Vec::new();
            let (mut deleted, mut expiry) = (false, 0.0_f64);
            for step in steps {
                let before = life.clone();
                match step {
                    Step::Admit(ask) => match life.admit(ask, now) {
                        Ok(()) => {
                            prop_assert!(!deleted, "{ask:?} was admitted after the end");
                            deleted |= matches!(ask, LifeAction::Delete | LifeAction::Retire);
                            going.push(ask);
                        }
                        Err(_) => prop_assert_eq!(&before, &life),
                    },
                    Step::Done(which, runs) if !going.is_empty() => {
                        let ask = going.remove(which % going.len());
                        life.done(ask, runs, now);
                    }
                    Step::Done(..) => {}
                    Step::ResetAfterCopy => {
                        let copy = going.iter().position(|ask| *ask == LifeAction::Snapshot);
                        match copy.map(|at| (at, life.reset_after_copy(now))) {
                            Some((at, Ok(()))) => going[at] = LifeAction::Reset,
                            Some((_, Err(_))) | None => prop_assert_eq!(&before, &life),
                        }
                    }
                    Step::Started => life.started(now),
                    Step::Ended => life.guest_ended(),
                    Step::Later(seconds) => now += f64::from(seconds),
                }
                let count = |wanted: LifeAction| going.iter().filter(|ask| **ask == wanted).count();
                prop_assert_eq!(life.uses() as usize, count(LifeAction::Use));
                prop_assert!(count(LifeAction::Snapshot) <= 1);
                let resets = count(LifeAction::Reset) as u32 + u32::from(life.phase() == Phase::Stopping);
                prop_assert!(deleted || resets <= 1, "{going:?}");
                prop_assert_eq!(life.phase() == Phase::Deleting, deleted);
                if life.uses() > 0 || count(LifeAction::Snapshot) > 0 {
                    prop_assert_eq!(life.due(now), None);
                }
                if let Some(at) = life.expires_at(now) {
                    prop_assert!(at >= expiry);
                    expiry = at;
                } else {
                    prop_assert_eq!(life.due(now), None);
                }
            }
        }
    }
}
