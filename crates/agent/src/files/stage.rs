//! Several changes as one: everything new is made in a directory beside the workspace, put in place by renames, and
//! taken back by the same renames if one of them fails.
//!
//! ```text
//!   disk:/.pyro/stage/N   what is to come; after an exchange, what was there
//! ```
//!
//! The kernel exchanges two names at once, so that no path is missing in between, and what was replaced is kept without
//! another step. A guest that dies in the middle keeps what was put in place so far; what is staged is swept at the
//! next start.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_proto::message::{EntryKind, Failure, FailureKind};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::area::{Area, split};
use super::trouble;
use super::walk;
use crate::failure::refusal;

/// One thing that was done, and how to undo it.
enum Step {
    /// A staged name took its place where nothing was.
    Placed { name: Vec<u8>, path: Vec<u8> },
    /// A staged name and one of the workspace were exchanged.
    Swapped { name: Vec<u8>, path: Vec<u8> },
    /// A name of the workspace was moved into the stage.
    Taken { name: Vec<u8>, path: Vec<u8> },
    /// A name of the workspace became another.
    Moved { from: Vec<u8>, to: Vec<u8> },
    /// Permissions were set, which had been these.
    Mode { path: Vec<u8>, mode: u32 },
    /// A directory was made.
    Made { path: Vec<u8> },
}

/// What is on its way into the workspace.
pub struct Stage<'a> {
    area: &'a Area,
    above: OwnedFd,
    own: String,
    dir: OwnedFd,
    next: u64,
    steps: Vec<Step>,
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

/// Removes what earlier stages left on the disk, when nothing uses one.
pub fn sweep(disk: BorrowedFd<'_>) -> Result<(), Errno> {
    // Not made here: a guest that starts writes no more than it must.
    let above = match open_dir(disk, ".pyro").and_then(|own| open_dir(own.as_fd(), "stage")) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    for node in walk::children(above.as_fd())? {
        walk::remove_all(above.as_fd(), node.name.as_bytes())?;
    }
    Ok(())
}

impl<'a> Stage<'a> {
    /// An empty one.
    pub fn new(area: &'a Area) -> Result<Self, Failure> {
        let fail = trouble("stage", b"the stage");
        let above = above(area.disk.as_fd()).map_err(&fail)?;
        // A helper's process id is its own while it lives.
        let own = rustix::process::getpid().as_raw_nonzero().to_string();
        let dir = match mkdirat(&above, &own, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => walk::remove_all(above.as_fd(), own.as_bytes())
                .and_then(|()| mkdirat(&above, &own, Mode::from_raw_mode(0o700))),
            other => other,
        }
        .and_then(|()| open_dir(above.as_fd(), &own))
        .map_err(&fail)?;
        Ok(Self { area, above, own, dir, next: 0, steps: Vec::new() })
    }

    /// Its directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A name in it that nothing has.
    pub fn fresh(&mut self) -> Vec<u8> {
        self.next += 1;
        self.next.to_string().into_bytes()
    }

