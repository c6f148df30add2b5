//! Firecracker by hand: what loading a saved machine costs whoever has the binaries, a shell and an HTTP client.
//!
//! ```text
//!   unjailed   directory, links to the files, an empty disk -> spawn -> socket -> PUT /snapshot/load accepted
//!   jailed     the jailer's directory, hard links, the disk given away -> jailer -> the same
//! ```
//!
//! Nothing of pyro's: not its directories, not its client, not its waits. Everything here blocks, looks at `given_up`
//! while it waits, and ends the processes it started.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// No step takes nearly as long.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a socket that is not there yet is looked for: so often that waiting for it costs nothing of its own.
const RETRY: Duration = Duration::from_micros(100);
/// Users of jails; with the process id added, above those that pyro itself takes.
const FIRST_USER: u32 = 0x7871_0000;
/// The VMM's own memory in a jail, beside the guest's.
const OVERHEAD: u64 = 64 << 20;
const SOCKET: &str = "api.sock";
const LOAD: &str = r#"{"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"resume_vm":false}"#;

/// What every such Firecracker is made from. All paths are absolute, and on one file system.
pub(crate) struct Hand {
    /// A directory of its own.
    pub(crate) dir: PathBuf,
    /// The binary.
    pub(crate) firecracker: PathBuf,
    /// The jailer and the version of the host's cgroups, where there are any, if there is to be a jail.
    pub(crate) jailer: Option<(PathBuf, Option<u8>)>,
    /// Files of the saved machine by the names that it opens: state, memory, root image.
    pub(crate) files: [(&'static str, PathBuf); 3],
    /// The name of its disk and the size, bytes.
    pub(crate) disk: (&'static str, u64),
    /// The saved machine's memory, bytes.
    pub(crate) memory: u64,
    /// Its virtual CPUs.
    pub(crate) vcpus: u8,
}

impl Hand {
    /// Loads the saved machine and ends it: from nothing to the load's being accepted, ms.
    pub(crate) fn load(&self, given_up: &AtomicBool) -> Result<f64, String> {
        let begin = Instant::now();
        let mut vmm = match &self.jailer {
            None => self.unjailed()?,
            Some((jailer, cgroups)) => self.jailed(jailer, *cgroups)?,
        };
        put(&mut vmm.connect(given_up)?)?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }

    fn unjailed(&self) -> Result<Vmm, String> {
        let root = self.dir.join("hand");
        let home = Home { dir: root.clone(), user: None };
        self.furnish(&root, |from, to| symlink(from, to))?;
        let mut command = Command::new(&self.firecracker);
        command.current_dir(&root).args(["--id", "hand", "--api-sock", SOCKET]);
        Vmm::spawn(command, home, root)
    }

    fn jailed(&self, jailer: &Path, cgroups: Option<u8>) -> Result<Vmm, String> {
        let user = FIRST_USER + std::process::id();
        let name = self.firecracker.file_name().unwrap_or_default();
        let dir = self.dir.join(name).join(user.to_string());
        let root = dir.join("root");
        let home = Home { dir, user: Some(user) };
        self.furnish(&root, |from, to| fs::hard_link(from, to))?;
        let disk = root.join(self.disk.0);
        chown(&disk, Some(user), Some(user)).map_err(|error| format!("{}: {error}", disk.display()))?;
        let id = user.to_string();
        let mut command = Command::new(jailer);
        command.current_dir(&root).args(["--id", &id, "--uid", &id, "--gid", &id, "--exec-file"]);
        command.arg(&self.firecracker).arg("--chroot-base-dir").arg(&self.dir);
        let longest = self.disk.1.max(self.memory) + (16 << 20);
        command.args(["--resource-limit", &format!("fsize={longest}"), "--resource-limit", "no-file=256"]);
        if let Some(version) = cgroups {
            let file = if version == 1 { "memory.limit_in_bytes" } else { "memory.max" };
            command.args(["--cgroup-version", &version.to_string(), "--parent-cgroup", "pyro"]);
            command.args(["--cgroup", &format!("{file}={}", self.memory + OVERHEAD)]);
            command.args(["--cgroup", &format!("pids.max={}", self.vcpus + 8)]);
        }
        command.args(["--new-pid-ns", "--", "--api-sock", SOCKET]);
        Vmm::spawn(command, home, root)
    }

    /// Makes the working directory with the files in it.
    fn furnish(&self, root: &Path, name: impl Fn(&Path, &Path) -> std::io::Result<()>) -> Result<(), String> {
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error| format!("{path}: {error}")
        };
        fs::create_dir_all(root).map_err(at(root))?;
        for (file, path) in &self.files {
            name(path, &root.join(file)).map_err(at(path))?;
        }
        let disk = root.join(self.disk.0);
        File::create_new(&disk).and_then(|file| file.set_len(self.disk.1)).map_err(at(&disk))
    }
}

/// The directory of one machine; it and what the jailer made for it elsewhere go when it is dropped.
struct Home {
    dir: PathBuf,
    user: Option<u32>,
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        let Some(user) = self.user else { return };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            if let [_, point, "cgroup" | "cgroup2", ..] = fields[..] {
                let cgroup = Path::new(point).join("pyro").join(user.to_string());
                // Its last process may be counted for a moment after it ended.
                until(|| !cgroup.exists() || fs::remove_dir(&cgroup).is_ok());
            }
        }
    }
}

