//! The kernel's own file systems and the rest that every guest has: `/dev`, `/proc`, `/sys`, `/run`, `/tmp`, cgroups,
//! loopback, host name.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};

use pyro_proto::message::{Failure, FailureKind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::console;
use crate::failure::failure;

const HOST_NAME: &str = "pyro";
/// Line by which an image marks its hosts file as nobody's in particular.
const ANYBODYS: &str = "127.0.1.1\tpyro\n";
/// No name server is reachable in this generation; with the file in place a lookup fails at once.
const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";

/// Mounts the file systems that the agent itself needs first.
pub fn early() -> Result<(), Failure> {
    for (path, kind) in [("/dev", "devtmpfs"), ("/proc", "proc"), ("/sys", "sysfs")] {
        let _ = fs::create_dir(path);
        let flags = if kind == "devtmpfs" { MountFlags::NOSUID } else { KERNEL };
        match mount(kind, path, kind, flags, None::<&CStr>) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => return Err(failure(FailureKind::Internal, "mount", errno, path)),
        }
    }
    Ok(())
}

const KERNEL: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Opens `/dev/null` as each of descriptors 0 to 2 that is not open, so that nothing else gets these numbers.
pub fn fill_standard_streams() -> io::Result<()> {
    for fd in 0..3 {
        // SAFETY: only asked whether it is open.
        let open = rustix::io::fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) });
        if open == Err(Errno::BADF) {
            // The lowest free number is the one.
            std::mem::forget(rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?);
        }
    }
    Ok(())
}

/// Mounts and makes everything else that is not on a disk. Each is useful without the others, so none that fails stops
/// the next. Returns the guest's memory in MiB.
pub fn late() -> io::Result<u64> {
    let tmpfs = MountFlags::NOSUID | MountFlags::NODEV;
    let table: [(&str, &str, MountFlags, &CStr); 5] = [
        ("/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=620,gid=5,ptmxmode=666"),
        ("/dev/shm", "tmpfs", tmpfs, c"mode=1777"),
        ("/dev/mqueue", "mqueue", KERNEL, c""),
        ("/run", "tmpfs", tmpfs, c"mode=755"),
        ("/sys/fs/cgroup", "cgroup2", KERNEL, c"nsdelegate,memory_recursiveprot"),
    ];
    for (path, kind, flags, options) in table {
        let _ = fs::create_dir(path);
        if let Err(errno) = mount(kind, path, kind, flags, options) {
            console::note(&format!("mounting {path}: {}", io::Error::from(errno)));
        }
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        let _ = symlink(target, link);
    }
    let _ = fs::create_dir("/run/lock");
    let _ = fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777));
    let _ = fs::create_dir(crate::identity::DIRECTORY);
    let _ = rustix::system::sethostname(HOST_NAME.as_bytes());
    if let Err(error) = loopback_up() {
        console::note(&format!("loopback: {error}"));
    }
    let info = rustix::system::sysinfo();
    Ok(u64::from(info.mem_unit) * info.totalram as u64 / (1024 * 1024))
}

/// Makes the files that every root has on its disk.
pub fn files() {
    // On the disk, not in memory: builds fill it, and the disk is the larger of the two.
    if fs::symlink_metadata("/tmp")
        .map_or(true, |tmp| tmp.is_dir() && tmp.permissions().mode() & 0o7777 != 0o1777)
    {
        let _ = fs::create_dir("/tmp");
        let _ = fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777));
    }
    // A link that leads nowhere is the image's own arrangement.
    if fs::symlink_metadata("/etc/resolv.conf").is_err() {
        let _ = fs::write("/etc/resolv.conf", RESOLV_CONF);
    }
    show_hosts();
    show_machine_id();
}

/// Lets `/etc/hosts` lead to the guest's own, which change with its name, unless the image or somebody in the guest has
/// hosts of his own there. A link, so that an editor can change it in place or replace it.
fn show_hosts() {
    const SHOWN: &str = "/etc/hosts";
    let anybodys = match fs::symlink_metadata(SHOWN) {
        Ok(stat) => stat.is_file() && fs::read_to_string(SHOWN).is_ok_and(|text| text.contains(ANYBODYS)),
        Err(_) => true,
    };
    if anybodys {
        let _ = fs::remove_file(SHOWN);
        let _ = symlink(crate::identity::HOSTS, SHOWN);
    }
}

/// Shows the machine id where programs look for it. A link there would be the image's own arrangement.
fn show_machine_id() {
    const SHOWN: &str = "/etc/machine-id";
    let shown = match fs::symlink_metadata(SHOWN) {
        Ok(stat) => stat.is_file(),
        Err(_) => fs::write(SHOWN, "").is_ok(),
    };
    if shown && let Err(errno) = mount_bind(crate::identity::MACHINE_ID, SHOWN) {
        console::note(&format!("the machine id: {}", io::Error::from(errno)));
    }
}

/// Brings `lo` up; the kernel gives it 127.0.0.1 and ::1 by itself.
fn loopback_up() -> io::Result<()> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a name and flags.
    if unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
