//! Steps of a child between its clone and its exec. Async-signal-safe: system calls on values made before the clone,
//! and no allocation.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::PreparedSandbox;
use super::view::{MAX_ENTRIES, RootEntry, RootView};
use crate::warden::{FileAccess, restrict};

/// Step of a spawn that failed. The number crosses the report pipe of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SpawnStep {
    Clone,
    Orphan,
    Streams,
    UserMap,
    View,
    Limits,
    User,
    Landlock,
    Filter,
    Descriptors,
    Warden,
    Exec,
    Prepare,
}

impl SpawnStep {
    const ALL: [SpawnStep; 13] = [
        SpawnStep::Clone,
        SpawnStep::Orphan,
        SpawnStep::Streams,
        SpawnStep::UserMap,
        SpawnStep::View,
        SpawnStep::Limits,
        SpawnStep::User,
        SpawnStep::Landlock,
        SpawnStep::Filter,
        SpawnStep::Descriptors,
        SpawnStep::Warden,
        SpawnStep::Exec,
        SpawnStep::Prepare,
    ];

    /// Gives the step with this number.
    pub(crate) fn of(number: u8) -> Option<SpawnStep> {
        SpawnStep::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for SpawnStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpawnStep::Clone => "make a process in namespaces of its own",
            SpawnStep::Orphan => "tie the VMM to this process",
            SpawnStep::Streams => "connect the VMM's streams",
            SpawnStep::UserMap => "map the VMM's user",
            SpawnStep::View => "make the VMM's root directory",
            SpawnStep::Limits => "limit the VMM",
            SpawnStep::User => "give the VMM a user of its own",
            SpawnStep::Landlock => "restrict the VMM's files",
            SpawnStep::Filter => "filter the VMM's system calls",
            SpawnStep::Descriptors => "hand descriptors to the VMM",
            SpawnStep::Warden => "start the VMM's warden",
            SpawnStep::Exec => "run the VMM",
            SpawnStep::Prepare => "prepare the VMM's sandbox",
        })
    }
}

/// Failure of a spawn: the step and the error of its system call.
#[derive(Debug)]
pub(crate) struct SpawnFault {
    pub(crate) step: SpawnStep,
    pub(crate) source: io::Error,
}

impl SpawnFault {
    pub(crate) fn at(step: SpawnStep) -> impl Fn(Errno) -> SpawnFault {
        move |errno| SpawnFault { step, source: errno.into() }
    }

    /// Whether the error is a transient shortage, which says nothing about what the host allows.
    pub(super) fn is_transient(&self) -> bool {
        const PASSING: [Errno; 5] = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::INTR];
        Errno::from_io_error(&self.source).is_some_and(|errno| PASSING.contains(&errno))
    }
}

/// Contents of `uid_map` and `gid_map` for a new user namespace.
#[derive(Debug)]
pub(super) struct IdMaps {
    user: Vec<u8>,
    group: Vec<u8>,
}

impl IdMaps {
    /// Maps the caller's user and group to themselves.
    pub(super) fn of_caller() -> IdMaps {
        let line = |id: u32| format!("{id} {id} 1").into_bytes();
        IdMaps {
            user: line(rustix::process::geteuid().as_raw()),
            group: line(rustix::process::getegid().as_raw()),
        }
    }

    fn write(&self) -> Result<(), Errno> {
        // An ordinary user may map a group only after giving up setgroups.
        write_to(c"/proc/self/setgroups", b"deny")?;
        write_to(c"/proc/self/uid_map", &self.user)?;
        write_to(c"/proc/self/gid_map", &self.group)
    }
}

/// A resource limit, soft and hard.
#[derive(Debug)]
pub(super) struct ResourceLimit {
    resource: Resource,
    most: u64,
}

impl ResourceLimit {
    pub(super) fn new(resource: Resource, most: u64) -> ResourceLimit {
        ResourceLimit { resource, most }
    }

    fn apply(&self) -> Result<(), Errno> {
        // A hard limit that was lowered before cannot be raised.
        let hard = rustix::process::getrlimit(self.resource).maximum.unwrap_or(u64::MAX).min(self.most);
        rustix::process::setrlimit(self.resource, Rlimit { current: Some(hard), maximum: Some(hard) })
    }
}

