//! Guest of these tests: a real kernel, and a PID 1 of one static C file that answers lines.
//!
//! Neither the agent nor core is needed, so that a failure here is a failure of the adapter.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use pyro_vmm::{
    Accelerator, CgroupVersion, DiskCache, GuestMemory, Machine, MachineParts, MachineSpec, MachineStart,
    Qemu, Shape, VmmUsers,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

pub const SHAPE: Shape = Shape { vcpus: 1, mem_mib: 256 };

/// Longest boot of a guest on a host that other tests keep busy.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// Makes the adapter as pyro does: with users for machines when this is root.
pub fn qemu() -> Qemu {
    static RUN_DIR: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let run_dir = RUN_DIR.get_or_init(|| tempfile::tempdir().unwrap()).path().to_owned();
    let start = 800_000_000 + std::process::id() % 10_000 * 10_000;
    let users = rustix::process::geteuid()
        .is_root()
        .then(|| VmmUsers { ids: start..start + 10_000, cgroups: CgroupVersion::of_host().unwrap() });
    Qemu { binary: "/usr/bin/qemu-system-x86_64".into(), accelerator: Accelerator::Tcg, run_dir, users }
}

/// Opens the kernel to boot.
pub fn kernel() -> File {
    let path = std::env::var_os("PYRO_TEST_KERNEL");
    let path = path.as_deref().unwrap_or_else(|| {
        panic!(
            "PYRO_TEST_KERNEL is not set: run these tests by `make test`, which builds the kernel and sets it"
        )
    });
    open(path)
}

fn open(path: &OsStr) -> File {
    File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}

/// Makes a newc archive whose `/init` is `init.c`, compiled once for each test process.
pub fn initramfs() -> File {
    static PROGRAM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("init");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/microvm_machine/guest/init.c");
        let compiled = Command::new("cc")
            .args(["-static", "-Os", "-w", source, "-o"])
            .arg(&output)
            .stdin(Stdio::null())
            .status()
            .expect("cc runs: install gcc and libc6-dev");
        assert!(compiled.success(), "cc failed on {source}");
        std::fs::read(&output).unwrap()
    });
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&archive(&[("dev", 0o040_755, b""), ("init", 0o100_755, program)])).unwrap();
    file
}

/// Writes a newc ("070701") cpio archive of names, modes and contents.
pub fn archive(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (inode, (name, mode, data)) in (1..).zip(entries.iter().chain([&("TRAILER!!!", 0, &b""[..])])) {
        // magic, inode, mode, uid, gid, nlink, mtime, size, device (2), rdevice (2), name length, checksum
        let size = data.len();
        write!(out, "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{1:08X}{0:08X}{size:08X}", 0, 1).unwrap();
        write!(out, "{0:08X}{0:08X}{0:08X}{0:08X}{1:08X}{0:08X}{name}\0", 0, name.len() + 1).unwrap();
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// Builds a kernel that writes "stuck here" to the serial port and loops, like one that hangs early in its boot.
pub fn looping_kernel() -> File {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("loop");
    let compiled = Command::new("cc")
        .args(["-m32", "-c", "-o"])
        .arg(folder.path().join("loop.o"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/microvm_machine/guest/loop.S"))
        .status()
        .unwrap();
    assert!(compiled.success());
    let linked = Command::new("ld")
        .args(["-m", "elf_i386", "-Ttext=0x100000", "-e", "start", "-o"])
        .arg(&output)
        .arg(folder.path().join("loop.o"))
        .status()
        .unwrap();
    assert!(linked.success());
    File::open(&output).unwrap()
}

pub fn parts() -> MachineParts {
    MachineParts {
        kernel: kernel(),
        initramfs: initramfs(),
        base: None,
        disk: None,
        cache: DiskCache::Unsafe,
        kernel_args: Vec::new(),
    }
}

pub fn cold() -> MachineSpec {
    MachineSpec { shape: SHAPE, parts: parts(), memory: GuestMemory::Private, start: MachineStart::Cold }
}

/// Makes a memory file, which has no name.
pub fn memfd() -> File {
    // SAFETY: takes a C string that lives forever and gives a number.
    let number = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(number >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: just made, and owned by nobody else.
    unsafe { File::from_raw_fd(number) }
}

/// Opens the file anew, with a position of its own.
pub fn again(file: &File) -> File {
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// Client of the guest's line protocol over the byte stream.
pub struct LineClient {
    stream: BufReader<UnixStream>,
}

impl LineClient {
    pub async fn with(machine: &mut Machine) -> LineClient {
        let stream = machine.connect(BOOT_DEADLINE).await.unwrap();
        LineClient { stream: BufReader::new(UnixStream::from_std(stream).unwrap()) }
    }

    /// Sends a line without waiting for its answer.
    pub async fn say(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Sends a line and gives its answer.
    pub async fn ask(&mut self, line: &str) -> String {
        let answer = tokio::time::timeout(BOOT_DEADLINE, self.try_ask(line)).await;
        answer.unwrap_or_else(|_| panic!("no answer to {line:?} within {BOOT_DEADLINE:?}")).unwrap()
    }

    /// Sends a line and gives its answer; fails when the machine ends.
    pub async fn try_ask(&mut self, line: &str) -> std::io::Result<String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        match self.stream.read_line(&mut answer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }
}
