//! Sessions: the streams that the host opens, one future each.
//!
//! The futures live inside [`serve`]'s own: when it is dropped, because the host is gone or another took its place,
//! they are dropped with it, and a dropped command kills its whole tree.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use futures::channel::oneshot;
use futures::io::AsyncReadExt;
use futures::stream::{FuturesUnordered, StreamExt};
use pyro_proto::frame::{self, Channel, FrameError, FrameReader, MAX_REQUEST};
use pyro_proto::link::Link;
use pyro_proto::message::{
    AgentInfo, ExecEvent, Failure, FailureKind, GuestIdentity, ProbeResult, Reply, Request, ServiceProbe,
};
use pyro_proto::mux::{self, ConnectionError, Stream};

use crate::console;
use crate::exec::{self, Commands};
use crate::failure::refusal;
use crate::files::{self, area::WorkspaceArea};
use crate::helper;
use crate::identity;
use crate::jobs::Jobs;
use crate::probe;
use crate::root::{GuestRoot, disk};
use crate::secrets;
use crate::wire::{Wire, last_word};

/// State of the agent, for as long as it runs.
pub struct Agent {
    /// State of running commands.
    pub commands: Commands,
    /// The commands that outlive a session.
    pub jobs: Jobs,
    /// State of the root file system.
    root: RefCell<GuestRoot>,
    /// Parts that only a guest has; `None` in a plain process.
    pub guest: Option<GuestParts>,
    freezing: Cell<bool>,
    /// Whether the guest is for one session, as the host said last.
    oneshot: Cell<bool>,
}

/// Parts of the agent that only PID 1 of a guest has.
pub struct GuestParts {
    /// Files of the guest's identity.
    pub identity: identity::IdentityFiles,
    /// Watch for errors of the disk.
    pub disk: Rc<disk::DiskWatch>,
}

impl Agent {
    /// Makes an agent without an identity.
    pub fn new(commands: Commands, root: GuestRoot, guest: Option<GuestParts>) -> Self {
        let (freezing, oneshot) = (Cell::new(false), Cell::new(false));
        recover(&root);
        Self { commands, jobs: Jobs::default(), root: RefCell::new(root), guest, freezing, oneshot }
    }

    /// Whether this is a guest that ends with its session.
    pub fn is_oneshot(&self) -> bool {
        self.oneshot.get()
    }

    /// Takes on the identity `given`, and describes the agent.
    fn identify(&self, given: &GuestIdentity) -> Result<AgentInfo, Failure> {
        identity::check(given)?;
        if let Some(guest) = &self.guest {
            guest.identity.assume(given)?;
            self.oneshot.set(given.oneshot);
        }
        let root = self.root.borrow();
        Ok(AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            root_ready: root.is_ready(),
            root_problem: root.problem().cloned(),
        })
    }

    /// Notices from here on when the disk fails, if it is mounted.
    pub fn watch_disk(&self) {
        if let Some(guest) = &self.guest
            && self.root.borrow().is_ready()
        {
            guest.disk.begin();
        }
    }

    /// Directory below which secrets are kept: in a guest's own memory and nowhere else.
    fn secrets(&self) -> Result<&'static str, Failure> {
        let why = "only a guest keeps secrets";
        self.guest.as_ref().map(|_| "/run").ok_or_else(|| refusal(FailureKind::Unsupported, "secret", why))
    }

    /// Prepares a call about files: the workspace, and a guard where the call freezes the disk.
    fn area(&self, request: &Request) -> Result<(WorkspaceArea, Option<ThawGuard<'_>>), Failure> {
        let root = self.root.borrow();
        let none = || refusal(FailureKind::Unsupported, "disk", "there is no disk");
        // With descriptors of its own: the root may be assembled while the call goes on.
        let area = WorkspaceArea::new(root.disk().ok_or_else(none)?)?;
        drop(root);
        Ok((area, self.freezes(request)?))
    }

    /// Admits one freeze at a time, and only of a guest's own disk. The guard thaws the disk when the call is over,
    /// also when its helper was killed.
    fn freezes(&self, request: &Request) -> Result<Option<ThawGuard<'_>>, Failure> {
        if !matches!(request, Request::Freeze { .. }) {
            return Ok(None);
        }
        if self.guest.is_none() {
            let why = "only a guest's own disk can be frozen";
            return Err(refusal(FailureKind::Unsupported, "freeze", why));
        }
        if self.freezing.replace(true) {
            let why = "the disk is being frozen by another call";
            return Err(refusal(FailureKind::Exists, "freeze", why));
        }
        Ok(Some(ThawGuard(self)))
    }

    /// Assembles a root that waits for it.
    fn assemble(&self) -> Result<(), Failure> {
        let assembled = match &*self.root.borrow() {
            GuestRoot::Waiting(waiting) => waiting.assemble(),
            GuestRoot::Failed(failure) => return Err(failure.clone()),
            _ => {
                return Err(refusal(
                    FailureKind::BadRequest,
                    "root",
                    "no root file system waits to be assembled",
                ));
            }
        };
        recover(&assembled);
        self.root.replace(assembled);
        self.watch_disk();
        self.root.borrow().problem().map_or(Ok(()), |failure| Err(failure.clone()))
    }
}

