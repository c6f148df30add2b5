//! Confinement of VMMs: a program with a VMM's rights runs in its place and tries to get out. SECURITY.md's table
//! names these tests.
//!
//! Run as root, they test a VMM with a user of its own; this same program, run again as an ordinary user, tests that
//! user's VMM.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where by a panic")]

use std::fs::{self, File, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pyro_vmm::{
    Accelerator, CgroupVersion, DiskCache, Firecracker, FirecrackerVersion, GuestMemory, Jail, Machine,
    MachineParts, MachineSpec, MachineStart, Qemu, Shape, Vmm, VmmError, VmmLimits, VmmUsers,
};

const SHAPE: Shape = Shape { vcpus: 1, mem_mib: 64 };

/// User id without rights on this machine.
const NOBODY: u32 = 64_123;

/// Environment variable for the run as an ordinary user: the directory prepared for it.
const AS_USER: &str = "PYRO_TEST_AS_USER";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn users() -> VmmUsers {
    let start = 900_000_000 + std::process::id() % 10_000 * 10_000;
    VmmUsers { ids: start..start + 10_000, cgroups: CgroupVersion::of_host().unwrap() }
}

fn qemu(dir: &Path, users: Option<VmmUsers>) -> Qemu {
    let run_dir = dir.join("run");
    Qemu { binary: "/usr/bin/qemu-system-x86_64".into(), accelerator: Accelerator::Tcg, run_dir, users }
}

/// Makes a directory that everybody may enter.
fn place() -> (Option<tempfile::TempDir>, PathBuf) {
    if let Some(dir) = std::env::var_os(AS_USER) {
        return (None, dir.into());
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().to_owned();
    (Some(dir), path)
}

fn file(path: PathBuf, bytes: &[u8], mode: u32) -> PathBuf {
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Reads a path that `make test` gives in an environment variable.
fn given(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: `make test` sets it")).into()
}

/// Makes a machine with a kernel, an initramfs without an init, and a disk with a name.
fn spec(dir: &Path, disk: &Path) -> MachineSpec {
    let prepared = dir.join("kernel");
    let kernel = if prepared.exists() { prepared } else { given("PYRO_TEST_KERNEL") };
    let parts = MachineParts {
        kernel: File::open(kernel).unwrap(),
        initramfs: File::open(file(dir.join("initramfs"), b"none", 0o644)).unwrap(),
        base: None,
        disk: Some(open(disk)),
        cache: DiskCache::Unsafe,
        kernel_args: Vec::new(),
    };
    MachineSpec { shape: SHAPE, parts, memory: GuestMemory::Private, start: MachineStart::Cold }
}

/// Targets of an attacker.
struct AttackTargets {
    dir: PathBuf,
    other: Machine,
    disk: PathBuf,
    tcp: TcpListener,
    udp: UdpSocket,
    name: String,
    _abstract: UnixListener,
    _socket: UnixListener,
}

impl AttackTargets {
    async fn new(dir: &Path) -> AttackTargets {
        // Readable by all on purpose: what keeps the VMM away must not be the file's own mode.
        fs::create_dir_all(dir.join("home")).unwrap();
        file(dir.join("home/file"), b"the user's", 0o666);
        file(dir.join("home/secret"), b"the user's own", 0o600);
        let disk = file(dir.join("disk-of-another"), &[0; 4096], 0o666);
        let mut neighbour = spec(dir, &disk);
        neighbour.parts.kernel_args = vec!["panic=0".into()];
        let other = qemu(dir, is_root().then(users)).launch(neighbour).await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
        let name = format!("pyro-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixListener::bind(dir.join("socket")).unwrap();
        fs::set_permissions(dir.join("socket"), Permissions::from_mode(0o777)).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        AttackTargets {
            dir: dir.to_owned(),
            other,
            disk,
            tcp,
            udp,
            name,
            _abstract: listener,
            _socket: socket,
        }
    }

    /// Compiles the attacking program into a directory of its own.
    fn attacker(&self, name: &str, threads: u64, filtered: bool, kvm: bool) -> PathBuf {
        let dir = self.dir.join("attack");
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join(name);
        let text = |key: &str, value: &str| format!("-D{key}=\"{value}\"");
        let path = |key: &str, of: &Path| text(key, of.to_str().unwrap());
        let compiled = Command::new("cc")
            .args(["-static", "-O1", "-w"])
            .args([
                path("OPEN_FILE", &self.dir.join("home/file")),
                path("SECRET", &self.dir.join("home/secret")),
            ])
            .args([
                path("DISK", &self.disk),
                path("SOCKET", &self.dir.join("socket")),
                text("ABSTRACT", &self.name),
            ])
            .arg(format!("-DOTHER={}", self.other.pid()))
            .arg(format!("-DTESTER={}", std::process::id()))
            .arg(format!("-DTCP_PORT={}", self.tcp.local_addr().unwrap().port()))
            .arg(format!("-DTHREADS={threads}"))
            .arg(format!("-DFILTERED={}", u8::from(filtered)))
            .arg(format!("-DSOCKETS={}", u8::from(name == "firecracker")))
            .arg(format!("-DKVM={}", u8::from(kvm)))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/confinement/attacker.c"))
            .arg("-o")
            .arg(&program)
            .stdin(Stdio::null())
            .status();
        assert!(compiled.unwrap().success(), "cc failed");
        program
    }
}

/// Lines that every attacker must print.
const ATTEMPTS: &[&str] = &[
    "open-file",
    "secret",
    "disk-of-another",
    "root-of-another-process",
    "environment-of-another-process",
    "memory-file-of-another",
    "accounts",
    "root-directory",
    "new-file",
    "tcp",
    "udp",
    "abstract-socket",
    "unix-socket",
    "raw-socket",
    "signal",
    "signal-all",
    "trace",
    "memory-of-another",
    "other-processes",
    "priority",
    "root-user",
    "mount",
    "device",
    "remount",
    "limits",
    "memory",
    "shared-memory",
    "fork",
    "directory-above",
    "reopened-for-writing",
    "cut-through-another-name",
];

/// Further lines under our own filters: a jailed VMM has only its own, which an attacker in its place lacks.
const BY_FILTERS: &[&str] = &[
    "vsock",
    "namespace",
    "new-file-in-root",
    "mode-of-a-file",
    "namespace-of-a-child",
    "outliving-its-owner",
    "memory-segment",
    "any-socket",
    "datagram-socket",
    "limits-of-another",
];

/// Runs the attacker in the VMM's place and checks the lines it prints.
async fn is_held(vmm: Vmm, targets: &AttackTargets, filtered: bool) -> String {
    let disk = file(targets.dir.join("own-disk"), &[0; 4096], 0o600);
    let error = vmm.launch(spec(&targets.dir, &disk)).await.unwrap_err();
    let VmmError::Died { death, .. } = &error else { panic!("{error:?}") };
    let said = &death.stderr_tail;
    for attempt in ATTEMPTS.iter().chain(if filtered { BY_FILTERS } else { &[] }) {
        assert!(said.contains(&format!("held {attempt}\n")), "{attempt}: {said}");
    }
    assert!(!said.contains("ESCAPED"), "{said}");
    // The attacker ran to its end, and could do what it may.
    assert!(said.contains("forks ") && !said.contains("forks 0\n"), "{said}");
    targets.udp.set_nonblocking(true).unwrap();
    assert!(targets.udp.recv(&mut [0; 8]).is_err(), "a datagram came out");
    said.clone()
}

async fn qemu_is_held(users: Option<VmmUsers>) {
    let (_guard, dir) = place();
    let targets = AttackTargets::new(&dir).await;
    // Root's VMM gets a KVM device of its own, whoever may open the host's.
    let kvm = is_root() && Path::new("/dev/kvm").exists();
    let binary = targets.attacker("qemu-system-x86_64", 81, true, kvm);
    let accelerator = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
    let said = is_held(Vmm::Qemu(Qemu { binary, accelerator, ..qemu(&dir, users) }), &targets, true).await;
    assert!(said.contains("held memory-file\n"), "{said}");
    assert_eq!(said.contains("kvm 1\n"), kvm, "{said}");
    let confinement = targets.other.confinement();
    assert!(confinement.namespaces && confinement.landlock, "{confinement}");
    assert_eq!((confinement.user.is_some(), confinement.cgroup), (is_root(), is_root()), "{confinement}");
    targets.other.stop().await.unwrap();
}

fn firecracker(dir: &Path, binary: PathBuf, jail: Option<Jail>) -> Vmm {
    let version = FirecrackerVersion { major: 1, minor: 12, patch: 1 };
    Vmm::Firecracker(Firecracker { binary, version, run_dir: dir.join("run"), jail })
}

#[tokio::test]
async fn a_qemu_of_roots_gets_nowhere() {
    assert!(is_root(), "this test needs root");
    qemu_is_held(Some(users())).await;
}

#[tokio::test]
async fn a_firecracker_of_roots_gets_nowhere() {
    assert!(is_root(), "this test needs root");
    let (_guard, dir) = place();
    let targets = AttackTargets::new(&dir).await;
    let attacker = targets.attacker("firecracker", 9, false, false);
    let jailer = given("PYRO_TEST_FIRECRACKER_DIR");
    let jail = Jail { binary: jailer.join("jailer"), users: users(), limits: VmmLimits::FIRECRACKER };
    is_held(firecracker(&dir, attacker, Some(jail)), &targets, false).await;
    targets.other.stop().await.unwrap();
}

#[tokio::test]
async fn a_qemu_of_a_users_gets_nowhere() {
    if !as_user("a_qemu_of_a_users_gets_nowhere") {
        qemu_is_held(None).await;
    }
}

/// Container that hides parts of its `/proc` and so lets nobody mount a new one: the VMM sees its own processes.
#[tokio::test]
async fn behind_a_masked_proc_there_is_no_other_process() {
    let mask = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /proc/sys && exec \"$@\"", "sh"];
    if !as_user_behind(&mask, "behind_a_masked_proc_there_is_no_other_process") {
        qemu_is_held(None).await;
    }
}

#[tokio::test]
async fn a_firecracker_of_a_users_gets_nowhere() {
    if !as_user("a_firecracker_of_a_users_gets_nowhere") {
        let (_guard, dir) = place();
        let targets = AttackTargets::new(&dir).await;
        let attacker = targets.attacker("firecracker", 9, true, false);
        is_held(firecracker(&dir, attacker, None), &targets, true).await;
        targets.other.stop().await.unwrap();
    }
}

/// Host that lets users make no namespaces: containers, and some distributions.
#[tokio::test]
async fn without_namespaces_the_rest_holds() {
    if !as_user("without_namespaces_the_rest_holds") {
        forbid_namespaces();
        let (_guard, dir) = place();
        let disk = file(dir.join("disk"), &[0; 4096], 0o600);
        let machine = qemu(&dir, None).launch(spec(&dir, &disk)).await.unwrap();
        let confinement = machine.confinement();
        assert_eq!(confinement.to_string(), "landlock, seccomp, limits");
        let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
        machine.stop().await.unwrap();
    }
}

/// Root in a container with some capabilities, but not the one to give them up for good.
#[tokio::test]
async fn half_a_root_gives_its_vmm_nothing() {
    if run_with_less(
        "--bounding-set=-setuid,-setgid,-setpcap,-sys_admin",
        "half_a_root_gives_its_vmm_nothing",
    ) {
        return;
    }
    let (_guard, dir) = place();
    let disk = file(dir.join("disk"), &[0; 4096], 0o600);
    let machine = qemu(&dir, Some(users())).launch(spec(&dir, &disk)).await.unwrap();
    assert_eq!(machine.confinement().user, None, "{}", machine.confinement());
    let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
    machine.stop().await.unwrap();
}

/// Root that may not signal other users' processes, and so could not end a VMM with another user.
#[tokio::test]
async fn a_vmm_that_could_not_be_killed_gets_no_user_of_its_own() {
    if run_with_less("--bounding-set=-kill", "a_vmm_that_could_not_be_killed_gets_no_user_of_its_own") {
        return;
    }
    let (_guard, dir) = place();
    let disk = file(dir.join("disk"), &[0; 4096], 0o600);
    let machine = qemu(&dir, Some(users())).launch(spec(&dir, &disk)).await.unwrap();
    assert!(
        machine.confinement().user.is_none() && machine.confinement().namespaces,
        "{}",
        machine.confinement()
    );
    machine.stop().await.unwrap();
}

/// Runs this one test again with fewer capabilities, when this is root with all; whether it did.
fn run_with_less(bounding_set: &str, test: &str) -> bool {
    const LESS: &str = "PYRO_TEST_LESS";
    assert!(is_root(), "this test needs root");
    if std::env::var_os(LESS).is_some() {
        return false;
    }
    let mut command = Command::new("setpriv");
    command.arg(bounding_set).arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]);
    assert!(command.env(LESS, "1").status().unwrap().success(), "{test} with less");
    true
}

/// Filter that fails a clone with namespaces with EPERM, as such hosts do.
fn forbid_namespaces() {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch,
    };
    let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let made = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag).unwrap();
    let rules = [(libc::SYS_clone, vec![SeccompRule::new(vec![made]).unwrap()])];
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter =
        SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, refuse, TargetArch::x86_64)
            .unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

/// Runs this one test again as an ordinary user, when this is root; whether it did.
fn as_user(test: &str) -> bool {
    as_user_behind(&["env"], test)
}

/// Runs this one test again through the command `first`, as an ordinary user; whether it did.
fn as_user_behind(first: &[&str], test: &str) -> bool {
    if !is_root() {
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let program = path.join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    // Root's own directories are hidden from others.
    let kernel = given("PYRO_TEST_KERNEL");
    fs::copy(kernel, path.join("kernel")).unwrap();
    for (name, mode) in [("test", 0o755), ("kernel", 0o644), ("", 0o755)] {
        fs::set_permissions(path.join(name), Permissions::from_mode(mode)).unwrap();
    }
    rustix::fs::chown(path, Some(rustix::fs::Uid::from_raw(NOBODY)), Some(rustix::fs::Gid::from_raw(NOBODY)))
        .unwrap();
    let id = NOBODY.to_string();
    let done = Command::new(first[0])
        .args(&first[1..])
        .args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(&program)
        .args([test, "--exact", "--nocapture"])
        .env(AS_USER, path)
        .env("TMPDIR", path)
        .current_dir(path)
        .status()
        .unwrap();
    assert!(done.success(), "{test} as an ordinary user");
    true
}
