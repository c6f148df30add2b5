//! Pulls on machines that lack something: each fails with one clear line and a remedy, and leaves nothing behind.
//!
//! The machine is a mount or network namespace in which this test runs itself again, so these need root.
#![expect(clippy::unwrap_used, reason = "a failure to set a test up is a failure of the test")]

use std::fs;
use std::process::Command;

use pyro_core::environment::{EnvironmentError, Store};
use pyro_core::hint::Hint;
use pyro_core::hostfs::CancelToken;

const INSIDE: &str = "PYRO_TEST_INSIDE";

/// Runs test `name` of this file again in new namespaces, after `setup`, a shell script, changed what it will see.
/// Returns true in there.
fn inside(name: &str, namespaces: &[&str], setup: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = format!("set -eu; {setup}; exec \"$@\"");
    let out = Command::new("unshare")
        .args(namespaces)
        .args(["--", "/bin/sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// Pulls, and returns what went wrong, in one line, and the remedy.
fn fails() -> (EnvironmentError, String, Hint) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path().to_owned());
    let error = store.pull("debian:12-base", &mut |_| (), &CancelToken::new()).unwrap_err();
    let left: Vec<_> = fs::read_dir(root.path().join("debian-12-base"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    assert_eq!(left, [""; 0]);
    let (text, hint) = (error.to_string(), error.hint().unwrap());
    assert!(!text.contains('\n') && text.len() < 1000, "{text}");
    (error, text, hint)
}

#[test]
fn without_a_network() {
    if inside("without_a_network", &["--net"], "true") {
        let (_, text, hint) = fails();
        assert!(text.contains("cannot be reached"), "{text}");
        assert_eq!(hint, Hint::CheckPackageSources);
    }
}

#[test]
fn without_sources_for_debian_12() {
    let hide = "mount -t tmpfs none /etc/apt/sources.list.d; \
                if [ -e /etc/apt/sources.list ]; then mount --bind /dev/null /etc/apt/sources.list; fi";
    if inside("without_sources_for_debian_12", &["--mount"], hide) {
        let (error, _, hint) = fails();
        assert!(matches!(error, EnvironmentError::NoSources));
        assert_eq!(hint, Hint::AddPackageSource);
    }
}

#[test]
fn without_the_keys_of_debian() {
    // What the sources name and what is trusted by default are the keys of nobody.
    let hide = "mount -t tmpfs none /etc/apt/trusted.gpg.d; for key in /usr/share/keyrings/debian-archive-*; do \
                mount --bind /dev/null $key; done";
    if inside("without_the_keys_of_debian", &["--mount"], hide) {
        let (_, text, hint) = fails();
        assert!(text.contains("not signed as it should be"), "{text}");
        assert_eq!(hint, Hint::CheckSignatures);
    }
}

#[test]
fn without_mmdebstrap() {
    let hide = "mount --bind /dev/null \"$(command -v mmdebstrap)\"";
    if inside("without_mmdebstrap", &["--mount"], hide) {
        let (error, _, hint) = fails();
        assert!(matches!(error, EnvironmentError::MissingTool { tool: "mmdebstrap", .. }));
        assert_eq!(hint, Hint::InstallPackages { packages: vec!["mmdebstrap".into()] });
    }
}

#[test]
fn without_mke2fs_there_is_no_disk() {
    let hide = "mount --bind /dev/null \"$(PATH=$PATH:/sbin:/usr/sbin command -v mke2fs)\"";
    if inside("without_mke2fs_there_is_no_disk", &["--mount"], hide) {
        let root = tempfile::tempdir().unwrap();
        let error = Store::new(root.path().to_owned()).blank_disk().unwrap_err();
        let hint = Hint::InstallPackages { packages: vec!["e2fsprogs".into()] };
        assert_eq!(error.hint(), Some(hint), "{error}");
    }
}
