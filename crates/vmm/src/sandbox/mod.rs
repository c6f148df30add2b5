//! Sandbox around a VMM process, beside the VMM's own seccomp filter, so that a VMM that a guest took over reaches
//! nothing.
//!
//! ```text
//!   VmmUsers, VmmLimits, VmmRequirements --> SandboxPlan --> PreparedSandbox --> in the child, between clone and exec
//!                                                 ^                |
//!                                                 +---- weaken ----+   a part that the host does not allow is left
//!                                                                      out, and `Confinement` lacks it
//! ```
//!
//! | part | root | not root |
//! |---|---|---|
//! | user | one of its own for each machine | the caller's |
//! | namespaces | mount, network, IPC, PID | user, and the same |
//! | root directory | empty but for what it needs, read-only | the same |
//! | landlock | files that it needs; no TCP; no signals and abstract sockets beyond itself | the same |
//! | system calls | none that make sockets beyond Unix ones, trace, mount, or load | the same |
//! | limits | memory and threads by cgroup; data, threads, files, file size | without cgroup |
//!
//! `view` builds the root directory, `landlock` and `filter` the kernel's two filters, `enter` runs in the child.
//! Everything that allocates runs before the clone.

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

/// Users and cgroups for VMMs, which only root can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmUsers {
    /// Unused user ids, and group ids with the same numbers: each running machine has one of its own. The wider the
    /// range, the less likely two run directories with the same range choose the same id.
    pub ids: Range<u32>,
    /// Version of the cgroups that limit a machine; `None` where the host has none that can.
    pub cgroups: Option<CgroupVersion>,
}

impl VmmUsers {
    /// Random id of the range, which may be in use.
    fn random_id(&self) -> u32 {
        let width = u64::from(self.ids.end.saturating_sub(self.ids.start)).max(1);
        // The remainder is below the width of a range of u32, so it fits.
        self.ids.start + u32::try_from(random_number() % width).unwrap_or(0)
    }

    /// Refuses an empty range, and one with root in it.
    fn check(&self) -> Result<(), VmmError> {
        if self.ids.is_empty() || self.ids.contains(&0) {
            let Range { start, end } = self.ids;
            return Err(VmmError::Spec(format!("the user ids {start} to {end} cannot be a jail's")));
        }
        Ok(())
    }

    /// Makes a machine's directory below `parent`, named after a user id that is the machine's alone while the
    /// directory exists. Gives both.
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
        machine_dir.set_cgroups(self.cgroup_directories(machine_dir.id()));
        Ok((machine_dir, user))
    }

    /// Cgroup directories of the machine `id`; empty without cgroups.
    pub(crate) fn cgroup_directories(&self, id: &str) -> Vec<PathBuf> {
        self.cgroups.map(|cgroups| cgroups.directories(id)).unwrap_or_default()
    }
}

/// Limits of a VMM beyond its machine's shape, from which file sizes and threads follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmmLimits {
    /// Memory beyond the guest's, in MiB: for the VMM itself and the page cache of its disk.
    pub overhead_mib: u32,
    /// Most open files of the VMM.
    pub open_files: u32,
}

impl VmmLimits {
    /// Limits of Firecracker, which takes 5 MiB itself; the rest is page cache, which the kernel reclaims.
    pub const FIRECRACKER: VmmLimits = VmmLimits { overhead_mib: 64, open_files: 256 };
    /// Limits of QEMU, which takes up to 120 MiB itself; the rest is page cache.
    pub const QEMU: VmmLimits = VmmLimits { overhead_mib: 512, open_files: 256 };
}

/// Confinement of a running VMM. A part that the host did not allow is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confinement {
    /// User id of the VMM alone; `None` when the VMM runs as this process's user.
    pub user: Option<u32>,
    /// Whether the VMM has namespaces of its own and a root directory with only what it needs.
    pub namespaces: bool,
    /// Whether a landlock ruleset limits the files that the VMM opens.
    pub landlock: bool,
    /// Whether a cgroup limits the VMM's memory and threads.
    pub cgroup: bool,
    /// Whether Firecracker's own jailer confines the VMM.
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

/// Resources that a VMM needs; all others are closed to it.
#[derive(Debug)]
pub(crate) struct VmmRequirements {
    pub(crate) shape: Shape,
    pub(crate) limits: VmmLimits,
    /// Length in bytes of the longest file that the VMM may write.
    pub(crate) longest_file: u64,
    /// Threads of the VMM beside one for each vCPU.
    pub(crate) spare_threads: u64,
    /// Whether the VMM opens `/dev/kvm`.
    pub(crate) kvm: bool,
    /// Working directory, in which the VMM makes its sockets; `None` for a VMM that makes no files.
    pub(crate) working_dir: Option<PathBuf>,
    /// Inherited files that the VMM opens anew by `/proc/self/fd/N`, with the access it needs.
    pub(crate) reopened: Vec<(RawFd, FileAccess)>,
}

