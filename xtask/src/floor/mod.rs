//! The floor's guest: a static init in C, alone in an initramfs, that `pyro bench` boots and restores in a bare VMM.
//!
//! In C and without anything of ours, so that what it costs is the VMM's and the kernel's cost alone. Built here, and
//! not where it is measured, because a user's machine has no compiler.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::agent::pack;
use crate::error::{TaskError, at};
use crate::places::{self, Places};

/// Source of the floor's init, relative to the root of the tree.
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
    let initramfs = dir.join("floor.cpio");
    pack("floor", &program, &initramfs)?;
    Ok(initramfs)
}