    /// A new file in it, and its name.
    pub fn file(&mut self) -> Result<(File, Vec<u8>), Failure> {
        let name = self.fresh();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, &name, flags, Mode::from_raw_mode(0o600));
        Ok((File::from(file.map_err(trouble("stage", b"the stage"))?), name))
    }

    /// Puts `name` of the stage at `last` in `parent`, which is `path`, in place of what is there: nothing or something
    /// that is no directory. `name` may be a path within the stage.
    pub fn place(
        &mut self,
        name: Vec<u8>,
        parent: BorrowedFd<'_>,
        last: &[u8],
        path: &[u8],
    ) -> Result<(), Failure> {
        let fail = || trouble("place", path);
        // Again if somebody makes or removes it in between.
        for _ in 0..100 {
            match walk::look(parent, last) {
                Ok(stat) if walk::kind(&stat) == EntryKind::Directory => return Err(fail()(Errno::ISDIR)),
                Ok(_) => match renameat_with(&self.dir, &name, parent, last, RenameFlags::EXCHANGE) {
                    Err(Errno::NOENT) => {}
                    done => {
                        done.map_err(fail())?;
                        self.steps.push(Step::Swapped { name, path: path.to_vec() });
                        return Ok(());
                    }
                },
                Err(Errno::NOENT) => {
                    match renameat_with(&self.dir, &name, parent, last, RenameFlags::NOREPLACE) {
                        Err(Errno::EXIST) => {}
                        done => {
                            done.map_err(fail())?;
                            self.steps.push(Step::Placed { name, path: path.to_vec() });
                            return Ok(());
                        }
                    }
                }
                Err(errno) => return Err(fail()(errno)),
            }
        }
        Err(refusal(FailureKind::Internal, "place", "somebody else keeps changing the same path"))
    }

    /// Moves `last` of `parent`, which is `path`, out of the workspace.
    pub fn take(&mut self, parent: BorrowedFd<'_>, last: &[u8], path: &[u8]) -> Result<(), Failure> {
        let name = self.fresh();
        renameat_with(parent, last, &self.dir, &name, RenameFlags::NOREPLACE)
            .map_err(trouble("remove", path))?;
        self.steps.push(Step::Taken { name, path: path.to_vec() });
        Ok(())
    }

    /// Gives `from` the name `to`, which nothing has.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), Failure> {
        let (old, old_name) = self.area.parent(from).map_err(trouble("rename", from))?;
        let (new, new_name) = self.area.parent(to).map_err(trouble("rename", to))?;
        renameat_with(&old, old_name, &new, new_name, RenameFlags::NOREPLACE)
            .map_err(trouble("rename", from))?;
        self.steps.push(Step::Moved { from: from.to_vec(), to: to.to_vec() });
        Ok(())
    }

    /// Sets the permissions of `path`, which is open as `file`.
    pub fn set_mode(&mut self, file: BorrowedFd<'_>, path: &[u8], mode: u32) -> Result<(), Failure> {
        let fail = || trouble("mode", path);
        let before = walk::mode(&walk::look(file, c"").map_err(fail())?);
        if before != mode & 0o7777 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777)).map_err(fail())?;
            self.steps.push(Step::Mode { path: path.to_vec(), mode: before });
        }
        Ok(())
    }

    /// Makes the directory `path` and those above it, as far as they do not exist.
    pub fn make_directories(&mut self, path: &[u8]) -> Result<(), Failure> {
        let fail = || trouble("mkdir", path);
        match walk::directory(self.area, path) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail()(errno)),
        }
        let Some((above, last)) = split(path) else { return Ok(()) };
        self.make_directories(above)?;
        let parent = walk::directory(self.area, above).map_err(fail())?;
        match mkdirat(&parent, last, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.steps.push(Step::Made { path: path.to_vec() }),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail()(errno)),
        }
        Ok(())
    }

    /// Takes back all that was done. What cannot be taken back is told in `why`.
    pub fn undo(&mut self, why: Failure) -> Failure {
        let mut first = None;
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            if let Err(errno) = self.take_back(&step) {
                first.get_or_insert((step.path().to_vec(), errno));
            }
        }
        match first {
            None => why,
            Some((path, errno)) => {
                let mut worse = trouble("undo", &path)(errno);
                worse.kind = FailureKind::Internal;
                worse.message = format!("{}; not all could be undone: {}", why.message, worse.message);
                worse
            }
        }
    }

    fn take_back(&self, step: &Step) -> Result<(), Errno> {
        let rename = |name: &[u8], path: &[u8], back: bool, flags| {
            let (parent, last) = self.area.parent(path)?;
            if back {
                renameat_with(&self.dir, name, &parent, last, flags)
            } else {
                renameat_with(&parent, last, &self.dir, name, flags)
            }
        };
        match step {
            Step::Placed { name, path } => rename(name, path, false, RenameFlags::NOREPLACE),
            Step::Swapped { name, path } => rename(name, path, true, RenameFlags::EXCHANGE),
            Step::Taken { name, path } => rename(name, path, true, RenameFlags::NOREPLACE),
            Step::Moved { from, to } => {
                let ((old, old_name), (new, new_name)) = (self.area.parent(from)?, self.area.parent(to)?);
                renameat_with(&new, new_name, &old, old_name, RenameFlags::NOREPLACE)
            }
            Step::Mode { path, mode } => {
                let file = self.area.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode))
            }
            Step::Made { path } => {
                let (parent, last) = self.area.parent(path)?;
                unlinkat(&parent, last, AtFlags::REMOVEDIR)
            }
        }
    }

    /// Removes directories above `path` that are empty.
    pub fn prune(&self, path: &[u8]) {
        let mut path = path;
        while let Some((above, _)) = split(path).filter(|(above, _)| !above.is_empty()) {
            let removed = self
                .area
                .parent(above)
                .and_then(|(parent, last)| unlinkat(&parent, last, AtFlags::REMOVEDIR));
            if removed.is_err() {
                return;
            }
            path = above;
        }
    }
}

impl Step {
    fn path(&self) -> &[u8] {
        match self {
            Self::Placed { path, .. }
            | Self::Swapped { path, .. }
            | Self::Taken { path, .. }
            | Self::Moved { from: path, .. }
            | Self::Mode { path, .. }
            | Self::Made { path } => path,
        }
    }
}

impl Drop for Stage<'_> {
    /// What is left in it is what was not wanted, or what was replaced.
    fn drop(&mut self) {
        let _ = walk::remove_all(self.above.as_fd(), self.own.as_bytes());
    }
}
