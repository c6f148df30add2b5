//! End of a VMM: exit status, cause, last output, and a watch to wait for it.
//!
//! The task that owns the process publishes one [`Death`], after it has reaped the process and read its last output.
//! Everything else only watches; nothing here touches a process.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tokio::sync::watch;

/// Exit of the VMM process, as the kernel reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessExit {
    /// Status with which the process exited.
    Code(i32),
    /// Number of the signal that ended the process.
    Signal(i32),
    /// The exit status is lost: other code in this process reaped the VMM.
    Unknown,
}

impl From<ExitStatus> for ProcessExit {
    fn from(status: ExitStatus) -> ProcessExit {
        match (status.code(), status.signal()) {
            (Some(code), _) => ProcessExit::Code(code),
            (None, Some(signal)) => ProcessExit::Signal(signal),
            (None, None) => ProcessExit::Unknown,
        }
    }
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessExit::Code(code) => write!(f, "exit status {code}"),
            ProcessExit::Signal(signal) => write!(f, "signal {signal}"),
            ProcessExit::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// Cause of a machine's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeathReason {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest reset itself without a panic on its console: `reboot`, or a triple fault.
    GuestReset,
    /// The guest kernel panicked; the console tail has the message.
    GuestPanic,
    /// The accelerator failed (`KVM internal error`): this host cannot run this kernel with it.
    InternalError,
    /// The VMM was ended by its own caller, by [`crate::Machine::stop`] or by dropping the machine.
    Stopped,
    /// Another process or the kernel's OOM killer ended the VMM: SIGKILL, SIGTERM, SIGINT, SIGHUP or a QMP `quit`.
    Killed,
    /// The VMM crashed: a signal that nobody sends on purpose, as SIGSEGV, ended it.
    Crash,
    /// The VMM exited by itself, not by the guest's doing; its stderr has the message.
    VmmExit,
}

impl fmt::Display for DeathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeathReason::GuestShutdown => "the guest powered off",
            DeathReason::GuestReset => "the guest reset itself",
            DeathReason::GuestPanic => "the guest kernel panicked",
            DeathReason::InternalError => "the accelerator cannot run this guest",
            DeathReason::Stopped => "the VMM was stopped",
            DeathReason::Killed => "the VMM was killed",
            DeathReason::Crash => "the VMM crashed",
            DeathReason::VmmExit => "the VMM gave up",
        })
    }
}

/// Report of a machine's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Exit status or signal of the VMM process.
    pub exit: ProcessExit,
    /// Cause of the end.
    pub reason: DeathReason,
    /// Last 16 KiB of the guest's console, as lossy UTF-8 without control characters but newline and tab.
    pub console_tail: String,
    /// Last 8 KiB of the VMM's own stderr, and 8 KiB of its log if it has one, in the same form.
    pub stderr_tail: String,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.exit)?;
        match self.last_words() {
            Some(line) => write!(f, ": {line}"),
            None => Ok(()),
        }
    }
}

impl Death {
    /// The line that tells most about this end: a panic's first line, or the VMM's last error. `None` for an end that
    /// no line explains.
    pub fn last_words(&self) -> Option<&str> {
        let mut console = self.console_tail.lines().map(str::trim);
        let mut stderr = self.stderr_tail.lines().map(str::trim);
        match self.reason {
            DeathReason::GuestPanic => console.find(|line| is_panic(line)),
            DeathReason::InternalError => {
                stderr.find(|line| line.to_ascii_lowercase().replace('_', " ").contains("internal error"))
            }
            DeathReason::Crash | DeathReason::VmmExit => stderr.rfind(|line| !line.is_empty()),
            DeathReason::GuestShutdown
            | DeathReason::GuestReset
            | DeathReason::Stopped
            | DeathReason::Killed => None,
        }
    }
}

/// Whether `line` is the one with which a Linux kernel announces its panic.
pub(crate) fn is_panic(line: &str) -> bool {
    line.contains("Kernel panic - not syncing")
}

/// Watch for a machine's end. Cheap to clone; outlives the machine.
#[derive(Debug, Clone)]
pub struct Watch {
    receiver: watch::Receiver<Option<Death>>,
}

impl Watch {
    pub(crate) fn new(receiver: watch::Receiver<Option<Death>>) -> Watch {
        Watch { receiver }
    }

    /// Waits for the machine's end. Safe to cancel and to await again; every call gives the same answer. The future
    /// borrows nothing.
    pub fn ended(&self) -> impl Future<Output = Death> + Send + 'static {
        let mut receiver = self.receiver.clone();
        async move {
            let death = match receiver.wait_for(Option::is_some).await {
                Ok(death) => death.clone(),
                // The owning task ended without a report, which happens only when its runtime is shut down; it killed
                // the process.
                Err(_) => None,
            };
            death.unwrap_or_else(|| Death {
                exit: ProcessExit::Signal(libc::SIGKILL),
                reason: DeathReason::Stopped,
                console_tail: String::new(),
                stderr_tail: String::new(),
            })
        }
    }

    /// Gives the machine's end if it has come, without waiting.
    pub fn try_ended(&self) -> Option<Death> {
        self.receiver.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(reason: DeathReason, console: &str, stderr: &str) -> Death {
        Death { exit: ProcessExit::Code(1), reason, console_tail: console.into(), stderr_tail: stderr.into() }
    }

    #[test]
    fn the_telling_line_is_shown() {
        let panic = "[    0.3] VFS: Cannot open root\n[    0.4] Kernel panic - not syncing: VFS: oh no\n[ 0.5] CPU: 0\n";
        assert_eq!(
            death(DeathReason::GuestPanic, panic, "").to_string(),
            "the guest kernel panicked (exit status 1): [    0.4] Kernel panic - not syncing: VFS: oh no"
        );
        assert_eq!(
            death(DeathReason::VmmExit, "", "qemu: warning\nqemu: it broke\n\n").to_string(),
            "the VMM gave up (exit status 1): qemu: it broke"
        );
        assert_eq!(
            death(DeathReason::GuestShutdown, panic, "x").to_string(),
            "the guest powered off (exit status 1)"
        );
    }

    #[tokio::test]
    async fn a_watch_answers_every_time() {
        let (sender, receiver) = watch::channel(None);
        let watch = Watch::new(receiver);
        assert_eq!(watch.try_ended(), None);
        let waiting = watch.ended();
        let end = death(DeathReason::Killed, "", "");
        sender.send_replace(Some(end.clone()));
        drop(sender);
        assert_eq!(
            (waiting.await, watch.clone().ended().await, watch.try_ended()),
            (end.clone(), end.clone(), Some(end))
        );
    }
}
