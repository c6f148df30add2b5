//! The directory of one measurement, which is gone when the measurement is, however that ended.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// A thread that was making a template when the measurement was ended may write for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A new directory; removed when dropped.
pub(super) struct Scratch(tempfile::TempDir);

impl Scratch {
    /// One in `dir`, which is made where it is missing.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self(tempfile::Builder::new().prefix(".bench-").tempdir_in(dir)?))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let begin = Instant::now();
        while std::fs::remove_dir_all(self.path()).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
            && begin.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_goes_with_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = super::Scratch::new(&dir.path().join("not/there")).unwrap();
        std::fs::write(scratch.path().join("file"), "x").unwrap();
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists() && path.parent().unwrap().exists());
    }
}
