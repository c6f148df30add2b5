//! A single job: its state, and the operations on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pyro_proto::message::{
    CommandExit, ExecRequest, Failure, FailureKind, JOB_INPUT, JobId, JobInfo, TerminalSize,
};
use rustix::process::{Pid, Signal, kill_process_group};

use super::record::OutputRecord;
use crate::exec::drive::{KILL_GRACE, LONGEST, RunningCommand};
use crate::exec::stdio::{self, AgentStreams, Stdin, WatchedFd};
use crate::exec::tree::ProcessTree;
use crate::failure::{failure, refusal};
use crate::reaper::ChildExit;

/// Interval at which a stopped job is checked for remaining processes: the kernel reports only the main one's end.
const LOOK: Duration = Duration::from_millis(10);

/// Job of the guest, shared by its driver and its followers.
pub struct Job {
    id: JobId,
    pid: Pid,
    pub(super) since: Instant,
    /// Processes of the job; `None` once it was forgotten.
    pub(super) tree: RefCell<Option<ProcessTree>>,
    pub(super) stdin: Stdin,
    pub(super) terminal: RefCell<Option<WatchedFd>>,
    is_terminal: bool,
    pub(super) record: RefCell<OutputRecord>,
    /// End of the main process, once it has ended.
    pub(super) ended: Cell<Option<ChildExit>>,
    /// End of the job, once its output is read too.
    pub(super) exit: Cell<Option<CommandExit>>,
    /// Cursors of the followers.
    pub(super) followers: RefCell<Vec<Rc<Cell<u64>>>>,
    /// Wakers of futures that wait for output, or for the job's end.
    waiting: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
}

impl Job {
    /// Makes a job of `running`, and the future that drives it.
    pub fn new(
        id: JobId,
        request: &ExecRequest,
        running: RunningCommand,
    ) -> (Rc<Self>, impl Future<Output = ()> + use<>) {
        let RunningCommand { tree, pid, since, ended, streams } = running;
        let AgentStreams { stdin, sources, terminal } = streams;
        let job = Rc::new(Self {
            id,
            pid,
            since,
            tree: RefCell::new(Some(tree)),
            stdin,
            is_terminal: terminal.is_some(),
            terminal: RefCell::new(terminal),
            record: RefCell::default(),
            ended: Cell::new(None),
            exit: Cell::new(None),
            followers: RefCell::default(),
            waiting: RefCell::default(),
            driver: RefCell::default(),
        });
        let limit = |ms: u64| Duration::from_millis(ms).min(LONGEST);
        let (timeout, drain) = (request.timeout_ms.map(limit), limit(request.drain_ms));
        let driven = Rc::clone(&job);
        (job, async move { super::drive::drive(&driven, sources, ended, timeout, drain).await })
    }

    /// Process id of the main process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Describes the job to the host.
    pub fn info(&self) -> JobInfo {
        let record = self.record.borrow();
        JobInfo {
            id: self.id,
            pid: self.pid(),
            terminal: self.is_terminal,
            exit: self.exit.get(),
            kept_from: record.kept_from(),
            written: record.written(),
        }
    }

    /// Feeds the terminal; returns the number of bytes that there was room for.
    pub fn input(&self, bytes: &[u8]) -> Result<u32, Failure> {
        let refused = |why: String| Err(refusal(FailureKind::BadRequest, "input", why));
        if bytes.len() > JOB_INPUT {
            return refused(format!("more than {JOB_INPUT} bytes at once"));
        }
        if !self.is_terminal {
            return refused(format!("job {} has no terminal", self.id));
        }
        if self.exit.get().is_some() {
            return refused(format!("job {} has ended", self.id));
        }
        let taken = self.stdin.offer(bytes);
        self.wake_driver();
        Ok(taken as u32)
    }

    /// Sets the size of the terminal.
    pub fn resize(&self, size: TerminalSize) -> Result<(), Failure> {
        match &*self.terminal.borrow() {
            Some(terminal) => {
                stdio::resize(std::os::fd::AsFd::as_fd(terminal.get_ref()), size).map_err(|e| {
                    let errno = rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO);
                    failure(FailureKind::Internal, "resize", errno, "the terminal")
                })
            }
            None => {
                let why = format!("job {} has no terminal, or has ended", self.id);
                Err(refusal(FailureKind::BadRequest, "resize", why))
            }
        }
    }

    /// Sends a signal to the foreground of the terminal, else to the first process's group; to nobody where nobody is
    /// left.
    pub fn signal(&self, signal: Signal) {
        let group = self
            .terminal
            .borrow()
            .as_ref()
            .and_then(|terminal| rustix::termios::tcgetpgrp(terminal.get_ref()).ok());
        // Reaped, its number may be somebody else's.
        match (group, self.ended.get()) {
            (Some(group), _) => drop(kill_process_group(group, signal)),
            (None, None) => drop(kill_process_group(self.pid, signal)),
            (None, Some(_)) => {}
        }
    }

    /// Waits until the job is over.
    pub async fn over(&self) -> CommandExit {
        self.until(|| self.exit.get()).await
    }

    /// Asks all processes of the job to end, and kills those left after `grace`; an error if even that does not help.
    pub async fn stop(&self, grace: Duration) -> Result<(), Failure> {
        self.with_tree(|tree| {
            // A shell that a person uses ignores TERM; it ends with its terminal.
            if self.is_terminal {
                tree.signal(Signal::HUP);
            }
            tree.signal(Signal::TERM);
            tree.signal(Signal::CONT);
        });
        if self.vanishes(grace.min(LONGEST)).await {
            return Ok(());
        }
        self.with_tree(ProcessTree::kill);
        if self.vanishes(KILL_GRACE).await {
            return Ok(());
        }
        Err(refusal(FailureKind::Internal, "kill", "the job was killed and does not end"))
    }

    /// Waits until no process of the job is left; `false` if some are after `limit`.
    async fn vanishes(&self, limit: Duration) -> bool {
        let gone = async {
            self.until(|| self.ended.get()).await;
            while !self.is_vacant() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, gone).await.is_ok()
    }

    /// Lets the processes that the job left behind live on.
    pub fn release(&self) {
        if let Some(tree) = self.tree.borrow_mut().take() {
            tree.release(false);
        }
    }

    pub(super) fn with_tree(&self, act: impl FnOnce(&ProcessTree)) {
        if let Some(tree) = &*self.tree.borrow() {
            act(tree);
        }
    }

    fn is_vacant(&self) -> bool {
        self.tree.borrow().as_ref().is_none_or(ProcessTree::is_empty)
    }

    pub(super) fn wake_driver(&self) {
        if let Some(waker) = self.driver.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn wake_waiting(&self) {
        for waker in std::mem::take(&mut *self.waiting.borrow_mut()) {
            waker.wake();
        }
    }

    /// Wakes the driver when something changes for it: input, or room for output.
    pub(super) fn driver_waits(&self, cx: &Context<'_>) {
        *self.driver.borrow_mut() = Some(cx.waker().clone());
    }

    pub(super) fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    /// Waits until `there` returns a value.
    pub(super) async fn until<T>(&self, mut there: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| match there() {
            Some(found) => Poll::Ready(found),
            None => {
                self.wait(cx);
                Poll::Pending
            }
        })
        .await
    }
}
