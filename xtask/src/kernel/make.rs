//! The kernel's own build, run in a tree that may hold an earlier, interrupted one.
//!
//! The lock's descriptor is inherited by make and what it starts: even when this process is killed, nobody else builds
//! in the tree until the last of them has ended.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::KernelError;
use crate::error::{TaskError, at};
use crate::places::plain_environment;
use crate::progress::Counter;

/// Most bytes of the log's end that are shown when the build fails.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 25;

/// An unpacked source being built.
pub(super) struct Tree {
    pub(super) dir: PathBuf,
    pub(super) log: PathBuf,
    pub(super) lock: File,
}

impl Tree {
    /// Makes `.config` from an empty one and the fragment.
    pub(super) fn configure(&self, fragment: &Path) -> Result<(), TaskError> {
        let mut make = self.make();
        make.arg("allnoconfig").env("KCONFIG_ALLCONFIG", fragment);
        self.run(make, &mut |_| {})
    }

    /// Builds `vmlinux`; how many objects it has.
    pub(super) fn compile(&self, expected: usize) -> Result<usize, TaskError> {
        // By name, because an interrupted build may compile again what it had.
        let mut objects = BTreeSet::new();
        collect_compiled(&self.dir, &self.dir, &mut objects);
        let mut counter = Counter::new("[kernel] objects", expected);
        let mut make = self.make();
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        make.arg(format!("-j{jobs}")).arg("vmlinux");
        let result = self.run(make, &mut |line| {
            if let Some(object) = line.strip_prefix("  CC ").or_else(|| line.strip_prefix("  AS ")) {
                objects.insert(PathBuf::from(object.trim()));
                counter.show(objects.len());
            }
        });
        counter.finish();
        result?;
        Ok(objects.len())
    }

    /// Writes `vmlinux` without its symbol tables, 1.6 MB that only a debugger would read: the kernel has its own for
    /// its messages. No boot was seen to become faster by it.
    pub(super) fn strip_to(&self, path: &Path) -> Result<(), TaskError> {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(path).arg(self.dir.join("vmlinux")).env_clear().envs(plain_environment());
        self.run(strip, &mut |_| {})
    }

    /// Release as the kernel names itself, `uname -r`.
    pub(super) fn release(&self) -> Result<String, TaskError> {
        let path = self.dir.join("include/config/kernel.release");
        Ok(fs::read_to_string(&path).map_err(at(&path, "read"))?.trim().to_owned())
    }

    /// Make, with nothing of this machine, user or hour in its result.
    fn make(&self) -> Command {
        // When this process is killed make ends too, and lets go of the lock.
        let mut make = Command::new("setpriv");
        make.args(["--pdeathsig", "TERM", "make", "-C"])
            .arg(&self.dir)
            .env_clear()
            .envs(plain_environment())
            .envs([
                ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
                ("KBUILD_BUILD_USER", "pyro"),
                ("KBUILD_BUILD_HOST", "pyro"),
                ("KBUILD_BUILD_VERSION", "1"),
            ]);
        make
    }

    /// Runs a command, its output into the log and line by line to `each`.
    fn run(&self, mut command: Command, each: &mut dyn FnMut(&str)) -> Result<(), TaskError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let spawn = |source| TaskError::Spawn { program: program.clone(), source };
        let mut log =
            File::options().create(true).append(true).open(&self.log).map_err(at(&self.log, "opened"))?;
        let (output, input) = std::io::pipe().map_err(spawn)?;
        let spawn = |source| TaskError::Spawn { program: program.clone(), source };
        let kept = rustix::io::dup(&self.lock).map_err(|errno| spawn(errno.into()))?;
        command.stdin(Stdio::null()).stdout(input.try_clone().map_err(spawn)?).stderr(input);
        let mut child = command.spawn().map_err(|source| TaskError::Spawn { program, source })?;
        // The ends of the pipe that the command holds must be the only ones, or it never ends.
        drop((command, kept));
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            if output.read_until(b'\n', &mut line).map_err(at(&self.log, "written"))? == 0 {
                break;
            }
            log.write_all(&line).map_err(at(&self.log, "written"))?;
            each(String::from_utf8_lossy(&line).trim_end());
        }
        let status = child.wait().map_err(at(&self.log, "written"))?;
        if status.success() {
            return Ok(());
        }
        let tail = tail(&self.log);
        Err(KernelError::Make { status: status.to_string(), log: self.log.clone(), tail }.into())
    }
}

/// Objects in the tree that are finished: kbuild writes the command beside an object (`.x.o.cmd`) after it.
fn collect_compiled(root: &Path, dir: &Path, objects: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // What runs on this machine is not announced by the same words.
            if dir != root || !matches!(&*name, "tools" | "scripts") {
                collect_compiled(root, &entry.path(), objects);
            }
        } else if let Some(object) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".cmd"))
            && object.ends_with(".o")
            && let Ok(dir) = dir.strip_prefix(root)
        {
            objects.insert(dir.join(object));
        }
    }
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_objects_are_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("net/ipv4")).unwrap();
        fs::create_dir_all(dir.path().join("tools/objtool")).unwrap();
        for file in ["net/ipv4/.tcp.o.cmd", "net/ipv4/udp.o", "net/.built-in.a.cmd", "tools/objtool/.x.o.cmd"]
        {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let mut objects = BTreeSet::new();
        collect_compiled(dir.path(), dir.path(), &mut objects);
        assert_eq!(objects, BTreeSet::from([PathBuf::from("net/ipv4/tcp.o")]));
    }
}