impl PreparedSandbox {
    /// Enters the namespaces and the root directory, sets limits and changes the user. `check_parent` is then called
    /// to renew the parent-death signal, which the kernel drops when a process changes its user.
    pub(crate) fn enter(&self, check_parent: impl Fn() -> Result<(), SpawnFault>) -> Result<(), SpawnFault> {
        if let Some(maps) = &self.maps {
            maps.write().map_err(SpawnFault::at(SpawnStep::UserMap))?;
        }
        if let Some(view) = &self.view {
            view.enter().map_err(SpawnFault::at(SpawnStep::View))?;
        }
        self.limits.iter().try_for_each(ResourceLimit::apply).map_err(SpawnFault::at(SpawnStep::Limits))?;
        self.change_user().map_err(SpawnFault::at(SpawnStep::User))?;
        check_parent()
    }

    fn change_user(&self) -> Result<(), Errno> {
        // A program run as user 0 would get every capability back, inside a namespace too.
        let no_root = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
        match self.user {
            Some(id) => {
                let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
                match self.kvm_group {
                    Some(kvm) => rustix::thread::set_thread_groups(&[Gid::from_raw(kvm)])?,
                    None => rustix::thread::set_thread_groups(&[])?,
                }
                rustix::thread::set_thread_res_gid(group, group, group)?;
                rustix::thread::set_thread_res_uid(user, user, user)?;
            }
            None => match rustix::thread::set_capabilities_secure_bits(no_root) {
                // The call needs CAP_SETPCAP, which root in a container may lack while it has others.
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(errno),
            },
        }
        // Drops the capabilities that are left. With no new privileges, a program run as user 0 cannot get them back.
        let (effective, permitted, inheritable) =
            (CapabilitySet::empty(), CapabilitySet::empty(), CapabilitySet::empty());
        rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted, inheritable })
    }

    /// Applies landlock and the seccomp filter, after which no other step of the sandbox works.
    pub(crate) fn restrict(&self) -> Result<(), SpawnFault> {
        rustix::thread::set_no_new_privs(true).map_err(SpawnFault::at(SpawnStep::Landlock))?;
        if let Some(ruleset) = &self.ruleset {
            if self.own_kvm {
                allow_own_kvm(ruleset).map_err(SpawnFault::at(SpawnStep::Landlock))?;
            }
            // SAFETY: a descriptor that is open, and no pointers.
            let done = unsafe {
                libc::syscall(libc::SYS_landlock_restrict_self, std::os::fd::AsRawFd::as_raw_fd(ruleset), 0)
            };
            if done != 0 {
                return Err(SpawnFault { step: SpawnStep::Landlock, source: io::Error::last_os_error() });
            }
        }
        seccompiler::apply_filter(&self.filter)
            .map_err(|_| SpawnFault { step: SpawnStep::Filter, source: io::Error::last_os_error() })
    }

    /// Working directory in the sandbox's root; `None` without a root directory of its own.
    pub(crate) fn directory(&self) -> Option<&CStr> {
        self.view.as_ref().map(|view| view.directory.as_c_str())
    }
}

impl RootView {
    fn enter(&self) -> Result<(), Errno> {
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        // Mounts are cloned before the new root hides their paths.
        let mut trees = [const { None }; MAX_ENTRIES];
        for (tree, entry) in trees.iter_mut().zip(&self.entries) {
            match entry {
                RootEntry::Bind { from, access, .. } => *tree = Some(clone_mount(from, *access)?),
                RootEntry::Device { from, .. } => *tree = clone_mount(from, FileAccess::Write).ok(),
                RootEntry::Directory(_) | RootEntry::Link { .. } => {}
            }
        }
        let own_proc = clone_mount(c"/proc/self", FileAccess::Read).ok();
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(c"tmpfs", self.mount_point.as_c_str(), c"tmpfs", flags, c"size=1m,nr_inodes=256,mode=0755")?;
        rustix::process::chdir(self.mount_point.as_c_str())?;
        for (tree, entry) in trees.iter().zip(&self.entries) {
            entry.make(tree.as_ref())?;
        }
        mount_proc(own_proc.as_ref())?;
        match rustix::process::pivot_root(c".", c".") {
            Ok(()) => unmount(c".", UnmountFlags::DETACH)?,
            // pivot_root fails on a host that runs from its initramfs.
            Err(Errno::INVAL) => {
                rustix::mount::mount_move(c".", c"/")?;
                rustix::process::chroot(c".")?;
            }
            Err(errno) => return Err(errno),
        }
        rustix::process::chdir(c"/")?;
        mount_remount(c"/", MountFlags::RDONLY | MountFlags::BIND | flags, c"")
    }
}

