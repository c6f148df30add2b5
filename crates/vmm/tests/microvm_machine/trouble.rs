//! Failures: missing and garbage files, killed processes and cancelled launches, none of which leaves anything behind.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::events::{cut_after_polls, disturbed, ended_within, open_process, wait_for_parent};
use crate::guest::{self, LineClient};
use pyro_vmm::{
    Accelerator, Death, DeathReason, GuestMemory, Machine, MachineSpec, ProcessExit, Qemu, QemuVersion,
    Shape, VmmError,
};

async fn end_of(machine: &Machine) -> Death {
    tokio::time::timeout(Duration::from_secs(30), machine.watch().ended()).await.expect("the machine ends")
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill has no memory effects; the pid is a child of this process that was not reaped yet.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) }, 0);
}

#[tokio::test]
async fn a_missing_binary_names_its_package() {
    let qemu = Qemu { binary: PathBuf::from("/nonexistent/qemu"), ..guest::qemu() };
    let error = qemu.launch(guest::cold()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/qemu does not exist (on Debian: the package qemu-system-x86)"
    );
    let error = QemuVersion::of(&qemu.binary).await.unwrap_err();
    assert!(matches!(error, VmmError::BinaryMissing { .. }), "{error:?}");
}

#[tokio::test]
async fn a_binary_that_is_no_qemu_is_an_error() {
    let no_qemu = |path| Qemu { binary: PathBuf::from(path), ..guest::qemu() };
    let error = no_qemu("/etc/passwd").launch(guest::cold()).await.unwrap_err();
    assert!(matches!(error, VmmError::Spawn { .. }), "{error:?}");
    let error = no_qemu("/bin/false").launch(guest::cold()).await.unwrap_err();
    assert!(
        matches!(&error, VmmError::Died { death, .. } if death.exit == ProcessExit::Code(1)),
        "{error:?}"
    );
    let error = QemuVersion::of("/bin/echo".as_ref()).await.unwrap_err();
    assert!(matches!(error, VmmError::Version { .. }), "{error:?}");
    assert!(QemuVersion::of(&guest::qemu().binary).await.unwrap().major >= 7);
}

#[tokio::test]
async fn a_vmm_that_never_answers_is_given_up_and_killed() {
    let mut script = tempfile::NamedTempFile::new().unwrap();
    writeln!(script, "#!/bin/sh\nexec sleep 1000").unwrap();
    Command::new("chmod").arg("755").arg(script.path()).status().unwrap();
    let path = script.into_temp_path();
    let qemu = Qemu { binary: path.to_path_buf(), ..guest::qemu() };
    let error = qemu.launch(guest::cold()).await.unwrap_err();
    assert!(matches!(error, VmmError::Deadline { .. }), "{error:?}");
    assert_eq!(children(), BTreeSet::new());
}

#[tokio::test]
async fn garbage_for_a_kernel_is_said_by_qemu() {
    let mut kernel = tempfile::tempfile().unwrap();
    kernel.write_all(&[0xff; 100_000]).unwrap();
    let mut spec = guest::cold();
    spec.parts.kernel = kernel;
    let error = guest::qemu().launch(spec).await.unwrap_err();
    let VmmError::Died { death, .. } = &error else { panic!("{error:?}") };
    assert_eq!(death.reason, DeathReason::VmmExit);
    assert!(!death.stderr_tail.is_empty(), "{death:?}");
}

#[tokio::test]
async fn impossible_shapes_are_refused_before_anything_starts() {
    for shape in [(0, 256), (65, 256), (1, 0), (1, 63), (1, 1 << 21)] {
        let shape = Shape { vcpus: shape.0, mem_mib: shape.1 };
        let error = guest::qemu().launch(MachineSpec { shape, ..guest::cold() }).await.unwrap_err();
        assert!(matches!(error, VmmError::Spec(_)), "{error:?}");
    }
    let mut spec = guest::cold();
    spec.parts.kernel_args = vec!["x".repeat(2100)];
    let error = guest::qemu().launch(spec).await.unwrap_err();
    assert!(matches!(error, VmmError::Spec(_)), "{error:?}");
}

