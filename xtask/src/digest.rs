//! SHA-256 of files, remembered for as long as the file is demonstrably the same.
//!
//! The kernel's source is 138 MB, and asking whether a cached kernel is still the right one must not read it. A stamp
//! holds what the file's inode said when it was hashed; losing a stamp costs one more hash.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{TaskError, at};

/// A file that changed less than this before it was hashed is not stamped: within one tick of the kernel's clock a
/// second change would not show.
const SETTLED_SECONDS: u64 = 2;

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Stat {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Stamp {
    stat: Stat,
    sha256: String,
}

/// SHA-256 of `bytes`, lower-case hexadecimal.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of the file at `path`; `stamps` is a directory that is made when needed.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(path: &Path, stamps: &Path) -> Result<String, TaskError> {
    let mut file = File::open(path).map_err(at(path, "opened"))?;
    let stat = stat(&file.metadata().map_err(at(path, "read"))?);
    let stamp = stamps.join(format!("{}.json", &of_bytes(path.as_os_str().as_encoded_bytes())[..16]));
    let known = fs::read(&stamp).ok().and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
    if let Some(known) = known.filter(|known| known.stat == stat) {
        return Ok(known.sha256);
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(at(path, "read"))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let sha256 = hex(&hash.finalize());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let settled = u64::try_from(stat.ctime.0).is_ok_and(|changed| changed + SETTLED_SECONDS <= now);
    if settled && let Ok(text) = serde_json::to_vec(&Stamp { stat, sha256: sha256.clone() }) {
        let _ = fs::create_dir_all(stamps).and_then(|()| replace(&stamp, &text));
    }
    Ok(sha256)
}

/// Puts `bytes` at `path` so that a reader sees the old content or the new, whole.
///
/// # Errors
/// When its directory cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

fn stat(metadata: &Metadata) -> Stat {
    Stat {
        dev: metadata.dev(),
        ino: metadata.ino(),
        size: metadata.size(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        ctime: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_stamp_is_believed_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, stamps) = (dir.path().join("f"), dir.path().join("stamps"));
        fs::write(&file, "").unwrap();
        assert_eq!(of_file(&file, &stamps).unwrap(), EMPTY);
        assert!(!stamps.exists(), "a file that changed just now is not stamped");

        let stat = stat(&fs::metadata(&file).unwrap());
        let stamp = stamps.join(format!("{}.json", &of_bytes(file.as_os_str().as_encoded_bytes())[..16]));
        fs::create_dir(&stamps).unwrap();
        fs::write(&stamp, serde_json::to_vec(&Stamp { stat, sha256: "remembered".into() }).unwrap()).unwrap();
        assert_eq!(of_file(&file, &stamps).unwrap(), "remembered");

        fs::write(&file, "x").unwrap();
        assert_eq!(of_file(&file, &stamps).unwrap(), of_bytes(b"x"));
        fs::write(&stamp, "{").unwrap();
        assert_eq!(of_file(&file, &stamps).unwrap(), of_bytes(b"x"));
    }
}
