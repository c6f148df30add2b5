//! Facts about this host: read from /proc and /sys each time they are asked for, remembered by nobody.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Memory that a new VM may count on, in MiB: what the kernel calls available, or what a memory cgroup leaves of it.
/// `None` when the host does not say.
pub fn available_memory_mib() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let available = field_kib(&meminfo, "MemAvailable:")? / 1024;
    Some(cgroup_memory_left_mib().map_or(available, |left| left.min(available)))
}

/// All memory of this host, in MiB. `None` when the host does not say.
pub fn memory_mib() -> Option<u64> {
    Some(field_kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")? / 1024)
}

/// How many processes wanted to run, on average over 1, 5 and 15 minutes.
pub fn load() -> Option<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let mut averages = text.split_whitespace().map_while(|word| word.parse().ok());
    Some([averages.next()?, averages.next()?, averages.next()?])
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Memory that the limit of this process's own cgroup (version 2) leaves, where there is one.
fn cgroup_memory_left_mib() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dir = Path::new("/sys/fs/cgroup").join(path);
    let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?) / (1024 * 1024))
}

/// The running kernel's release, such as `6.1.0-30-amd64`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The CPU's model name and microcode revision; empty where /proc/cpuinfo does not say.
pub fn cpu_model() -> String {
    // The first processor's entry is enough, and the kernel makes the text as it is read: slowly, on large hosts.
    let mut info = vec![0; 4096];
    let read = fs::File::open("/proc/cpuinfo").and_then(|mut file| file.read(&mut info)).unwrap_or_default();
    let info = String::from_utf8_lossy(&info[..read]);
    let field = |name: &str| {
        info.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    format!("{} ({})", field("model name"), field("microcode")).replace(" ()", "")
}

/// Identity of one build of a program, found without running it: path, size, and time of its last change.
pub fn program_identity(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(stat) => format!("{} {} {}.{:09}", path.display(), stat.size(), stat.mtime(), stat.mtime_nsec()),
        Err(_) => path.display().to_string(),
    }
}

/// The cgroup hierarchies that this host has mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Only version 2.
    V2,
    /// Version 1 controllers, with or without version 2 beside them.
    V1,
    /// No cgroup hierarchy.
    None,
}

/// Version of the cgroup hierarchy of this host.
pub fn cgroup_version() -> CgroupVersion {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (true, _) => CgroupVersion::V1,
        (false, true) => CgroupVersion::V2,
        (false, false) => CgroupVersion::None,
    }
}

/// How this process may use a device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Access {
    /// The file is there.
    pub exists: bool,
    /// The file may be read.
    pub readable: bool,
    /// The file may be written.
    pub writable: bool,
}

/// Whether `path` is there and may be opened.
pub fn access(path: &str) -> Access {
    use rustix::fs::Access as Mode;
    let may = |mode| rustix::fs::access(path, mode).is_ok();
    Access { exists: may(Mode::EXISTS), readable: may(Mode::READ_OK), writable: may(Mode::WRITE_OK) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn meminfo_is_understood() {
        let text = "MemTotal:       24684084 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(super::field_kib(text, "MemAvailable:"), Some(2048));
        assert_eq!(super::field_kib("", "MemAvailable:"), None);
    }

    #[test]
    fn this_host_is_read() {
        assert!(super::available_memory_mib().unwrap() > 0);
        assert!(super::memory_mib().unwrap() > 0);
        assert!(super::load().unwrap().iter().all(|average| *average >= 0.0));
        assert!(!super::kernel_release().is_empty());
        assert!(super::access("/dev/null").writable);
        assert!(!super::access("/nonexistent").exists);
    }
}
