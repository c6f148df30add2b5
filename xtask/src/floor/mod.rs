//! The floor's guest: a static init in C, alone in an initramfs, that `pyro bench` boots and restores in a bare VMM.
//!
//! In C and without anything of ours, so that what it costs is the VMM's and the kernel's cost alone. Built here, and
//! not where it is measured, because a user's machine has no compiler.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::agent::is_static;
use crate::cpio;
use crate::digest;
use crate::error::{TaskError, at};
use crate::places::{self, Places};
use crate::progress::say;

/// What it is made from.
const SOURCE: &str = "xtask/src/floor/init.c";
/// Small, with nothing in it that tells where or when it was made.
const FLAGS: [&str; 5] = ["-static", "-Os", "-s", "-Wall", "-Wl,--build-id=none"];

/// Builds the initramfs and gives its path; one that has not changed keeps its file untouched.
///
/// # Errors
/// When there is no C compiler or no static C library, or what it made is no static program.
pub fn build(places: &Places) -> Result<PathBuf, TaskError> {
    let dir = places.target.join("floor");
    fs::create_dir_all(&dir).map_err(at(&dir, "created"))?;
    let program = dir.join("init");
    let mut cc = Command::new("cc");
    cc.env_clear().envs(places::plain_environment());
    cc.current_dir(&places.root).args(FLAGS).arg("-o").arg(&program).arg(SOURCE);
    let status = cc.status().map_err(|source| TaskError::Spawn { program: "cc".into(), source })?;
    if !status.success() {
        let what = "building the floor's guest".into();
        return Err(TaskError::Command { what, status: status.to_string() });
    }
    let content = fs::read(&program).map_err(at(&program, "read"))?;
    is_static(&content).map_err(|why| TaskError::Unfit { path: program.clone(), why: why.into() })?;
    let archive = cpio::initramfs(&content).map_err(|error| TaskError::Unfit {
        path: program.clone(),
        why: format!("cannot be packed: {error}"),
    })?;
    let initramfs = dir.join("floor.cpio");
    if fs::read(&initramfs).ok().as_ref() != Some(&archive) {
        digest::replace(&initramfs, &archive).map_err(at(&initramfs, "written"))?;
        say(&format!("[floor] {} ({} KiB)", initramfs.display(), archive.len() / 1024));
    }
    Ok(initramfs)
}
