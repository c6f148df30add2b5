//! Driving a command: its input, its output, its end and its deadline.
//!
//! Each command has one task, in which four futures go on side by side: frames from the host, input into the command,
//! the command's end and its deadline, output to the host. The four share plain cells and need no wake-ups among each
//! other: whatever wakes the task, all four are polled, in this order. So a host that does not read cannot keep a
//! timeout, a signal or its own disappearance from taking effect.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, select};
use futures::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use pyro_proto::frame::{self, Channel, FrameError, FrameReader, HEADER, MAX_MESSAGE};
use pyro_proto::message::{CommandExit, ExecEvent, ExecInput, ExecRequest, Failure, FailureKind};
use pyro_proto::mux::Stream;
use rustix::process::{Pid, Signal};

use super::Commands;
use super::plan::SpawnPlan;
use super::spawn::{ChildStreams, SpawnError};
use super::stdio::{self, AgentStreams, OutputSource, Stdin};
use super::tree::ProcessTree;
use crate::failure::{failure, refusal, resource_kind};
use crate::reaper::ChildExit;
use crate::wire::last_word;

/// Longest time that a killed command may take to be gone, before the host is told of a failure.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(10);
/// Longest timeout or drain that is taken literally: a year.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Running command, and the agent's ends of its streams.
pub(crate) struct RunningCommand {
    pub tree: ProcessTree,
    pub pid: Pid,
    pub since: Instant,
    pub ended: oneshot::Receiver<ChildExit>,
    pub streams: AgentStreams,
}

/// State that the four futures of a command share.
#[derive(Default)]
struct RunState {
    ended: Cell<Option<ChildExit>>,
    timed_out: Cell<bool>,
    /// `drain_ms` are over.
    drained: Cell<bool>,
    /// The command was killed and is still there.
    stuck: Cell<bool>,
}

/// End of a command's call.
enum RunEnd {
    /// The command ended.
    Over(ChildExit),
    /// The host is gone, or has dropped the stream.
    Gone,
    /// The call cannot go on.
    Failed(Failure),
}

use RunEnd::{Failed, Gone, Over};

/// Runs `request` and reports its output and end to the host on `write`.
pub async fn run(
    commands: &Commands,
    mut frames: FrameReader<ReadHalf<Stream>>,
    mut write: WriteHalf<Stream>,
    request: ExecRequest,
) {
    if run_to_end(commands, &mut frames, &mut write, request).await {
        commands.prepare();
        // Input may still be on its way. Left unread it would hold the host up where it waits to send the rest: a
        // stream that was closed properly is not reset. The host closes its side when it has read the last word.
        while !matches!(
            frames.next(MAX_MESSAGE).await,
            Ok(None) | Err(FrameError::Io(_) | FrameError::Truncated)
        ) {}
    }
}

