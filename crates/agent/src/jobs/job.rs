//! One job: what is known of it, and what can be done to it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pyro_proto::message::{CommandExit, ExecRequest, Failure, FailureKind, JOB_INPUT, JobId, JobInfo, TerminalSize};
use rustix::process::{Pid, Signal, kill_process_group};

use super::record::OutputRecord;
use crate::exec::drive::{KILL_GRACE, LONGEST, RunningCommand};
use crate::exec::stdio::{self, AgentStreams, Stdin, WatchedFd};
use crate::exec::tree::ProcessTree;
use crate::failure::{failure, refusal};
use crate::reaper::ChildExit;

/// How often it is looked whether a stopped job's last process is gone: the kernel tells of its main process only.
const LOOK: Duration = Duration::from_millis(10);

/// A job.
pub struct Job {
    id: JobId,
    pid: Pid,
    pub(super) since: Instant,
    /// Its processes; `None` once it was forgotten.
    pub(super) tree: RefCell<Option<ProcessTree>>,
    pub(super) stdin: Stdin,
    pub(super) terminal: RefCell<Option<WatchedFd>>,
    is_terminal: bool,
    pub(super) record: RefCell<OutputRecord>,
    /// Its main process has ended.
    pub(super) ended: Cell<Option<ChildExit>>,
    /// And its output is read: it is over.
    pub(super) exit: Cell<Option<CommandExit>>,
    /// Where those are who follow it.
    pub(super) followers: RefCell<Vec<Rc<Cell<u64>>>>,
    /// Who waits for something to be written, or for its end.
    waiting: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
}

impl Job {
    /// The job that `running` is, and the future that drives it.
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

    /// The process id of its main process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// What is known of it.
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

    /// Feeds its terminal; says how many bytes it has room for.
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

    /// Sets its terminal's size.
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

    /// Sends a signal to the foreground of the terminal, else to the first process's group; to nobody where nobody is left.
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

    /// Waits until it is over.
    pub async fn over(&self) -> CommandExit {
        self.until(|| self.exit.get()).await
    }

    /// Asks everything in it to end, and kills what has not after `grace`; an error if even that does not help.
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

    /// Whether nothing is left of it, or will be within `limit`.
    async fn vanishes(&self, limit: Duration) -> bool {
        let gone = async {
            self.until(|| self.ended.get()).await;
            while !self.is_vacant() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, gone).await.is_ok()
    }

    /// What it left behind lives on.
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

    /// Waits until `there` gives something.
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
