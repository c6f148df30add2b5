//! The workspace on its disk: paths, and that none leads out of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_proto::message::{Failure, FailureKind, MAX_PATH};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat};
use rustix::io::Errno;

use super::file_failure;
use crate::failure::refusal;

/// Path of the workspace for commands; the host may put it in front of a path.
const PREFIX: &[u8] = b"/workspace";
/// Links at the end of a path that are followed, one after the other: as many as Linux does.
const MAX_LINKS: usize = 40;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// The workspace and the disk that it is on.
///
/// Reached from the disk's own root and not from `/workspace`: a rename between the workspace and the files beside it
/// on the disk crosses no mount that way.
pub struct WorkspaceArea {
    /// The disk's own root.
    pub disk: OwnedFd,
    /// The workspace in it.
    pub workspace: OwnedFd,
}

impl WorkspaceArea {
    /// The workspace of the disk whose root is `disk`.
    pub fn new(disk: BorrowedFd<'_>) -> Result<Self, Failure> {
        let disk = disk.try_clone_to_owned().map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            file_failure("disk", b"")(errno)
        })?;
        let workspace = beneath(disk.as_fd(), b"workspace", DIRECTORY, ResolveFlags::NO_SYMLINKS)
            .map_err(file_failure("workspace", b""))?;
        Ok(Self { disk, workspace })
    }

    /// Opens `path`, which must come from [`relative`], below the workspace, through links that stay inside.
    pub fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        beneath(self.workspace.as_fd(), path, flags, ResolveFlags::empty())
    }

    /// Opens the directory that `path` is in; gives that and the last name.
    pub fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let (parent, name) = split(path).ok_or(Errno::ISDIR)?;
        Ok((self.open(parent, OFlags::RDONLY | OFlags::DIRECTORY)?, name))
    }

    /// Like [`Self::parent`], but makes the directories that do not exist.
    pub fn parent_made<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        match self.parent(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (parent, name) = split(path).ok_or(Errno::ISDIR)?;
        let (above, last) = self.parent_made(parent)?;
        match mkdirat(&above, last, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        Ok((self.open(parent, OFlags::RDONLY | OFlags::DIRECTORY)?, name))
    }

    /// Resolves the links at the end of `path`; links on the way stay as they are.
    pub fn followed(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let (parent, name) = match self.parent(&path) {
                // A path that does not exist is no link.
                Err(Errno::NOENT) => return Ok(path),
                other => other?,
            };
            let target = match readlinkat(&parent, name, Vec::new()) {
                Ok(target) => target.into_bytes(),
                Err(Errno::INVAL | Errno::NOENT) => return Ok(path),
                Err(errno) => return Err(errno),
            };
            if target.starts_with(b"/") {
                return Err(Errno::XDEV);
            }
            // The kernel resolves `..` in it, when the parent of its target is opened.
            let mut next = split(&path).map_or_else(Vec::new, |(parent, _)| parent.to_vec());
            if !next.is_empty() {
                next.push(b'/');
            }
            next.extend(&target);
            while next.last() == Some(&b'/') {
                next.pop();
            }
            match split(&next) {
                Some((_, b"." | b"..")) | None => return Err(Errno::ISDIR),
                Some(_) => path = next,
            }
        }
        Err(Errno::LOOP)
    }
}

/// Opens `path` beneath `root`; the kernel refuses whatever leads outside.
pub fn beneath(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    more: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
    let mut tries = 0;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Somebody renamed something on the way, while `..` was being looked at.
            Err(Errno::AGAIN) if tries < 100 => tries += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Bytes of each end of a path that is too long to be shown whole.
const SHOWN: usize = 64;

/// Directory and last name; `None` for the workspace itself.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None if path.is_empty() => None,
        None => Some((b"", path)),
    }
}

/// Joins both, with a slash between.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Turns the host's path into one below the workspace, without `.`, `..` and doubled slashes.
pub fn relative(path: &[u8]) -> Result<Vec<u8>, Failure> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let bad = |kind, why: &str| Err(refusal(kind, "path", format!("{}: {why}", shown())));
    if path.len() > MAX_PATH {
        let ends = [&path[..SHOWN], &path[path.len() - SHOWN..]].map(String::from_utf8_lossy);
        let why = format!(
            "{} ... {}: the path is too long ({} bytes, of {MAX_PATH} at the most)",
            ends[0],
            ends[1],
            path.len()
        );
        return Err(refusal(FailureKind::TooLong, "path", why));
    }
    if path.contains(&0) {
        return bad(FailureKind::BadRequest, "a path cannot contain a zero byte");
    }
    let below = match path.strip_prefix(PREFIX) {
        Some(below) if below.is_empty() || below.starts_with(b"/") => below,
        _ if path.starts_with(b"/") => {
            return bad(FailureKind::OutsideWorkspace, "is not in the workspace");
        }
        _ => path,
    };
    let mut out = Vec::with_capacity(below.len());
    for name in below.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        if name == b".." {
            return bad(FailureKind::OutsideWorkspace, "a path may not contain `..`");
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend(name);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_made_plain() {
        for (given, wanted) in [
            ("", ""),
            (".", ""),
            ("/workspace", ""),
            ("/workspace/a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("workspace", "workspace"),
            ("...", "..."),
        ] {
            assert_eq!(relative(given.as_bytes()).unwrap(), wanted.as_bytes(), "{given:?}");
        }
        for bad in ["/", "/etc", "/workspaces", "..", "a/../b", "/workspace/..", "a/.."] {
            assert_eq!(relative(bad.as_bytes()).unwrap_err().kind, FailureKind::OutsideWorkspace, "{bad:?}");
        }
        assert_eq!(relative(b"a\0b").unwrap_err().kind, FailureKind::BadRequest);
        assert_eq!(relative(&[b'a'; MAX_PATH + 1]).unwrap_err().kind, FailureKind::TooLong);
    }

    proptest! {
        #[test]
        fn no_plain_path_leads_up(path in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..40,
        )) {
            if let Ok(plain) = relative(&path) {
                let names = || plain.split(|byte| *byte == b'/');
                prop_assert!(plain.is_empty() || names().all(|name| !matches!(name, b"" | b"." | b"..")));
                prop_assert_eq!(relative(&plain).unwrap(), plain);
            }
        }
    }
}
