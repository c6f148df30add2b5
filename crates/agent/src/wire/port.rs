//! The virtio-serial port named `pyro`: waiting for it to appear, and for a host behind it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};

use super::{hung_up, watch};

const NAME: &[u8] = b"pyro";
const PORTS: &str = "/sys/class/virtio-ports";

/// Opens the port, once it is there: the port appears a little after PID 1 starts, and its name after that. The kernel
/// announces both.
pub async fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let events = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&events, &netlink::SocketAddrNetlink::new(0, 1))?;
    let events = watch(events)?;
    let mut buffer = [0; 4096];
    loop {
        if let Some(name) = find() {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            match rustix::fs::open(format!("/dev/{name}"), flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NXIO | Errno::NODEV) => {}
                opened => return Ok(opened?),
            }
        }
        let mut ready = events.readable().await?;
        // The content of the events does not matter, nor that some were lost.
        loop {
            match rustix::io::read(events.get_ref(), &mut buffer) {
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
    }
}

fn find() -> Option<String> {
    std::fs::read_dir(PORTS).ok()?.flatten().find_map(|port| {
        let name = std::fs::read(port.path().join("name")).ok()?;
        (name.trim_ascii_end() == NAME).then(|| port.file_name().into_string().ok()).flatten()
    })
}

/// Waits until the host has opened its end of `port`.
///
/// A hang-up stays in an `AsyncFd` for ever, so the port is watched through an epoll descriptor of its own, which the
/// port's driver wakes on every change; nothing is polled by time.
pub async fn host_present(port: OwnedFd) -> io::Result<OwnedFd> {
    if !hung_up(port.as_fd()) {
        return Ok(port);
    }
    // SAFETY: creates a descriptor, which is owned from here on if it is valid.
    let epoll = unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    let mut event =
        libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32, u64: 0 };
    // SAFETY: both descriptors are open and `event` is read during the call only.
    if unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, port.as_raw_fd(), &mut event) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let epoll = watch(epoll)?;
    loop {
        let mut ready = epoll.readable().await?;
        // SAFETY: takes at most one event into `event`, without waiting.
        while unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, 0) } > 0 {}
        ready.clear_ready();
        if !hung_up(port.as_fd()) {
            return Ok(port);
        }
    }
}