/// Runs `request` until the last event is sent; `false` when the host was gone before.
async fn run_to_end(
    commands: &Commands,
    frames: &mut FrameReader<ReadHalf<Stream>>,
    write: &mut WriteHalf<Stream>,
    request: ExecRequest,
) -> bool {
    let limit = |ms: u64| Duration::from_millis(ms).min(LONGEST);
    let (timeout, drain) = (request.timeout_ms.map(limit), limit(request.drain_ms));
    let started = start(commands, &request);
    // A request may be megabytes, and nothing in it is needed any more.
    drop(request);
    let running = match started {
        Ok(running) => running,
        Err(failure) => {
            send_last(write, &ExecEvent::Failed(failure)).await;
            return true;
        }
    };
    let AgentStreams { stdin, mut sources, terminal } = running.streams;
    // Declared after the streams and so dropped before them: a command that is given up is killed before it could
    // take its closed input for a complete one, and act on half of it.
    let RunningCommand { tree, pid, since, ended, .. } = running;
    let state = RunState::default();
    let mut buffer = commands.buffer();
    let end = {
        let resize = |size| {
            terminal
                .as_ref()
                .map(|terminal| stdio::resize(std::os::fd::AsFd::as_fd(terminal.get_ref()), size))
        };
        let signal = |signal| {
            if state.ended.get().is_none() {
                let _ = rustix::process::kill_process_group(pid, signal);
            }
        };
        let mut input = pin!(read_input(frames, &stdin, signal, |size| {
            let _ = resize(size);
        }));
        // Fused: the future is polled again after its end.
        let mut watch = pin!(wait_for_exit(&state, &tree, ended, timeout, drain).fuse());
        let mut output = pin!(send_output(&state, &stdin, &mut sources, &mut buffer, write, pid));
        poll_fn(|cx| {
            if let Poll::Ready(end) = input.as_mut().poll(cx) {
                return Poll::Ready(end);
            }
            stdin.poll_feed(cx);
            let _ = watch.as_mut().poll(cx).is_ready();
            output.as_mut().poll(cx)
        })
        .await
    };
    commands.give_back(buffer);
    let event = match end {
        Over(ended) => ExecEvent::Exited(CommandExit {
            status: ended.status,
            timed_out: state.timed_out.get(),
            duration_us: ended.at.duration_since(since).as_micros() as u64,
            left_running: tree.release(ended.alone),
        }),
        // Dropping the tree kills it.
        Gone => return false,
        Failed(failure) => {
            drop(tree);
            ExecEvent::Failed(failure)
        }
    };
    // Before the streams are closed, which nobody waits for.
    send_last(write, &event).await;
    true
}

/// Sends the last event, and yields, so that it goes out before the streams are closed.
async fn send_last(write: &mut WriteHalf<Stream>, event: &ExecEvent) {
    last_word(write, event).await;
    tokio::task::yield_now().await;
}

/// Starts the command.
pub(crate) fn start(commands: &Commands, request: &ExecRequest) -> Result<RunningCommand, Failure> {
    let plan = SpawnPlan::new(request)?;
    let terminal = matches!(request.stdio, pyro_proto::message::ExecStdio::Terminal(_));
    let mut spare = commands.pipes.borrow_mut();
    let ends = stdio::open(request.stdio, plan.account.as_ref(), &mut spare).map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        failure(resource_kind(errno), "stdio", errno, "the command's standard streams")
    })?;
    let child = ChildStreams { fds: ends.theirs.fds(&commands.null), terminal };
    let mut tree = commands.trees.begin()?;
    let since = Instant::now();
    let mut spawner = commands.spawner.borrow_mut();
    let mut spawned = spawner.spawn(&plan, child, tree.cgroup());
    // A kept cgroup may have been changed by the guest's own root: a fresh one gets a second try.
    if let (Err(SpawnError::Clone(_)), true) = (&spawned, tree.is_reused()) {
        tree = commands.trees.begin_fresh()?;
        spawned = spawner.spawn(&plan, child, tree.cgroup());
    }
    let pid = match spawned {
        Ok(pid) => pid,
        Err(error) => {
            tree.release(false);
            return Err(error.describe(&plan));
        }
    };
    tree.started(pid, &commands.reaper);
    let ended = commands.reaper.watch(pid);
    Ok(RunningCommand { tree, pid, since, ended, streams: ends.ours })
}

/// Follows the host's frames until one of them, or their end, ends the call.
async fn read_input(
    frames: &mut FrameReader<ReadHalf<Stream>>,
    stdin: &Stdin,
    signal: impl Fn(Signal),
    resize: impl Fn(pyro_proto::message::TerminalSize),
) -> RunEnd {
    let bad = |why: String| Failed(refusal(FailureKind::BadRequest, "input", why));
    loop {
        match frames.next(MAX_MESSAGE).await {
            Ok(Some((Channel::Stdin, bytes))) => {
                if stdin.push(bytes).is_err() {
                    return bad("more input than the window allows".to_owned());
                }
            }
            Ok(Some((Channel::Message, body))) => match frame::decode(body) {
                Ok(ExecInput::Eof) => stdin.end(),
                Ok(ExecInput::Resize(size)) => resize(size),
                Ok(ExecInput::Signal(number)) => match Signal::from_named_raw(number) {
                    Some(number) => signal(number),
                    None => return bad(format!("{number} is no signal")),
                },
                Err(error) => return bad(error.to_string()),
            },
            Ok(Some((channel, _))) => return bad(format!("{channel:?} from the host")),
            Ok(None) | Err(FrameError::Io(_) | FrameError::Truncated) => return Gone,
            Err(error) => return bad(error.to_string()),
        }
    }
}

