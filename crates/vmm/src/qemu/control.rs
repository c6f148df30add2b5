//! Control task that owns a QEMU process.
//!
//! ```text
//!             commands                       +--> answers, to their callers
//!   Handle ------------> control task -------+--> migration status, to its watchers
//!   (dropped: kill)       ^  ^  ^  ^         +--> console tail, shared
//!                         |  |  |  |         +--> Death, once, to every Watch
//!                    QMP -+  |  |  +- pidfd readable: reap, read the last words, publish
//!                    console +  +- stderr
//! ```
//!
//! Only this task reads, writes and reaps. When its runtime is shut down, dropping the process kills it.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Map, Value};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::qmp::{self, QmpMessage};
use crate::console::{CONSOLE_LIMIT, OutputTail};
use crate::death::{Death, DeathReason, ProcessExit, is_panic};
use crate::spawn::{ProcessPidfd, VmmProcess};

/// Kept bytes of QEMU's stderr. A KVM internal error dumps some 2 KiB of registers.
const STDERR_LIMIT: usize = 8 * 1024;

/// A QMP command, and the channel for its answer.
#[derive(Debug)]
pub(super) struct QmpCommand {
    pub(super) command: &'static str,
    pub(super) arguments: Value,
    /// Descriptor sent along with the command (SCM_RIGHTS).
    pub(super) descriptor: Option<OwnedFd>,
    pub(super) answer: oneshot::Sender<Result<Value, String>>,
}

/// State of a migration, out or in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MigrationStatus {
    /// No end was reported yet.
    Going,
    Completed,
    Failed,
}

/// Handle's ends of the channels to the task.
#[derive(Debug)]
pub(super) struct ControlChannels {
    /// Commands to QEMU. Closed before the process is killed, by which the task tells a stop from a foreign kill.
    pub(super) command_sender: Option<mpsc::Sender<QmpCommand>>,
    pub(super) death: watch::Receiver<Option<Death>>,
    pub(super) migration: watch::Receiver<MigrationStatus>,
    pub(super) console: Arc<Mutex<OutputTail>>,
}

/// Starts the control task, which owns `process` from then on.
pub(super) fn start(
    mut process: VmmProcess,
    qmp: UnixStream,
    console: UnixStream,
    stderr: Option<tokio::net::unix::pipe::Receiver>,
) -> io::Result<ControlChannels> {
    let ended = process.pidfd().ended()?;
    let (command_sender, command_receiver) = mpsc::channel(4);
    let (death, death_seen) = watch::channel(None);
    let (migration, migration_seen) = watch::channel(MigrationStatus::Going);
    let tail = Arc::new(Mutex::new(OutputTail::new(CONSOLE_LIMIT)));
    let control = ControlTask {
        qmp,
        decoder: qmp::QmpDecoder::default(),
        waiting: HashMap::new(),
        next_id: 1,
        migration,
        tail: tail.clone(),
        stderr_tail: OutputTail::new(STDERR_LIMIT),
        end_events: EndEvents::default(),
        pausing: false,
    };
    tokio::spawn(async move {
        let end = control.run(&mut process, &ended, command_receiver, console, stderr).await;
        drop(process);
        death.send_replace(Some(end));
    });
    Ok(ControlChannels {
        command_sender: Some(command_sender),
        death: death_seen,
        migration: migration_seen,
        console: tail,
    })
}

/// Events that tell the cause of QEMU's end.
#[derive(Debug, Default)]
struct EndEvents {
    guest_shutdown: bool,
    guest_reset: bool,
    guest_panic: bool,
    host_asked: bool,
    internal_error: bool,
    stopped_by_us: bool,
}

struct ControlTask {
    qmp: UnixStream,
    decoder: qmp::QmpDecoder,
    waiting: HashMap<u64, PendingReply>,
    next_id: u64,
    migration: watch::Sender<MigrationStatus>,
    tail: Arc<Mutex<OutputTail>>,
    stderr_tail: OutputTail,
    end_events: EndEvents,
    /// Whether a `stop` or a migration of ours is under way or done, which explains a STOP event.
    pausing: bool,
}

enum PendingReply {
    Caller(oneshot::Sender<Result<Value, String>>),
    /// The task's own `query-status` after an unexpected STOP event.
    WhyStopped,
}

