//! Connections to keepers that were answered and can be asked again. Making one costs both sides as much as a short call.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tokio::net::UnixStream;

/// How long one is kept; a keeper waits longer.
const KEPT: Duration = Duration::from_secs(30);
/// Most that are kept at once, one of each workspace.
const MOST: usize = 16;

/// Kept connections of one front end, by the workspace's directory.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptAlive(Arc<Mutex<HashMap<PathBuf, (UnixStream, Instant)>>>);

impl KeptAlive {
    fn all(&self) -> MutexGuard<'_, HashMap<PathBuf, (UnixStream, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connection to the keeper of the workspace in `dir`, if it is kept and the keeper's end is open.
    pub(super) fn take(&self, dir: &Path) -> Option<UnixStream> {
        let (stream, since) = self.all().remove(dir)?;
        is_usable(&stream, since).then_some(stream)
    }

    /// Keeps one that was answered and has nothing left to read.
    pub(super) fn keep(&self, dir: &Path, stream: UnixStream) {
        let mut all = self.all();
        all.retain(|_, (stream, since)| is_usable(stream, *since));
        if all.len() < MOST || all.contains_key(dir) {
            all.insert(dir.to_owned(), (stream, Instant::now()));
        }
    }
}

/// A keeper says nothing unasked: what can be read is its end.
fn is_usable(stream: &UnixStream, since: Instant) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let silent = poll(&mut [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)], Some(&now));
    silent == Ok(0) && since.elapsed() < KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_the_keeper_ended_is_not_used_again() {
        let kept = KeptAlive::default();
        let (dir, (ours, theirs)) = (Path::new("/a"), UnixStream::pair().unwrap());
        kept.keep(dir, ours);
        assert!(kept.take(Path::new("/b")).is_none());
        let ours = kept.take(dir).unwrap();
        assert!(kept.take(dir).is_none());
        kept.keep(dir, ours);
        drop(theirs);
        assert!(kept.take(dir).is_none());
    }

    #[tokio::test]
    async fn there_is_a_most_of_them_and_those_that_ended_go() {
        let kept = KeptAlive::default();
        let mut ends = Vec::new();
        for number in 0..MOST + 4 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            kept.keep(Path::new(&number.to_string()), ours);
            ends.push(theirs);
        }
        assert_eq!(kept.all().len(), MOST);
        ends.clear();
        kept.keep(Path::new("next"), UnixStream::pair().unwrap().0);
        assert_eq!(kept.all().len(), 1);
    }
}
