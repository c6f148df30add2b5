//! Control task that owns a Firecracker process, or the warden of a jailed one.
//!
//! ```text
//!   Handle (dropped: kill) ---> control task ---> console tail, shared
//!                                ^  ^  ^  ^  \--> Death, once, to every Watch, after the directory is gone
//!               console (stdout) +  |  |  +- pidfd readable: reap, read the last words, publish
//!                            stderr +  +- log
//! ```
//!
//! Only this task reads the pipes and reaps. Requests have a connection of their own, which ends with the process.
//! When the task's runtime is shut down, dropping the process kills it and removes the directory.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{oneshot, watch};

use crate::console::{CONSOLE_LIMIT, OutputTail};
use crate::death::{Death, DeathReason, ProcessExit, is_panic};
use crate::spawn::{ProcessPidfd, VmmProcess};

/// Kept bytes of Firecracker's log, and of its stderr.
const OUTPUT_LIMIT: usize = 8 * 1024;

/// Exit codes with which Firecracker answers signals that would end it, one for each signal.
const CRASH_CODES: std::ops::RangeInclusive<i32> = 148..=157;
const HANGUP_CODE: i32 = 156;

/// Pipes from the process beside its standard streams.
#[derive(Debug)]
pub(super) struct ProcessPipes {
    pub(super) log: OwnedFd,
    /// Wait status of the VMM from its warden; `None` when the VMM is our own child.
    pub(super) status: Option<OwnedFd>,
}

/// Handle's ends of the channels to the task.
#[derive(Debug)]
pub(super) struct ControlChannels {
    /// Closed before the process is killed, by which the task tells a stop from a foreign kill.
    pub(super) stop_sender: Option<oneshot::Sender<()>>,
    pub(super) death: watch::Receiver<Option<Death>>,
    pub(super) console: Arc<Mutex<OutputTail>>,
}

/// Starts the control task, which owns process and directory from then on.
pub(super) fn start(mut process: VmmProcess, pipes: ProcessPipes) -> io::Result<ControlChannels> {
    let ended = process.pidfd().ended()?;
    let pipe = |end: Option<OwnedFd>| end.map(Receiver::from_owned_fd).transpose();
    let console = pipe(process.take_stdout())?;
    let stderr = pipe(process.take_stderr())?;
    let log = pipe(Some(pipes.log))?;
    let (stop_sender, stop_receiver) = oneshot::channel();
    let (death, death_seen) = watch::channel(None);
    let tail = Arc::new(Mutex::new(OutputTail::new(CONSOLE_LIMIT)));
    let control = ControlTask {
        console: OutputPipe { pipe: console, tail: tail.clone() },
        stderr: OutputPipe::own(stderr),
        log: OutputPipe::own(log),
    };
    tokio::spawn(async move {
        let end = control.run(&mut process, &ended, stop_receiver, pipes.status).await;
        // The machine's directory is removed with the process.
        drop(process);
        death.send_replace(Some(end));
    });
    Ok(ControlChannels { stop_sender: Some(stop_sender), death: death_seen, console: tail })
}

/// Pipe that the process writes into, and the tail of its output.
struct OutputPipe {
    pipe: Option<Receiver>,
    tail: Arc<Mutex<OutputTail>>,
}

impl OutputPipe {
    fn own(pipe: Option<Receiver>) -> OutputPipe {
        OutputPipe { pipe, tail: Arc::new(Mutex::new(OutputTail::new(OUTPUT_LIMIT))) }
    }

    /// Reads once; pending forever after the pipe is closed.
    async fn read(&mut self) {
        let mut buffer = [0; 4096];
        let read = match &mut self.pipe {
            Some(pipe) => pipe.read(&mut buffer).await,
            None => std::future::pending().await,
        };
        match read {
            Ok(count @ 1..) => self.push(&buffer[..count]),
            _ => self.pipe = None,
        }
    }

    /// Reads everything that is in the pipe, without waiting.
    fn drain(&self) {
        let mut buffer = [0; 4096];
        while let Some(Ok(count @ 1..)) = self.pipe.as_ref().map(|pipe| pipe.try_read(&mut buffer)) {
            self.push(&buffer[..count]);
        }
    }

