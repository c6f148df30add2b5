//! The files of the workspace: the work of a helper for the calls about them.
//!
//! ```text
//!   area     paths, and that none leads out of the workspace
//!   walk     directories, read in order
//!   single   one file: list, stat, read, write
//!   stage    several changes as one: made aside, put in place     journal  undoes them, also after a crash
//!   batch    a list of changes          put   a tree from an archive
//!   get      a tree as an archive       scan  the baseline, and differences from it
//!   freeze   the disk written out, and held still
//! ```
//!
//! Everything here runs in a [`crate::helper`], and so may block.
//!
//! Invariant: a path is only ever resolved by `openat2` beneath the workspace, or is a single name in a directory that
//! is open already. Nothing else follows a symbolic link.

pub mod area;
mod batch;
mod freeze;
mod get;
#[cfg(test)]
mod interrupted;
mod journal;
mod put;
mod scan;
mod single;
pub mod stage;
mod walk;

pub use freeze::thaw;

use pyro_proto::message::{Failure, FailureKind, Reply, Request, ServiceProbe};
use rustix::io::Errno;

use crate::failure::{failure, refusal};
use crate::helper::{HelperChannel, HelperStop};
use area::WorkspaceArea;

/// Answers `request`, which must be one about files.
pub fn serve(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    request: Request,
) -> Result<Reply, HelperStop> {
    match request {
        Request::FileList { path, recursive } => single::list(area, channel, &path.0, recursive),
        Request::FileRead { path, offset, limit } => single::read(area, channel, &path.0, offset, limit),
        Request::FileWrite { path, mode, parents } => single::write(area, channel, &path.0, mode, parents),
        Request::FileStat { path } => single::stat(area, &path.0),
        Request::FileBatch(batch) => batch::apply(area, channel, &batch),
        Request::TreePut(put) => put::unpack(area, channel, &put),
        Request::TreeGet { path } => get::pack(area, channel, &path.0),
        Request::BaselineTake { name, keep } => scan::take(area, name.as_deref(), keep.as_deref()),
        Request::DiffScan { baseline } => scan::compare(area, channel, baseline.as_deref()),
        Request::Probe(ServiceProbe::File { path }) => single::exists(area, &path.0),
        Request::Sync => freeze::sync(area),
        Request::Freeze { max_ms } => freeze::freeze(area, channel, max_ms),
        _ => Err(refusal(FailureKind::BadRequest, "request", "this is not about files").into()),
    }
}

/// Makes the failure of `stage` on `path`.
fn file_failure(stage: &'static str, path: &[u8]) -> impl Fn(Errno) -> Failure {
    move |errno| {
        let shown = String::from_utf8_lossy(path);
        let kind = match errno {
            Errno::NOENT => FailureKind::NotFound,
            Errno::ISDIR => FailureKind::IsDirectory,
            Errno::NOTDIR => FailureKind::NotDirectory,
            Errno::EXIST => FailureKind::Exists,
            Errno::NOTEMPTY => FailureKind::NotEmpty,
            Errno::NOSPC | Errno::DQUOT => FailureKind::NoSpace,
            Errno::FBIG => FailureKind::TooLarge,
            Errno::NAMETOOLONG => FailureKind::TooLong,
            Errno::NXIO => FailureKind::NotRegular,
            // Errors of openat2 for a link that leads out, and for links that go round in a circle.
            Errno::XDEV | Errno::LOOP => {
                let (kind, why) = match errno {
                    Errno::XDEV => (
                        FailureKind::OutsideWorkspace,
                        "leads out of the workspace, or through a link that does",
                    ),
                    _ => (FailureKind::BadRequest, "is or goes through a loop of links"),
                };
                let mut failure = refusal(kind, stage, format!("{shown}: {why}"));
                failure.errno = Some(errno.raw_os_error());
                return failure;
            }
            Errno::NOMEM | Errno::MFILE | Errno::NFILE => FailureKind::Exhausted,
            _ => FailureKind::Internal,
        };
        failure(kind, stage, errno, if shown.is_empty() { "the workspace".into() } else { shown })
    }
}
