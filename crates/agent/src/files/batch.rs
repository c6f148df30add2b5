//! Batches of changes: all of them are made, or none.

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::AsFd;

use pyro_proto::message::{Bytes, Failure, FailureKind, FileBatch, FileKind, FileOp, MAX_BATCH, Reply};
use rustix::fs::{OFlags, symlinkat};
use rustix::io::Errno;

use super::area::{WorkspaceArea, relative, split};
use super::journal::{self, Journal};
use super::single::{PIECE, io_failure, set_owner_and_mode};
use super::stage::Stage;
use super::{file_failure, walk};
use crate::failure::refusal;
use crate::helper::{HelperChannel, HelperStop};

pub(super) fn apply(
    area: &WorkspaceArea,
    channel: &mut HelperChannel,
    batch: &FileBatch,
) -> Result<Reply, HelperStop> {
    let bad = |why: String| HelperStop::Failed(refusal(FailureKind::BadRequest, "batch", why));
    if batch.ops.len() > MAX_BATCH {
        return Err(bad(format!("more than {MAX_BATCH} changes at once")));
    }
    let mut stage = Stage::new(area)?;
    // All contents first: nothing of the workspace is touched before they are there.
    let mut contents = Vec::new();
    let mut buffer = vec![0; PIECE];
    for op in &batch.ops {
        let FileOp::Write { path, len, .. } = op else { continue };
        let (mut file, name) = stage.file()?;
        let mut left = *len;
        while left > 0 {
            let most = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            let n = channel.read(&mut buffer[..most])?;
            if n == 0 {
                return Err(bad("the contents are shorter than was said".to_owned()));
            }
            file.write_all(&buffer[..n]).map_err(io_failure("write", &path.0))?;
            left -= n as u64;
        }
        contents.push(name);
    }
    if channel.read(&mut buffer)? != 0 {
        return Err(bad("the contents are longer than was said".to_owned()));
    }
    stage.begin(|journal, area| note(journal, area, &batch.ops))?;
    let done = all(area, &mut stage, batch, contents).and_then(|()| stage.finish());
    done.map_err(|failure| stage.undo(failure))?;
    Ok(Reply::Done)
}

/// Notes everything that may change, each path once: a directory above one may go when it is empty.
pub(super) fn note(journal: &mut Journal, area: &WorkspaceArea, ops: &[FileOp]) -> Result<(), Failure> {
    let mut noted = HashSet::new();
    let mut one = |path: &Bytes| {
        let path = relative(&path.0)?;
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in above {
            if noted.insert(path[..end].to_vec()) {
                journal.note_directory(&path[..end], journal::standing(area, &path[..end]).as_ref())?;
            }
        }
        if !path.is_empty() && noted.insert(path.clone()) {
            journal.note(&path, journal::standing(area, &path).as_ref())?;
        }
        Ok(())
    };
    for op in ops {
        let (FileOp::Write { path, .. } | FileOp::Link { path, .. } | FileOp::Delete { path }) = op;
        one(path)?;
    }
    Ok(())
}

/// Makes all changes, in order.
pub(super) fn all(
    area: &WorkspaceArea,
    stage: &mut Stage<'_>,
    batch: &FileBatch,
    contents: Vec<Vec<u8>>,
) -> Result<(), Failure> {
    let mut contents = contents.into_iter();
    let mut left = Vec::new();
    for op in &batch.ops {
        if let FileOp::Write { path, .. } | FileOp::Link { path, .. } = op {
            make_way(stage, &relative(&path.0)?, &left);
        }
        one(area, stage, op, &mut contents)?;
        if let (true, FileOp::Delete { path }) = (batch.prune, op) {
            left.push(relative(&path.0)?);
        }
    }
    left.iter().for_each(|path| stage.prune(path, None));
    Ok(())
}

/// Removes the directory `path`, where it is empty because of the files that `left` it.
fn make_way(stage: &Stage<'_>, path: &[u8], left: &[Vec<u8>]) {
    let inside = |left: &&Vec<u8>| left.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"));
    left.iter().filter(inside).for_each(|left| stage.prune(left, Some(path)));
}

fn one(
    area: &WorkspaceArea,
    stage: &mut Stage<'_>,
    op: &FileOp,
    contents: &mut impl Iterator<Item = Vec<u8>>,
) -> Result<(), Failure> {
    match op {
        FileOp::Write { path, mode, .. } => {
            let path = relative(&path.0)?;
            let Some(name) = contents.next() else { return Ok(()) };
            make_above(stage, &path)?;
            let (parent, last) = area.parent(&path).map_err(file_failure("write", &path))?;
            let file = rustix::fs::openat(
                stage.dir(),
                &name,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .map_err(file_failure("stage", &path))?;
            set_owner_and_mode(&file.into(), parent.as_fd(), last, *mode, &path)?;
            stage.place(&name, parent.as_fd(), last, &path)
        }
        FileOp::Link { path, target } => {
            let path = relative(&path.0)?;
            if target.0.is_empty() || target.0.contains(&0) {
                return Err(refusal(FailureKind::BadRequest, "link", "no path to link to"));
            }
            let name = stage.fresh();
            symlinkat(&target.0[..], stage.dir(), &name).map_err(file_failure("link", &path))?;
            make_above(stage, &path)?;
            let (parent, last) = area.parent(&path).map_err(file_failure("link", &path))?;
            stage.place(&name, parent.as_fd(), last, &path)
        }
        FileOp::Delete { path } => take(area, stage, &relative(&path.0)?),
    }
}

fn make_above(stage: &mut Stage<'_>, path: &[u8]) -> Result<(), Failure> {
    split(path).map_or(Ok(()), |(above, _)| stage.make_directories(above))
}

/// Moves the file at `path` into the stage.
fn take(area: &WorkspaceArea, stage: &mut Stage<'_>, path: &[u8]) -> Result<(), Failure> {
    no_directory(area, path)?;
    let (parent, last) = area.parent(path).map_err(file_failure("remove", path))?;
    stage.take(parent.as_fd(), last, path)
}

/// Refuses a directory, and a path at which there is no file.
fn no_directory(area: &WorkspaceArea, path: &[u8]) -> Result<(), Failure> {
    let fail = || file_failure("file", path);
    let (parent, last) = area.parent(path).map_err(fail())?;
    match walk::kind(&walk::look(parent.as_fd(), last).map_err(fail())?) {
        FileKind::Directory => Err(fail()(Errno::ISDIR)),
        _ => Ok(()),
    }
}
