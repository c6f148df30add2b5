//! Secrets in the guest: files in memory that only root can read.
//!
//! `/run` is a tmpfs: no secret reaches a disk by the agent's doing.

use std::os::fd::OwnedFd;

use pyro_proto::message::{Failure, FailureKind, MAX_SECRET};
use rustix::fs::{Mode, OFlags, mkdirat, openat, renameat};
use rustix::io::Errno;

use crate::failure::{failure, refusal, resource_kind};

const DIRECTORY: &str = "pyro-secrets";
const FRESH: &str = ".new";

/// Keeps `bytes` as `name` below the directory `run`, in place of a secret of that name.
pub fn put(run: &str, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    check(name)?;
    if bytes.len() > MAX_SECRET {
        return Err(refusal(FailureKind::TooLarge, "secret", format!("more than {MAX_SECRET} bytes")));
    }
    let written = || {
        let directory = directory(run)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, FRESH, flags, Mode::from_raw_mode(0o600))?;
        let mut left = bytes;
        while !left.is_empty() {
            left = &left[rustix::io::write(&file, left)?..];
        }
        renameat(&directory, FRESH, &directory, name)
    };
    written().map_err(|errno| failure(resource_kind(errno), "secret", errno, name))
}

/// Opens the directory of secrets, made if need be, and nobody's but root's.
fn directory(run: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let run = rustix::fs::open(run, flags, Mode::empty())?;
    match mkdirat(&run, DIRECTORY, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let directory = openat(&run, DIRECTORY, flags, Mode::empty())?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700))?;
    Ok(directory)
}

/// Refuses a name that is not one file in the directory, or cannot be printed. The failure never holds the value.
fn check(name: &str) -> Result<(), Failure> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    Err(refusal(FailureKind::BadRequest, "secret", format!("{name:?} cannot be the name of a secret")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_the_owners_only() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().to_str().unwrap();
        let directory = folder.path().join(DIRECTORY);
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        put(run, "TOKEN.a-1", b"first").unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
        put(run, "TOKEN.a-1", b"second").unwrap();
        assert_eq!((mode(&directory), mode(&directory.join("TOKEN.a-1"))), (0o700, 0o600));
        assert_eq!(std::fs::read(directory.join("TOKEN.a-1")).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        for name in ["", ".", "..", "a/b", ".new", "a b", "a\n", &"x".repeat(65), "ä"] {
            assert_eq!(put(run, name, b"value").unwrap_err().kind, FailureKind::BadRequest, "{name:?}");
        }
        assert_eq!(put(run, "x", &vec![0; MAX_SECRET + 1]).unwrap_err().kind, FailureKind::TooLarge);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join(DIRECTORY)).unwrap();
        assert!(put(folder.path().to_str().unwrap(), "x", b"value").is_err());
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
