//! Running programs of this host: killable as a whole, and never outliving this process.
//!
//! ```text
//!   setpriv --pdeathsig KILL        dies with the thread of ours that started it, also after our kill -9
//!     sh -c '[ "$PPID" = … ]'       ends if we were gone before that took effect
//!       unshare --pid --kill-child  a PID namespace: when its first process dies, all of it does
//!         mmdebstrap, mke2fs, …     and its mounts are in a mount namespace of their own
//! ```
//!
//! The chain is of util-linux programs that every Debian has, because the parent-death signal needs `pre_exec`,
//! which is unsafe. A user who is not root gets the same chain in a user namespace with subordinate ids.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::CancelToken;

/// Where programs are looked for; also the `PATH` of what is run, so that a build does not depend on whose it is.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most bytes of one line of output that are looked at.
const MAX_LINE: u64 = 16 * 1024;
/// Most lines of output that are kept for an error.
const TAIL_LINES: usize = 60;
/// Most bytes of one line that are kept for an error.
const TAIL_LINE: usize = 400;

/// The Debian package that has a program.
const PACKAGES: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("apt-get", "apt"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

/// A program that this host lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tool} is not installed")]
pub(crate) struct MissingTool {
    /// Name of the program.
    pub tool: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// The absolute path of a program.
pub(crate) fn find(tool: &'static str) -> Result<PathBuf, MissingTool> {
    let found = SEARCH.split(':').map(|dir| Path::new(dir).join(tool)).find(|path| path.is_file());
    let package = PACKAGES.iter().find(|(name, _)| *name == tool).map_or(tool, |(_, package)| package);
    found.ok_or(MissingTool { tool, package })
}

/// Surroundings of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jail {
    /// Nothing but the death signal: for programs that start no others.
    None,
    /// PID and mount namespaces, as root.
    Root,
    /// The same in a user namespace in which this user is root.
    User,
}

impl Jail {
    /// A command that runs `program` in it.
    pub(crate) fn command(self, program: &Path) -> Result<Command, MissingTool> {
        let mut command = Command::new(find("setpriv")?);
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "/bin/sh",
            "-c",
            r#"[ "$PPID" = "$0" ] || exit 1; exec "$@""#,
        ]);
        command.arg(std::process::id().to_string());
        if self != Self::None {
            command.arg(find("unshare")?);
            if self == Self::User {
                command.args(["--user", "--map-root-user", "--map-auto"]);
            }
            command.args(["--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc", "--"]);
        }
        command.arg(program);
        command.env("PATH", SEARCH).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }
}

/// How a program ended.
pub(crate) struct ProcessOutcome {
    pub(crate) status: ExitStatus,
    /// The last lines of its output, both streams, bounded.
    pub(crate) tail: String,
}

/// Runs a command to its end, giving each line of its output to `on_line`. Cancellation kills it.
pub(crate) fn run(
    command: &mut Command,
    cancel: &CancelToken,
    on_line: &mut dyn FnMut(&str),
) -> io::Result<ProcessOutcome> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    // A group of its own, to be killed whole: a jail that is killed while it forks leaves the one it just made.
    let mut child = command.process_group(0).spawn()?;
    // The command holds ends of the pipe for as long as it lives; ours would keep it from ending.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let kill = Pid::from_raw(child.id().cast_signed())
        .ok_or_else(|| io::Error::other("a child without a process id"))
        .and_then(|pid| Ok((pid, rustix::process::pidfd_open(pid, PidfdFlags::empty())?)));
    let (group, pidfd) = match kill {
        Ok(both) => both,
        Err(error) => {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    };
    let guard = cancel.on_cancel(move || {
        // The process may have ended and be reaped; then nothing is left to kill, and its number may be another's.
        if rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    });
    let mut tail = VecDeque::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect();
        on_line(&text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.chars().take(TAIL_LINE).collect::<String>());
    }
    let status = child.wait()?;
    drop(guard);
    Ok(ProcessOutcome { status, tail: Vec::from(tail).join("\n") })
}

/// Removes a directory and all in it, also what belongs to other ids of a user namespace. Crosses no mount.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(first) => {
            // Not ours, or a process that is just dying still wrote into it.
            let jail = if rustix::process::geteuid().is_root() { Jail::None } else { Jail::User };
            let Ok(mut command) = jail.command(Path::new("/bin/rm")) else { return Err(first) };
            command.args([
                OsStr::new("-rf"),
                OsStr::new("--one-file-system"),
                OsStr::new("--"),
                dir.as_os_str(),
            ]);
            let _ = run(&mut command, &CancelToken::new(), &mut |_| ());
            if dir.symlink_metadata().is_ok() { Err(first) } else { Ok(()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn shell(jail: Jail, script: &str) -> Command {
        let mut command = jail.command(Path::new("/bin/sh")).unwrap();
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_bounded_and_the_status_is_the_programs() {
        let mut lines = 0_u32;
        let script = "yes x | head -n 5000; head -c 100000 /dev/zero | tr '\\0' y; echo; echo end; exit 7";
        let outcome = run(&mut shell(Jail::Root, script), &CancelToken::new(), &mut |_| lines += 1).unwrap();
        assert_eq!(outcome.status.code(), Some(7));
        assert!(lines > 5000);
        assert!(outcome.tail.len() < TAIL_LINES * (TAIL_LINE + 1));
        assert!(outcome.tail.ends_with("end"));
    }

    #[test]
    fn cancellation_kills_every_descendant() {
        let cancel = CancelToken::new();
        let mark = tempfile::tempdir().unwrap();
        let beat = mark.path().join("beat");
        let script = format!("(while :; do date +%N > {}; sleep 0.01; done) & sleep 1000", beat.display());
        let killer = cancel.clone();
        let (path, started) = (beat.clone(), Instant::now());
        std::thread::spawn(move || {
            while !path.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            killer.cancel();
        });
        run(&mut shell(Jail::Root, &script), &cancel, &mut |_| ()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20));
        let last = std::fs::read(&beat).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(std::fs::read(&beat).unwrap(), last, "the grandchild still runs");
    }
}
