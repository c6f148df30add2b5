//! Identity of the guest: clock, randomness, host name, machine id, boot id and generation, given by the host at the
//! start of each session.
//!
//! A restored guest is its template's twin until this was done, so it is done before any command of the session.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_proto::message::{Failure, FailureKind, GuestIdentity};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use crate::failure::{failure, refusal};

/// Argument of the ioctl `RNDADDENTROPY`.
#[repr(C)]
struct PoolInfo {
    /// Entropy credited for the bytes, in bits.
    entropy_count: libc::c_int,
    /// Number of bytes.
    buf_size: libc::c_int,
    buf: [u8; 32],
}

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Refuses an identity that no guest can take on.
pub fn check(given: &GuestIdentity) -> Result<(), Failure> {
    if is_host_name(&given.hostname) {
        return Ok(());
    }
    Err(refusal(FailureKind::BadRequest, "identity", format!("{:?} is no host name", given.hostname)))
}

/// Directory for the parts of the identity that have no other place.
pub const DIRECTORY: &str = "/run/pyro";
/// File that `/etc/machine-id` shows: it is in memory, so that an identity costs no write to the guest's disk and shows
/// up in no comparison of it.
pub const MACHINE_ID: &str = "/run/pyro/machine-id";
const GENERATION: &str = "/run/pyro/generation";
/// File that `/etc/hosts` leads to where the image has none of its own: it has the guest's name among others.
pub const HOSTS: &str = "/run/pyro/hosts";

/// Files of a guest's identity, open from the start: a restored guest need not wait for looking them up.
#[derive(Debug)]
pub struct IdentityFiles {
    random: OwnedFd,
    machine_id: OwnedFd,
    generation: OwnedFd,
    hosts: OwnedFd,
}

impl IdentityFiles {
    /// Opens the files, and makes those in [`DIRECTORY`].
    pub fn prepare() -> std::io::Result<Self> {
        let device = OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(Self {
            random: rustix::fs::open("/dev/urandom", device, Mode::empty())?,
            machine_id: create(MACHINE_ID, 0o444)?,
            generation: create(GENERATION, 0o444)?,
            hosts: create(HOSTS, 0o644)?,
        })
    }

    /// Takes `given` on. No command of the session runs before that is done.
    pub fn assume(&self, given: &GuestIdentity) -> Result<(), Failure> {
        let say =
            |what: &'static str| move |errno: Errno| failure(FailureKind::Internal, "identity", errno, what);
        // First the clock: the time in the message ages.
        set_clock(given.unix_time_ns)?;
        credit(self.random.as_fd(), &given.entropy).map_err(say("entropy"))?;
        rustix::system::sethostname(given.hostname.as_bytes()).map_err(say("the host name"))?;
        write(self.hosts.as_fd(), &hosts(&given.hostname)).map_err(say("the hosts"))?;
        write(self.generation.as_fd(), &hex(&given.generation)).map_err(say("the generation"))?;
        write(self.machine_id.as_fd(), &hex(&given.machine_id)).map_err(say("the machine id"))?;
        if let Some(id) = &given.boot_id {
            show_boot_id(id).map_err(say("the boot id"))?;
        }
        Ok(())
    }
}

/// Moves the wall clock of a guest by so many nanoseconds; returns its new time, nanoseconds since 1970 UTC.
pub fn move_clock(by_ns: i64) -> Result<u64, Failure> {
    if by_ns != 0 {
        // In one step of the kernel's: read and set, it would lose the time in which the guest does not run between
        // them.
        let time = libc::timeval {
            tv_sec: by_ns.div_euclid(1_000_000_000),
            tv_usec: by_ns.rem_euclid(1_000_000_000),
        };
        // SAFETY: a structure of numbers, all zero but for the three that the mode says are there.
        let mut change: libc::timex = unsafe { std::mem::zeroed() };
        change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
        change.time = time;
        // SAFETY: the kernel reads and writes this structure, which outlives the call.
        if unsafe { libc::adjtimex(&raw mut change) } < 0 {
            let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
            return Err(failure(FailureKind::Internal, "identity", errno, "the clock"));
        }
    }
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    Ok((now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64))
}

/// Sets the wall clock of a guest to nanoseconds since 1970 UTC.
fn set_clock(unix_time_ns: u64) -> Result<(), Failure> {
    let (seconds, nanoseconds) = (unix_time_ns / 1_000_000_000, unix_time_ns % 1_000_000_000);
    let time = Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 };
    rustix::time::clock_settime(ClockId::Realtime, time)
        .map_err(|errno| failure(FailureKind::Internal, "identity", errno, "the clock"))
}

/// Shows `id` where the kernel shows its own boot id, which cannot be changed once it was made.
fn show_boot_id(id: &[u8; 16]) -> Result<(), Errno> {
    const KERNELS: &str = "/proc/sys/kernel/random/boot_id";
    let ours = format!("{DIRECTORY}/boot_id");
    // Version and variant bits of a random UUID.
    let mut id = *id;
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    let digits = hex(&id);
    let text =
        [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..32]].join("-") + "\n";
    write(create(&ours, 0o444)?.as_fd(), &text)?;
    let same = |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    // Once it is mounted the next id only has to be written.
    if !same(rustix::fs::stat(&ours)?, rustix::fs::stat(KERNELS)?) {
        rustix::mount::mount_bind(&ours, KERNELS)?;
    }
    Ok(())
}

/// The guest's hosts, of one length whatever its name is.
fn hosts(name: &str) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name:63}\n")
}

/// `bytes` in hexadecimal, and a newline.
fn hex(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(33);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    text
}

/// Opens a file for writing that everybody may read; not through a link.
fn create(path: &str, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(mode))
}

/// Writes a file's few bytes anew: it always has the same number of them, and takes them whole or fails.
fn write(file: BorrowedFd<'_>, text: &str) -> Result<(), Errno> {
    rustix::io::pwrite(file, text.as_bytes(), 0).map(drop)
}

fn is_host_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn credit(device: BorrowedFd<'_>, entropy: &[u8; 32]) -> Result<(), Errno> {
    let info = PoolInfo { entropy_count: 256, buf_size: 32, buf: *entropy };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
    // SAFETY: RNDADDENTROPY reads a rand_pool_info, whose layout PoolInfo has, with buf_size bytes behind it.
    if unsafe { libc::ioctl(fd, RNDADDENTROPY, &raw const info) } < 0 {
        return Err(last());
    }
    // SAFETY: RNDRESEEDCRNG takes no argument.
    if unsafe { libc::ioctl(fd, RNDRESEEDCRNG) } < 0 { Err(last()) } else { Ok(()) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_checked() {
        for good in ["pyro", "a", "A-1", &"x".repeat(63)] {
            assert!(is_host_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "a b", "ä", "a\n", &"x".repeat(64)] {
            assert!(!is_host_name(bad), "{bad}");
        }
    }

    #[test]
    fn hosts_have_one_length() {
        assert_eq!(hosts("a").len(), hosts(&"x".repeat(63)).len());
        assert!(hosts("pyro-1").contains("\n127.0.1.1\tpyro-1 "));
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<PoolInfo>(), 40);
        assert_eq!(std::mem::offset_of!(PoolInfo, buf), 8);
    }
}
