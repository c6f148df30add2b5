//! The backends under which a test of microVMs runs: QEMU everywhere, and the same test again under Firecracker where
//! guests' programs run under that, which is found out once for all tests by a real boot. Shared with the tests of `cli`.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use pyro_core::backend::{self, Preference, ProbePolicy};
use pyro_core::config::Config;
use pyro_core::runtime::Bundle;

/// A place that `make test` prepares. Its absence fails the test: a microVM test that does not run is no test.
pub fn prepared(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => {
            panic!("{variable} is not set: run `make test`, which prepares the runtime and the environments")
        }
    }
}

/// Makes a test for each backend of each function, which takes the backend: `qemu::name` and `firecracker::name`.
macro_rules! on_each_backend {
    (async $($name:ident)*) => {
        mod qemu {
            $(#[tokio::test]
            async fn $name() {
                super::$name(pyro_core::backend::Preference::Qemu).await;
            })*
        }
        mod firecracker {
            $(#[tokio::test]
            async fn $name() {
                if crate::backends::firecracker_runs_guests() {
                    super::$name(pyro_core::backend::Preference::Firecracker).await;
                }
            })*
        }
    };
    ($($name:ident)*) => {
        mod qemu {
            $(#[test]
            fn $name() {
                super::$name(pyro_core::backend::Preference::Qemu);
            })*
        }
        mod firecracker {
            $(#[test]
            fn $name() {
                if crate::backends::firecracker_runs_guests() {
                    super::$name(pyro_core::backend::Preference::Firecracker);
                }
            })*
        }
    };
}
pub(crate) use on_each_backend;

/// Whether guests' programs run under Firecracker on this host. Where not, says so in the line that scripts/test.sh
/// counts.
pub fn firecracker_runs_guests() -> bool {
    let why = verdict();
    if !why.is_empty() {
        let mut out = std::io::stderr();
        writeln!(out, "NOT TESTED: a guest under Firecracker, which does not run it here: {why}").unwrap();
    }
    why.is_empty()
}

/// Why Firecracker runs no guest, empty where it does. The first test that asks finds out; the others of this run, in
/// whatever process, wait for its answer.
fn verdict() -> String {
    // Set by nextest, which has a process for each test; elsewhere all tests of a binary are one process.
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("process {}", std::process::id()));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("firecracker-verdict");
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    if let Some(why) = remembered(&text, &run) {
        return why.to_owned();
    }
    // A thread of its own, because a test may have a runtime on this one.
    let why = std::thread::spawn(probe).join().unwrap();
    file.set_len(0).unwrap();
    file.rewind().unwrap();
    write!(file, "{run}\n{why}\n").unwrap();
    why
}

/// The answer of this run; none in a file of another, or that was not written to its end.
fn remembered<'a>(text: &'a str, run: &str) -> Option<&'a str> {
    text.strip_suffix('\n')?.split_once('\n').filter(|(of, _)| *of == run).map(|(_, why)| why)
}

/// Boots the prepared kernel and agent.
fn probe() -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        bundle_dir: prepared("PYRO_RUNTIME_BUNDLE_DIR"),
        environment_dir: dir.path().join("environments"),
        template_dir: dir.path().join("templates"),
        cache_dir: dir.path().join("host"),
        scratch_dir: dir.path().to_owned(),
        qemu_binary: "/usr/bin/qemu-system-x86_64".into(),
        firecracker_binary: None,
        run_dir: dir.path().join("run"),
        workspaces_dir: dir.path().join("workspaces"),
        executable: "pyro".into(),
        boot_deadline: None,
    };
    let bundle = Bundle::open(&config.bundle_dir, &config.cache_dir).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let chosen =
        runtime.block_on(backend::choose(&config, &bundle, Preference::Firecracker, ProbePolicy::Always));
    match chosen {
        Ok(_) => String::new(),
        Err(error) => pyro_core::cause::chain(&error).lines().next().unwrap_or("no reason given").to_owned(),
    }
}

#[test]
fn an_answer_is_remembered_for_its_run_alone() {
    assert_eq!(remembered("one\nit hangs\n", "one"), Some("it hangs"));
    assert_eq!(remembered("one\n\n", "one"), Some(""), "it runs");
    for text in ["", "one\n", "one\nit ha", "two\nit hangs\n"] {
        assert_eq!(remembered(text, "one"), None, "{text:?}");
    }
}
