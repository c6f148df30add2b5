//! Warden: the process between this one and a VMM that changes its user.
//!
//! ```text
//!   this process --- pidfd, exit status ---> warden (PID 1 of a namespace) ---> jailer ---> VMM (PID 1 of another)
//! ```
//!
//! The kernel forgets a process's parent-death signal when the process changes its user, which a jailer does for the
//! VMM's sake, and the jailer itself exits once it has put the VMM into a namespace. So this process starts, watches
//! and kills a third one: the first of a PID namespace, whose end ends all processes in it, however many they are and
//! whatever they did to their signals. The warden never changes its user and keeps the signal.
//!
//! The warden is a fork of this process that never runs a program: it waits, reports the exit status of the last
//! process, and exits. Shared memory is copied only where this process writes to it.
//!
//! The warden also mounts files into the jail: each from a descriptor, on an empty file, in a mount namespace that
//! ends with these processes. So nobody else sees the mount, nothing has to be undone, and a file that is only read
//! is mounted read-only. Hard links would need one file system, and would change the inode of a shared image.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::thread::UnshareFlags;

/// A mount that is not attached to any path yet.
#[derive(Debug)]
pub(crate) struct DetachedMount {
    tree: OwnedFd,
    name: CString,
}

/// Permitted use of a file or mount: reading alone, or reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileAccess {
    Read,
    Write,
}

impl DetachedMount {
    /// Clones a mount of `file`, to be attached at `name`. Fails for a file without a name (link count 0).
    pub(crate) fn of(file: &OwnedFd, name: &str, access: FileAccess) -> io::Result<DetachedMount> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(file.as_fd(), c"", flags)?;
        restrict(&tree, access, libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC)?;
        Ok(DetachedMount { tree, name: CString::new(name).map_err(io::Error::other)? })
    }
}

/// Sets `nosuid`, for [`FileAccess::Read`] also read-only, and the `MOUNT_ATTR_*` bits of `also` on a detached mount
/// and all mounts below it. Async-signal-safe.
pub(crate) fn restrict(tree: &OwnedFd, access: FileAccess, also: u64) -> rustix::io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID | also;
    if access == FileAccess::Read {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the descriptor is open, the path is a C string, and `attributes` is as long as said; the kernel only
    // reads from it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Inputs of the warden of one VMM.
#[derive(Debug)]
pub(crate) struct WardenConfig {
    /// Mounts to attach below the child's starting directory.
    pub(crate) mounts: Vec<DetachedMount>,
    /// Pipe for the wait status of the last process: one native-endian `i32`, as `waitpid` gives it.
    pub(crate) status: OwnedFd,
    /// User id that the jailer gives the VMM.
    pub(crate) user: Option<u32>,
    /// Whether the jailer puts the VMM into a cgroup.
    pub(crate) cgroup: bool,
}

impl WardenConfig {
    /// Runs in the child after the fork: attaches the mounts and becomes the warden. Returns only in the warden's own
    /// child, which goes on to run the program. Async-signal-safe calls only.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // SAFETY: the process has one thread, and shares neither files nor working directory with another.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for mount in &self.mounts {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(mount.tree.as_fd(), c"", CWD, mount.name.as_c_str(), flags)?;
        }
        // Not libc's fork, which runs handlers and takes locks that may have been held when this process was forked.
        // SAFETY: without flags this is a plain fork; both sides go on with memory of their own.
        let forked = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        match forked {
            0 => Ok(()),
            1.. => self.reap_until_empty(),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reaps until no process of the namespace is left, reports the last wait status and exits. System calls only.
    fn reap_until_empty(&self) -> ! {
        let status_fd = self.status.as_raw_fd();
        // SAFETY: closes everything but the one descriptor that is used below; nothing that owns any of them is ever
        // used or dropped again, because this function does not return.
        unsafe {
            if status_fd > 0 {
                libc::syscall(libc::SYS_close_range, 0, status_fd - 1, 0);
            }
            libc::syscall(libc::SYS_close_range, status_fd + 1, libc::c_uint::MAX, 0);
        }
        let mut last = 0;
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes one int.
            let reaped = unsafe { libc::waitpid(-1, &raw mut status, 0) };
            if reaped > 0 {
                last = status;
            } else if Errno::from_io_error(&io::Error::last_os_error()) != Some(Errno::INTR) {
                break;
            }
        }
        let bytes = last.to_ne_bytes();
        // SAFETY: writes four bytes that live on the stack, and ends without running anything of the parent's.
        unsafe {
            libc::write(status_fd, bytes.as_ptr().cast(), bytes.len());
            libc::_exit(0)
        }
    }
}
