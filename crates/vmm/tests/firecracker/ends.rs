//! Ends of machines, jailed and not: processes killed at each step, and nothing left behind.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::events::{cut_after_polls, disturbed, ended_within, open_process, wait_for_parent};
use crate::guest::{self, Place, end_of, said, script, signal};
use pyro_vmm::{DeathReason, Firecracker, ProcessExit, VmmError};

async fn signals_are_told_apart(place: Place) {
    // Firecracker answers some signals with an exit code. As the first process of its namespace it does not even get
    // signals without a handler, like SIGTERM.
    let mut all = vec![(libc::SIGKILL, DeathReason::Killed, ProcessExit::Signal(libc::SIGKILL))];
    all.push((libc::SIGHUP, DeathReason::Killed, ProcessExit::Code(156)));
    all.push((libc::SIGSEGV, DeathReason::Crash, ProcessExit::Code(150)));
    for (number, reason, how) in all {
        let machine = place.firecracker.launch(place.spec()).await.unwrap();
        said(&machine, "here").await;
        signal(machine.pid(), number);
        let death = end_of(&machine).await;
        assert_eq!((death.reason, death.exit), (reason, how), "{death:?}");
        assert!(death.console_tail.contains("here"), "{death:?}");
        place.assert_clean();
    }
}

#[tokio::test]
async fn signals_to_the_vmm_are_told_apart() {
    signals_are_told_apart(guest::place()).await;
}

#[tokio::test]
async fn signals_to_the_jailed_vmm_are_told_apart() {
    signals_are_told_apart(guest::jailed()).await;
}

async fn a_vmm_dies_under_a_request(place: Place) {
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    let pid = machine.pid();
    signal(pid, libc::SIGSTOP);
    let error = disturbed(machine.pause(), || signal(pid, libc::SIGKILL)).await.unwrap_err();
    assert!(matches!(&error, VmmError::Died { during: "PATCH /vm", .. }), "{error:?}");
    let error = machine.resume().await;
    // The machine is not known to be paused, so a resume does nothing.
    assert!(error.is_ok(), "{error:?}");
    let error = machine.pause().await.unwrap_err();
    assert!(matches!(&error, VmmError::Died { .. }), "{error:?}");
    place.assert_clean();
}

#[tokio::test]
async fn a_vmm_that_dies_under_a_request_ends_it() {
    a_vmm_dies_under_a_request(guest::place()).await;
}

#[tokio::test]
async fn a_jailed_vmm_that_dies_under_a_request_ends_it() {
    a_vmm_dies_under_a_request(guest::jailed()).await;
}

#[tokio::test]
async fn a_binary_that_is_none_is_an_error() {
    let place = guest::place();
    let with = |binary: std::path::PathBuf| Firecracker { binary, ..place.firecracker.clone() };
    let error = with("/nonexistent".into()).launch(place.spec()).await.unwrap_err();
    assert!(matches!(&error, VmmError::BinaryMissing { .. }), "{error:?}");
    let error = with("/etc/passwd".into()).launch(place.spec()).await.unwrap_err();
    assert!(matches!(&error, VmmError::Spawn { .. }), "{error:?}");
    let script = script(place.dir.path(), "firecracker", "echo broken >&2; exit 3");
    let error = with(script).launch(place.spec()).await.unwrap_err();
    let VmmError::Died { death, .. } = &error else { panic!("{error:?}") };
    assert_eq!((death.exit, death.last_words()), (ProcessExit::Code(3), Some("broken")));
    place.assert_clean();
}

#[tokio::test]
async fn a_vmm_that_never_answers_is_given_up_and_killed() {
    let place = guest::place();
    let binary = script(place.dir.path(), "firecracker", "exec sleep 1000");
    let silent = Firecracker { binary, ..place.firecracker.clone() };
    let error = silent.launch(place.spec()).await.unwrap_err();
    assert!(matches!(&error, VmmError::Deadline { command: "its launch", .. }), "{error:?}");
    place.assert_clean();
}

