//! The jail of one machine: Firecracker's own jailer, told what, and what it cannot be told.
//!
//! The jailer gives the VMM a root directory of its own, a user, a PID namespace, cgroups and resource limits. Files are
//! mounted into the jail by the [`warden`](crate::warden), read-only where they are only read. What must be true of them
//! is checked here, because the VMM, as nobody's user, could only say "permission denied".

use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

use super::home::{Home, any_number};
use crate::VmmError;
use crate::machine::Shape;
use crate::warden::{Access, Mount};

/// Below every controller, the cgroup whose children are the machines'. It stays.
const PARENT_CGROUP: &str = "pyro";

/// Threads and processes beside the vCPUs: the VMM's main and API threads, the jailer and its child, and room for one
/// more of each.
const SPARE_THREADS: u64 = 8;

/// Files may grow this far beyond the largest that the machine was given: sockets, logs and the state are small.
const FILE_ROOM: u64 = 16 << 20;

/// How machines are jailed. Needs root, and Linux 5.12 for the mounts.
///
/// A machine's disk belongs to its user from its launch on. What is only read must be readable by others: what is not
/// for everybody's eyes belongs into a directory that others cannot enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    /// The path of `jailer`, of the same version as the VMM.
    pub binary: PathBuf,
    /// User ids, and group ids with the same numbers, that belong to nobody: each running machine has one of its own.
    /// The wider the range, the less likely it is that another user of it, with another directory, takes the same.
    pub ids: Range<u32>,
    /// Which cgroups limit a machine; `None` where the host has none that do.
    pub cgroups: Option<Cgroups>,
    /// What it may use beyond its own size.
    pub limits: Limits,
}

/// Which kind of cgroups has the memory and pids controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// What a jailed VMM may use. What follows from the machine's shape is not asked: threads, and how long a file may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory beyond the guest's, in MiB: the VMM itself, and page cache of its disk.
    pub overhead_mib: u32,
    /// Open files.
    pub open_files: u32,
}

impl Default for Limits {
    /// 64 MiB and 256 files. The VMM takes 5 MiB; the rest is page cache, which is given back when it is needed.
    fn default() -> Limits {
        Limits { overhead_mib: 64, open_files: 256 }
    }
}

impl Cgroups {
    /// What this host has.
    ///
    /// # Errors
    /// When the list of mounts cannot be read.
    pub fn of_host() -> io::Result<Option<Cgroups>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        if let Some(point) = mount_point(&mounts, Cgroups::V2, "") {
            let controllers = fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default();
            if ["memory", "pids"].iter().all(|one| controllers.split_whitespace().any(|has| has == *one)) {
                return Ok(Some(Cgroups::V2));
            }
        }
        let has = |controller| mount_point(&mounts, Cgroups::V1, controller).is_some();
        Ok((has("memory") && has("pids")).then_some(Cgroups::V1))
    }

    fn number(self) -> &'static str {
        match self {
            Cgroups::V1 => "1",
            Cgroups::V2 => "2",
        }
    }

    /// The directories that the jailer makes for `id`.
    fn directories(self, id: &str) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let controllers: &[&str] = match self {
            Cgroups::V1 => &["memory", "pids"],
            Cgroups::V2 => &[""],
        };
        let points = controllers.iter().filter_map(|controller| mount_point(&mounts, self, controller));
        points.map(|point| point.join(PARENT_CGROUP).join(id)).collect()
    }
}

/// Where a controller's hierarchy is mounted; under v2 the first, as the jailer has it.
fn mount_point(mounts: &str, cgroups: Cgroups, controller: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_source, point, kind, options) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let fits = match cgroups {
            Cgroups::V1 => kind == "cgroup" && options.split(',').any(|option| option == controller),
            Cgroups::V2 => kind == "cgroup2",
        };
        fits.then(|| PathBuf::from(point))
    })
}

/// A file on its way into a jail.
pub(super) struct Part<'a> {
    pub(super) name: &'static str,
    pub(super) file: &'a OwnedFd,
    pub(super) access: Access,
}

impl Jail {
    /// An id that may be free.
    pub(super) fn any_id(&self) -> u32 {
        let width = u64::from(self.ids.end.saturating_sub(self.ids.start)).max(1);
        // Below the width of a range of u32, so it fits.
        self.ids.start + u32::try_from(any_number() % width).unwrap_or(0)
    }

    /// Refuses a range with root in it, or nobody.
    pub(super) fn check(&self) -> Result<(), VmmError> {
        if self.ids.is_empty() || self.ids.contains(&0) {
            let Range { start, end } = self.ids;
            return Err(VmmError::Spec(format!("the user ids {start} to {end} cannot be a jail's")));
        }
        Ok(())
    }

    /// The cgroups of the machine with this id.
    pub(super) fn cgroup_directories(&self, id: &str) -> Vec<PathBuf> {
        self.cgroups.map(|cgroups| cgroups.directories(id)).unwrap_or_default()
    }

