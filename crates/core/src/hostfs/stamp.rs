//! Digests of files, remembered: what a file's SHA-256 was, for as long as the file is demonstrably the same.
//!
//! Hashing a base image takes longer than booting it should, so a start must not hash. After a file was hashed, a
//! stamp in a directory of the caller's remembers device, inode, size, mtime and ctime (both to the nanosecond) and
//! the digest; while `fstat` still equals the stamp the digest stands. ctime cannot be set back by anybody who is not
//! already in control of the machine's clock, so a change of content always shows. Losing stamps only costs a rehash,
//! which is why nothing here fails because a stamp could not be written.
//!
//! Also here: the checksum that every manifest carries, so that one edited by hand is not believed.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyro_formats::hostfs::next_data;
use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// The unit in which [`Content::Extents`] looks for zeros.
const BLOCK: usize = 4096;
/// How long after its last change a file is hashed at the earliest: the kernel's clock for ctime ticks every 1 to
/// 10 ms, and a second change within one tick would not show.
const SETTLED: Duration = Duration::from_millis(20);

/// The part of a file that is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Every byte: what `sha256sum` prints.
    Whole,
    /// The size, then offset and bytes of every 4 KiB block that is not all zeros. The same for a sparse file however
    /// its holes lie.
    Extents,
    /// A range of bytes, such as one file of an archive.
    Range {
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// Writes bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub(crate) fn digest_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Whether `text` is a SHA-256 as this module writes them.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Hashes a file, calling `progress` with the bytes done so far; when that returns false the hash is abandoned with
/// [`io::ErrorKind::Interrupted`]. The file's offset ends at 0.
pub(crate) fn digest(
    file: &File,
    content: Content,
    progress: &mut dyn FnMut(u64) -> bool,
) -> io::Result<String> {
    let mut hash = Sha256::new();
    let size = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    let abandoned = || io::Error::new(io::ErrorKind::Interrupted, "hashing was cancelled");
    match content {
        Content::Whole | Content::Range { .. } => {
            let (mut at, end) = match content {
                Content::Range { offset, len } => (offset, offset.saturating_add(len)),
                _ => (0, size),
            };
            while at < end {
                let want = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
                file.read_exact_at(&mut buffer[..want], at)?;
                hash.update(&buffer[..want]);
                at += want as u64;
                if !progress(at) {
                    return Err(abandoned());
                }
            }
        }
        Content::Extents => {
            hash.update(size.to_le_bytes());
            let mut done = 0;
            while let Some((start, end)) = next_data(file, done, size)? {
                // Whole blocks, whatever the granularity of the file system's holes.
                let mut at = start - start % BLOCK as u64;
                let end = end.next_multiple_of(BLOCK as u64).min(size);
                while at < end {
                    let want = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
                    file.read_exact_at(&mut buffer[..want], at)?;
                    for block in buffer[..want].chunks(BLOCK) {
                        if block.iter().any(|byte| *byte != 0) {
                            hash.update(at.to_le_bytes());
                            hash.update(block);
                        }
                        at += block.len() as u64;
                    }
                    if !progress(at) {
                        return Err(abandoned());
                    }
                }
                done = at;
            }
            rustix::fs::seek(file, SeekFrom::Start(0))?;
        }
    }
    Ok(hex(&hash.finalize()))
}

/// A directory of stamps. It need not exist, nor be writable.
#[derive(Clone, Debug)]
pub(crate) struct Stamps {
    dir: PathBuf,
}

impl Stamps {
    /// Stamps live in `dir`, which is made when the first one is written.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The digest of an open file, from its stamp where that still holds.
    pub(crate) fn digest(&self, file: &File, content: Content) -> io::Result<String> {
        self.digest_with(file, content, &mut |_| true)
    }

    /// As [`Stamps::digest`], with progress and a way to stop; see [`digest`].
    pub(crate) fn digest_with(
        &self,
        file: &File,
        content: Content,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> io::Result<String> {
        let before = Stamped::of(file)?;
        let path = self.dir.join(before.file_name(content));
        if let Some(found) = fs::read_to_string(&path).ok().and_then(|text| before.recall(content, &text)) {
            return Ok(found);
        }
        let settled = before.wait_until_settled();
        let found = digest(file, content, progress)?;
        if Stamped::of(file)? != before {
            return Err(io::Error::other("it was changed while it was being read"));
        }
        if settled {
            // A stamp that cannot be written is a rehash next time, no more.
            let _ = self.write(&path, &before.line(content, &found));
        }
        Ok(found)
    }

    /// Forgets all stamps.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            // Gone already, or somebody just wrote another.
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn write(&self, path: &std::path::Path, line: &str) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let mut file = tempfile::Builder::new().prefix(".stamp-").tempfile_in(&self.dir)?;
        io::Write::write_all(&mut file, line.as_bytes())?;
        file.persist(path)?;
        Ok(())
    }
}

/// Facts of `fstat` that change with the content. Without the device, whose number is another after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileIdentity {
    inode: u64,
    /// Size in bytes.
    pub size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl FileIdentity {
    /// Of an open file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(stat: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            inode: stat.ino(),
            size: stat.size(),
            mtime_ns: ns(stat.mtime(), stat.mtime_nsec()),
            ctime_ns: ns(stat.ctime(), stat.ctime_nsec()),
        }
    }
}

