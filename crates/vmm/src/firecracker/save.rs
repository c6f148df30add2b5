//! Where a save goes: the caller's open files, under names that the VMM can write to.
//!
//! A file that can have a second name in the machine's directory gets one, and the VMM writes into it directly. What
//! cannot (a memfd, a file on another file system) is copied afterwards, without its zeroes, which for a fresh guest is
//! most of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::jail;

/// How much is looked at and written at once. Holes are made in multiples of it.
const BLOCK: usize = 64 * 1024;

/// A file that is about to be written. Dropping it takes its second name away and gives it back to its owner.
#[derive(Debug)]
pub(super) struct SaveFile {
    file: OwnedFd,
    root: Arc<OwnedFd>,
    name: &'static str,
    linked: bool,
    /// Whose the file was, if it was given away.
    owner: Option<(Uid, Gid)>,
}

impl SaveFile {
    /// Makes `file` writable as `name` in `root` for the VMM, which is `user` in a jail.
    pub(super) fn offer(
        root: &Arc<OwnedFd>,
        name: &'static str,
        file: File,
        user: Option<u32>,
    ) -> io::Result<SaveFile> {
        let file = OwnedFd::from(file);
        // What an earlier save that failed left.
        match rustix::fs::unlinkat(root.as_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let given = crate::proc_path(&file);
        let linked =
            rustix::fs::linkat(rustix::fs::CWD, given, root.as_fd(), name, AtFlags::SYMLINK_FOLLOW).is_ok();
        let mut output = SaveFile { file, root: root.clone(), name, linked, owner: None };
        if let (true, Some(user)) = (linked, user) {
            let stat = rustix::fs::fstat(&output.file)?;
            output.owner = Some((Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)));
            jail::give_to_user(&output.file, user)?;
        }
        Ok(output)
    }

    /// After the VMM has written: the caller's file has it.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.linked {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let written = File::from(rustix::fs::openat(self.root.as_fd(), self.name, flags, Mode::empty())?);
        copy(&written, &File::from(self.file.try_clone()?))
    }
}

impl Drop for SaveFile {
    fn drop(&mut self) {
        let _never_written = rustix::fs::unlinkat(self.root.as_fd(), self.name, AtFlags::empty());
        if let Some((uid, gid)) = self.owner {
            let _still_readable_by_root = rustix::fs::fchown(&self.file, Some(uid), Some(gid));
        }
    }
}

/// Makes `to` hold what `from` holds, with holes for its zeroes.
fn copy(from: &File, to: &File) -> io::Result<()> {
    to.set_len(0)?;
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut block = vec![0; BLOCK];
    let mut position = 0;
    while position < length {
        let count = from.read_at(&mut block, position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if block[..count].iter().any(|&byte| byte != 0) {
            to.write_all_at(&block[..count], position)?;
        }
        position += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn save_into(file: File, dir: &std::path::Path) -> Vec<u8> {
        let root = Arc::new(OwnedFd::from(File::open(dir).unwrap()));
        let output = SaveFile::offer(&root, "memory.new", file.try_clone().unwrap(), None).unwrap();
        // As the VMM does it: by name.
        let mut bytes = vec![0; 300_000];
        bytes[200_000] = 7;
        std::fs::write(dir.join("memory.new"), &bytes).unwrap();
        output.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "nothing stays");
        let mut read = vec![0; 300_000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 300_000);
        assert!(read == bytes);
        read
    }

    #[test]
    fn a_file_is_written_directly_or_by_a_copy_with_holes() {
        let dir = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let named = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(place.path().join("named"))
            .unwrap();
        save_into(named, dir.path());
        let memfd = rustix::fs::memfd_create(c"m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let memfd = File::from(memfd);
        save_into(memfd.try_clone().unwrap(), dir.path());
        assert!(memfd.metadata().unwrap().blocks() * 512 < 200_000, "zeroes are holes");
    }
}
