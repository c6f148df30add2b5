//! The vsock port on which the agent of a guest without a virtio-serial port listens. The host connects; a connection
//! that was open when the guest was saved is dead afterwards, and the listener is not.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use super::watch;

/// Port that the host connects to.
const PORT: u32 = 52;
/// Backlog: one connection at a time, those that take its place, and some to spare.
const BACKLOG: libc::c_int = 4;

/// Listening vsock socket.
pub struct VsockListener(AsyncFd<OwnedFd>);

impl VsockListener {
    /// Listens on [`PORT`].
    pub fn new() -> io::Result<Self> {
        let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: creates a descriptor, which is owned from here on if it is valid.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_VSOCK, flags, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let mut address = unnamed();
        address.svm_cid = libc::VMADDR_CID_ANY;
        address.svm_port = PORT;
        // SAFETY: the address is a whole sockaddr_vm and lives during the call.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LENGTH) };
        // SAFETY: takes numbers only.
        if bound < 0 || unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(watch(socket)?))
    }

    /// Accepts the host's next connection. Peers other than the host are programs in this guest, and are hung up on.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut peer = unnamed();
            let mut length = LENGTH;
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: `peer` has room for `length` bytes; the result is a new descriptor or an error.
            let fd = unsafe {
                libc::accept4(self.0.get_ref().as_raw_fd(), (&raw mut peer).cast(), &raw mut length, flags)
            };
            if fd >= 0 {
                // SAFETY: just made, and nobody else's.
                let connection = unsafe { OwnedFd::from_raw_fd(fd) };
                if peer.svm_cid == libc::VMADDR_CID_HOST {
                    return Ok(connection);
                }
                continue;
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                error if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) => {}
                error => return Err(error),
            }
        }
    }
}

const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn unnamed() -> libc::sockaddr_vm {
    // SAFETY: plain data, for which zero is valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address
}
