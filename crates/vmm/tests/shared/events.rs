//! Waits that the tests of both VMMs share: events in place of fixed times.

use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Polls `work` at most `most` times and drops it then: a cancellation at a step of its own, whatever time it takes.
pub async fn cut_after_polls<F: Future>(work: F, most: usize) -> Option<F::Output> {
    let mut work = Box::pin(work);
    let mut polls = 0;
    std::future::poll_fn(|context| {
        if polls == most {
            return Poll::Ready(None);
        }
        polls += 1;
        match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == most => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Starts `work`, lets the runtime's other tasks send what it asked for, runs `disturb`, and finishes `work`.
pub async fn disturbed<F: Future>(work: F, disturb: impl FnOnce()) -> F::Output {
    let mut work = Box::pin(work);
    tokio::select! {
        biased;
        _ = &mut work => panic!("the work ended before it could be disturbed"),
        () = tokio::task::yield_now() => {}
    }
    disturb();
    work.await
}

/// Opens the process `pid`, of whatever parent, to wait for its end.
pub fn open_process(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

/// Waits for the end of an opened process, reaped or not; whether that came within `limit`.
pub fn ended_within(process: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    let mut ends = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    poll(&mut ends, Some(&limit)).unwrap() == 1
}

/// Blocks until whoever started this process closes its standard input, or ends.
pub fn wait_for_parent() {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}
