//! The jail of one machine: Firecracker's own jailer, told what, and what it cannot be told.
//!
//! The jailer gives the VMM a root directory of its own, a user, a PID namespace, cgroups and resource limits. Files are
//! mounted into the jail by the [`warden`](crate::warden), read-only where they are only read. What must be true of them
//! is checked here, because the VMM, as nobody's user, could only say "permission denied".

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

use crate::VmmError;
use crate::cgroup::{self, CgroupVersion};
use crate::machine::Shape;
use crate::machine_dir::MachineDir;
use crate::sandbox::{self, FILE_ROOM, VmmLimits, VmmUsers};
use crate::warden::{DetachedMount, FileAccess};

/// Threads and processes beside the vCPUs: the VMM's main and API threads, the jailer and its child, and room for one
/// more of each.
pub(super) const SPARE_THREADS: u64 = 8;

/// How machines are jailed. Needs root, and Linux 5.12 for the mounts.
///
/// A machine's disk belongs to its user from its launch on. What is only read must be readable by others: what is not
/// for everybody's eyes belongs into a directory that others cannot enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    /// The path of `jailer`, of the same version as the VMM.
    pub binary: PathBuf,
    /// Whom machines run as, and in which cgroups.
    pub users: VmmUsers,
    /// What it may use beyond its own size.
    pub limits: VmmLimits,
}

/// A file on its way into a jail.
pub(super) struct JailFile<'a> {
    pub(super) name: &'static str,
    pub(super) file: &'a OwnedFd,
    pub(super) access: FileAccess,
}

impl Jail {
    /// The jailer's arguments, `vmm_args` being those of the VMM. `longest_file` is in bytes.
    pub(super) fn arguments(
        &self,
        vmm: &Path,
        run_dir: &Path,
        id: u32,
        shape: Shape,
        longest_file: u64,
        vmm_args: Vec<OsString>,
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
        if let Some(cgroups) = self.users.cgroups {
            let memory = (u64::from(shape.mem_mib) + u64::from(self.limits.overhead_mib)) << 20;
            let memory_file = match cgroups {
                CgroupVersion::V1 => "memory.limit_in_bytes",
                CgroupVersion::V2 => "memory.max",
            };
            add("--cgroup-version", cgroups.number().into());
            add("--parent-cgroup", cgroup::PARENT.into());
            add("--cgroup", format!("{memory_file}={memory}").into());
            add("--cgroup", format!("pids.max={}", u64::from(shape.vcpus) + SPARE_THREADS).into());
        }
        all.push("--new-pid-ns".into());
        all.push("--".into());
        // The jailer passes the id on itself.
        all.extend(vmm_args);
        all
    }

    /// Prepares a file: who may use it, an empty place for it, and the mount that goes there.
    pub(super) fn mount_file(
        &self,
        machine_dir: &MachineDir,
        id: u32,
        part: &JailFile<'_>,
    ) -> Result<DetachedMount, VmmError> {
        let name = part.name;
        let host = |source| VmmError::Host { doing: "bring a file into the jail", source };
        let stat = rustix::fs::fstat(part.file).map_err(|errno| host(errno.into()))?;
        match part.access {
            FileAccess::Write => give_to_user(part.file, id).map_err(host)?,
            FileAccess::Read => sandbox::check_readable(name, part.file)?,
        }
        machine_dir.placeholder(name).map_err(host)?;
        let named;
        let file = if stat.st_nlink == 0 {
            // Only what has a name can be mounted.
            named = machine_dir.second_name(name, part.file).map_err(|error| {
                VmmError::Spec(format!(
                    "{name} has no name on the file system of the jail and cannot get one: {error}"
                ))
            })?;
            &named
        } else {
            part.file
        };
        DetachedMount::of(file, name, part.access).map_err(host)
    }
}

/// Makes `file` belong to a jail's user.
pub(super) fn give_to_user(file: &OwnedFd, id: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jail(cgroups: Option<CgroupVersion>) -> Jail {
        Jail {
            binary: "/x/jailer".into(),
            users: VmmUsers { ids: 100_000..200_000, cgroups },
            limits: VmmLimits::FIRECRACKER,
        }
    }

    fn said(cgroups: Option<CgroupVersion>) -> String {
        let shape = Shape { vcpus: 2, mem_mib: 256 };
        let vmm = vec!["--api-sock".into(), "api.sock".into()];
        let all =
            jail(cgroups).arguments("/x/firecracker".as_ref(), "/r".as_ref(), 100_007, shape, 1 << 30, vmm);
        all.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_jailer_is_told_every_limit() {
        assert_eq!(
            said(Some(CgroupVersion::V1)),
            "--id 100007 --exec-file /x/firecracker --uid 100007 --gid 100007 --chroot-base-dir /r \
             --resource-limit fsize=1090519040 --resource-limit no-file=256 --cgroup-version 1 --parent-cgroup pyro \
             --cgroup memory.limit_in_bytes=335544320 --cgroup pids.max=10 --new-pid-ns -- --api-sock api.sock"
        );
        let v2 = said(Some(CgroupVersion::V2));
        assert!(v2.contains("--cgroup-version 2 ") && v2.contains("--cgroup memory.max=335544320 "), "{v2}");
        assert!(!said(None).contains("cgroup"), "a host without cgroups");
    }
}