#[tokio::test]
async fn more_memory_than_the_host_has_is_said() {
    let shape = Shape { vcpus: 1, mem_mib: 1 << 20 };
    let error = guest::qemu().launch(MachineSpec { shape, ..guest::cold() }).await.unwrap_err();
    assert!(matches!(&error, VmmError::OutOfMemory { mem_mib: 1_048_576, .. }), "{error:?}");
}

#[tokio::test]
async fn a_kernel_that_loops_leaves_its_tail() {
    let mut spec = guest::cold();
    spec.parts.kernel = guest::looping_kernel();
    let machine = guest::qemu().launch(spec).await.unwrap();
    let said = async {
        while !machine.console_tail().contains("stuck here") {
            // A machine tells its console's tail, but not when that grows.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), said).await.expect("the console is heard");
    assert!(machine.watch().try_ended().is_none());
    machine.stop().await.unwrap();
}

#[tokio::test]
async fn a_verbose_boot_tells_the_whole_story() {
    let mut spec = guest::cold();
    // Nobody is PID 1: the kernel dies late in its boot.
    spec.parts.kernel_args = ["rdinit=/nobody", "root=/dev/none"].map(String::from).to_vec();
    let quiet = guest::qemu().launch(spec).await.unwrap();
    let death = end_of(&quiet).await;
    assert_eq!(death.reason, DeathReason::GuestPanic, "{death:?}");
    let mut spec = guest::cold();
    spec.parts.kernel_args = ["rdinit=/nobody", "root=/dev/none"].map(String::from).to_vec();
    spec.parts.kernel_args.extend(pyro_vmm::VERBOSE_KERNEL_ARGS.iter().map(|&word| word.to_owned()));
    let loud = guest::qemu().launch(spec).await.unwrap();
    let death = end_of(&loud).await;
    assert_eq!(death.reason, DeathReason::GuestPanic, "{death:?}");
    assert!(death.console_tail.contains("Kernel command line: "), "{death:?}");
}

#[tokio::test]
async fn a_killed_vmm_is_told_from_a_crashed_one() {
    let machine = guest::qemu().launch(guest::cold()).await.unwrap();
    signal(machine.pid(), libc::SIGKILL);
    let death = end_of(&machine).await;
    assert_eq!(
        (death.reason, death.exit),
        (DeathReason::Killed, ProcessExit::Signal(libc::SIGKILL)),
        "{death:?}"
    );
    // QEMU crashes because its memory file is cut. (As the first process of its namespace it ignores a SIGSEGV that is
    // only sent.)
    let memory = guest::memfd();
    let owned = GuestMemory::Owned(guest::again(&memory));
    let machine = guest::qemu().launch(MachineSpec { memory: owned, ..guest::cold() }).await.unwrap();
    memory.set_len(0).unwrap();
    let death = end_of(&machine).await;
    assert_eq!(death.reason, DeathReason::Crash, "{death:?}");
    // QEMU turns SIGTERM into an orderly end.
    let machine = guest::qemu().launch(guest::cold()).await.unwrap();
    signal(machine.pid(), libc::SIGTERM);
    assert_eq!(end_of(&machine).await.reason, DeathReason::Killed);
}

#[tokio::test]
async fn a_vmm_that_dies_under_a_command_ends_the_command() {
    let mut machine = guest::qemu().launch(guest::cold()).await.unwrap();
    let pid = machine.pid();
    signal(pid, libc::SIGSTOP);
    let error = disturbed(machine.pause(), || signal(pid, libc::SIGKILL)).await.unwrap_err();
    assert!(matches!(&error, VmmError::Died { during: "stop", .. }), "{error:?}");
    // Every later command fails too.
    let error = machine.resume().await.unwrap_err();
    assert!(matches!(&error, VmmError::Died { .. }), "{error:?}");
}

#[tokio::test]
async fn kvm_either_runs_the_guest_or_says_why_or_stays_silent_within_bounds() {
    let qemu = Qemu { accelerator: Accelerator::Kvm, ..guest::qemu() };
    match qemu.launch(guest::cold()).await {
        Err(VmmError::Kvm { detail }) => assert!(!detail.is_empty()),
        Err(error) => panic!("an unrecognised failure of KVM: {error:?}"),
        Ok(mut machine) => {
            assert_eq!(machine.accelerator(), Accelerator::Kvm);
            let mut client = LineClient::with(&mut machine).await;
            match tokio::time::timeout(Duration::from_secs(10), client.try_ask("hello")).await {
                Ok(Ok(answer)) => assert_eq!(answer, "hello"),
                // The accelerator gave up.
                Ok(Err(_)) => {
                    let death = end_of(&machine).await;
                    assert_eq!(death.reason, DeathReason::InternalError, "{death:?}");
                }
                // The guest runs and gets nowhere: the caller's deadline ends the wait.
                Err(_) => {}
            }
            machine.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn disks_processors_and_kernel_words_reach_the_guest() {
    let mut base = tempfile::NamedTempFile::new().unwrap();
    base.write_all(b"sixteen bytes ok").unwrap();
    base.as_file().set_len(1 << 20).unwrap();
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1 << 20).unwrap();
    let mut spec = guest::cold();
    spec.shape.vcpus = 2;
    spec.parts.base = Some(File::open(base.path()).unwrap());
    spec.parts.disk = Some(disk.try_clone().unwrap());
    spec.parts.kernel_args = vec!["pyro.oneshot".into()];
    let mut machine = guest::qemu().launch(spec).await.unwrap();
    let mut client = LineClient::with(&mut machine).await;
    assert_eq!(client.ask("base").await, "sixteen bytes ok");
    assert_eq!(client.ask("scribble").await, "16");
    assert_eq!(client.ask("cpus").await, "2");
    assert!(client.ask("cmdline").await.ends_with(" pyro.oneshot"));
    machine.stop().await.unwrap();
    let mut written = [0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&disk, &mut written, 4096).unwrap();
    assert_eq!(&written, b"written by guest");
}

#[tokio::test]
async fn qemu_gets_its_own_descriptors_and_nothing_else() {
    // Stands for a descriptor that other code left open across exec.
    let leak = File::open("/etc/hostname").unwrap();
    // SAFETY: changes a flag of a descriptor that this test owns.
    unsafe { libc::fcntl(leak.as_raw_fd(), libc::F_SETFD, 0) };
    let machine = guest::qemu().launch(guest::cold()).await.unwrap();
    let pid = machine.pid();
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.contains(&PathBuf::from("/etc/hostname")), "{open:?}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap(), "");
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(
        limits.lines().any(|line| line.starts_with("Max core file size        1                    1")),
        "{limits}"
    );
    machine.stop().await.unwrap();
}

#[test]
fn a_vmm_does_not_outlive_its_process() {
    // The test binary runs itself: the child starts a machine, says its pid, and is killed.
    const ROLE: &str = "PYRO_TEST_ORPHAN";
    if std::env::var_os(ROLE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let machine = runtime.block_on(guest::qemu().launch(guest::cold())).unwrap();
        println!("pid={}", machine.pid());
        wait_for_parent();
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "trouble::a_vmm_does_not_outlive_its_process", "--nocapture"])
        .env(ROLE, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let pid = lines.map_while(Result::ok).find_map(|line| line.split("pid=").nth(1)?.parse::<u32>().ok());
    let pid = pid.expect("the child says its pid");
    let vmm = open_process(pid);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ended_within(&vmm, Duration::from_secs(1)), "QEMU {pid} outlives its parent");
}

/// Longest clean-up, however busy the host is.
const LONG: Duration = Duration::from_secs(60);

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let text = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    found
}

/// Counts descriptors and children of the whole process, hence one test.
#[tokio::test]
async fn ten_machines_leave_nothing() {
    let round = async |machines: u32| {
        for number in 0..machines {
            match number % 5 {
                0 => guest::qemu().launch(guest::cold()).await.unwrap().stop().await.unwrap(),
                1 => {
                    // Dropped; its task reaps.
                    let machine = guest::qemu().launch(guest::cold()).await.unwrap();
                    let watch = machine.watch();
                    drop(machine);
                    assert_eq!(watch.ended().await.reason, DeathReason::Stopped);
                }
                2 => {
                    let mut spec = guest::cold();
                    spec.parts.kernel = tempfile::tempfile().unwrap();
                    guest::qemu().launch(spec).await.unwrap_err();
                }
                3 => {
                    let qemu = Qemu { binary: "/nonexistent".into(), ..guest::qemu() };
                    qemu.launch(guest::cold()).await.unwrap_err();
                }
                _ => {
                    // Cancelled while it starts.
                    let adapter = guest::qemu();
                    drop(cut_after_polls(adapter.launch(guest::cold()), 4).await);
                }
            }
        }
        let begin = std::time::Instant::now();
        while !children().is_empty() && begin.elapsed() < LONG {
            // A cancelled launch's process is reaped by the spawning thread, which reports to nobody.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(children(), BTreeSet::new());
    };
    // The last launch of a round is waited for: a thread that works for a cancelled one keeps its descriptors.
    round(4).await;
    let before = descriptors();
    round(10).await;
    let begin = std::time::Instant::now();
    while descriptors() != before && begin.elapsed() < LONG {
        // Threads and tasks that end close descriptors without a report.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(descriptors(), before);
}

#[test]
fn a_runtime_that_goes_down_takes_its_machine_along() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let machine = runtime.block_on(guest::qemu().launch(guest::cold())).unwrap();
    let watch = machine.watch();
    assert!(!children().is_empty());
    drop(runtime);
    assert_eq!(children(), BTreeSet::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(watch.ended()).reason, DeathReason::Stopped);
    drop(machine);
}

/// Lists directories and cgroups (v1 and v2) of machines of this process.
fn traces() -> Vec<PathBuf> {
    let users = guest::qemu().users.map_or(0..0, |users| users.ids);
    let is_ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()?.parse().ok()).is_some_and(|id| users.contains(&id))
    };
    let places = [
        guest::qemu().run_dir.join("qemu"),
        "/sys/fs/cgroup/memory/pyro".into(),
        "/sys/fs/cgroup/pids/pyro".into(),
        "/sys/fs/cgroup/pyro".into(),
    ];
    let entries = places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten();
    entries.map(|entry| entry.unwrap().path()).filter(is_ours).collect()
}

async fn nothing_is_left() {
    let begin = std::time::Instant::now();
    while !(traces().is_empty() && children().is_empty()) {
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?} {:?}", traces(), children());
        // A cancelled launch is cleaned up by threads and tasks that report to nobody.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Cancels launches at every step, and kills all child processes at many. Counts for the whole process, hence one test.
#[tokio::test]
async fn a_launch_that_ends_at_any_step_leaves_nothing() {
    guest::qemu().launch(guest::cold()).await.unwrap().stop().await.unwrap();
    nothing_is_left().await;
    let before = descriptors();
    let mut polls = 0;
    loop {
        let adapter = guest::qemu();
        let launched = cut_after_polls(adapter.launch(guest::cold()), polls).await;
        let is_over = launched.map(|machine| drop(machine.unwrap())).is_some();
        nothing_is_left().await;
        if is_over {
            break;
        }
        polls += 1 + polls / 8;
    }
    assert!(polls > 2, "a launch has more steps");
    // No event tells how far the child is between its clone and its exec: the times sweep across those steps.
    for milliseconds in (0..60).step_by(4) {
        let launch = tokio::spawn(async { guest::qemu().launch(guest::cold()).await });
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        for pid in children() {
            signal(pid, libc::SIGKILL);
        }
        match launch.await.unwrap() {
            Ok(machine) => drop(machine),
            Err(VmmError::Died { .. } | VmmError::Host { .. } | VmmError::Spawn { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        nothing_is_left().await;
    }
    assert_eq!(descriptors(), before);
}
