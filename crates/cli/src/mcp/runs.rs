//! Output of commands whose VM is gone, kept for whoever was shown only a part of it. A little, and only while this server
//! lives: a workspace is for what is to stay.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most runs that are kept.
const MOST: usize = 16;
/// Most bytes of all of them together.
const TOGETHER: usize = 32 << 20;

/// A stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output of the command.
    Out,
    /// Standard error of the command.
    Err,
}

impl Stream {
    /// Both streams, standard output first.
    pub const ALL: [Self; 2] = [Self::Out, Self::Err];

    /// As addresses have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

#[derive(Debug)]
struct Run {
    vm_id: String,
    out: String,
    err: String,
}

/// The last runs that had much to say, the oldest first.
#[derive(Debug, Default)]
pub struct Runs(Mutex<VecDeque<Run>>);

impl Runs {
    fn all(&self) -> MutexGuard<'_, VecDeque<Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a command wrote; what was kept longest goes where that is too much.
    pub fn keep(&self, vm_id: &str, out: &str, err: &str) {
        let mut all = self.all();
        all.push_back(Run { vm_id: vm_id.into(), out: out.into(), err: err.into() });
        let bytes = |all: &VecDeque<Run>| all.iter().map(|run| run.out.len() + run.err.len()).sum::<usize>();
        while all.len() > MOST || bytes(&all) > TOGETHER {
            all.pop_front();
        }
    }

    /// The VMs of those that are kept, the oldest first.
    pub fn ids(&self) -> Vec<String> {
        self.all().iter().map(|run| run.vm_id.clone()).collect()
    }

    /// Output of a command, as far as it was captured.
    pub fn text(&self, vm_id: &str, stream: Stream) -> Option<String> {
        let all = self.all();
        let run = all.iter().find(|run| run.vm_id == vm_id)?;
        Some(match stream {
            Stream::Out => run.out.clone(),
            Stream::Err => run.err.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_within_bounds() {
        let runs = Runs::default();
        for number in 0..20 {
            runs.keep(&number.to_string(), "out", "err");
        }
        assert_eq!(runs.ids().len(), MOST);
        assert_eq!(runs.text("3", Stream::Out), None);
        assert_eq!(runs.text("4", Stream::Err).as_deref(), Some("err"));
        runs.keep("large", &"x".repeat(TOGETHER - 3), "err");
        assert_eq!(runs.ids(), ["large"]);
        runs.keep("too large", &"x".repeat(TOGETHER + 1), "");
        assert_eq!(runs.ids(), [""; 0]);
    }
}
