//! The kernel command line, and the end of a guest.

use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::system::RebootCommand;

/// The words of the kernel command line that are meant for the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `pyro.bare`: leave the disk alone until the host orders the root to be assembled.
    pub bare: bool,
    /// `pyro.vsock`: the host connects by vsock, to a machine that ends only by a restart.
    pub vsock: bool,
}

impl CommandLine {
    /// Reads the words from `/proc/cmdline`.
    pub fn read() -> Self {
        Self::parse(&std::fs::read("/proc/cmdline").unwrap_or_default())
    }

    fn parse(line: &[u8]) -> Self {
        let has = |wanted: &[u8]| line.split(u8::is_ascii_whitespace).any(|word| word == wanted);
        Self { bare: has(b"pyro.bare"), vsock: has(b"pyro.vsock") }
    }
}

/// Ends all processes, writes everything out, and ends the guest, which was started with these words.
pub fn off(words: &CommandLine) -> ! {
    // Commands are dead already; programs that left their cgroups may be left.
    let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
    // SAFETY: sends a signal to all processes but this one, which is PID 1.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::empty()) {}
    rustix::fs::sync();
    // Clean filesystems need no recovery; if something still holds them, they were synced just now.
    for path in ["/", "/workspace"] {
        let _ = mount_remount(path, MountFlags::RDONLY, c"");
    }
    rustix::fs::sync();
    // Where nothing can cut the power the kernel halts for ever instead of saying so; a restart ends such a machine.
    if !words.vsock && std::path::Path::new("/sys/firmware/acpi").exists() {
        let _ = rustix::system::reboot(RebootCommand::PowerOff);
    }
    loop {
        let _ = rustix::system::reboot(RebootCommand::Restart);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(CommandLine::parse(b"quiet pyro.bare\n").bare);
        assert!(!CommandLine::parse(b"pyro.barex xpyro.bare\n").bare);
        assert!(CommandLine::parse(b"pyro.vsock quiet").vsock);
        assert_eq!(CommandLine::parse(b""), CommandLine::default());
    }
}