impl ControlTask {
    async fn run(
        mut self,
        process: &mut VmmProcess,
        ended: &AsyncFd<ProcessPidfd>,
        mut command_receiver: mpsc::Receiver<QmpCommand>,
        mut console: UnixStream,
        mut stderr: Option<tokio::net::unix::pipe::Receiver>,
    ) -> Death {
        let pidfd = process.pidfd();
        let (mut from_qmp, mut from_console, mut from_stderr) = (vec![0; 4096], vec![0; 4096], vec![0; 1024]);
        let (mut qmp_open, mut console_open, mut owned) = (true, true, true);
        let status = loop {
            tokio::select! {
                status = process.reaped(ended) => break status,
                request = command_receiver.recv(), if owned => match request {
                    Some(request) => self.send(request),
                    None => {
                        owned = false;
                        self.end_events.stopped_by_us = true;
                        pidfd.kill();
                    }
                },
                read = self.qmp.read(&mut from_qmp), if qmp_open => match read {
                    Ok(n @ 1..) => {
                        self.decoder.push(&from_qmp[..n]);
                        if self.messages().is_err() {
                            // A broken protocol leaves no way to control QEMU.
                            pidfd.kill();
                            qmp_open = false;
                        }
                        if self.end_events.internal_error {
                            pidfd.kill();
                        }
                    }
                    _ => qmp_open = false,
                },
                read = console.read(&mut from_console), if console_open => match read {
                    Ok(n @ 1..) => self.console(&from_console[..n]),
                    _ => console_open = false,
                },
                read = read_some(&mut stderr, &mut from_stderr), if stderr.is_some() => match read {
                    Ok(n @ 1..) => self.stderr_tail.push(&from_stderr[..n]),
                    _ => stderr = None,
                },
            }
        };
        // The process has ended: the rest of its output is in the sockets.
        while let Ok(n @ 1..) = self.qmp.try_read(&mut from_qmp) {
            self.decoder.push(&from_qmp[..n]);
        }
        let _nonsense = self.messages();
        while let Ok(n @ 1..) = console.try_read(&mut from_console) {
            self.console(&from_console[..n]);
        }
        while let Some(Ok(n @ 1..)) = stderr.as_ref().map(|pipe| pipe.try_read(&mut from_stderr)) {
            self.stderr_tail.push(&from_stderr[..n]);
        }
        self.end_events.stopped_by_us |= command_receiver.is_closed();
        self.death(status)
    }