/// A file among those of all devices, as a stamp knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamped {
    device: u64,
    file: FileIdentity,
}

impl Stamped {
    fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        Ok(Self { device: stat.dev(), file: FileIdentity::from(&stat) })
    }

    /// Waits out the tick of the clock in which the file changed; false when it seems to have changed in the future.
    fn wait_until_settled(&self) -> bool {
        let left = i128::from(self.file.ctime_ns) + SETTLED.as_nanos() as i128 - now_ns();
        match u64::try_from(left).map(Duration::from_nanos) {
            Ok(left) if left > SETTLED => return false,
            Ok(left) => std::thread::sleep(left),
            Err(_) => {}
        }
        true
    }

    fn file_name(&self, content: Content) -> String {
        let Self { device, file: FileIdentity { inode, .. } } = self;
        match content {
            Content::Whole => format!("{device:x}-{inode:x}"),
            Content::Extents => format!("{device:x}-{inode:x}-extents"),
            Content::Range { offset, len } => format!("{device:x}-{inode:x}-{offset:x}-{len:x}"),
        }
    }

    fn facts(&self, content: Content) -> String {
        let Self { device, file: FileIdentity { inode, size, mtime_ns, ctime_ns } } = self;
        format!("pyro-stamp 1 {content:?} {device} {inode} {size} {mtime_ns} {ctime_ns}")
    }

    /// The stamp's text; its last word guards against a torn write.
    fn line(&self, content: Content, digest: &str) -> String {
        let text = format!("{} {digest}", self.facts(content));
        let check = digest_bytes(text.as_bytes());
        format!("{text} {check}\n")
    }

    fn recall(&self, content: Content, line: &str) -> Option<String> {
        let digest = line.strip_prefix(&self.facts(content))?.strip_prefix(' ')?.get(..64)?;
        (is_digest(digest) && self.line(content, digest) == line).then(|| digest.to_owned())
    }
}

fn now_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128)
}