/// Undoes changes on the disk of `root` that a guest that died left half done.
fn recover(root: &GuestRoot) {
    if let Some(disk) = root.disk()
        && let Err(problem) = files::stage::recover(disk, None)
    {
        // Nobody else can do better; it is tried again at the next start.
        console::note(&format!("{}: {}", problem.stage, problem.message));
    }
}

/// Guard of a frozen disk, or of one that is about to be: thaws it when dropped.
struct ThawGuard<'a>(&'a Agent);

impl Drop for ThawGuard<'_> {
    fn drop(&mut self) {
        self.0.freezing.set(false);
        if let Some(disk) = self.0.root.borrow().disk() {
            files::thaw(disk);
        }
    }
}

/// Request of the host that ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionOrder {
    /// Listen for a new session.
    Detach,
    /// Power the guest off.
    Shutdown,
}

/// End of a session.
#[derive(Debug)]
pub enum SessionEnd {
    /// The host asked for it.
    Ordered(SessionOrder),
    /// The stream ended, or carried bytes that were not this session's.
    Lost(Option<ConnectionError>),
}

/// Serves the session on `link` until it ends.
pub async fn serve(agent: &Agent, link: Link<Wire>) -> SessionEnd {
    let opened: RefCell<Vec<Stream>> = RefCell::default();
    let ordered: Rc<Cell<Option<SessionOrder>>> = Rc::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let stop = RefCell::new(Some(stop));
    // An order is only followed when it was given: a dropped sender means nothing.
    let stopped = async move {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut mux = pin!(mux::guest(link, |stream| opened.borrow_mut().push(stream), stopped));
    let mut calls = FuturesUnordered::new();
    let end = poll_fn(|cx| {
        loop {
            while let Poll::Ready(Some(order)) = calls.poll_next_unpin(cx) {
                if let Some(order) = order
                    && let Some(stop) = stop.borrow_mut().take()
                {
                    ordered.set(Some(order));
                    let _ = stop.send(());
                }
            }
            // Last, so that bytes that the calls just wrote go out before anything waits.
            if let Poll::Ready(end) = mux.as_mut().poll(cx) {
                return Poll::Ready(end);
            }
            let streams = std::mem::take(&mut *opened.borrow_mut());
            if streams.is_empty() {
                return Poll::Pending;
            }
            calls.extend(streams.into_iter().map(|stream| call(agent, stream)));
        }
    })
    .await;
    match ordered.get() {
        Some(order) => SessionEnd::Ordered(order),
        None => SessionEnd::Lost(end.err()),
    }
}

/// Answers the request on one stream.
async fn call(agent: &Agent, stream: Stream) -> Option<SessionOrder> {
    let (read, mut write) = AsyncReadExt::split(stream);
    let mut frames = FrameReader::new(read);
    let request = match frames.next(MAX_REQUEST).await {
        Ok(Some((Channel::Message, body))) => frame::decode::<Request>(body),
        Ok(Some((channel, _))) => Err(FrameError::Channel(channel as u8)),
        Ok(None) => return None,
        Err(error) => Err(error),
    };
    let mut order = None;
    let reply = match request {
        Ok(Request::Exec(request)) => {
            let refused = agent.root.borrow().refuses();
            match refused {
                None => exec::run(&agent.commands, frames, write, request).await,
                Some(problem) => last_word(&mut write, &ExecEvent::Failed(problem)).await,
            }
            return None;
        }
        Ok(Request::Identify(identity)) => match agent.identify(&identity) {
            Ok(info) => Reply::Identified(info),
            Err(failure) => Reply::Failed(failure),
        },
        Ok(Request::Clock(by_ns)) => {
            // A plain process leaves the clock alone: it is not its own.
            match identity::move_clock(if agent.guest.is_some() { by_ns } else { 0 }) {
                Ok(unix_time_ns) => Reply::Clock(unix_time_ns),
                Err(failure) => Reply::Failed(failure),
            }
        }
        Ok(Request::Assemble) => done(agent.assemble()),
        Ok(Request::Ping) => Reply::Done,
        Ok(Request::Detach) => {
            order = Some(SessionOrder::Detach);
            Reply::Done
        }
        Ok(Request::Shutdown) => {
            order = Some(SessionOrder::Shutdown);
            Reply::Done
        }
        Ok(Request::JobStart(request)) => {
            let refused = agent.root.borrow().refuses();
            match refused.map_or_else(|| agent.jobs.start(&agent.commands, request), Err) {
                Ok(pid) => Reply::Started { pid },
                Err(failure) => Reply::Failed(failure),
            }
        }
        Ok(Request::JobAttach { id, cursor }) => {
            agent.jobs.attach(id, cursor, frames, write).await;
            return None;
        }
        Ok(Request::JobInput { id, bytes }) => match agent.jobs.input(id, &bytes.0) {
            Ok(bytes) => Reply::Taken { bytes },
            Err(failure) => Reply::Failed(failure),
        },
        Ok(Request::JobResize { id, size }) => done(agent.jobs.resize(id, size)),
        Ok(Request::JobSignal { id, signal }) => done(agent.jobs.signal(id, signal)),
        Ok(Request::JobStop { id, grace_ms }) => agent.jobs.stop(id, grace_ms).await,
        Ok(Request::JobList) => Reply::Jobs(agent.jobs.list()),
        Ok(Request::JobForget { id }) => done(agent.jobs.forget(id)),
        Ok(Request::Probe(ServiceProbe::Tcp { port })) => probed(probe::tcp(port).await),
        Ok(Request::Probe(ServiceProbe::Http { url })) => probed(probe::http(&url).await),
        Ok(Request::SecretPut { name, bytes }) => {
            done(agent.secrets().and_then(|run| secrets::put(run, &name, &bytes.0)))
        }
        Ok(request) => match agent.area(&request) {
            Ok((area, _thaw)) => {
                let keep = [area.disk.as_fd(), area.workspace.as_fd()];
                let work = |channel: &mut helper::HelperChannel| files::serve(&area, channel, request);
                let mend = |dead| files::stage::recover(area.disk.as_fd(), Some(dead));
                helper::run(agent.commands.reaper(), frames, write, &keep, work, mend).await;
                return None;
            }
            Err(failure) => Reply::Failed(failure),
        },
        Err(FrameError::Io(_) | FrameError::Truncated) => return None,
        Err(error) => Reply::Failed(refusal(FailureKind::BadRequest, "request", error.to_string())),
    };
    last_word(&mut write, &reply).await;
    order
}

fn probed(result: Result<ProbeResult, Failure>) -> Reply {
    result.map_or_else(Reply::Failed, Reply::Probed)
}

fn done(result: Result<(), Failure>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(failure) => Reply::Failed(failure),
    }
}