    fn push(&self, bytes: &[u8]) {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    fn text(&self) -> String {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

struct ControlTask {
    console: OutputPipe,
    stderr: OutputPipe,
    log: OutputPipe,
}

impl ControlTask {
    async fn run(
        mut self,
        process: &mut VmmProcess,
        ended: &AsyncFd<ProcessPidfd>,
        mut stop_receiver: oneshot::Receiver<()>,
        warden_status: Option<OwnedFd>,
    ) -> Death {
        let pidfd = process.pidfd();
        let mut stopped = false;
        let status = loop {
            tokio::select! {
                status = process.reaped(ended) => break status,
                _closed = &mut stop_receiver, if !stopped => {
                    stopped = true;
                    pidfd.kill();
                }
                () = self.console.read() => {}
                () = self.stderr.read() => {}
                () = self.log.read() => {}
            }
        };
        // The process has ended: the rest of its output is in the pipes.
        for outlet in [&self.console, &self.stderr, &self.log] {
            outlet.drain();
        }
        stopped |= stop_receiver.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        let exit =
            read_warden_status(warden_status).or(status).map_or(ProcessExit::Unknown, ProcessExit::from);
        let (console, words) = (self.console.text(), join_output(&self.stderr.text(), &self.log.text()));
        Death {
            exit,
            reason: reason(exit, stopped, &console, &words),
            console_tail: console,
            stderr_tail: words,
        }
    }
}

/// Reads the wait status from the warden; `None` when it was killed before it could write.
fn read_warden_status(pipe: Option<OwnedFd>) -> Option<ExitStatus> {
    let mut bytes = [0; size_of::<i32>()];
    let count = rustix::io::read(pipe?, &mut bytes).ok()?;
    (count == bytes.len()).then(|| ExitStatus::from_raw(i32::from_ne_bytes(bytes)))
}

/// Joins stderr and log, whose last line tells most, without the line that says only that there was an error.
fn join_output(stderr: &str, log: &str) -> String {
    let log: Vec<&str> =
        log.lines().filter(|line| !line.contains("Firecracker exiting with error")).collect();
    let mut all = stderr.to_owned();
    if !all.is_empty() && !all.ends_with('\n') {
        all.push('\n');
    }
    all.push_str(&log.join("\n"));
    all
}

fn reason(exit: ProcessExit, stopped: bool, console: &str, words: &str) -> DeathReason {
    if words.contains("KVM_EXIT_INTERNAL_ERROR") || words.contains("KVM_EXIT_FAIL_ENTRY") {
        return DeathReason::InternalError;
    }
    match exit {
        // Firecracker exits with 0 only when the guest resets, which is also how a guest powers off.
        ProcessExit::Code(0) if console.lines().any(is_panic) => DeathReason::GuestPanic,
        ProcessExit::Code(0) => DeathReason::GuestReset,
        _ if stopped => DeathReason::Stopped,
        ProcessExit::Code(HANGUP_CODE) | ProcessExit::Unknown => DeathReason::Killed,
        ProcessExit::Code(code) if CRASH_CODES.contains(&code) && !is_argument_error(code) => {
            DeathReason::Crash
        }
        ProcessExit::Code(_) => DeathReason::VmmExit,
        ProcessExit::Signal(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => {
            DeathReason::Killed
        }
        ProcessExit::Signal(_) => DeathReason::Crash,
    }
}

/// Whether `code` is one of two within [`CRASH_CODES`] for a bad configuration or bad arguments.
fn is_argument_error(code: i32) -> bool {
    matches!(code, 152 | 153)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let panic = "[ 1.0] Kernel panic - not syncing: oh no\n";
        for (exit, stopped, console, words, expected) in [
            (ProcessExit::Code(0), false, "", "", DeathReason::GuestReset),
            (ProcessExit::Code(0), true, "", "", DeathReason::GuestReset),
            (ProcessExit::Code(0), false, panic, "", DeathReason::GuestPanic),
            (ProcessExit::Code(1), false, panic, "", DeathReason::VmmExit),
            (
                ProcessExit::Code(1),
                false,
                "",
                "x Received KVM_EXIT_INTERNAL_ERROR signal",
                DeathReason::InternalError,
            ),
            (ProcessExit::Code(148), false, "", "", DeathReason::Crash),
            (ProcessExit::Code(150), false, "", "", DeathReason::Crash),
            (ProcessExit::Code(152), false, "", "", DeathReason::VmmExit),
            (ProcessExit::Code(153), false, "", "", DeathReason::VmmExit),
            (ProcessExit::Code(156), false, "", "", DeathReason::Killed),
            (ProcessExit::Signal(9), true, "", "", DeathReason::Stopped),
            (ProcessExit::Signal(9), false, "", "", DeathReason::Killed),
            (ProcessExit::Signal(15), false, "", "", DeathReason::Killed),
            (ProcessExit::Signal(11), false, "", "", DeathReason::Crash),
            (ProcessExit::Unknown, false, "", "", DeathReason::Killed),
        ] {
            assert_eq!(reason(exit, stopped, console, words), expected, "{exit} {stopped} {console} {words}");
        }
    }

    #[test]
    fn the_last_words_are_the_telling_ones() {
        let log = "a [x:main] RunWithApiError error: no such drive\nb Firecracker exiting with error. exit_code=1\n";
        assert_eq!(join_output("Error: X", log), "Error: X\na [x:main] RunWithApiError error: no such drive");
        assert_eq!(join_output("", ""), "");
    }
}
