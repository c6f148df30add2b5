//! A disk that fails under the guest, as when the host's is full: programs must get errors, and none may hang.
//!
//! ext4 then gives up its journal and stays read-only. Dirty pages cannot be written any more, and a program that waits
//! for there to be fewer of them would wait for ever. Nobody has to wait when all memory may be dirty: the next write
//! fails.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use crate::console;
use crate::wire::watch;

// From linux/fanotify.h; absent from older C libraries.
const FAN_REPORT_FID: libc::c_uint = 0x200;
const FAN_FS_ERROR: u64 = 0x8000;
/// Directory of the disk, whose file system is watched.
const ON_DISK: &std::ffi::CStr = c"/workspace";

/// Watch for errors of file systems.
pub struct DiskWatch(AsyncFd<OwnedFd>);

impl DiskWatch {
    /// Makes a watch that watches no file system yet.
    pub fn new() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | FAN_REPORT_FID;
        // SAFETY: creates a descriptor, which is owned from here on if it is valid.
        let group = unsafe {
            let fd = libc::fanotify_init(flags, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self(watch(group)?))
    }

    /// Watches the disk, once it is mounted.
    pub fn begin(&self) {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        let group = self.0.get_ref().as_raw_fd();
        // SAFETY: the path is a C string that lives forever.
        let marked =
            unsafe { libc::fanotify_mark(group, flags, FAN_FS_ERROR, libc::AT_FDCWD, ON_DISK.as_ptr()) };
        if marked < 0 {
            console::note(&format!("the disk is not watched: {}", io::Error::last_os_error()));
        }
    }

    /// Waits for the first error, and lets nobody wait for the disk from then on.
    pub async fn run(&self) -> io::Result<()> {
        self.0.readable().await?.retain_ready();
        for file in ["/proc/sys/vm/dirty_ratio", "/proc/sys/vm/dirty_background_ratio"] {
            let _ = std::fs::write(file, "100");
        }
        console::note("the disk failed: it is read-only from here on");
        // Later errors say no more.
        std::future::pending().await
    }
}
