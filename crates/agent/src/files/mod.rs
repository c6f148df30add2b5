//! The files of the workspace: what a helper does for the calls about them.
//!
//! ```text
//!   area     paths, and that none leads out of the workspace
//!   walk     directories, read in order
//!   single   one file: list, stat, read, write, remove, rename
//!   stage    several changes as one: made aside, put in place     journal  what undoes them, also after a crash
//!   batch    a list of changes          put   a tree from an archive
//!   get      a tree as an archive       scan  the baseline, and what differs from it
//!   freeze   the disk written out, and held still
//! ```
//!
//! Everything here runs in a [`crate::helper`]: it may block.
//!
//! Invariant: a path is only ever resolved by `openat2` beneath the workspace, or is a single name in a directory that
//! is open already. What a symbolic link says is followed by nothing else.

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

use pyro_proto::message::{Failure, FailureKind, Probe, Reply, Request};
use rustix::io::Errno;

use crate::failure::{failure, refusal};
use crate::helper::{Stop, Talk};
use area::Area;

/// Answers `request`, which must be one about files.
pub fn serve(area: &Area, talk: &mut Talk, request: Request) -> Result<Reply, Stop> {
    match request {
        Request::FileList { path, recursive } => single::list(area, talk, &path.0, recursive),
        Request::FileRead { path, offset, limit } => single::read(area, talk, &path.0, offset, limit),
        Request::FileWrite { path, mode, parents } => single::write(area, talk, &path.0, mode, parents),
        Request::FileStat { path } => single::stat(area, &path.0),
        Request::FileRemove { path, recursive } => single::remove(area, &path.0, recursive),
        Request::FileRename { from, to } => single::rename(area, &from.0, &to.0),
        Request::FileBatch(batch) => batch::apply(area, talk, &batch),
        Request::TreePut(put) => put::unpack(area, talk, &put),
        Request::TreeGet { path } => get::pack(area, talk, &path.0),
        Request::BaselineTake { name, keep } => scan::take(area, name.as_deref(), keep.as_deref()),
        Request::DiffScan { baseline } => scan::compare(area, talk, baseline.as_deref()),
        Request::Probe(Probe::File { path }) => single::exists(area, &path.0),
        Request::Sync => freeze::sync(area),
        Request::Freeze { max_ms } => freeze::freeze(area, talk, max_ms),
        _ => Err(refusal(FailureKind::BadRequest, "request", "this is not about files").into()),
    }
}

/// The failure to do something with a file.
fn trouble(stage: &'static str, path: &[u8]) -> impl Fn(Errno) -> Failure {
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
            // What openat2 says of a link that leads out, or nowhere but round in a circle.
            Errno::XDEV | Errno::LOOP => {
                let why = format!("{shown}: leads out of the workspace, or through a link that does");
                let mut failure = refusal(FailureKind::OutsideWorkspace, stage, why);
                failure.errno = Some(errno.raw_os_error());
                return failure;
            }
            Errno::NOMEM | Errno::MFILE | Errno::NFILE => FailureKind::Exhausted,
            _ => FailureKind::Internal,
        };
        failure(kind, stage, errno, if shown.is_empty() { "the workspace".into() } else { shown })
    }
}
