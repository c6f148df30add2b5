//! Where a start spends its time: a clock that is read at every step, for people, for `pyro bench`, and for tests that
//! end the process at one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

/// A step of a start, just taken. A start takes some of them, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Environment, runtime and backend are found and verified.
    Prepared,
    /// A template is found and its files are open.
    TemplateOpened,
    /// No other process makes this template, and none will until this one is done.
    BuildLocked,
    /// The template's guest runs its agent.
    BuildBooted,
    /// The guest has run a shell, so that its page cache holds what every command needs.
    BuildWarmed,
    /// The guest stands still.
    BuildPaused,
    /// The state of its devices is in a file.
    BuildStateSaved,
    /// Guest memory is in a file.
    BuildMemoryWritten,
    /// The guest's disk is in a file.
    BuildDiskWritten,
    /// All of it is on the host's disk, with a manifest, under a name that nobody trusts yet.
    BuildSynced,
    /// The template has its name.
    BuildPublished,
    /// The VM's own disk is made.
    DiskMade,
    /// The VMM runs and answers.
    VmmAnswered,
    /// The VMM has loaded the template.
    StateLoaded,
    /// The guest runs and its agent has shaken hands.
    Connected,
    /// The guest has its identity: clock, entropy, names.
    Identified,
    /// The guest has mounted its disk, where a template was made without one.
    Assembled,
    /// The command has ended.
    Executed,
    /// The VMM is gone.
    Stopped,
}

/// As payloads name it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A step and the time that it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StepTime {
    /// The step taken.
    pub step: Step,
    /// Milliseconds since the step before it.
    pub took_ms: f64,
    /// Milliseconds since the beginning.
    pub at_ms: f64,
}

/// Told of every step as it happens.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(Step) + Send + Sync>);

impl Observer {
    /// Calls `told`, on the thread that took the step.
    pub fn new(told: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// The steps of one start. Clones share them.
#[derive(Clone, Debug)]
pub struct Timeline {
    begin: Instant,
    steps: Arc<Mutex<Vec<(Step, Duration)>>>,
    observer: Option<Observer>,
}

impl Timeline {
    /// Begins a timeline now.
    pub fn begin(observer: Option<Observer>) -> Self {
        Self { begin: Instant::now(), steps: Arc::default(), observer }
    }

    /// `step` was taken just now.
    pub fn mark(&self, step: Step) {
        self.mark_at(step, Instant::now());
    }

    /// `step` was taken at `when`.
    pub fn mark_at(&self, step: Step, when: Instant) {
        let at = when.saturating_duration_since(self.begin);
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push((step, at));
        if let Some(Observer(told)) = &self.observer {
            told(step);
        }
    }

    /// All steps so far.
    pub fn phases(&self) -> Vec<StepTime> {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 100.0;
        let mut before = Duration::ZERO;
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = |(step, at): &(Step, Duration)| {
            let took = at.saturating_sub(std::mem::replace(&mut before, *at));
            StepTime { step: *step, took_ms: ms(took), at_ms: ms(*at) }
        };
        steps.iter().map(phase).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of them, in order.
    const ALL: [Step; 19] = [
        Step::Prepared,
        Step::TemplateOpened,
        Step::BuildLocked,
        Step::BuildBooted,
        Step::BuildWarmed,
        Step::BuildPaused,
        Step::BuildStateSaved,
        Step::BuildMemoryWritten,
        Step::BuildDiskWritten,
        Step::BuildSynced,
        Step::BuildPublished,
        Step::DiskMade,
        Step::VmmAnswered,
        Step::StateLoaded,
        Step::Connected,
        Step::Identified,
        Step::Assembled,
        Step::Executed,
        Step::Stopped,
    ];

    #[test]
    fn phases_add_up_and_have_their_names() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let timeline = Timeline::begin(Some(Observer::new(move |step| told.lock().unwrap().push(step))));
        timeline.mark_at(Step::Prepared, timeline.begin + Duration::from_millis(2));
        timeline.mark_at(Step::VmmAnswered, timeline.begin + Duration::from_micros(32_500));
        let phases = timeline.phases();
        assert_eq!((phases[1].took_ms, phases[1].at_ms), (30.5, 32.5));
        assert_eq!(*seen.lock().unwrap(), [Step::Prepared, Step::VmmAnswered]);
        for step in ALL {
            assert_eq!(serde_json::to_value(step).unwrap(), step.to_string());
        }
    }

    #[test]
    fn all_steps_are_listed_once() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(Step::to_string).collect();
        assert_eq!(names.len(), ALL.len());
        // Adding a step without listing it does not compile into a shorter list than the last one's number.
        assert_eq!(Step::Stopped as usize + 1, ALL.len());
    }
}
