//! Several changes as one: everything new is made in a directory beside the workspace and put in place by renames, with
//! a journal that takes them back if one fails or the guest dies.
//!
//! ```text
//!   disk:/.pyro/stage/N           files to come; after an exchange, the former files
//!   disk:/.pyro/stage/N/journal   former files by path: the changes are being made
//!
//!   1  everything new is made in the stage          3  renames
//!   2  begin: the journal; all of it synced         4  finish: the journal is removed, and that is synced
//! ```
//!
//! A crash before 4 leaves a journal, and the next start restores its records; after 4 everything is on the disk. The
//! kernel exchanges two names at once, so that no path is missing in between, and the replaced file is kept without
//! another step.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_proto::message::{Failure, FailureKind, FileKind};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::process::Pid;

use super::area::{WorkspaceArea, split};
use super::journal::{self, Journal};
use super::{file_failure, walk};
use crate::failure::refusal;

/// Changes on their way into the workspace.
pub struct Stage<'a> {
    area: &'a WorkspaceArea,
    above: OwnedFd,
    own: String,
    dir: OwnedFd,
    next: u64,
    begun: bool,
    /// Whether its files are still needed, because they could not be put back.
    kept: bool,
}

fn open_dir(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    walk::enter(at, name)
}

fn make(at: BorrowedFd<'_>, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    match mkdirat(at, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => open_dir(at, name),
        Err(errno) => Err(errno),
    }
}

/// Our own directory on the disk whose root is `disk`.
pub(super) fn own(disk: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    make(disk, ".pyro", 0o755)
}

/// The directory of all stages.
fn above(disk: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    make(own(disk)?.as_fd(), "stage", 0o700)
}

/// Undoes changes that helpers left half done, `dead` or all of them, and removes their stages. Nothing else may be
/// using those stages.
pub fn recover(disk: BorrowedFd<'_>, dead: Option<Pid>) -> Result<(), Failure> {
    let fail = || file_failure("stage", b"the stage");
    // Not made here: a guest that starts writes no more than it must.
    let above = match open_dir(disk, ".pyro").and_then(|own| open_dir(own.as_fd(), "stage")) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(fail())?,
    };
    let of = |name: &[u8]| {
        dead.is_none_or(|pid| name.split(|byte| *byte == b'-').next() == Some(digits(pid).as_bytes()))
    };
    let area = WorkspaceArea::new(disk)?;
    for node in walk::children(above.as_fd()).map_err(fail())? {
        let name = node.name.as_bytes();
        if !of(name) {
            continue;
        }
        if let Ok(dir) = walk::enter(above.as_fd(), name) {
            journal::restore(&area, dir.as_fd())
                .map_err(|(path, errno)| file_failure("undo", &path)(errno))?;
        }
        walk::remove_all(above.as_fd(), name).map_err(fail())?;
    }
    Ok(())
}

fn digits(pid: Pid) -> String {
    pid.as_raw_nonzero().to_string()
}

impl<'a> Stage<'a> {
    /// Makes an empty stage.
    pub fn new(area: &'a WorkspaceArea) -> Result<Self, Failure> {
        let fail = file_failure("stage", b"the stage");
        let above = above(area.disk.as_fd()).map_err(&fail)?;
        // A helper's process id is its own while it lives; a stage that has it already could not be put back.
        let pid = digits(rustix::process::getpid());
        let (mut own, mut next) = (pid.clone(), 0_u32);
        while let Err(errno) = mkdirat(&above, &own, Mode::from_raw_mode(0o700)) {
            if errno != Errno::EXIST {
                return Err(fail(errno));
            }
            next += 1;
            own = format!("{pid}-{next}");
        }
        let dir = open_dir(above.as_fd(), &own).map_err(&fail)?;
        Ok(Self { area, above, own, dir, next: 0, begun: false, kept: false })
    }

    /// Directory of the stage.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Makes up a name that no file in the stage has.
    pub fn fresh(&mut self) -> Vec<u8> {
        self.next += 1;
        self.next.to_string().into_bytes()
    }

