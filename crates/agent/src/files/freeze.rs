//! The disk written out, and held still for a snapshot.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use pyro_proto::message::{FREEZE_MS, FailureKind, Reply};
use rustix::io::Errno;

use super::area::WorkspaceArea;
use super::file_failure;
use crate::failure::refusal;
use crate::helper::{HelperChannel, HelperStop};

const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

pub(super) fn sync(area: &WorkspaceArea) -> Result<Reply, HelperStop> {
    rustix::fs::syncfs(&area.disk).map_err(file_failure("sync", b"the disk"))?;
    Ok(Reply::Done)
}

/// Holds writing up until the host ends it, is gone, or `max_ms` are over. This process waits for that and touches no
/// file meanwhile: nothing that it needs can be stuck behind a held-up write.
pub(super) fn freeze(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    max_ms: u64,
) -> Result<Reply, HelperStop> {
    if max_ms > FREEZE_MS {
        let why = format!("at most {FREEZE_MS} ms");
        return Err(refusal(FailureKind::BadRequest, "freeze", why).into());
    }
    let fail = file_failure("freeze", b"the disk");
    // Written out before, so that nobody is held up for it.
    sync(area)?;
    order(area.disk.as_fd(), FIFREEZE).map_err(&fail)?;
    let answered = channel.send_reply(&Reply::Done);
    let timed_out = answered.is_ok() && !channel.over_within(max_ms);
    order(area.disk.as_fd(), FITHAW).map_err(&fail)?;
    answered?;
    Ok(Reply::Thawed { timed_out })
}

/// Lets writing go on, if it was held up.
pub fn thaw(disk: BorrowedFd<'_>) {
    let _ = order(disk, FITHAW);
}

fn order(disk: impl AsRawFd, request: libc::Ioctl) -> Result<(), Errno> {
    // SAFETY: both requests take an argument that they do not look at.
    if unsafe { libc::ioctl(disk.as_raw_fd(), request, 0) } < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
