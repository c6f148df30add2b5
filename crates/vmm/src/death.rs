//! How and why a VMM ended, and how to wait for it.
//!
//! The task that owns the process publishes one [`Death`], once, after it has reaped the process and read its last
//! words. Everything else only watches; nothing here touches a process.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tokio::sync::watch;

/// How the VMM process ended, as the kernel reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessExit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was gone, and nobody could say how: somebody else in this process reaped it.
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

/// Why a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeathReason {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest reset itself and its last words were no panic: `reboot`, or a triple fault.
    GuestReset,
    /// The guest kernel panicked; the console tail says over what.
    GuestPanic,
    /// The accelerator gave up on the guest (`KVM internal error`): this host cannot run this kernel this way.
    InternalError,
    /// This process ended it, by [`crate::Machine::stop`] or by dropping the machine.
    Stopped,
    /// Somebody else killed the VMM: SIGKILL (the kernel's OOM killer too), SIGTERM, SIGINT, SIGHUP or a QMP `quit`.
    Killed,
    /// A signal nobody sends on purpose ended the VMM: it crashed.
    Crash,
    /// The VMM exited by itself without the guest's doing; its stderr says why.
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

/// The end of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// How the process ended.
    pub exit: ProcessExit,
    /// Why.
    pub reason: DeathReason,
    /// The last of the guest's console: bounded, lossy UTF-8, no control characters but newline and tab.
    pub console_tail: String,
    /// The last of what the VMM itself said on stderr: likewise.
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
    /// The one line that says most about this end: a panic's first line, or the VMM's last complaint.
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

/// Whether a console line is the one with which a Linux kernel announces its panic.
pub(crate) fn is_panic(line: &str) -> bool {
    line.contains("Kernel panic - not syncing")
}

/// Waits for a machine's end. Cheap to clone; outlives the machine.
#[derive(Debug, Clone)]
pub struct Watch {
    receiver: watch::Receiver<Option<Death>>,
}

impl Watch {
    pub(crate) fn new(receiver: watch::Receiver<Option<Death>>) -> Watch {
        Watch { receiver }
    }

    /// The machine's end, when it has come. Safe to cancel and to await again; it answers the same every time. The
    /// future borrows nothing.
    pub fn ended(&self) -> impl Future<Output = Death> + Send + 'static {
        let mut receiver = self.receiver.clone();
        async move {
            let death = match receiver.wait_for(Option::is_some).await {
                Ok(death) => death.clone(),
                // The owning task went without a word, which is only possible when its runtime was shut down; it
                // kills the process on its way out.
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

    /// The machine's end, if it has come.
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