impl RootEntry {
    fn make(&self, tree: Option<&OwnedFd>) -> Result<(), Errno> {
        match (self, tree) {
            (RootEntry::Directory(name), _) => rustix::fs::mkdir(name.as_c_str(), Mode::from_raw_mode(0o755)),
            (RootEntry::Link { name, target }, _) => rustix::fs::symlink(target.as_c_str(), name.as_c_str()),
            (RootEntry::Bind { name, is_directory, .. }, Some(tree)) => attach(tree, name, *is_directory),
            (RootEntry::Bind { .. }, None) => Err(Errno::INVAL),
            (RootEntry::Device { name, number, owner, .. }, tree) => {
                let mode = Mode::RUSR | Mode::WUSR;
                match rustix::fs::mknodat(CWD, name.as_c_str(), FileType::CharacterDevice, mode, *number) {
                    Ok(()) => {}
                    // Root of a user namespace cannot make devices. The host's node is mounted, and its mode says who
                    // may use it.
                    Err(Errno::PERM) => return attach(tree.ok_or(Errno::PERM)?, name, false),
                    Err(errno) => return Err(errno),
                }
                let (user, group) = (Uid::from_raw(*owner), Gid::from_raw(*owner));
                rustix::fs::chownat(CWD, name.as_c_str(), Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }
}

/// Attaches a mount at `name`, and makes an empty file there unless it is a directory.
fn attach(tree: &OwnedFd, name: &CStr, is_directory: bool) -> Result<(), Errno> {
    if !is_directory {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(rustix::fs::open(name, flags, Mode::empty())?);
    }
    move_mount(tree.as_fd(), c"", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Adds a landlock rule for the KVM device node that was made in this root directory.
fn allow_own_kvm(ruleset: &OwnedFd) -> Result<(), Errno> {
    // linux/landlock.h
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    const RULE_PATH_BENEATH: libc::c_int = 1;
    const WRITE_FILE: u64 = 1 << 1;
    const READ_FILE: u64 = 1 << 2;
    const IOCTL_DEV: u64 = 1 << 15;
    let device = rustix::fs::open(c"/dev/kvm", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // Kernels before 6.10 do not know IOCTL_DEV.
    let mut done = Err(Errno::INVAL);
    for allowed_access in [READ_FILE | WRITE_FILE | IOCTL_DEV, READ_FILE | WRITE_FILE] {
        let rule = PathBeneath { allowed_access, parent_fd: device.as_raw_fd() };
        // SAFETY: a descriptor, and a structure that the kernel only reads and whose type the number names.
        let added = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0,
            )
        };
        done = match added {
            0 => return Ok(()),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        };
    }
    done
}

/// Clones the mount at `path`, with all mounts below it, detached.
fn clone_mount(path: &CStr, access: FileAccess) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    // Writable mounts get noexec, read-only ones nodev.
    let also = if access == FileAccess::Write { libc::MOUNT_ATTR_NOEXEC } else { libc::MOUNT_ATTR_NODEV };
    restrict(&tree, access, also)?;
    Ok(tree)
}

/// Mounts `/proc` of this PID namespace. In a container whose own `/proc` is partly hidden the kernel allows none:
/// then `own`, this process's part of the host's, is mounted as `/proc/self`.
fn mount_proc(own: Option<&OwnedFd>) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match (mount(c"proc", c"proc", c"proc", flags, None), own) {
        (Err(Errno::PERM), Some(own)) => {
            rustix::fs::mkdir(c"proc/self", Mode::from_raw_mode(0o755))?;
            move_mount(own.as_fd(), c"", CWD, c"proc/self", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        }
        (done, _) => done,
    }
}

fn write_to(path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_their_numbers() {
        for (number, step) in (0..).zip(SpawnStep::ALL) {
            assert_eq!((step as u8, SpawnStep::of(number)), (number, Some(step)));
        }
        assert_eq!(SpawnStep::of(13), None);
    }
}
