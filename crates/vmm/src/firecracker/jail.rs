//! Jail of one machine: arguments of Firecracker's own jailer, and the files that it cannot bring in.
//!
//! The jailer gives the VMM a root directory of its own, a user, a PID namespace, cgroups and resource limits. The
//! [`warden`](crate::warden) mounts files into the jail, read-only where they are only read. Their permissions are
//! checked here, because the VMM, with a user of its own, could only report "permission denied".

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

use crate::VmmError;
use crate::cgroup::{self, CgroupVersion};
use crate::machine::Shape;
use crate::machine_dir::MachineDir;
use crate::sandbox::{self, SPARE_FILE_LENGTH, VmmLimits, VmmUsers};
use crate::warden::{DetachedMount, FileAccess};

/// Threads and processes beside one for each vCPU: the VMM's main and API threads, the jailer and its child, and as
/// many again.
pub(super) const SPARE_THREADS: u64 = 8;

/// Firecracker's jailer with users and limits for machines. Needs root, and Linux 5.12 for the mounts.
///
/// The launch makes a machine's disk belong to the machine's user. Files that are only read must be readable by
/// others; private ones belong into a directory that others cannot enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    /// Path of `jailer`, of the same version as the VMM.
    pub binary: PathBuf,
    /// User ids and cgroups of machines.
    pub users: VmmUsers,
    /// Limits of the VMM beyond its machine's shape.
    pub limits: VmmLimits,
}

/// File to be mounted into a jail.
pub(super) struct JailFile<'a> {
    pub(super) name: &'static str,
    pub(super) file: &'a OwnedFd,
    pub(super) access: FileAccess,
}

impl Jail {
    /// Writes the jailer's arguments; `vmm_args` are those of the VMM, `longest_file` is in bytes.
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
        add("--resource-limit", format!("fsize={}", longest_file + SPARE_FILE_LENGTH).into());
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
        // The jailer passes `--id` on itself.
        all.extend(vmm_args);
        all
    }

    /// Prepares a file: sets or checks its permissions, makes an empty file for it, and clones the mount that goes
    /// there.
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
            // Only a file with a name can be mounted.
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

/// Makes `file` belong to the user and group `id`.
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
