//! The guest's root: the base image below, the upper layer on the disk above, `/workspace` straight from the disk.
//!
//! ```text
//!   base (read-only) --\
//!   disk:/.pyro/upper --+-- overlay = /        disk:/workspace = /workspace
//! ```
//!
//! Devices are told apart by their access mode, not by their order: the read-only one is the base.

use std::ffi::CStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use pyro_proto::message::{Failure, FailureKind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

use super::GuestRoot;
use crate::failure::{failure, refusal};

/// Assembles the root and makes it this process's; `/dev`, `/proc`, `/sys` and `/run` come along. With `wait` the disk
/// is left alone: the result is [`GuestRoot::Waiting`], to be finished by [`UnassembledRoot::assemble`].
pub fn begin(wait: bool) -> GuestRoot {
    let (base, disk) = match devices() {
        (None, None) => return GuestRoot::Diskless,
        (Some(base), Some(disk)) => (base, disk),
        (None, Some(_)) => {
            return GuestRoot::Failed(refusal(
                FailureKind::Internal,
                "base",
                "there is a disk and no base image",
            ));
        }
        (Some(_), None) => {
            return GuestRoot::Failed(refusal(
                FailureKind::Internal,
                "disk",
                "there is a base image and no disk",
            ));
        }
    };
    let waiting = match mount_base(&base) {
        Ok(()) => UnassembledRoot { disk },
        Err(failure) => return GuestRoot::Failed(failure),
    };
    if wait {
        warm();
        GuestRoot::Waiting(waiting)
    } else {
        waiting.assemble()
    }
}

/// Root of a guest with its base mounted and its disk untouched: the guest can be saved, and be given another disk when
/// it is restored.
#[derive(Debug)]
pub struct UnassembledRoot {
    disk: String,
}

impl UnassembledRoot {
    /// Mounts the disk, assembles the root and makes it this process's.
    pub fn assemble(&self) -> GuestRoot {
        match assemble(&self.disk) {
            Ok(disk) => GuestRoot::Ready(disk),
            Err(failure) => GuestRoot::Failed(failure),
        }
    }
}

/// Runs a shell from the base once, so that the files every command needs are in the page cache when the guest is
/// saved.
fn warm() {
    use std::os::unix::process::CommandExt;
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "true"]).env_clear();
    // SAFETY: between fork and exec only two system calls are made; the process has one thread.
    unsafe {
        shell.pre_exec(|| {
            rustix::process::chroot("/base")?;
            Ok(rustix::process::chdir("/")?)
        });
    }
    // Only warms: an image without a shell is as good.
    let _ = shell.status();
}

/// Finds the block devices: base and disk.
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

fn fail(stage: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| failure(FailureKind::Internal, stage, errno, stage)
}

fn make(path: &str) -> Result<(), Failure> {
    match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failure(FailureKind::Internal, "mkdir", errno, path)),
    }
}

fn mount_base(base: &str) -> Result<(), Failure> {
    for path in ["/base", "/disk", "/new"] {
        make(path)?;
    }
    mount(format!("/dev/{base}"), "/base", "ext4", MountFlags::RDONLY, None::<&CStr>).map_err(fail("base"))
}

fn assemble(disk: &str) -> Result<OwnedFd, Failure> {
    let device = format!("/dev/{disk}");
    forget(&device).map_err(fail("disk"))?;
    // Access times on the disk would turn reading into writing, and every snapshot larger.
    mount(device, "/disk", "ext4", MountFlags::NOATIME, c"noinit_itable").map_err(fail("disk"))?;
    for path in ["/disk/.pyro", "/disk/.pyro/upper", "/disk/.pyro/work", "/disk/workspace"] {
        make(path)?;
    }
    let own = open_disk(Path::new("/disk")).map_err(fail("disk"))?;
    // A directory of the base is renamed by a mark that says where its lower part is; without, rename(2) says EXDEV,
    // which package managers take for another file system or for the end.
    let layers = c"lowerdir=/base,upperdir=/disk/.pyro/upper,workdir=/disk/.pyro/work,redirect_dir=on";
    mount("overlay", "/new", "overlay", MountFlags::NOATIME, layers).map_err(fail("overlay"))?;
    for path in ["/new/workspace", "/new/dev", "/new/proc", "/new/sys", "/new/run"] {
        make(path)?;
    }
    mount_bind("/disk/workspace", "/new/workspace").map_err(fail("workspace"))?;
    for name in ["dev", "proc", "sys", "run"] {
        mount_move(format!("/{name}"), format!("/new/{name}")).map_err(fail("move"))?;
    }
    rustix::process::chdir("/new").map_err(fail("chdir"))?;
    mount_move(".", "/").map_err(fail("move"))?;
    rustix::process::chroot(".").map_err(fail("chroot"))?;
    rustix::process::chdir("/").map_err(fail("chdir"))?;
    super::mounts::files();
    Ok(own)
}

/// Opens the root of the disk that is mounted at `path`.
pub fn open_disk(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

const BLKFLSBUF: libc::Ioctl = 0x1261;

/// Drops the kernel's cache of the device: it looked for partitions when the guest booted, maybe on another disk.
fn forget(device: &str) -> Result<(), Errno> {
    let device = rustix::fs::open(device, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: BLKFLSBUF takes no argument.
    if unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&device), BLKFLSBUF) } < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