/// A JSON object as a manifest: indented, keys sorted, with a `checksum` over everything else in it.
pub(crate) fn seal(value: &impl serde::Serialize) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::to_value(value)?;
    let sum = checksum(&value)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("checksum".into(), sum.into());
    }
    let mut bytes = serde_json::to_vec_pretty(&value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Takes the checksum off a parsed manifest; false when it is missing or is not that of the rest.
pub(crate) fn unseal(value: &mut serde_json::Value) -> bool {
    let Some(found) = value.as_object_mut().and_then(|object| object.remove("checksum")) else {
        return false;
    };
    checksum(value).is_ok_and(|sum| found.as_str() == Some(&sum))
}

fn checksum(value: &serde_json::Value) -> serde_json::Result<String> {
    // Keys of a `Value` are sorted, so this does not depend on how the file was laid out. Manifests hold no floats.
    Ok(digest_bytes(&serde_json::to_vec(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    #[test]
    fn a_stamp_stands_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"one").unwrap();
        let stamps = Stamps::new(dir.path().join("stamps"));
        let mut hashed = 0;
        let mut count = |_| {
            hashed += 1;
            true
        };
        let file = File::open(&path).unwrap();
        let first = stamps.digest_with(&file, Content::Whole, &mut count).unwrap();
        assert_eq!(first, digest_bytes(b"one"));
        assert_eq!(stamps.digest_with(&file, Content::Whole, &mut count).unwrap(), first);
        assert_eq!(hashed, 1, "the second digest came from the stamp");

        // Same size, and mtime set back to what it was: only ctime tells.
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, b"two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
        assert_eq!(stamps.digest(&File::open(&path).unwrap(), Content::Whole).unwrap(), digest_bytes(b"two"));
    }

    #[test]
    fn a_torn_or_forged_stamp_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"one").unwrap();
        let stamps = Stamps::new(dir.path().join("stamps"));
        let file = File::open(&path).unwrap();
        let right = stamps.digest(&file, Content::Whole).unwrap();
        let stamp = fs::read_dir(dir.path().join("stamps")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&stamp).unwrap();
        for bad in [&text[..text.len() / 2], "", &text.replace(&right[..8], "00000000")] {
            fs::write(&stamp, bad).unwrap();
            assert_eq!(stamps.digest(&file, Content::Whole).unwrap(), right);
        }
    }

    #[test]
    fn stamps_that_cannot_be_written_cost_only_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"one").unwrap();
        // A file where the directory should be: not even root can write there.
        let stamps = Stamps::new(path.clone());
        assert_eq!(stamps.digest(&File::open(&path).unwrap(), Content::Whole).unwrap(), digest_bytes(b"one"));
    }

    #[test]
    fn holes_do_not_matter_to_extents_but_bytes_do() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, dense: bool| {
            let mut file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(dir.path().join(name))
                .unwrap();
            if dense {
                file.write_all(&vec![0; 1 << 20]).unwrap();
            }
            file.set_len(1 << 20).unwrap();
            file.write_all_at(b"data", 500_000).unwrap();
            file
        };
        let (sparse, dense) = (make("sparse", false), make("dense", true));
        let sum = |file: &File| digest(file, Content::Extents, &mut |_| true).unwrap();
        assert_eq!(sum(&sparse), sum(&dense));
        dense.write_all_at(b"x", 900_000).unwrap();
        assert_ne!(sum(&sparse), sum(&dense));
        let before = sum(&sparse);
        sparse.set_len(2 << 20).unwrap();
        assert_ne!(sum(&sparse), before, "the size counts");
    }

    proptest! {
        #[test]
        fn a_seal_breaks_with_any_change(text in "[a-z]{0,8}", number: u32, flip in 0_usize..200) {
            let value = serde_json::json!({ "text": text, "number": number, "list": [1, 2, 3] });
            let bytes = seal(&value).unwrap();
            let mut parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert!(unseal(&mut parsed));
            prop_assert_eq!(&parsed, &value);
            let mut changed = bytes.clone();
            let at = flip % changed.len();
            changed[at] = changed[at].wrapping_add(1);
            if let Ok(mut parsed) = serde_json::from_slice::<serde_json::Value>(&changed) {
                // A file that still parses is refused, unless only white space differs.
                prop_assert!(!unseal(&mut parsed) || parsed == value);
            }
        }
    }
}
