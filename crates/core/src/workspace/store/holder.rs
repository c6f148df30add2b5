//! Holder of a workspace's lock: its keeper writes itself into the lock's file, so that it can be ended when it hangs.
//!
//! A process is known by its id and when it began, in one boot and one PID namespace. It is held by a descriptor before it
//! is compared with what is written, so that whoever gets a free id next is never taken for it.
//!
//! A front end that works on a stopped workspace holds the lock too, for a moment, and writes nothing: what is there then
//! is of a keeper that is gone, and nobody is ended.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::hostfs::clock::boot_id;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::store::layout::Home;

/// How long a killed process may take to be gone, seconds: one that waits for a disk ends after that.
const PATIENCE: i64 = 30;
/// Longest line about a process, bytes; it has about 80.
const LONGEST: u64 = 256;

/// The keeper that holds a workspace's lock.
pub(crate) struct Holder {
    pid: Pid,
    process: OwnedFd,
}

/// A process as it is written down; nothing where this host does not tell.
fn describe(pid: Pid) -> Option<String> {
    let pid = pid.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The process's name, which it chooses, ends with the last bracket; then come the fields from the third on.
    let began = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?;
    let space = fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(format!("{pid} {began} {} {}\n", boot_id()?, space.display()))
}

/// Takes a lock of `home` and writes this process into it. Blocks.
pub(crate) fn lock_and_sign<T>(
    take: impl FnOnce() -> Result<(Home, T), WorkspaceError>,
) -> Result<(Home, T), WorkspaceError> {
    // Known before it is held: who stopped between the two could be ended by nobody. Who cannot be told apart cannot be
    // ended by others either.
    let line = describe(rustix::process::getpid());
    let (home, held) = take()?;
    if let Some(line) = line {
        sign(&home, &line)?;
    }
    Ok((home, held))
}

fn sign(home: &Home, line: &str) -> Result<(), WorkspaceError> {
    let path = home.lock_path();
    let write = || {
        let file = File::options().write(true).open(&path)?;
        file.write_all_at(line.as_bytes(), 0)?;
        file.set_len(line.len() as u64)
    };
    write().map_err(|e| WorkspaceError::file(&path, "written", e))
}

impl Holder {
    /// The process that is written in the lock of `home`, if it still runs. Blocks for a moment.
    pub(crate) fn of(home: &Home) -> Option<Self> {
        let mut line = String::new();
        File::open(home.lock_path()).ok()?.take(LONGEST).read_to_string(&mut line).ok()?;
        let pid: u32 = line.split(' ').next()?.parse().ok()?;
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        (describe(pid)? == line).then_some(Self { pid, process })
    }

    /// Process id of the holder.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it, and waits until it is gone: its VM goes with it.
    pub(crate) async fn kill(self) -> Result<(), WorkspaceError> {
        let kill = move || -> io::Result<()> {
            pidfd_send_signal(&self.process, Signal::KILL)?;
            // A process that ended can be read.
            let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
            let patience = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
            loop {
                match poll(&mut ended, Some(&patience)) {
                    Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(_) => return Ok(()),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        blocking(move || kill().map_err(WorkspaceError::Kill)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().to_owned());
        fs::write(
            home.lock_path(),
            "longer than what is written, and of somebody else, who is gone by now\n",
        )
        .unwrap();
        (dir, home)
    }

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        (child, pid)
    }

    #[test]
    fn who_signed_is_found_and_nobody_else() {
        let (_dir, home) = home();
        assert!(Holder::of(&home).is_none());
        lock_and_sign(|| Ok((home.clone(), ()))).unwrap();
        assert_eq!(Holder::of(&home).unwrap().pid(), std::process::id());
        let line = fs::read_to_string(home.lock_path()).unwrap();
        // The same id, begun at another time, in another boot or another namespace.
        for field in 1..4 {
            let mut other: Vec<String> = line.trim().split(' ').map(str::to_owned).collect();
            other[field].push('1');
            fs::write(home.lock_path(), other.join(" ") + "\n").unwrap();
            assert!(Holder::of(&home).is_none(), "{other:?}");
        }
        for odd in ["", "0 1\n", "-1 1\n", "x", "4194304 1 2 3\n"] {
            fs::write(home.lock_path(), odd).unwrap();
            assert!(Holder::of(&home).is_none(), "{odd}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended() {
        let (_dir, home) = home();
        let (mut child, pid) = sleeper();
        fs::write(home.lock_path(), describe(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        Holder::of(&home).unwrap().kill().await.unwrap();
        // The killed process waits for us to reap it; once reaped, it holds nothing.
        assert!(!child.wait().unwrap().success());
        assert!(Holder::of(&home).is_none());
    }
}
