//! Machines of these tests: the real binaries, and kernels of a few instructions.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pyro_vmm::{
    CgroupVersion, Death, DiskCache, Firecracker, FirecrackerVersion, GuestMemory, Jail, Machine,
    MachineParts, MachineSpec, MachineStart, Shape, VmmLimits, VmmUsers,
};

pub const SHAPE: Shape = Shape { vcpus: 1, mem_mib: 64 };

/// Longest wait, on a host that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Directory of one test, with the adapter that runs in it.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub firecracker: Firecracker,
}

fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("PYRO_TEST_FIRECRACKER_DIR").unwrap_or_else(|| {
        panic!("PYRO_TEST_FIRECRACKER_DIR is not set: it is what `cargo xtask firecracker` prints")
    });
    let path = Path::new(&dir).join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

pub fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let version = FirecrackerVersion { major: 1, minor: 12, patch: 1 };
    let run_dir = dir.path().join("run");
    let firecracker = Firecracker { binary: binary("firecracker"), version, run_dir, jail: None };
    Place { dir, firecracker }
}

/// Makes a place whose adapter has a jail, which needs root.
pub fn jailed() -> Place {
    assert!(rustix::process::geteuid().is_root(), "these tests need root: a jail cannot be made without");
    let mut place = place();
    place.firecracker.jail = Some(Jail {
        binary: binary("jailer"),
        users: VmmUsers { ids: ids(), cgroups: CgroupVersion::of_host().unwrap() },
        limits: VmmLimits::FIRECRACKER,
    });
    place
}

/// User ids of this test process: others run at the same time.
fn ids() -> std::ops::Range<u32> {
    let start = 700_000_000 + std::process::id() % 10_000 * 10_000;
    start..start + 10_000
}

impl Place {
    pub fn spec(&self) -> MachineSpec {
        MachineSpec {
            shape: SHAPE,
            parts: self.parts(),
            memory: GuestMemory::Private,
            start: MachineStart::Cold,
        }
    }

    /// Makes parts with a kernel that never ends, and both drives.
    pub fn parts(&self) -> MachineParts {
        MachineParts {
            kernel: kernel("here\\r\\n", false),
            initramfs: self.file("initramfs", b"no archive"),
            base: Some(self.file("base", &[1; 4096])),
            disk: Some(self.new_disk()),
            cache: DiskCache::Unsafe,
            kernel_args: Vec::new(),
        }
    }

    /// Makes a file that everybody may read, opened for reading and writing.
    pub fn file(&self, name: &str, bytes: &[u8]) -> File {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        File::options().read(true).write(true).open(&path).unwrap()
    }

    /// Makes a disk of 1 MiB without a name.
    pub fn new_disk(&self) -> File {
        let disk = tempfile::tempfile_in(self.dir.path()).unwrap();
        disk.set_len(1 << 20).unwrap();
        disk
    }

    /// Lists the ids of machines that have a directory.
    pub fn homes(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.firecracker.run_dir.join("firecracker")) else {
            return BTreeSet::new();
        };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Finds the working directory of the only machine.
    pub fn only_root(&self) -> PathBuf {
        let homes = self.homes();
        assert_eq!(homes.len(), 1, "{homes:?}");
        self.firecracker.run_dir.join("firecracker").join(homes.first().unwrap()).join("root")
    }

    /// Lists the processes, of any user, whose working directory or arguments are in this place.
    pub fn processes(&self) -> Vec<String> {
        let name = self.dir.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            if entry.file_name().to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
                continue;
            }
            let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let is_ours = entry.file_name().to_str() == Some(&std::process::id().to_string());
            if !is_ours && (cwd.starts_with(name) || words.contains(name)) {
                found.push(format!("{} {words}", entry.file_name().display()));
            }
        }
        found
    }

    /// Asserts that no machine left a directory or a process.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.homes(), BTreeSet::new());
        let begin = Instant::now();
        while !self.processes().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", self.processes());
            // The kernel reports no end of other users' processes and of grandchildren.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Builds a kernel that writes `text` to its console and then stays or resets.
pub fn kernel(text: &str, resets: bool) -> File {
    let folder = tempfile::tempdir().unwrap();
    let (object, output) = (folder.path().join("kernel.o"), folder.path().join("kernel"));
    let mut cc = Command::new("cc");
    cc.arg(format!("-DTEXT=\"{text}\""));
    if resets {
        cc.arg("-DRESET");
    }
    cc.arg("-c").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/firecracker/guest/kernel.S"));
    assert!(cc.arg("-o").arg(&object).status().expect("cc runs: install gcc").success());
    let mut ld = Command::new("ld");
    ld.args(["-m", "elf_x86_64", "-Ttext=0x100000", "-e", "start", "-o"]).arg(&output).arg(&object);
    assert!(ld.status().expect("ld runs: install binutils").success());
    // A jail mounts only files with a name.
    let kept = keep().join(unique().to_string());
    fs::copy(&output, &kept).unwrap();
    fs::set_permissions(&kept, Permissions::from_mode(0o644)).unwrap();
    File::open(kept).unwrap()
}

/// Directory of kernels, which lives as long as the test process.
fn keep() -> &'static Path {
    static KEPT: OnceLock<tempfile::TempDir> = OnceLock::new();
    KEPT.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

fn unique() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

pub async fn end_of(machine: &Machine) -> Death {
    tokio::time::timeout(DEADLINE, machine.watch().ended()).await.expect("the machine ends")
}

/// Waits until `text` is on the guest's console.
pub async fn said(machine: &Machine, text: &str) {
    let heard = async {
        while !machine.console_tail().contains(text) {
            // A machine tells its console's tail, but not when that grows.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let heard = tokio::time::timeout(DEADLINE, heard).await;
    assert!(
        heard.is_ok(),
        "{text:?} is not in {:?}; {:?}",
        machine.console_tail(),
        machine.watch().try_ended()
    );
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill has no memory effects.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) }, 0);
}

/// Makes a named file in `dir`, for a save.
pub fn output(dir: &Path, name: &str) -> File {
    let path = dir.join(name);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_permissions(Permissions::from_mode(0o644)).unwrap();
    file
}

/// Writes a script in `dir` that stands in for a binary.
pub fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    let mut file = File::create(&path).unwrap();
    write!(file, "#!/bin/sh\n{text}\n").unwrap();
    file.set_permissions(Permissions::from_mode(0o755)).unwrap();
    path
}

/// Makes a memory file, which has no name.
pub fn memfd() -> File {
    rustix::fs::memfd_create(c"test", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}

/// Lists the cgroups of jailed machines of this test process.
pub fn cgroups() -> BTreeSet<PathBuf> {
    let parents = ["memory/pyro", "pids/pyro", "unified/pyro", "pyro"];
    let parents = parents.iter().map(|parent| Path::new("/sys/fs/cgroup").join(parent));
    let entries = parents.filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    let is_ours = |name: &std::ffi::OsStr| {
        name.to_str().and_then(|name| name.parse().ok()).is_some_and(|id: u32| ids().contains(&id))
    };
    entries.filter(|entry| is_ours(&entry.file_name())).map(|entry| entry.path()).collect()
}
