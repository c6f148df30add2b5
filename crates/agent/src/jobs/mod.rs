//! Jobs: commands that belong to the guest and not to a stream. Shells that stay and services are jobs.
//!
//! ```text
//!   job      state of a job, and the operations on it
//!   record   the last megabyte of its output, by cursor
//!   drive    reading a job's output, waiting for its end, following it
//! ```
//!
//! The futures of jobs run in [`Jobs::run`], beside the sessions and not inside one. A follower of a job is a future of
//! a session; both meet in the [`job::Job`], which wakes the one concerned.
//!
//! Invariant: only an explicit stop ends a job; the end of a session does not.

mod drive;
mod job;
mod record;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::io::{ReadHalf, WriteHalf};
use futures::stream::{FuturesUnordered, StreamExt};
use pyro_proto::frame::FrameReader;
use pyro_proto::message::{
    ExecStdio, Failure, FailureKind, JobId, JobInfo, JobStart, MAX_JOBS, Reply, TerminalSize,
};
use pyro_proto::mux::Stream;
use rustix::process::Signal;

use crate::exec::{self, Commands};
use crate::failure::refusal;
use job::Job;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// All jobs of a guest.
#[derive(Default)]
pub struct Jobs {
    jobs: RefCell<BTreeMap<JobId, Rc<Job>>>,
    /// Drivers that [`Jobs::run`] has not taken up yet.
    fresh: RefCell<Vec<Task>>,
    waker: Cell<Option<Waker>>,
}

impl Jobs {
    /// Keeps the jobs going, for ever.
    pub async fn run(&self) {
        let mut running = FuturesUnordered::<Task>::new();
        poll_fn(|cx| {
            self.waker.set(Some(cx.waker().clone()));
            running.extend(self.fresh.borrow_mut().drain(..));
            while let Poll::Ready(Some(())) = running.poll_next_unpin(cx) {}
            Poll::Pending
        })
        .await
    }

    /// Starts a job; returns its process id.
    pub fn start(&self, commands: &Commands, request: JobStart) -> Result<u32, Failure> {
        let JobStart { id, exec } = request;
        if exec.stdio == ExecStdio::Piped {
            return Err(refusal(FailureKind::BadRequest, "job", "a job's input is a terminal or empty"));
        }
        let mut jobs = self.jobs.borrow_mut();
        if jobs.contains_key(&id) {
            return Err(refusal(FailureKind::Exists, "job", format!("there is a job {id} already")));
        }
        if jobs.len() >= MAX_JOBS {
            let why = format!("there are {MAX_JOBS} jobs, the most there may be");
            return Err(refusal(FailureKind::Exhausted, "job", why));
        }
        let running = exec::drive::start(commands, &exec)?;
        let (job, task) = Job::new(id, &exec, running);
        let pid = job.pid();
        jobs.insert(id, job);
        self.go_on(Box::pin(task));
        Ok(pid)
    }

    /// Runs `task` to its end, whatever becomes of the session.
    fn go_on(&self, task: Task) {
        self.fresh.borrow_mut().push(task);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Sends the job's output on `write`, from `cursor` on, until the end of the job or of the call.
    pub async fn attach(
        &self,
        id: JobId,
        cursor: u64,
        frames: FrameReader<ReadHalf<Stream>>,
        write: WriteHalf<Stream>,
    ) {
        let job = self.find(id);
        drive::attach(job, cursor, frames, write).await;
    }

    /// Feeds a job's terminal; returns the number of bytes taken.
    pub fn input(&self, id: JobId, bytes: &[u8]) -> Result<u32, Failure> {
        self.find(id)?.input(bytes)
    }

    /// Sets the size of a job's terminal.
    pub fn resize(&self, id: JobId, size: TerminalSize) -> Result<(), Failure> {
        self.find(id)?.resize(size)
    }

    /// Sends a signal to the job's foreground process group.
    pub fn signal(&self, id: JobId, number: i32) -> Result<(), Failure> {
        let job = self.find(id)?;
        let Some(signal) = Signal::from_named_raw(number) else {
            return Err(refusal(FailureKind::BadRequest, "signal", format!("{number} is no signal")));
        };
        job.signal(signal);
        Ok(())
    }

    /// Ends a job and all its processes; answers when they are gone.
    pub async fn stop(&self, id: JobId, grace_ms: u64) -> Reply {
        let job = match self.find(id) {
            Ok(job) => job,
            Err(failure) => return Reply::Failed(failure),
        };
        let (sender, stopped) = oneshot::channel();
        let stopping = Rc::clone(&job);
        self.go_on(Box::pin(async move {
            let _ = sender.send(stopping.stop(Duration::from_millis(grace_ms)).await);
        }));
        match stopped.await {
            Ok(Err(failure)) => Reply::Failed(failure),
            _ => Reply::Ended(job.over().await),
        }
    }

    /// Describes all jobs.
    pub fn list(&self) -> Vec<JobInfo> {
        self.jobs.borrow().values().map(|job| job.info()).collect()
    }

    /// Drops a job that has ended.
    pub fn forget(&self, id: JobId) -> Result<(), Failure> {
        if self.find(id)?.info().exit.is_none() {
            return Err(refusal(FailureKind::BadRequest, "job", format!("job {id} still runs")));
        }
        if let Some(job) = self.jobs.borrow_mut().remove(&id) {
            job.release();
        }
        Ok(())
    }

    fn find(&self, id: JobId) -> Result<Rc<Job>, Failure> {
        let found = self.jobs.borrow().get(&id).cloned();
        found.ok_or_else(|| refusal(FailureKind::NotFound, "job", format!("there is no job {id}")))
    }
}