/// One process; killed when dropped.
struct Vmm {
    child: Child,
    root: PathBuf,
    /// Where a jailer leaves the id of a process that is not its own.
    pid_file: Option<PathBuf>,
    /// Dropped when the process is gone.
    _home: Home,
}

impl Vmm {
    fn spawn(mut command: Command, home: Home, root: PathBuf) -> Result<Self, String> {
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let pid_file = home.user.map(|_| root.join("firecracker.pid"));
        Ok(Self { child, root, pid_file, _home: home })
    }

    /// Connects to its API, which it is about to offer.
    fn connect(&mut self, given_up: &AtomicBool) -> Result<UnixStream, String> {
        // By descriptor, so that the length of the path does not matter.
        let root = File::open(&self.root).map_err(|error| format!("{}: {error}", self.root.display()))?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", root.as_raw_fd());
        let begin = Instant::now();
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(DEADLINE)).map_err(|error| error.to_string())?;
                    return Ok(stream);
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    if given_up.load(Ordering::Relaxed) {
                        return Err("nobody waits for it any more".into());
                    }
                    // A jailer that has done its part exits 0.
                    if let Ok(Some(status)) = self.child.try_wait()
                        && !(self.pid_file.is_some() && status.success())
                    {
                        return Err(format!("Firecracker or its jailer ended: {status}"));
                    }
                    if begin.elapsed() > DEADLINE {
                        return Err(format!("no API within {} s", DEADLINE.as_secs()));
                    }
                    std::thread::sleep(RETRY);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the API: {error}")),
            }
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // A jailer has ended by itself, and its child is nobody's here.
        if self.pid_file.is_none() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let text = self.pid_file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        if let Some(pid) = text.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
            let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
            until(|| fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
        }
    }
}

/// Waits for what is about to be true, and not for ever.
fn until(mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() && begin.elapsed() < DEADLINE {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Loads; an error is what Firecracker says.
fn put(api: &mut UnixStream) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("the API: {error}");
    let length = LOAD.len();
    let request = format!(
        "PUT /snapshot/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{LOAD}"
    );
    api.write_all(request.as_bytes()).map_err(broken)?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    // One that is accepted has no body; of another the first piece says enough.
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        match api.read(&mut piece) {
            Ok(0) => return Err("the API hung up".into()),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            // A child of the process ended; a stream with a deadline is not read on by itself.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    if text.starts_with("HTTP/1.1 204") { Ok(()) } else { Err(text.trim_end().replace("\r\n", " ")) }
}
