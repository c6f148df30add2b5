//! What is put around a VMM process beside its own seccomp filter, so that one that was taken over finds nothing.
//!
//! ```text
//!   policy (Users, Limits) + what the VMM needs --> Plan --> Prepared --> in the child, between clone and exec
//!                                                    ^          |
//!                                                    +- weaker -+  what the host does not allow is left out, and said
//! ```
//!
//! | what | root | not root |
//! |---|---|---|
//! | user | one of its own for each machine | the caller's |
//! | namespaces | mount, network, IPC, PID | user, and the same |
//! | root directory | empty but for what it needs, read-only | the same |
//! | landlock | files that it needs; no TCP; no signals and abstract sockets beyond itself | the same |
//! | system calls | none that make sockets beyond Unix ones, trace, mount, or load | the same |
//! | limits | memory and threads by cgroup; data, threads, files, file size | without cgroup |
//!
//! `view` is the root directory, `landlock` and `filter` are the kernel's two filters, `enter` is all that happens in
//! the child. Everything that allocates happens before the clone.

mod enter;
mod filter;
mod landlock;
mod view;

use std::fmt;
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

pub(crate) use enter::{SpawnFault, SpawnStep};

use crate::VmmError;
use crate::cgroup::CgroupVersion;
use crate::machine::Shape;
use crate::machine_dir::{MachineDir, random_number};
use crate::warden::FileAccess;

/// What only root can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmUsers {
    /// User ids, and group ids with the same numbers, that belong to nobody: each running machine has one of its own.
    /// The wider the range, the less likely it is that another user of it, with another directory, takes the same.
    pub ids: Range<u32>,
    /// Which cgroups limit a machine; `None` where the host has none that do.
    pub cgroups: Option<CgroupVersion>,
}

impl VmmUsers {
    /// An id that may be free.
    fn random_id(&self) -> u32 {
        let width = u64::from(self.ids.end.saturating_sub(self.ids.start)).max(1);
        // Below the width of a range of u32, so it fits.
        self.ids.start + u32::try_from(random_number() % width).unwrap_or(0)
    }

    /// Refuses a range with root in it, or nobody.
    fn check(&self) -> Result<(), VmmError> {
        if self.ids.is_empty() || self.ids.contains(&0) {
            let Range { start, end } = self.ids;
            return Err(VmmError::Spec(format!("the user ids {start} to {end} cannot be a jail's")));
        }
        Ok(())
    }

    /// A directory below `parent` for a machine, named after the user that is the machine's alone from then on.
    pub(crate) fn machine_dir(&self, parent: &Path) -> Result<(MachineDir, u32), VmmError> {
        self.check()?;
        let mut user = 0;
        let choose = || {
            user = self.random_id();
            user.to_string()
        };
        let made = MachineDir::make(parent, choose);
        let mut machine_dir =
            made.map_err(|source| VmmError::Host { doing: "make the VMM's directory", source })?;
        machine_dir.owns_cgroups(self.cgroup_directories(machine_dir.id()));
        Ok((machine_dir, user))
    }

    /// The cgroups of the machine with this id.
    pub(crate) fn cgroup_directories(&self, id: &str) -> Vec<PathBuf> {
        self.cgroups.map(|cgroups| cgroups.directories(id)).unwrap_or_default()
    }
}

/// What a VMM may use. What follows from the machine's shape is not asked: how long a file may get, and threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmmLimits {
    /// Memory beyond the guest's, in MiB: the VMM itself, and page cache of its disk.
    pub overhead_mib: u32,
    /// Open files.
    pub open_files: u32,
}

impl VmmLimits {
    /// For Firecracker, which takes 5 MiB itself; the rest is page cache, which is given back when it is needed.
    pub const FIRECRACKER: VmmLimits = VmmLimits { overhead_mib: 64, open_files: 256 };
    /// For QEMU, which takes up to 120 MiB itself; the rest is page cache.
    pub const QEMU: VmmLimits = VmmLimits { overhead_mib: 512, open_files: 256 };
}

/// What a machine's VMM is confined by. What the host did not allow is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confinement {
    /// A user of its own.
    pub user: Option<u32>,
    /// Namespaces of its own, and a root directory with only what it needs.
    pub namespaces: bool,
    /// A landlock ruleset.
    pub landlock: bool,
    /// A cgroup that limits its memory and threads.
    pub cgroup: bool,
    /// Firecracker's own jailer did it.
    pub jailer: bool,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.jailer, "jailer"),
            (self.user.is_some(), "a user of its own"),
            (self.namespaces, "namespaces"),
            (self.landlock, "landlock"),
            (self.cgroup, "cgroup"),
        ];
        for (_, what) in all.iter().filter(|(is, _)| *is) {
            write!(f, "{what}, ")?;
        }
        f.write_str("seccomp, limits")
    }
}

