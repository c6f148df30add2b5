//! Progress of a task as a person sees it: on a terminal one line that changes, elsewhere a line now and then.
//!
//! Everything goes to stderr; stdout belongs to results.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Without a terminal, a line at most this often: a log is read later, and CI must see that something goes on.
const QUIET_STEP: Duration = Duration::from_secs(20);
/// On a terminal, at most this often.
const LIVE_STEP: Duration = Duration::from_millis(100);

/// Prints one line. That nobody reads it is no failure.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A count that grows towards an expected total.
pub struct Counter {
    what: &'static str,
    total: usize,
    begin: Instant,
    shown: Option<Instant>,
    live: bool,
}

impl Counter {
    /// `what` is counted, `total` of it are expected.
    pub fn new(what: &'static str, total: usize) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { what, total, begin: Instant::now(), shown: None, live }
    }

    /// Shows that `done` are done, unless something was shown just before.
    pub fn show(&mut self, done: usize) {
        let step = if self.live { LIVE_STEP } else { QUIET_STEP };
        if self.shown.is_some_and(|shown| shown.elapsed() < step) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = self.line(done, self.begin.elapsed());
        let _ = if self.live {
            write!(std::io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }

    fn line(&self, done: usize, elapsed: Duration) -> String {
        // The total is what an earlier build needed; never say that more is done than there is.
        let total = self.total.max(done);
        let percent = (done * 100).checked_div(total).unwrap_or(0);
        format!("{}: {done} of about {total} ({percent} %), {}", self.what, clock(elapsed))
    }

    /// Removes the changing line.
    pub fn finish(self) {
        if self.live {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// `4 min 05 s`, or `12 s`.
pub fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_never_pass_the_whole() {
        let counter = Counter { what: "objects", total: 10, begin: Instant::now(), shown: None, live: false };
        assert_eq!(counter.line(5, Duration::from_secs(65)), "objects: 5 of about 10 (50 %), 1 min 05 s");
        assert_eq!(counter.line(20, Duration::from_secs(2)), "objects: 20 of about 20 (100 %), 2 s");
    }
}