/// Sandbox to be put around one VMM.
#[derive(Debug)]
pub(crate) struct SandboxPlan {
    pub(crate) requirements: VmmRequirements,
    /// User id for the VMM alone; `None` for this process's user.
    pub(crate) user: Option<u32>,
    /// Existing directory on which the VMM's root directory is mounted, in the VMM's own mount namespace.
    pub(crate) mount_point: PathBuf,
    namespaces: bool,
    landlock: bool,
}

impl SandboxPlan {
    /// Plans every part; the host may still refuse some.
    pub(crate) fn new(requirements: VmmRequirements, user: Option<u32>, mount_point: PathBuf) -> SandboxPlan {
        SandboxPlan { requirements, user, mount_point, namespaces: true, landlock: true }
    }

    /// Confinement that the plan still has.
    pub(crate) fn confinement(&self) -> Confinement {
        Confinement {
            user: self.user,
            namespaces: self.namespaces,
            landlock: self.landlock,
            cgroup: false,
            jailer: false,
        }
    }

    /// Leaves out the part that failed; whether that part could be left out. Hosts differ: a container may not make
    /// namespaces, a distribution may forbid them to users, a kernel may lack landlock. A transient shortage weakens
    /// nothing.
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

    /// Makes everything that a child cannot make itself, because it must not allocate.
    pub(crate) fn prepare(&mut self, program: &Path) -> Result<PreparedSandbox, SpawnFault> {
        let reopened: &[(RawFd, FileAccess)] = &self.requirements.reopened;
        let fault = |step| move |source| SpawnFault { step, source };
        // Without CAP_KILL a VMM with another user could not be killed and would outlive this process.
        self.user = self.user.filter(|_| may_kill_others());
        let view = match self.namespaces {
            true => Some(
                view::RootView::new(&self.requirements, self.user, program, &self.mount_point)
                    .map_err(fault(SpawnStep::View))?,
            ),
            false => None,
        };
        // A kernel without landlock gives no ruleset; any other failure is an error and must not weaken the sandbox.
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
        // Thread stacks count as data: 8 MiB each.
        let data = shape.memory_bytes() + (u64::from(limits.overhead_mib) << 20) + threads * (8 << 20);
        let mut all = vec![
            enter::ResourceLimit::new(rustix::process::Resource::Nofile, limits.open_files.into()),
            enter::ResourceLimit::new(rustix::process::Resource::Fsize, longest_file + SPARE_FILE_LENGTH),
            enter::ResourceLimit::new(rustix::process::Resource::Data, data),
            // Data does not include shared memory; address space also holds a file of the guest's memory, programs
            // and reservations.
            enter::ResourceLimit::new(
                rustix::process::Resource::As,
                data + shape.memory_bytes() + SPARE_ADDRESS_SPACE,
            ),
        ];
        // The kernel counts processes for each user of a user namespace: for the caller's user in the caller's
        // namespace it would count all of the caller's processes.
        if self.user.is_some() || self.namespaces && counts_by_namespace() {
            all.push(enter::ResourceLimit::new(rustix::process::Resource::Nproc, threads));
        }
        all
    }
}

/// Bytes that a file may grow beyond the machine's largest: sockets, logs and the state are small.
pub(crate) const SPARE_FILE_LENGTH: u64 = 16 << 20;

/// Address space in bytes beside data and a file of the guest's memory: programs, and reservations of the allocator,
/// 64 MiB for each of at most eight threads a processor.
const SPARE_ADDRESS_SPACE: u64 = 4 << 30;

/// Whether this process has CAP_KILL, to signal other users' processes. Root in a container may lack it, and the
/// parent-death signal needs it too.
fn may_kill_others() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|all| all.effective.contains(CapabilitySet::KILL))
}

/// Whether RLIMIT_NPROC counts for each user namespace, as from Linux 5.14 on.
fn counts_by_namespace() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 14)
}

/// A sandbox made ready for one child.
#[derive(Debug)]
pub(crate) struct PreparedSandbox {
    namespaces: bool,
    maps: Option<enter::IdMaps>,
    view: Option<view::RootView>,
    user: Option<u32>,
    /// Whether the root directory gets a KVM device node of its own instead of the host's.
    own_kvm: bool,
    kvm_group: Option<u32>,
    limits: Vec<enter::ResourceLimit>,
    ruleset: Option<OwnedFd>,
    filter: filter::SeccompProgram,
}

impl PreparedSandbox {
    /// Namespace flags for the clone.
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

/// Refuses a file without read permission for others, which a VMM with a user of its own could not open. `name` is
/// for the error.
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
