//! Mutual exclusion of processes: flock on a file, waited for without polling and without ignoring cancellation.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{CancelToken, HostFsError};

/// Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it is what releases the lock")] File);

/// Takes the lock; calls `waiting` once if another holds it.
pub(crate) fn acquire(
    path: &Path,
    cancel: &CancelToken,
    waiting: &mut dyn FnMut(),
) -> Result<Lock, HostFsError> {
    let mut announced = false;
    loop {
        let file = open(path)?;
        if !try_flock(&file).map_err(|e| HostFsError::file(path, "locked", e))? {
            if !std::mem::replace(&mut announced, true) {
                waiting();
            }
            wait(&file, cancel).map_err(|e| HostFsError::file(path, "locked", e))?;
            if cancel.is_cancelled() {
                return Err(HostFsError::Cancelled);
            }
        }
        // Prune may have removed the file while we waited; a lock on a file without a name excludes nobody.
        if is_still(&file, path) {
            return Ok(Lock(file));
        }
    }
}

/// Takes the lock if nobody holds it.
pub(crate) fn try_acquire(path: &Path) -> Result<Option<Lock>, HostFsError> {
    let file = open(path)?;
    let free = try_flock(&file).map_err(|e| HostFsError::file(path, "locked", e))?;
    Ok((free && is_still(&file, path)).then_some(Lock(file)))
}

fn open(path: &Path) -> Result<File, HostFsError> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| HostFsError::file(path, "written", e))
}

fn try_flock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Blocks until the lock is ours or the token is cancelled. A thread does the waiting, on a duplicate of the
/// descriptor; left behind by a cancellation it lets go of the lock as soon as it gets it.
fn wait(file: &File, cancel: &CancelToken) -> io::Result<()> {
    let (done, event) = mpsc::channel();
    let (duplicate, locked) = (file.try_clone()?, done.clone());
    std::thread::Builder::new().name("lock".into()).spawn(move || {
        let result = loop {
            match flock(&duplicate, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        // Closed before the word is given: afterwards only the waiter's own descriptor holds the lock.
        drop(duplicate);
        let _ = locked.send(result);
    })?;
    let _guard = cancel.on_cancel(move || {
        let _ = done.send(Ok(()));
    });
    event.recv().map_err(|_| io::Error::other("the waiting thread ended"))?.map_err(Into::into)
}

fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_one_waits_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire(&path, &CancelToken::new(), &mut || panic!("nobody holds it")).unwrap();
        assert!(try_acquire(&path).unwrap().is_none());
        let (said, hears) = mpsc::channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || acquire(&path, &CancelToken::new(), &mut || said.send(()).unwrap()).map(drop)
        });
        hears.recv().unwrap();
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn waiting_can_be_cancelled_and_leaves_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire(&path, &CancelToken::new(), &mut || ()).unwrap();
        let cancel = CancelToken::new();
        let canceller = cancel.clone();
        let outcome = acquire(&path, &cancel, &mut || {
            let canceller = canceller.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                canceller.cancel();
            });
        });
        assert!(matches!(outcome, Err(HostFsError::Cancelled)));
        drop(first);
        acquire(&path, &CancelToken::new(), &mut || ()).unwrap();
    }

    #[test]
    fn a_lock_whose_file_was_replaced_is_taken_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire(&path, &CancelToken::new(), &mut || ()).unwrap();
        let (said, hears) = mpsc::channel();
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || acquire(&path, &CancelToken::new(), &mut || said.send(()).unwrap())
        });
        hears.recv().unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(first);
        let held = waiter.join().unwrap().unwrap();
        assert!(try_acquire(&path).unwrap().is_none(), "the lock is on the file that has the name");
        drop(held);
    }
}