    /// Makes a new file in the stage; returns it and its name.
    pub fn file(&mut self) -> Result<(File, Vec<u8>), Failure> {
        let name = self.fresh();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, &name, flags, Mode::from_raw_mode(0o600));
        Ok((File::from(file.map_err(file_failure("stage", b"the stage"))?), name))
    }

    /// Writes the journal by `note`, and waits until the journal and all staged files are on the disk. From here on
    /// [`Self::finish`] or [`Self::undo`] must be called.
    pub(super) fn begin(
        &mut self,
        note: impl FnOnce(&mut Journal, &WorkspaceArea) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut journal = Journal::new(self.dir())?;
        note(&mut journal, self.area)?;
        journal.finish()?;
        rustix::fs::syncfs(&self.dir).map_err(file_failure("sync", b"the disk"))?;
        self.begun = true;
        Ok(())
    }

    /// Makes the changes last, also if the guest dies.
    pub fn finish(&mut self) -> Result<(), Failure> {
        journal::remove(self.dir()).map_err(file_failure("stage", b"the stage"))?;
        self.begun = false;
        // The removal, and with it all that came before.
        rustix::fs::fsync(&self.dir).map_err(file_failure("sync", b"the disk"))
    }

    /// Puts `name` of the stage at `last` in `parent`, whose path is `path`, in place of the file that is there, if
    /// any; a directory is refused. `name` may be a path within the stage.
    pub fn place(
        &self,
        name: &[u8],
        parent: BorrowedFd<'_>,
        last: &[u8],
        path: &[u8],
    ) -> Result<(), Failure> {
        let fail = || file_failure("place", path);
        // Again if somebody makes or removes it in between.
        for _ in 0..100 {
            match walk::look(parent, last) {
                Ok(stat) if walk::kind(&stat) == FileKind::Directory => return Err(fail()(Errno::ISDIR)),
                Ok(_) => match renameat_with(&self.dir, name, parent, last, RenameFlags::EXCHANGE) {
                    Err(Errno::NOENT) => {}
                    done => return done.map_err(fail()),
                },
                Err(Errno::NOENT) => {
                    match renameat_with(&self.dir, name, parent, last, RenameFlags::NOREPLACE) {
                        Err(Errno::EXIST) => {}
                        done => return done.map_err(fail()),
                    }
                }
                Err(errno) => return Err(fail()(errno)),
            }
        }
        Err(refusal(FailureKind::Internal, "place", "somebody else keeps changing the same path"))
    }

    /// Moves `last` of `parent`, which is `path`, out of the workspace into the stage.
    pub fn take(&mut self, parent: BorrowedFd<'_>, last: &[u8], path: &[u8]) -> Result<(), Failure> {
        let name = self.fresh();
        renameat_with(parent, last, &self.dir, &name, RenameFlags::NOREPLACE)
            .map_err(file_failure("remove", path))
    }

    /// Sets the permissions of `path`, which is open as `file`.
    pub fn set_mode(&self, file: BorrowedFd<'_>, path: &[u8], mode: u32) -> Result<(), Failure> {
        let fail = || file_failure("mode", path);
        let before = walk::mode(&walk::look(file, c"").map_err(fail())?);
        if before != mode & 0o7777 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777)).map_err(fail())?;
        }
        Ok(())
    }

    /// Makes the directory `path` and those above it, as far as they do not exist.
    pub fn make_directories(&self, path: &[u8]) -> Result<(), Failure> {
        let fail = || file_failure("mkdir", path);
        match walk::directory(self.area, path) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail()(errno)),
        }
        let Some((above, last)) = split(path) else { return Ok(()) };
        self.make_directories(above)?;
        let parent = walk::directory(self.area, above).map_err(fail())?;
        match mkdirat(&parent, last, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(fail()(errno)),
        }
    }

    /// Undoes all changes. The failure that is returned adds to `why` a path that could not be put back; it is tried
    /// again at the next start.
    pub fn undo(&mut self, why: Failure) -> Failure {
        if !self.begun {
            return why;
        }
        match journal::restore(self.area, self.dir()) {
            Ok(()) => why,
            Err((path, errno)) => {
                self.kept = true;
                let mut worse = file_failure("undo", &path)(errno);
                worse.kind = FailureKind::Internal;
                worse.message = format!("{}; not all could be undone: {}", why.message, worse.message);
                worse
            }
        }
    }

    /// Removes directories above `path` that are empty, the innermost first, up to `last` or all of them.
    pub fn prune(&self, path: &[u8], last: Option<&[u8]>) {
        let mut path = path;
        while let Some((above, _)) = split(path).filter(|(above, _)| !above.is_empty()) {
            let removed = self
                .area
                .parent(above)
                .and_then(|(parent, name)| unlinkat(&parent, name, AtFlags::REMOVEDIR));
            if removed.is_err() || last == Some(above) {
                return;
            }
            path = above;
        }
    }
}

impl Drop for Stage<'_> {
    /// Removes the files left in the stage, which were not wanted or were replaced.
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let _ = walk::remove_all(self.above.as_fd(), self.own.as_bytes());
    }
}
