//! Who the guest is: clock, randomness, host name and machine id, given by the host at the start of each session.
//!
//! A restored guest is its template's twin until this was done, so it is done before any command of the session.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;

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
    // First the randomness: from here on the guest is nobody's twin.
    credit(&identity.entropy).map_err(say("entropy"))?;
    let (seconds, nanoseconds) =
        (identity.unix_time_ns / 1_000_000_000, identity.unix_time_ns % 1_000_000_000);
    let time = Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 };
    rustix::time::clock_settime(ClockId::Realtime, time).map_err(say("the clock"))?;
    rustix::system::sethostname(identity.hostname.as_bytes()).map_err(say("the host name"))?;
    // An image without a writable /etc is not refused for that.
    let _ = write_machine_id(&identity.machine_id);
    Ok(())
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

/// Writes `/etc/machine-id` where it differs; not through a link, which would be the image's own arrangement.
fn write_machine_id(id: &[u8; 16]) -> std::io::Result<()> {
    let mut text = String::with_capacity(33);
    for byte in id {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    if std::fs::read("/etc/machine-id").is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o444).custom_flags(libc::O_NOFOLLOW);
    options.open("/etc/machine-id")?.write_all(text.as_bytes())
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