    fn console(&self, bytes: &[u8]) {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    fn send(&mut self, request: QmpCommand) {
        match request.command {
            "stop" | "migrate" => self.pausing = true,
            "cont" => self.pausing = false,
            _ => {}
        }
        let waiting = PendingReply::Caller(request.answer);
        self.write(request.command, &request.arguments, request.descriptor, waiting);
    }

    fn write(
        &mut self,
        command: &str,
        arguments: &Value,
        descriptor: Option<OwnedFd>,
        waiting: PendingReply,
    ) {
        let id = self.next_id;
        self.next_id += 1;
        let line = qmp::encode(id, command, arguments);
        // Commands are a few hundred bytes and a handful at a time; only a QEMU that does not read lets them fill the
        // socket's buffer.
        let sent = send_all(&self.qmp, &line, descriptor.as_ref());
        match (sent, waiting) {
            (Ok(()), waiting) => {
                self.waiting.insert(id, waiting);
            }
            // On other errors QEMU has ended; dropping the answer makes the caller wait for its death.
            (Err(error), PendingReply::Caller(answer)) if error.kind() == io::ErrorKind::WouldBlock => {
                let _gone = answer.send(Err("it does not read its commands".to_owned()));
            }
            (Err(_), _) => {}
        }
    }

    fn messages(&mut self) -> Result<(), qmp::QmpError> {
        while let Some(message) = self.decoder.next()? {
            match message {
                QmpMessage::Return { id, value } => self.answer(id, Ok(value)),
                QmpMessage::Error { id: Some(id), detail } => self.answer(id, Err(detail)),
                QmpMessage::Event { name, data } => self.event(&name, &data),
                QmpMessage::Error { id: None, .. } | QmpMessage::Other => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, id: u64, result: Result<Value, String>) {
        match self.waiting.remove(&id) {
            Some(PendingReply::Caller(answer)) => {
                let _gone = answer.send(result);
            }
            Some(PendingReply::WhyStopped) => {
                let status = result.ok();
                let status = status.as_ref().and_then(|value| value.get("status")).and_then(Value::as_str);
                self.end_events.internal_error |= status == Some("internal-error");
            }
            None => {}
        }
    }

    fn event(&mut self, name: &str, data: &Map<String, Value>) {
        let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
        match name {
            "SHUTDOWN" => match text("reason") {
                "guest-shutdown" => self.end_events.guest_shutdown = true,
                "guest-reset" => self.end_events.guest_reset = true,
                "guest-panic" => self.end_events.guest_panic = true,
                _ => self.end_events.host_asked = true,
            },
            "GUEST_PANICKED" => self.end_events.guest_panic = true,
            "MIGRATION" => {
                self.migration.send_replace(match text("status") {
                    "completed" => MigrationStatus::Completed,
                    "failed" | "cancelled" => MigrationStatus::Failed,
                    _ => MigrationStatus::Going,
                });
            }
            // Only one question is open at a time: a QEMU that was taken over can send STOP endlessly and never
            // answer.
            "STOP" if !self.pausing && !self.is_asking_why() => {
                self.write("query-status", &Value::Null, None, PendingReply::WhyStopped);
            }
            _ => {}
        }
    }

    fn is_asking_why(&self) -> bool {
        self.waiting.values().any(|waiting| matches!(waiting, PendingReply::WhyStopped))
    }

    fn death(self, status: Option<ExitStatus>) -> Death {
        let console_tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner).text();
        let exit = status.map_or(ProcessExit::Unknown, ProcessExit::from);
        let end_events = &self.end_events;
        let reason = if end_events.internal_error {
            DeathReason::InternalError
        } else if end_events.guest_panic || (end_events.guest_reset && console_tail.lines().any(is_panic)) {
            DeathReason::GuestPanic
        } else if end_events.guest_reset {
            DeathReason::GuestReset
        } else if end_events.guest_shutdown {
            DeathReason::GuestShutdown
        } else if end_events.stopped_by_us {
            DeathReason::Stopped
        } else {
            match exit {
                ProcessExit::Signal(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP)
                | ProcessExit::Unknown => DeathReason::Killed,
                ProcessExit::Signal(_) => DeathReason::Crash,
                ProcessExit::Code(_) if end_events.host_asked => DeathReason::Killed,
                ProcessExit::Code(_) => DeathReason::VmmExit,
            }
        };
        Death { exit, reason, console_tail, stderr_tail: self.stderr_tail.text() }
    }
}

async fn read_some(from: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => Ok(0),
    }
}

/// Sends one line whole, with `descriptor` if given, without blocking.
fn send_all(socket: &UnixStream, line: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = sendmsg(
        socket.as_fd(),
        &[io::IoSlice::new(line)],
        &mut ancillary,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    // A stream socket with room takes a small message whole; half a command would garble all later ones.
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Wraps a child's stderr for the runtime.
pub(super) fn stderr(pipe: OwnedFd) -> io::Result<tokio::net::unix::pipe::Receiver> {
    tokio::net::unix::pipe::Receiver::from_owned_fd(pipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_vmm_says_unasked_is_not_piled_up() {
        let (qmp, _theirs) = UnixStream::pair().unwrap();
        let mut control = ControlTask {
            qmp,
            decoder: qmp::QmpDecoder::default(),
            waiting: HashMap::new(),
            next_id: 1,
            migration: watch::channel(MigrationStatus::Going).0,
            tail: Arc::new(Mutex::new(OutputTail::new(CONSOLE_LIMIT))),
            stderr_tail: OutputTail::new(STDERR_LIMIT),
            end_events: EndEvents::default(),
            pausing: false,
        };
        for _ in 0..100 {
            control.decoder.push(b"{\"event\": \"STOP\"}\n");
        }
        control.messages().unwrap();
        assert_eq!(control.waiting.len(), 1);
        control.decoder.push(b"{\"id\": 1, \"return\": {\"status\": \"paused\"}}\n{\"event\": \"STOP\"}\n");
        control.messages().unwrap();
        assert_eq!((control.waiting.len(), control.next_id), (1, 3), "answered, it is asked again");
    }
}
