//! Progress of a pull while it runs. Plain data; rendering is the front end's.

use std::fmt;

/// A step of a pull, or progress within one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullEvent {
    /// Name of the environment.
    pub environment: String,
    /// Where the pull is.
    pub phase: PullPhase,
    /// How far within the phase, where that is known. The first event of a phase has none.
    pub progress: Option<Progress>,
    /// A few words more, such as the package at hand.
    pub detail: Option<String>,
}

/// A stage of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PullPhase {
    /// Waiting for another pull of the same environment.
    Waiting,
    /// Reading package sources and lists.
    Resolve,
    /// Fetching and installing packages.
    Install,
    /// Making the disk image.
    Image,
    /// Hashing the image.
    Verify,
    /// Done; the environment is installed.
    Ready,
}

/// How far a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Done so far; at most `total`.
    pub done: u64,
    /// All there is to do, as far as is known by now.
    pub total: u64,
    /// Unit of a count.
    pub unit: Unit,
}

/// Unit that progress counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Steps: each package is fetched, unpacked and set up.
    Steps,
    /// Bytes of the image.
    Bytes,
}

impl fmt::Display for PullPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Resolve => "resolve",
            Self::Install => "install",
            Self::Image => "image",
            Self::Verify => "verify",
            Self::Ready => "ready",
        })
    }
}

/// Where a pull's events go, for one environment.
pub(super) struct Events<'a> {
    pub(super) environment: &'a str,
    pub(super) sink: &'a mut dyn FnMut(PullEvent),
}

impl Events<'_> {
    pub(super) fn phase(&mut self, phase: PullPhase) {
        self.send(phase, None, None);
    }

    pub(super) fn progress(
        &mut self,
        phase: PullPhase,
        done: u64,
        total: u64,
        unit: Unit,
        detail: Option<String>,
    ) {
        self.send(phase, Some(Progress { done: done.min(total), total, unit }), detail);
    }

    pub(super) fn detail(&mut self, phase: PullPhase, detail: impl Into<String>) {
        self.send(phase, None, Some(detail.into()));
    }

    fn send(&mut self, phase: PullPhase, progress: Option<Progress>, detail: Option<String>) {
        (self.sink)(PullEvent { environment: self.environment.into(), phase, progress, detail });
    }
}
