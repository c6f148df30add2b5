//! Control groups, which bound a VMM's memory and processes whatever it does.
//!
//! The cgroup of a machine is below `pyro` in the memory and pids hierarchies (v1) or in the only one (v2). The
//! jailer makes it there; [`MachineCgroup`] makes one for a VMM without a jailer.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Name, below every controller's mount, of the parent of the machines' cgroups. The parent is never removed.
pub(crate) const PARENT: &str = "pyro";

/// Version of the cgroups that have the memory and pids controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Version 1: a hierarchy for each controller.
    V1,
    /// Version 2: one hierarchy for all controllers.
    V2,
}

impl CgroupVersion {
    /// Finds the version that this host uses; `None` when neither has both controllers.
    ///
    /// # Errors
    /// When the list of mounts cannot be read.
    pub fn of_host() -> io::Result<Option<CgroupVersion>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        if let Some(point) = mount_point(&mounts, CgroupVersion::V2, "") {
            let controllers = fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default();
            if ["memory", "pids"].iter().all(|one| controllers.split_whitespace().any(|has| has == *one)) {
                return Ok(Some(CgroupVersion::V2));
            }
        }
        let has = |controller| mount_point(&mounts, CgroupVersion::V1, controller).is_some();
        Ok((has("memory") && has("pids")).then_some(CgroupVersion::V1))
    }

    /// Number for the jailer's `--cgroup-version`.
    pub(crate) fn number(self) -> &'static str {
        match self {
            CgroupVersion::V1 => "1",
            CgroupVersion::V2 => "2",
        }
    }

    /// Cgroup directories of the machine `id`: two under v1, one under v2. They need not exist.
    pub(crate) fn directories(self, id: &str) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let controllers: &[&str] = match self {
            CgroupVersion::V1 => &["memory", "pids"],
            CgroupVersion::V2 => &[""],
        };
        let points = controllers.iter().filter_map(|controller| mount_point(&mounts, self, controller));
        points.map(|point| point.join(PARENT).join(id)).collect()
    }
}

/// Finds where a controller's hierarchy is mounted; under v2 the first mount, as the jailer does.
fn mount_point(mounts: &str, cgroups: CgroupVersion, controller: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_source, point, kind, options) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let fits = match cgroups {
            CgroupVersion::V1 => kind == "cgroup" && options.split(',').any(|option| option == controller),
            CgroupVersion::V2 => kind == "cgroup2",
        };
        fits.then(|| PathBuf::from(point))
    })
}

/// Cgroup of one machine, with its limits set. [`MachineDir`](crate::machine_dir::MachineDir) removes the
/// directories.
#[derive(Debug)]
pub(crate) struct MachineCgroup {
    /// Open `cgroup.procs` files, one for each controller's hierarchy.
    procs_files: Vec<File>,
}

impl MachineCgroup {
    /// Makes the cgroups of the machine `id`, limited to `memory` bytes and `threads` threads.
    ///
    /// # Errors
    /// When the host's cgroups cannot be written: in many containers they are read-only.
    pub(crate) fn make(
        cgroups: CgroupVersion,
        id: &str,
        memory: u64,
        threads: u64,
    ) -> io::Result<MachineCgroup> {
        let mut procs_files = Vec::new();
        for dir in cgroups.directories(id) {
            let parent = dir.parent().unwrap_or(Path::new("/"));
            if cgroups == CgroupVersion::V2 {
                // A controller is available in a cgroup only when all cgroups above it pass it on.
                for above in parent.ancestors().take(2).collect::<Vec<_>>().into_iter().rev() {
                    DirBuilder::new().recursive(true).mode(0o755).create(above)?;
                    fs::write(above.join("cgroup.subtree_control"), "+memory +pids")?;
                }
            }
            DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
            for (file, limit) in
                [("memory.limit_in_bytes", memory), ("memory.max", memory), ("pids.max", threads)]
            {
                let file = dir.join(file);
                if file.exists() {
                    fs::write(file, limit.to_string())?;
                }
            }
            procs_files.push(File::options().write(true).open(dir.join("cgroup.procs"))?);
        }
        Ok(MachineCgroup { procs_files })
    }

    /// Moves the process `pid`, which must not have been reaped, into the cgroup, with all its threads. Takes some 8
    /// ms: the kernel waits until no other processor is making or ending a process.
    pub(crate) fn add_process(&self, pid: u32) -> io::Result<()> {
        self.procs_files.iter().try_for_each(|mut door| door.write_all(pid.to_string().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn mount_points_are_found() {
        let find = |cgroups, controller| mount_point(HYBRID, cgroups, controller);
        assert_eq!(find(CgroupVersion::V1, "memory"), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(find(CgroupVersion::V1, "cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(find(CgroupVersion::V1, "pids"), None);
        assert_eq!(find(CgroupVersion::V2, ""), Some("/sys/fs/cgroup/unified".into()));
    }

    /// Runs on the cgroup version of this host, and says so where its cgroups are read-only.
    #[test]
    fn a_process_is_taken_in_and_limited() {
        let cgroups = CgroupVersion::of_host().unwrap();
        let id = format!("test-{}", std::process::id());
        let group = cgroups.map(|cgroups| MachineCgroup::make(cgroups, &id, 64 << 20, 7));
        let Some(Ok(group)) = group else {
            eprintln!("NOT TESTED on this host, whose cgroups cannot be written: {cgroups:?}, {group:?}");
            return;
        };
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        group.add_process(child.id()).unwrap();
        let dirs = cgroups.unwrap().directories(&id);
        let read = |name: &str| dirs.iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok());
        for dir in &dirs {
            let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
            assert_eq!(members.trim(), child.id().to_string(), "{}", dir.display());
        }
        let memory = read("memory.limit_in_bytes").or_else(|| read("memory.max")).unwrap();
        assert_eq!((memory.trim(), read("pids.max").unwrap().trim()), ("67108864", "7"));
        child.kill().unwrap();
        child.wait().unwrap();
        for dir in dirs {
            while fs::remove_dir(&dir).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {}
        }
    }
}
