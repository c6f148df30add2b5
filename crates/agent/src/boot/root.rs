//! The guest's root: the base image below, the upper layer on the disk above, `/workspace` straight from the disk.
//!
//! ```text
//!   base (read-only) --\
//!   disk:/.pyro/upper --+-- overlay = /        disk:/workspace = /workspace
//! ```
//!
//! Devices are told apart by what they allow, not by their order: the read-only one is the base.

use std::ffi::CStr;
use std::fs;

use pyro_proto::message::{Failure, FailureKind};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

use super::Root;
use crate::failure::{failure, refusal};

/// Assembles the root and makes it this process's; `/dev`, `/proc` and `/sys` come along.
pub fn assemble() -> Root {
    let (base, disk) = devices();
    match (base, disk) {
        (None, None) => Root::Bare,
        (Some(base), Some(disk)) => match build(&base, &disk) {
            Ok(()) => Root::Ready,
            Err(failure) => Root::Failed(failure),
        },
        (None, Some(_)) => {
            Root::Failed(refusal(FailureKind::Internal, "base", "there is a disk and no base image"))
        }
        (Some(_), None) => {
            Root::Failed(refusal(FailureKind::Internal, "disk", "there is a base image and no disk"))
        }
    }
}

/// The block devices: base and disk.
fn devices() -> (Option<String>, Option<String>) {
    let (mut base, mut disk) = (None, None);
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with("vd") {
            continue;
        }
        let slot = match fs::read(entry.path().join("ro")).as_deref() {
            Ok(b"1\n") => &mut base,
            Ok(b"0\n") => &mut disk,
            _ => continue,
        };
        if slot.as_ref().is_none_or(|held| *held > name) {
            *slot = Some(name);
        }
    }
    (base, disk)
}

fn build(base: &str, disk: &str) -> Result<(), Failure> {
    let fail = |stage: &'static str| move |errno: Errno| failure(FailureKind::Internal, stage, errno, stage);
    let make = |path: &str| match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failure(FailureKind::Internal, "mkdir", errno, path)),
    };
    for path in ["/base", "/disk", "/new"] {
        make(path)?;
    }
    mount(format!("/dev/{base}"), "/base", "ext4", MountFlags::RDONLY, None::<&CStr>)
        .map_err(fail("base"))?;
    // Access times on the disk would turn reading into writing, and every snapshot larger.
    mount(format!("/dev/{disk}"), "/disk", "ext4", MountFlags::NOATIME, c"noinit_itable")
        .map_err(fail("disk"))?;
    for path in ["/disk/.pyro", "/disk/.pyro/upper", "/disk/.pyro/work", "/disk/workspace"] {
        make(path)?;
    }
    let layers = c"lowerdir=/base,upperdir=/disk/.pyro/upper,workdir=/disk/.pyro/work";
    mount("overlay", "/new", "overlay", MountFlags::NOATIME, layers).map_err(fail("overlay"))?;
    for path in ["/new/workspace", "/new/dev", "/new/proc", "/new/sys", "/new/run"] {
        make(path)?;
    }
    mount_bind("/disk/workspace", "/new/workspace").map_err(fail("workspace"))?;
    for name in ["dev", "proc", "sys"] {
        mount_move(format!("/{name}"), format!("/new/{name}")).map_err(fail("move"))?;
    }
    rustix::process::chdir("/new").map_err(fail("chdir"))?;
    mount_move(".", "/").map_err(fail("move"))?;
    rustix::process::chroot(".").map_err(fail("chroot"))?;
    rustix::process::chdir("/").map_err(fail("chdir"))
}
