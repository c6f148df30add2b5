//! Files of this host that several processes use at once: locked, published whole by one rename, known by digest.
//!
//! ```text
//!   lock      one process at a time                 cancel    stops work that blocks
//!   publish   from a half-made directory to a name  stamp     digests, remembered; sealed manifests
//!   process   programs, killable as a whole         clock     time since boot, which nobody sets
//! ```
//!
//! Environments, templates, the runtime and workspaces are kept on disk by these; nothing here knows any of them.
//! Everything here blocks; callers put it on a thread.

mod cancel;
pub(crate) mod clock;
mod error;
pub(crate) mod lock;
pub(crate) mod process;
pub(crate) mod publish;
pub(crate) mod stamp;

use std::path::Path;

pub use cancel::CancelToken;
pub use error::HostFsError;

/// Bytes that are free for us on the file system of `dir`, or of the nearest directory above it that exists.
pub(crate) fn free(dir: &Path) -> u64 {
    dir.ancestors()
        .map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
        .find_map(|dir| rustix::fs::statvfs(dir).ok())
        .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
