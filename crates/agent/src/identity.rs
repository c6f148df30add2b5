//! Who the guest is: clock, randomness, host name, machine id, boot id and generation, given by the host at the start
//! of each session.
//!
//! A restored guest is its template's twin until this was done, so it is done before any command of the session.

use std::fmt::Write as _;

use pyro_proto::message::{Failure, FailureKind, Identity};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use crate::failure::{failure, refusal};

/// `RNDADDENTROPY`'s argument.
#[repr(C)]
struct PoolInfo {
    /// What the bytes are worth, in bits.
    entropy_count: libc::c_int,
    /// Their number.
    buf_size: libc::c_int,
    buf: [u8; 32],
}

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Checks `identity` and, in a guest, takes it on.
pub fn assume(identity: &Identity, in_guest: bool) -> Result<(), Failure> {
    if !is_host_name(&identity.hostname) {
        return Err(refusal(
            FailureKind::BadRequest,
            "identity",
            format!("{:?} is no host name", identity.hostname),
        ));
    }
    if !in_guest {
        return Ok(());
    }
    let say =
        |what: &'static str| move |errno: Errno| failure(FailureKind::Internal, "identity", errno, what);
    // First the clock: the time in the message ages. No command runs before all of this is done.
    set_clock(identity.unix_time_ns, in_guest)?;
    credit(&identity.entropy).map_err(say("entropy"))?;
    rustix::system::sethostname(identity.hostname.as_bytes()).map_err(say("the host name"))?;
    let generation = format!("{DIRECTORY}/generation");
    replace(&generation, &hex(&identity.generation)).map_err(say("the generation"))?;
    replace(MACHINE_ID, &hex(&identity.machine_id)).map_err(say("the machine id"))?;
    if let Some(id) = &identity.boot_id {
        show_boot_id(id).map_err(say("the boot id"))?;
    }
    Ok(())
}

/// What `/etc/machine-id` shows: a file in memory, so that an identity costs no write to the guest's disk and shows up in
/// no comparison of it.
pub const MACHINE_ID: &str = "/run/pyro/machine-id";

/// Where the guest finds what of its identity has no other place.
pub const DIRECTORY: &str = "/run/pyro";

/// Sets the wall clock of a guest to nanoseconds since 1970 UTC.
pub fn set_clock(unix_time_ns: u64, in_guest: bool) -> Result<(), Failure> {
    if !in_guest {
        return Ok(());
    }
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
    replace(&ours, &text)?;
    let same = |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    // Once it is mounted the next id only has to be written.
    if !same(rustix::fs::stat(&ours)?, rustix::fs::stat(KERNELS)?) {
        rustix::mount::mount_bind(&ours, KERNELS)?;
    }
    Ok(())
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

/// Writes a file whole, in place; not through a link.
fn replace(path: &str, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o444))?;
    // A few bytes: a file takes them whole or fails.
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

fn is_host_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn credit(entropy: &[u8; 32]) -> Result<(), Errno> {
    let device = rustix::fs::open("/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
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
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<PoolInfo>(), 40);
        assert_eq!(std::mem::offset_of!(PoolInfo, buf), 8);
    }
}
