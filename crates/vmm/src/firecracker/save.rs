//! Files of a save: the caller's open files, under names that the VMM can write to.
//!
//! A file that can have a second name in the machine's directory gets one, and the VMM writes into it directly. For
//! one that cannot (a memfd, a file on another file system) the VMM's file is copied afterwards, with holes for
//! zeroes, which are most of a fresh guest's memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::jail;

/// Bytes that are read and written at once; holes are multiples of it.
const BLOCK: usize = 64 * 1024;

/// A caller's file that the VMM is about to write. Dropping this removes the second name and gives the file back to
/// its owner.
#[derive(Debug)]
pub(super) struct SaveFile {
    file: OwnedFd,
    root: Arc<OwnedFd>,
    name: &'static str,
    linked: bool,
    /// Owner before the file was given to the jail's user; `None` when it was not.
    owner: Option<(Uid, Gid)>,
}

impl SaveFile {
    /// Makes `file` writable as `name` in `root` for the VMM, whose user in a jail is `user`.
    pub(super) fn offer(
        root: &Arc<OwnedFd>,
        name: &'static str,
        file: File,
        user: Option<u32>,
    ) -> io::Result<SaveFile> {
        let file = OwnedFd::from(file);
        // An earlier save that failed may have left the name.
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

    /// Makes the caller's file hold the contents that the VMM has written. Blocks for a copy.
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

/// Copies `from` over `to`, with holes for blocks of zeroes.
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
        // The VMM writes by name too.
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
