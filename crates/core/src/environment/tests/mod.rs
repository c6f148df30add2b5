//! Tests of the store, with trees of a few files in place of Debian: everything but what fills the tree is the real
//! thing, run as root in the same jail.

mod interrupted;
mod store;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::debian::Built;
use super::event::{Events, PullPhase};
use super::install::Filler;
use super::{EnvironmentError, PullEvent, Store, packages, process};
use crate::hostfs::CancelToken;
use crate::hostfs::process::Jail;

/// The environment that the tests install.
const NAME: &str = "debian:12-base";

/// Script for the tree of every test: an ordinary file, a hard link, a set-uid program, another owner, a device, a long link.
const TREE: &str = r#"set -eu
mkdir -p "$1/etc" "$1/bin" "$1/workspace"
echo hello > "$1/etc/motd"
ln "$1/etc/motd" "$1/etc/issue"
echo x > "$1/bin/su"; chmod 4755 "$1/bin/su"; chown 1:2 "$1/bin"
mknod "$1/null" c 1 3
ln -s "$(printf '%080d' 0)" "$1/long"
printf 'tiny\t1.0\tall\n' > "$2/installed"
printf 'Package: tiny\nVersion: 1.0\nArchitecture: all\nSHA256: %064d\n' 7 > "$2/index"
"#;

/// Fills a tree for `Filler::Script`: see there.
pub(super) fn fill(
    name: &str,
    script: &str,
    dir: &Path,
    jail: Jail,
    events: &mut Events<'_>,
    cancel: &CancelToken,
) -> Result<Built, EnvironmentError> {
    events.phase(PullPhase::Install);
    let (tree, lists) = (dir.join("tree"), dir.join("lists"));
    for dir in [&tree, &lists] {
        std::fs::create_dir(dir).map_err(|e| EnvironmentError::cache(dir, "created", e))?;
    }
    let mut command = jail.command(Path::new("/bin/sh"))?;
    command.args(["-c", script, "sh"]).arg(&tree).arg(&lists);
    process::run_checked(name, "mmdebstrap", &mut command, cancel, &mut |_| ())?;
    let read = |file: &str| std::fs::read_to_string(lists.join(file)).unwrap();
    Ok(Built {
        packages: packages::join(&read("installed"), &read("index")).unwrap(),
        suites: vec!["bookworm".into()],
    })
}

/// A store whose trees are [`TREE`] and what `more` adds.
fn store(root: &Path, more: &str) -> Store {
    let mut store = Store::new(root.to_owned());
    store.filler = Filler::Script(format!("{TREE}{more}"));
    store
}

fn pull(store: &Store) -> Result<super::Installed, EnvironmentError> {
    store.pull(NAME, &mut |_| (), &CancelToken::new())
}

fn phases(store: &Store) -> (Result<super::Installed, EnvironmentError>, Vec<PullPhase>) {
    let mut seen = Vec::new();
    let mut sink = |event: PullEvent| {
        if event.progress.is_none() {
            seen.push(event.phase);
        }
    };
    let result = store.pull(NAME, &mut sink, &CancelToken::new());
    (result, seen)
}

/// Names in the environment's directory, sorted, without the lock.
fn names(store: &Store) -> Vec<String> {
    let dir = store.root().join("debian-12-base");
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

fn fsck(image: &Path) {
    run("/sbin/e2fsck", &["-fn".as_ref(), image.as_os_str()]);
}

/// A mount that ends with the test.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        run(
            "mount",
            &[
                "-t".as_ref(),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                options.as_ref(),
                "none".as_ref(),
                at.as_os_str(),
            ],
        );
        Self(at.to_owned())
    }

    fn read_only(at: &Path) -> Self {
        run("mount", &["--bind".as_ref(), at.as_os_str(), at.as_os_str()]);
        let mount = Self(at.to_owned());
        run("mount", &["-o".as_ref(), "remount,bind,ro".as_ref(), at.as_os_str()]);
        mount
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
