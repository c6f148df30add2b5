//! A real environment, built from this machine's package sources: needs root, a network, mmdebstrap and e2fsprogs.
//!
//! One test, because one pull takes half a minute: what is asked of the result is asked in turn.
#![expect(clippy::unwrap_used, reason = "a failure to set a test up is a failure of the test")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use pyro_core::environment::{EnvironmentError, PullEvent, PullPhase, Store};
use pyro_core::hostfs::CancelToken;

const NAME: &str = "debian:12-base";

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

fn left_behind(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join("debian-12-base")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.') && name != ".lock").collect()
}

#[test]
fn debian_is_installed_once_exactly_and_without_traces_of_this_machine() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path().to_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();

    // Cancelled when packages are being installed, it leaves neither files nor mounts.
    let cancel = CancelToken::new();
    let mut cancel_when_busy = |event: PullEvent| {
        if event.progress.is_some_and(|progress| progress.done > 10) {
            cancel.cancel();
        }
    };
    let outcome = store.pull(NAME, &mut cancel_when_busy, &cancel);
    assert!(matches!(outcome, Err(EnvironmentError::Cancelled)), "{outcome:?}");
    assert_eq!(left_behind(root.path()), [""; 0]);
    assert!(store.installed(NAME).unwrap().is_none());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), mounts);

    // Two at once do the work once.
    let events = Arc::new(Mutex::new(Vec::new()));
    let pulls: Vec<_> = (0..2)
        .map(|_| {
            let (store, events) = (store.clone(), Arc::clone(&events));
            std::thread::spawn(move || {
                let mut note = |event: PullEvent| events.lock().unwrap().push(event);
                store.pull(NAME, &mut note, &CancelToken::new())
            })
        })
        .collect();
    for pull in pulls {
        pull.join().unwrap().unwrap();
    }
    let events = events.lock().unwrap();
    let begins = |phase| events.iter().filter(|e| e.phase == phase && e.progress.is_none()).count();
    let counts =
        [PullPhase::Waiting, PullPhase::Resolve, PullPhase::Install, PullPhase::Image, PullPhase::Ready]
            .map(begins);
    assert_eq!(counts, [1, 1, 1, 1, 2]);
    let last = events
        .iter()
        .filter(|e| e.phase == PullPhase::Install)
        .filter_map(|e| e.progress)
        .next_back()
        .unwrap();
    assert_eq!(last.done, last.total, "every package was fetched, unpacked and set up");

    // Exactly what came, from the machine's sources, whose names are nobody's business.
    let installed = store.installed(NAME).unwrap().unwrap();
    let manifest = installed.manifest();
    assert!(manifest.suites.contains(&"bookworm".to_owned()));
    assert!(!fs::read_to_string(installed.manifest_path()).unwrap().contains("://"));

    // A sound file system that holds what a guest needs and nothing of this machine or of the build.
    let image = installed.base_path().display().to_string();
    run("/sbin/e2fsck", &["-fn", &image]);
    let stat = |path: &str| run("/sbin/debugfs", &["-R", &format!("stat {path}"), &image]);
    let cat = |path: &str| run("/sbin/debugfs", &["-R", &format!("cat {path}"), &image]);
    let status = cat("/var/lib/dpkg/status");
    let field =
        |name: &str| status.lines().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect();
    let (names, versions): (Vec<_>, Vec<_>) = (field("Package: "), field("Version: "));
    let mut in_image: Vec<_> = names.into_iter().zip(versions).collect();
    in_image.sort();
    let listed: Vec<_> = manifest.packages.iter().map(|p| (p.name.clone(), p.version.clone())).collect();
    assert_eq!(listed, in_image);
    assert!(manifest.packages.iter().all(|package| package.sha256.len() == 64));
    for dir in ["workspace", "proc", "sys", "dev", "run", "tmp"] {
        assert!(stat(dir).contains("Type: directory"), "{dir}");
    }
    assert!(stat("/usr/bin/bash").contains("Type: regular") && stat("/usr/bin/ps").contains("Type: regular"));
    assert!(stat("/usr/bin/passwd").contains("Mode:  04755"));
    assert!(stat("/usr/sbin/unix_chkpwd").contains("Mode:  02755"), "set-group-id survives");
    for empty in ["/etc/machine-id", "/etc/resolv.conf"] {
        assert!(stat(empty).contains("Size: 0"), "{empty}");
    }
    assert!(cat("/etc/hostname").contains("pyro\n"));
    assert!(cat("/etc/apt/sources.list").contains(" bookworm main"));
    for gone in ["/etc/apt/apt.conf.d/99mmdebstrap", "/usr/share/man/man1", "/var/log/dpkg.log"] {
        assert!(stat(gone).contains("File not found"), "{gone}");
    }
    assert!(stat("/usr/share/doc/bash/copyright").contains("Type: regular"));
    assert_eq!(left_behind(root.path()), [""; 0]);

    // Opening it again hashes nothing.
    let read = || {
        let io = fs::read_to_string("/proc/self/io").unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let before = read();
    installed.open_base().unwrap();
    assert!(read() - before < 1 << 20, "{} bytes were read", read() - before);
}