/// What a VMM has to reach to do its work.
#[derive(Debug)]
pub(crate) struct VmmRequirements {
    pub(crate) shape: Shape,
    pub(crate) limits: VmmLimits,
    /// How long the longest file is that it may write, in bytes.
    pub(crate) longest_file: u64,
    /// Threads beside the vCPUs.
    pub(crate) spare_threads: u64,
    /// `/dev/kvm`.
    pub(crate) kvm: bool,
    /// A directory that it makes sockets in, which is its working directory.
    pub(crate) working_dir: Option<PathBuf>,
    /// Inherited files that it opens anew by `/proc/self/fd`.
    pub(crate) reopened: Vec<(RawFd, FileAccess)>,
}

/// What shall be put around one VMM.
#[derive(Debug)]
pub(crate) struct SandboxPlan {
    pub(crate) requirements: VmmRequirements,
    /// A user of its own.
    pub(crate) user: Option<u32>,
    /// A directory that exists; in the VMM's own mount namespace its root is built on it.
    pub(crate) mount_point: PathBuf,
    namespaces: bool,
    landlock: bool,
}

impl SandboxPlan {
    /// All that this host may allow.
    pub(crate) fn new(requirements: VmmRequirements, user: Option<u32>, mount_point: PathBuf) -> SandboxPlan {
        SandboxPlan { requirements, user, mount_point, namespaces: true, landlock: true }
    }

    /// What is confined by it.
    pub(crate) fn confinement(&self) -> Confinement {
        Confinement {
            user: self.user,
            namespaces: self.namespaces,
            landlock: self.landlock,
            cgroup: false,
            jailer: false,
        }
    }

    /// Leaves out what failed, if that can be left out. Hosts differ: a container may not make namespaces, a
    /// distribution may forbid them to users, a kernel may lack landlock. What a host may have again in a moment is no
    /// reason.
    pub(crate) fn weaken(&mut self, fault: &SpawnFault) -> bool {
        if fault.is_transient() {
            return false;
        }
        match fault.step {
            SpawnStep::Clone | SpawnStep::UserMap | SpawnStep::View => {
                std::mem::replace(&mut self.namespaces, false)
            }
            SpawnStep::User => self.user.take().is_some(),
            SpawnStep::Landlock => std::mem::replace(&mut self.landlock, false),
            _ => false,
        }
    }

    /// Everything that a child does not have the means to make.
    pub(crate) fn prepare(&mut self, program: &Path) -> Result<PreparedSandbox, SpawnFault> {
        let reopened: &[(RawFd, FileAccess)] = &self.requirements.reopened;
        let fault = |step| move |source| SpawnFault { step, source };
        // A VMM of another user's that nobody may kill would outlive us.
        self.user = self.user.filter(|_| may_kill_others());
        let view = match self.namespaces {
            true => Some(
                view::RootView::new(&self.requirements, self.user, program, &self.mount_point)
                    .map_err(fault(SpawnStep::View))?,
            ),
            false => None,
        };
        // A kernel without landlock is no error here: what is one must not end in less than was asked for.
        let ruleset = match self.landlock {
            true => {
                landlock::ruleset(&self.requirements, reopened, program).map_err(fault(SpawnStep::Prepare))?
            }
            false => None,
        };
        self.landlock = ruleset.is_some();
        Ok(PreparedSandbox {
            namespaces: self.namespaces,
            maps: (self.namespaces && self.user.is_none()).then(enter::IdMaps::of_caller),
            view,
            user: self.user,
            own_kvm: self.requirements.kvm && self.namespaces && self.user.is_some(),
            kvm_group: if self.requirements.kvm && self.user.is_some() { view::kvm_group() } else { None },
            limits: self.limits(),
            ruleset,
            filter: filter::program(self.requirements.working_dir.is_some())
                .map_err(fault(SpawnStep::Prepare))?,
        })
    }

    fn limits(&self) -> Vec<enter::ResourceLimit> {
        let VmmRequirements { shape, limits, longest_file, spare_threads, .. } = &self.requirements;
        let threads = u64::from(shape.vcpus) + spare_threads;
        // Stacks of threads count as data: 8 MiB each.
        let data = shape.memory_bytes() + (u64::from(limits.overhead_mib) << 20) + threads * (8 << 20);
        let mut all = vec![
            enter::ResourceLimit::new(rustix::process::Resource::Nofile, limits.open_files.into()),
            enter::ResourceLimit::new(rustix::process::Resource::Fsize, longest_file + FILE_ROOM),
            enter::ResourceLimit::new(rustix::process::Resource::Data, data),
            // Shared memory is no data; a file of the guest's memory, programs and reservations are address space too.
            enter::ResourceLimit::new(rustix::process::Resource::As, data + shape.memory_bytes() + ADDRESSES),
        ];
        // Counted for each user of a user namespace: for the caller's own user in the caller's own namespace, all of
        // the caller's processes would count.
        if self.user.is_some() || self.namespaces && counts_by_namespace() {
            all.push(enter::ResourceLimit::new(rustix::process::Resource::Nproc, threads));
        }
        all
    }
}

