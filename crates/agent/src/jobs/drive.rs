//! Futures around a job: its driver and its followers.
//!
//! ```text
//!   driver     reads the job's output, feeds it, waits for its end   (a future of the guest)
//!   follower   passes on the output from a cursor on                (a future of a session)
//! ```
//!
//! A follower that is slow holds the driver up: followed output is not lost. Where nobody follows, the oldest bytes go.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, select};
use futures::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use pyro_proto::frame::{self, FrameReader, HEADER, MAX_CHUNK, MAX_MESSAGE};
use pyro_proto::message::{CommandExit, Failure, FailureKind, Reply};
use pyro_proto::mux::Stream;

use super::job::Job;
use crate::exec::stdio::OutputSource;
use crate::failure::refusal;
use crate::reaper::ChildExit;
use crate::wire::last_word;

/// Bytes that are read or passed on at once.
const PIECE: usize = MAX_CHUNK / 2;

/// Progress of a job's end.
#[derive(Default)]
struct JobEnd {
    timed_out: Cell<bool>,
    /// Whether processes that the job started still run.
    left_running: Cell<bool>,
    /// Whether the time to read their further output is over.
    drained: Cell<bool>,
}

/// Drives `job` from its start to its end.
pub async fn drive(
    job: &Job,
    mut sources: Vec<OutputSource>,
    ended: oneshot::Receiver<ChildExit>,
    timeout: Option<Duration>,
    drain: Duration,
) {
    let end = JobEnd::default();
    let mut buffer = vec![0; PIECE];
    let mut settled = false;
    {
        let mut watch = pin!(watch(job, &end, ended, timeout, drain).fuse());
        poll_fn(|cx| {
            job.driver_waits(cx);
            job.stdin.poll_feed(cx);
            let _ = watch.as_mut().poll(cx).is_ready();
            if job.ended.get().is_some() && !settled {
                settled = true;
                sources.iter_mut().for_each(OutputSource::command_ended);
            }
            if has_room(job) && read(job, &mut sources, &mut buffer, cx) {
                // Other tasks first, then the rest of the output.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read = sources.iter().all(OutputSource::is_closed)
                || (end.drained.get() && !sources.iter().any(OutputSource::owes));
            // A follower that lags behind holds this up only while something is left to read.
            if settled && read { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    // Processes that still have the terminal open get a hang-up, as when a person closes the window.
    job.stdin.close();
    job.terminal.borrow_mut().take();
    if let Some(ended) = job.ended.get() {
        job.exit.set(Some(CommandExit {
            status: ended.status,
            timed_out: end.timed_out.get(),
            duration_us: ended.at.duration_since(job.since).as_micros() as u64,
            left_running: end.left_running.get(),
        }));
    }
    job.wake_waiting();
}

/// Whether the next piece can be read without a follower losing output.
fn has_room(job: &Job) -> bool {
    let record = job.record.borrow();
    job.followers.borrow().iter().all(|at| record.has_room(at.get(), PIECE))
}

/// Reads a piece of output, if there is one; says whether there was.
fn read(job: &Job, sources: &mut [OutputSource], buffer: &mut [u8], cx: &mut Context<'_>) -> bool {
    for at in 0..sources.len() {
        if let Poll::Ready(n) = sources[at].poll_read(cx, buffer)
            && n > 0
        {
            job.record.borrow_mut().push(sources[at].channel(), &buffer[..n]);
            // The other one is next, so that neither can drown it.
            sources.rotate_left(1);
            job.wake_waiting();
            return true;
        }
    }
    false
}

/// Waits for the end of the job's main process, kills it when its time is up, and then lets `drain` pass.
async fn watch(
    job: &Job,
    end: &JobEnd,
    mut ended: oneshot::Receiver<ChildExit>,
    timeout: Option<Duration>,
    drain: Duration,
) {
    let over = match timeout {
        None => ended.await.ok(),
        Some(timeout) => match select(&mut ended, pin!(tokio::time::sleep(timeout))).await {
            Either::Left((over, _)) => over.ok(),
            Either::Right(_) => {
                end.timed_out.set(true);
                job.with_tree(|tree| tree.kill());
                ended.await.ok()
            }
        },
    };
    if let Some(tree) = &mut *job.tree.borrow_mut() {
        end.left_running.set(tree.settle());
    }
    job.ended.set(over);
    job.wake_waiting();
    tokio::time::sleep(drain).await;
    end.drained.set(true);
}

/// Place among the followers of a job; given up with the call.
struct JobFollower<'a> {
    job: &'a Job,
    at: Rc<Cell<u64>>,
}

impl<'a> JobFollower<'a> {
    fn new(job: &'a Job, cursor: u64) -> Self {
        let record = job.record.borrow();
        let at = Rc::new(Cell::new(cursor.clamp(record.kept_from(), record.written())));
        job.followers.borrow_mut().push(Rc::clone(&at));
        Self { job, at }
    }
}

impl Drop for JobFollower<'_> {
    fn drop(&mut self) {
        self.job.followers.borrow_mut().retain(|at| !Rc::ptr_eq(at, &self.at));
        self.job.wake_driver();
    }
}

/// Sends the output of `job` on `write`, from byte `cursor` on, until its end, or until the host is gone.
pub async fn attach(
    job: Result<Rc<Job>, Failure>,
    cursor: u64,
    mut frames: FrameReader<ReadHalf<Stream>>,
    mut write: WriteHalf<Stream>,
) {
    let job = match job {
        Ok(job) => job,
        Err(failure) => return last_word(&mut write, &Reply::Failed(failure)).await,
    };
    let host_input = async {
        match frames.next(MAX_MESSAGE).await {
            Ok(Some(_)) => {
                let why = "nothing is said to whom one follows";
                Some(Reply::Failed(refusal(FailureKind::BadRequest, "attach", why)))
            }
            _ => None,
        }
    };
    let last = match select(pin!(host_input), pin!(follow(&job, cursor, &mut write))).await {
        Either::Left((last, _)) => last,
        Either::Right((exit, _)) => exit.map(Reply::Ended),
    };
    if let Some(last) = last {
        last_word(&mut write, &last).await;
    }
}

/// Passes on the output of `job` until it is over; `None` when the host is gone.
async fn follow(job: &Job, cursor: u64, write: &mut WriteHalf<Stream>) -> Option<CommandExit> {
    let follower = JobFollower::new(job, cursor);
    frame::send(write, &Reply::Attached { from: follower.at.get() }).await.ok()?;
    let mut buffer = vec![0; HEADER + PIECE];
    loop {
        let from = follower.at.get();
        let piece = job
            .until(|| {
                let piece = job.record.borrow().copy(from, &mut buffer[HEADER..]);
                match (piece, job.exit.get()) {
                    (Some((channel, n)), _) => Some(Ok((channel, n))),
                    (None, Some(exit)) => Some(Err(exit)),
                    (None, None) => None,
                }
            })
            .await;
        let (channel, n) = match piece {
            Ok(piece) => piece,
            Err(exit) => return Some(exit),
        };
        buffer[..HEADER].copy_from_slice(&frame::header(channel, n));
        write.write_all(&buffer[..HEADER + n]).await.ok()?;
        write.flush().await.ok()?;
        follower.at.set(from + n as u64);
        job.wake_driver();
    }
}