/// Waits for the command's end, kills it when its time is up, and then lets `drain` pass.
async fn wait_for_exit(
    state: &RunState,
    tree: &ProcessTree,
    mut ended: oneshot::Receiver<ChildExit>,
    timeout: Option<Duration>,
    drain: Duration,
) {
    if let Some(timeout) = timeout {
        match select(&mut ended, pin!(tokio::time::sleep(timeout))).await {
            Either::Left((end, _)) => state.ended.set(end.ok()),
            Either::Right(_) => {
                state.timed_out.set(true);
                tree.kill();
                match select(&mut ended, pin!(tokio::time::sleep(KILL_GRACE))).await {
                    Either::Left((end, _)) => state.ended.set(end.ok()),
                    Either::Right(_) => return state.stuck.set(true),
                }
            }
        }
    } else {
        state.ended.set(ended.await.ok());
    }
    // Output is read first: mostly nothing more comes, and no timer is needed.
    tokio::task::yield_now().await;
    tokio::time::sleep(drain).await;
    state.drained.set(true);
}

/// Next message to the host.
enum OutputStep {
    Credit(u32),
    Chunk(Channel, usize),
    End(RunEnd),
}

/// Sends the command's output to the host, until the command has ended and all of it is read.
async fn send_output(
    state: &RunState,
    stdin: &Stdin,
    sources: &mut [OutputSource],
    buffer: &mut [u8],
    write: &mut WriteHalf<Stream>,
    pid: Pid,
) -> RunEnd {
    if frame::send(write, &ExecEvent::Started { pid: pid.as_raw_nonzero().get() as u32 }).await.is_err() {
        return Gone;
    }
    let mut settled = false;
    loop {
        let step = poll_fn(|cx| {
            if let Some(credit) = stdin.credit() {
                return Poll::Ready(OutputStep::Credit(credit));
            }
            let ended = state.ended.get();
            if ended.is_some() && !settled {
                settled = true;
                sources.iter_mut().for_each(OutputSource::command_ended);
            }
            for at in 0..sources.len() {
                if let Poll::Ready(n) = sources[at].poll_read(cx, &mut buffer[HEADER..])
                    && n > 0
                {
                    let channel = sources[at].channel();
                    // The other source is next, so that neither can drown the other.
                    sources.rotate_left(1);
                    return Poll::Ready(OutputStep::Chunk(channel, n));
                }
            }
            if state.stuck.get() {
                let why = "the command was killed and does not end";
                return Poll::Ready(OutputStep::End(Failed(refusal(FailureKind::Internal, "kill", why))));
            }
            match ended {
                Some(ended)
                    if sources.iter().all(OutputSource::is_closed)
                        || (state.drained.get() && !sources.iter().any(OutputSource::owes)) =>
                {
                    Poll::Ready(OutputStep::End(Over(ended)))
                }
                _ => Poll::Pending,
            }
        })
        .await;
        let sent = match step {
            OutputStep::Credit(bytes) => {
                frame::send(write, &ExecEvent::StdinConsumed { bytes }).await.is_ok()
            }
            OutputStep::Chunk(channel, n) => {
                buffer[..HEADER].copy_from_slice(&frame::header(channel, n));
                write.write_all(&buffer[..HEADER + n]).await.is_ok()
            }
            OutputStep::End(end) => return end,
        };
        if !sent {
            return Gone;
        }
    }
}
