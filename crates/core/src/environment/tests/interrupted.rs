//! Pulls that are killed, cancelled, or run twice at once.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;

const ROOT: &str = "PYRO_TEST_PULL_ROOT";
const SCRIPT: &str = "PYRO_TEST_PULL_SCRIPT";

/// In a process of its own, started by the other tests, it pulls where it is told and says its phases; by itself it
/// checks that this works.
#[test]
fn pulls_in_a_process() {
    // Not made in a process that is going to be killed: nobody would remove it.
    let own = std::env::var_os(ROOT).is_none().then(|| tempfile::tempdir().unwrap());
    let root =
        own.as_ref().map_or_else(|| std::env::var_os(ROOT).unwrap().into(), |own| own.path().to_owned());
    let store = store(&root, &std::env::var(SCRIPT).unwrap_or_default());
    let mut say = |event: PullEvent| {
        if event.progress.is_none() {
            println!("phase={}", event.phase);
        }
    };
    store.pull(NAME, &mut say, &CancelToken::new()).unwrap().open_base().unwrap();
    println!("done");
}

fn child(root: &Path, script: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "environment::tests::interrupted::pulls_in_a_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROOT, root)
        .env(SCRIPT, script)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Processes whose command line names `path`, this one aside.
fn users_of(path: &Path) -> usize {
    let needle = path.to_str().unwrap().as_bytes();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|pid| pid != std::process::id())
        })
        .filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.windows(needle.len()).any(|window| window == needle)
        })
        .count()
}

/// Nothing of a killed pull runs any more, nothing is mounted, nothing it made is trusted, and it can be repeated.
fn check_after_kill(root: &Path, store: &Store, killed: Instant) {
    while users_of(root) > 0 {
        assert!(killed.elapsed() < Duration::from_secs(5), "something outlived the pull that was killed");
        std::thread::yield_now();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()));
    if let Some(installed) = store.installed(NAME).unwrap() {
        installed.open_base().unwrap();
    }
}

fn check_repeated(store: &Store) {
    pull(store).unwrap().open_base().unwrap();
    let left = names(store);
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}

#[test]
fn killed_in_each_phase_it_can_be_repeated() {
    for phase in ["install", "image", "verify"] {
        let root = tempfile::tempdir().unwrap();
        // While the first one installs it never ends; the others have enough to do to be caught at it.
        let script =
            if phase == "install" { "(sleep 1000 &) ; sleep 1000" } else { "yes | head -c 100M > $1/big" };
        let mut child = child(root.path(), script);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = format!("phase={phase}");
        assert!(lines.map(Result::unwrap).any(|line| line.ends_with(&wanted)), "{phase} was never announced");
        if phase == "install" {
            // Until the jail runs, so that there is a tree of processes to kill.
            while users_of(root.path()) == 0 {
                std::thread::yield_now();
            }
        }
        child.kill().unwrap();
        let killed = Instant::now();
        child.wait().unwrap();
        let store = store(root.path(), "");
        check_after_kill(root.path(), &store, killed);
        check_repeated(&store);
    }
}

#[test]
fn killed_at_any_moment_it_can_be_repeated() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "yes | head -c 4M > $1/big");
    let script = "yes | head -c 4M > $1/big";
    for round in 0..20_u64 {
        let mut child = child(root.path(), script);
        std::thread::sleep(Duration::from_millis(round * 17));
        child.kill().unwrap();
        let killed = Instant::now();
        child.wait().unwrap();
        check_after_kill(root.path(), &store, killed);
    }
    check_repeated(&store);
}

#[test]
fn two_at_once_do_the_work_once() {
    let root = tempfile::tempdir().unwrap();
    let counter = tempfile::NamedTempFile::new().unwrap();
    let script = format!("echo built >> {}; sleep 0.5", counter.path().display());
    let store = store(root.path(), &script);
    let children: Vec<_> = (0..2).map(|_| child(root.path(), &script)).collect();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || phases(&store))
        })
        .collect();
    let mut waited = 0;
    for child in children {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        waited += usize::from(String::from_utf8_lossy(&out.stdout).contains("phase=waiting"));
    }
    for thread in threads {
        let (installed, seen) = thread.join().unwrap();
        installed.unwrap().open_base().unwrap();
        waited += usize::from(seen.contains(&PullPhase::Waiting));
    }
    assert_eq!(fs::read_to_string(counter.path()).unwrap(), "built\n");
    assert!((1..=3).contains(&waited), "{waited} said that they wait");
}

#[test]
fn cancelled_it_leaves_nothing() {
    for phase in [PullPhase::Install, PullPhase::Image, PullPhase::Verify] {
        let root = tempfile::tempdir().unwrap();
        let slow = if phase == PullPhase::Install { "sleep 1000" } else { "yes | head -c 30M > $1/big" };
        let (store, cancel) = (store(root.path(), slow), CancelToken::new());
        let outcome = store.pull(
            NAME,
            &mut |event| {
                if event.phase == phase {
                    cancel.cancel();
                }
            },
            &cancel,
        );
        assert!(matches!(outcome, Err(EnvironmentError::Cancelled)), "{phase}: {outcome:?}");
        assert_eq!(users_of(root.path()), 0);
        assert_eq!(names(&store), [""; 0], "{phase}");
    }
}

#[test]
fn waiting_for_another_pull_can_be_cancelled() {
    let root = tempfile::tempdir().unwrap();
    let mut child = child(root.path(), "sleep 1000");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.ends_with("phase=install")));
    let (store, cancel) = (store(root.path(), ""), CancelToken::new());
    let outcome = store.pull(
        NAME,
        &mut |event| {
            if event.phase == PullPhase::Waiting {
                cancel.cancel();
            }
        },
        &cancel,
    );
    assert!(matches!(outcome, Err(EnvironmentError::Cancelled)), "{outcome:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    check_repeated(&store);
}
