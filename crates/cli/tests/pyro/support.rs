//! `pyro` as a person would type it, in a world of its own: a fresh HOME and cache, the runtime and the environments
//! that `make test` prepared, and a look at what is left afterwards.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyro_core::backend::Preference;
use serde_json::Value;

pub use crate::backends::prepared;

/// Only guards against a hang; nothing is measured by it. The longest run of `pyro` in any test, on a busy host, and again.
pub const LONG: Duration = Duration::from_secs(300);

/// A world of its own for some runs of `pyro`.
pub struct World {
    pub home: tempfile::TempDir,
    pub variables: Vec<(String, PathBuf)>,
    /// Words before `pyro`, which is started by them.
    pub enter: Vec<String>,
}

/// Tells another thread to end, also when an assertion fails.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a finished `pyro` said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Said {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The last line of pyro's own talk.
    pub fn last_line(&self) -> &str {
        self.err.lines().last().unwrap_or_default()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl World {
    /// With the prepared runtime and environments, and QEMU: on a host whose `/dev/kvm` only pretends, a first look at
    /// every backend takes seconds.
    pub fn new() -> Self {
        Self::on(Preference::Qemu)
    }

    /// With the prepared runtime and environments, and this backend.
    pub fn on(backend: Preference) -> Self {
        let mut world = Self::of_any_backend();
        world.set("PYRO_BACKEND", backend.name());
        world
    }

    /// With the prepared runtime and environments, and whatever runs guests best.
    pub fn of_any_backend() -> Self {
        let mut world = Self::bare();
        for variable in ["PYRO_RUNTIME_BUNDLE_DIR", "PYRO_ENVIRONMENT_CACHE_DIR"] {
            world.set(variable, prepared(variable));
        }
        world
    }

    /// With nothing prepared.
    pub fn bare() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: Vec::new(), enter: Vec::new() }
    }

    pub fn set(&mut self, variable: &str, value: impl AsRef<Path>) {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.as_ref().to_owned()));
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.program(Path::new(env!("CARGO_BIN_EXE_pyro")), args)
    }

    /// Another program in this world.
    pub fn program(&self, program: &Path, args: &[&str]) -> Command {
        let words = self.enter.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut words = words.chain(args.iter().map(OsStr::new));
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear();
        for keep in ["PATH", "TERM", "http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(keep) {
                command.env(keep, value);
            }
        }
        command.env("HOME", self.home.path()).env("TMPDIR", self.home.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `pyro` with these arguments to its end.
    pub fn pyro(&self, args: &[&str]) -> Said {
        finish(self.command(args).spawn().unwrap())
    }

    /// Runs it with this input.
    pub fn pyro_with_input(&self, args: &[&str], input: &[u8]) -> Said {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // A command that does not read it all is no failure here.
            let _ = stdin.write_all(&input);
        });
        let said = finish(child);
        feeder.join().unwrap();
        said
    }

    /// Starts `pyro` in a process group of its own and leaves it running.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).process_group(0).spawn().unwrap()
    }

    /// Every file below HOME, relative.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut dirs = vec![self.home.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                }
                found.insert(entry.path().strip_prefix(self.home.path()).unwrap().to_owned());
            }
        }
        found
    }
}

/// Waits for it, with a guard against a hang.
pub fn finish(child: Child) -> Said {
    let pid = child.id();
    let (done, over) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if over.recv_timeout(LONG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    });
    let said = Said::from(child.wait_with_output().unwrap());
    drop(done);
    guard.join().unwrap();
    assert_ne!(said.signal, Some(9), "it hung and was killed: {said:?}");
    said
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

/// Whether a process runs (one that waits to be reaped does not).
pub fn running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X'])))
}

/// Waits for something that is about to be true.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < LONG, "never came true: {what}");
        // A poll interval: what is waited for here are processes and files, which tell nobody of the test.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a run, waits until its command prints `ready`, and gives pyro and its VMM: in a jail, the last of those that
/// started each other.
pub fn started(world: &World, args: &[&str]) -> (Child, u32, std::io::BufReader<std::process::ChildStdout>) {
    use std::io::BufRead;
    let mut child = world.start(args);
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    if line.trim() != "ready" {
        let said = finish(child);
        panic!("the command did not start: {line:?} {said:?}");
    }
    let mut vmms = children(child.id());
    let mut vmm = 0;
    while !vmms.is_empty() {
        assert_eq!(vmms.len(), 1, "one VMM");
        vmm = vmms[0];
        vmms = children(vmm);
    }
    assert_ne!(vmm, 0, "a VMM");
    (child, vmm, out)
}

/// What a test may leave behind: nothing. Taken before, compared after.
pub struct Traces {
    mounts: usize,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    pub fn of(world: &World) -> Self {
        Self { mounts: mounts(), files: world.files() }
    }

    /// Nothing is mounted that was not, no file is there that was not, no socket lives in HOME.
    pub fn check(&self, world: &World) {
        assert_eq!(self.mounts, mounts(), "mounts");
        assert_eq!(self.files, world.files(), "files");
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        let home = world.home.path().to_str().unwrap();
        assert!(!sockets.contains(home), "sockets");
    }
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mounts").unwrap().lines().count()
}