/// Files may grow this far beyond the largest that the machine was given: sockets, logs and the state are small.
pub(crate) const FILE_ROOM: u64 = 16 << 20;

/// Address space beside data and a file of the guest's memory: programs, and what the allocator reserves and never touches,
/// 64 MiB for each of at most eight threads a processor.
const ADDRESSES: u64 = 4 << 30;

/// Whether this process may send signals to other users' processes: root in a container may not have that capability, and
/// the parent-death signal asks for it too.
fn may_kill_others() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|all| all.effective.contains(CapabilitySet::KILL))
}

/// Whether processes are counted for each user namespace, as they are from Linux 5.14 on.
fn counts_by_namespace() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 14)
}

/// A plan made ready for one child.
#[derive(Debug)]
pub(crate) struct PreparedSandbox {
    namespaces: bool,
    maps: Option<enter::IdMaps>,
    view: Option<view::RootView>,
    user: Option<u32>,
    /// In the view there is a KVM device that is not the host's.
    own_kvm: bool,
    kvm_group: Option<u32>,
    limits: Vec<enter::ResourceLimit>,
    ruleset: Option<OwnedFd>,
    filter: filter::SeccompProgram,
}

impl PreparedSandbox {
    /// What the child is cloned with.
    pub(crate) fn clone_flags(&self) -> libc::c_int {
        let mut flags = 0;
        if self.namespaces {
            flags |= libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;
        }
        if self.maps.is_some() {
            flags |= libc::CLONE_NEWUSER;
        }
        flags
    }
}

/// Refuses a file that a VMM with a user of its own could not open.
pub(crate) fn check_readable(name: &str, file: &impl std::os::fd::AsFd) -> Result<(), VmmError> {
    let stat = rustix::fs::fstat(file)
        .map_err(|errno| VmmError::Host { doing: "look at a file of the machine", source: errno.into() })?;
    if stat.st_mode & libc::S_IROTH == 0 {
        return Err(VmmError::Spec(format!(
            "{name} may not be read by others (mode {:04o}), and its VMM, which has a user of its own, is one",
            stat.st_mode & 0o7777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_in_their_range_and_root_is_in_none() {
        let users = |ids| VmmUsers { ids, cgroups: None };
        let good = users(100_000..200_000);
        assert!((0..1000).all(|_| good.ids.contains(&good.random_id())));
        assert!(good.check().is_ok());
        for ids in [0..10, 10..10] {
            assert!(matches!(users(ids).check(), Err(VmmError::Spec(_))));
        }
    }

    #[test]
    fn what_a_host_forbids_is_left_out_once() {
        let requirements = VmmRequirements {
            shape: Shape { vcpus: 1, mem_mib: 64 },
            limits: VmmLimits { overhead_mib: 64, open_files: 64 },
            longest_file: 0,
            spare_threads: 1,
            kvm: false,
            working_dir: None,
            reopened: Vec::new(),
        };
        let mut plan = SandboxPlan::new(requirements, Some(7), "/".into());
        assert_eq!(
            plan.confinement().to_string(),
            "a user of its own, namespaces, landlock, seccomp, limits"
        );
        let fault = |step| SpawnFault::at(step)(rustix::io::Errno::PERM);
        for passing in [rustix::io::Errno::AGAIN, rustix::io::Errno::NOMEM, rustix::io::Errno::MFILE] {
            assert!(
                !plan.weaken(&SpawnFault::at(SpawnStep::Clone)(passing)),
                "a busy host has namespaces all the same"
            );
        }
        assert!(
            plan.weaken(&fault(SpawnStep::View)) && !plan.weaken(&fault(SpawnStep::Clone)),
            "namespaces go once"
        );
        assert!(plan.weaken(&fault(SpawnStep::User)) && plan.weaken(&fault(SpawnStep::Landlock)));
        assert!(!plan.weaken(&fault(SpawnStep::User)));
        for step in [SpawnStep::Prepare, SpawnStep::Filter, SpawnStep::Limits, SpawnStep::Exec] {
            assert!(!plan.weaken(&fault(step)), "{step} can never be left out");
        }
        assert_eq!(plan.confinement().to_string(), "seccomp, limits");
    }
}