/// Cancels launches at every step, and kills whatever process there is at every step.
async fn steps(place: Place) {
    let mut polls = 0;
    loop {
        let launch = place.firecracker.launch(place.spec());
        let launched = cut_after_polls(launch, polls).await;
        let is_over = launched.map(|machine| drop(machine.unwrap())).is_some();
        settle(&place).await;
        if is_over {
            break;
        }
        // A wait for a socket polls each millisecond: steps further apart as they get more.
        polls += 1 + polls / 4;
    }
    assert!(polls > 2, "a launch has more steps");
    // No event tells how far the child is between its clone and its exec: the times sweep across those steps.
    for milliseconds in 0..16 {
        let (adapter, spec) = (place.firecracker.clone(), place.spec());
        let launch = tokio::spawn(async move { adapter.launch(spec).await });
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        for process in place.processes() {
            let pid = process.split(' ').next().unwrap().parse().unwrap();
            // SAFETY: kill has no memory effects; it may fail for a process that ended meanwhile.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        match launch.await.unwrap() {
            Ok(machine) => drop(machine),
            Err(VmmError::Died { .. } | VmmError::Host { .. } | VmmError::Spawn { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        settle(&place).await;
    }
}

async fn settle(place: &Place) {
    let begin = Instant::now();
    while !(place.homes().is_empty() && place.processes().is_empty() && guest::cgroups().is_empty()) {
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?} {:?} {:?}",
            place.homes(),
            place.processes(),
            guest::cgroups()
        );
        // The kernel reports no end of other users' processes, and none of a cgroup's last member.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_launch_that_ends_at_any_step_leaves_nothing() {
    steps(guest::place()).await;
}

#[tokio::test]
async fn a_jailed_launch_that_ends_at_any_step_leaves_nothing() {
    steps(guest::jailed()).await;
}

async fn eight(place: Place) {
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (adapter, spec) = (place.firecracker.clone(), place.spec());
        all.spawn(async move { adapter.launch(spec).await.unwrap() });
    }
    let machines = all.join_all().await;
    let pids: BTreeSet<u32> = machines.iter().map(pyro_vmm::Machine::pid).collect();
    assert_eq!((pids.len(), place.homes().len()), (8, 8));
    for machine in &machines {
        said(machine, "here").await;
    }
    let before = descriptors();
    for machine in machines {
        machine.stop().await.unwrap();
    }
    assert!(descriptors() < before);
    place.assert_clean();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn eight_machines_at_once() {
    eight(guest::place()).await;
}

#[tokio::test]
async fn eight_jailed_machines_at_once() {
    eight(guest::jailed()).await;
}

/// The test binary runs itself: the child starts a machine, says its pid, and is killed.
fn orphan(test: &str, place: &Place) {
    const ROLE: &str = "PYRO_TEST_ORPHAN_IN";
    if let Some(run_dir) = std::env::var_os(ROLE) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let adapter = Firecracker { run_dir: run_dir.into(), ..place.firecracker.clone() };
        let machine = runtime.block_on(adapter.launch(place.spec())).unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "pid={}", machine.pid()).unwrap();
        wait_for_parent();
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, &place.firecracker.run_dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let pid = lines.map_while(Result::ok).find_map(|line| line.split("pid=").nth(1)?.parse::<u32>().ok());
    let pid = pid.expect("the child says its pid");
    let vmm = open_process(pid);
    assert_eq!(place.homes().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ended_within(&vmm, Duration::from_secs(1)), "the VMM {pid} outlives its parent");
    // The directory stays until the next launch or sweep.
    assert_eq!(place.homes().len(), 1);
    place.firecracker.sweep();
    place.assert_clean();
    assert_eq!(guest::cgroups(), BTreeSet::new());
}

#[test]
fn a_vmm_does_not_outlive_its_process() {
    orphan("ends::a_vmm_does_not_outlive_its_process", &guest::place());
}

#[test]
fn a_jailed_vmm_does_not_outlive_its_process() {
    orphan("ends::a_jailed_vmm_does_not_outlive_its_process", &guest::jailed());
}

async fn the_warden(place: Place) {
    let machine = place.firecracker.launch(place.spec()).await.unwrap();
    let pid = machine.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    assert_ne!(parent, std::process::id(), "a warden is between");
    signal(parent, libc::SIGKILL);
    let death = end_of(&machine).await;
    assert_eq!(death.reason, DeathReason::Killed, "{death:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it takes the VMM along");
    place.assert_clean();
}

#[tokio::test]
async fn a_warden_that_is_killed_takes_its_vmm_along() {
    the_warden(guest::jailed()).await;
}

#[test]
fn a_runtime_that_goes_down_takes_its_machines_along() {
    for place in [guest::place(), guest::jailed()] {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let machine = runtime.block_on(place.firecracker.launch(place.spec())).unwrap();
        drop(runtime);
        place.assert_clean();
        drop(machine);
    }
}