    /// The jailer's arguments, `of_vmm` being those of the VMM. `longest_file` is in bytes.
    pub(super) fn arguments(
        &self,
        vmm: &Path,
        run_dir: &Path,
        id: u32,
        shape: Shape,
        longest_file: u64,
        of_vmm: Vec<OsString>,
    ) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: OsString| all.extend([option.into(), value]);
        add("--id", id.to_string().into());
        add("--exec-file", vmm.into());
        add("--uid", id.to_string().into());
        add("--gid", id.to_string().into());
        add("--chroot-base-dir", run_dir.into());
        add("--resource-limit", format!("fsize={}", longest_file + FILE_ROOM).into());
        add("--resource-limit", format!("no-file={}", self.limits.open_files).into());
        if let Some(cgroups) = self.cgroups {
            let memory = (u64::from(shape.mem_mib) + u64::from(self.limits.overhead_mib)) << 20;
            let memory_file = match cgroups {
                Cgroups::V1 => "memory.limit_in_bytes",
                Cgroups::V2 => "memory.max",
            };
            add("--cgroup-version", cgroups.number().into());
            add("--parent-cgroup", PARENT_CGROUP.into());
            add("--cgroup", format!("{memory_file}={memory}").into());
            add("--cgroup", format!("pids.max={}", u64::from(shape.vcpus) + SPARE_THREADS).into());
        }
        all.push("--new-pid-ns".into());
        all.push("--".into());
        // The jailer passes the id on itself.
        all.extend(of_vmm);
        all
    }

    /// Prepares a file: who may use it, an empty place for it, and the mount that goes there.
    pub(super) fn admit(&self, home: &Home, id: u32, part: &Part<'_>) -> Result<Mount, VmmError> {
        let name = part.name;
        let host = |source| VmmError::Host { doing: "bring a file into the jail", source };
        let stat = rustix::fs::fstat(part.file).map_err(|errno| host(errno.into()))?;
        match part.access {
            Access::Write => own(part.file, id).map_err(host)?,
            Access::Read if stat.st_mode & libc::S_IROTH == 0 => {
                return Err(VmmError::Spec(format!(
                    "{name} may not be read by others (mode {:04o}), and in its jail the VMM is one",
                    stat.st_mode & 0o7777
                )));
            }
            Access::Read => {}
        }
        home.placeholder(name).map_err(host)?;
        let named;
        let file = if stat.st_nlink == 0 {
            // Only what has a name can be mounted.
            named = home.second_name(name, part.file).map_err(|error| {
                VmmError::Spec(format!(
                    "{name} has no name on the file system of the jail and cannot get one: {error}"
                ))
            })?;
            &named
        } else {
            part.file
        };
        Mount::of(file, name, part.access).map_err(host)
    }
}

/// Makes `file` belong to a jail's user.
pub(super) fn own(file: &OwnedFd, id: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    fn jail(cgroups: Option<Cgroups>) -> Jail {
        Jail { binary: "/x/jailer".into(), ids: 100_000..200_000, cgroups, limits: Limits::default() }
    }

    fn said(cgroups: Option<Cgroups>) -> String {
        let shape = Shape { vcpus: 2, mem_mib: 256 };
        let vmm = vec!["--api-sock".into(), "api.sock".into()];
        let all =
            jail(cgroups).arguments("/x/firecracker".as_ref(), "/r".as_ref(), 100_007, shape, 1 << 30, vmm);
        all.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_jailer_is_told_every_limit() {
        assert_eq!(
            said(Some(Cgroups::V1)),
            "--id 100007 --exec-file /x/firecracker --uid 100007 --gid 100007 --chroot-base-dir /r \
             --resource-limit fsize=1090519040 --resource-limit no-file=256 --cgroup-version 1 --parent-cgroup pyro \
             --cgroup memory.limit_in_bytes=335544320 --cgroup pids.max=10 --new-pid-ns -- --api-sock api.sock"
        );
        let v2 = said(Some(Cgroups::V2));
        assert!(v2.contains("--cgroup-version 2 ") && v2.contains("--cgroup memory.max=335544320 "), "{v2}");
        assert!(!said(None).contains("cgroup"), "a host without cgroups");
    }

    #[test]
    fn mount_points_are_found() {
        let find = |cgroups, controller| mount_point(HYBRID, cgroups, controller);
        assert_eq!(find(Cgroups::V1, "memory"), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(find(Cgroups::V1, "cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(find(Cgroups::V1, "pids"), None);
        assert_eq!(find(Cgroups::V2, ""), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn ids_stay_in_their_range_and_root_is_in_none() {
        let jail = jail(None);
        assert!((0..1000).all(|_| jail.ids.contains(&jail.any_id())));
        assert!(jail.check().is_ok());
        for ids in [0..10, 10..10] {
            assert!(matches!(Jail { ids, ..jail.clone() }.check(), Err(VmmError::Spec(_))));
        }
    }
}
