//! Trees in and out, honest ones and others.

mod honest;
mod hostile;
mod sizes;

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// Entry of an archive, written as it is.
#[derive(Clone)]
struct Raw {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    body: Vec<u8>,
    /// Size in the header, where that is not the body's.
    size: Option<u64>,
}

fn raw(kind: u8, path: impl AsRef<[u8]>, link: &str, body: &str) -> Raw {
    let body = body.as_bytes().to_vec();
    Raw { kind, path: path.as_ref().to_vec(), link: link.into(), body, size: None }
}

fn file(path: &str, body: &str) -> Raw {
    raw(b'0', path, "", body)
}

fn dir(path: &str) -> Raw {
    raw(b'5', path, "", "")
}

fn link(path: &str, target: &str) -> Raw {
    raw(b'2', path, target, "")
}

fn hard(path: &str, target: &str) -> Raw {
    raw(b'1', path, target, "")
}

fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &entry.path);
        put(100, b"0004755\0");
        put(124, format!("{:011o}\0", entry.size.unwrap_or(entry.body.len() as u64)).as_bytes());
        put(136, b"14000000000\0");
        put(148, b"        ");
        put(156, &[entry.kind]);
        put(157, &entry.link);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(header);
        out.extend(&entry.body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn on() -> impl FnMut(Totals) -> ControlFlow<()> {
    |_| ControlFlow::Continue(())
}

/// Stream that a source makes of a path.
fn pack(path: &Path, limits: Limits) -> Result<(Vec<u8>, Totals), ArchiveError> {
    let mut out = Vec::new();
    let written = Source::open(path, limits)?.write_to(&mut out, &mut on())?;
    Ok((out, written.totals))
}

/// Stream that a source makes of the bytes of an archive.
fn repack(bytes: &[u8], limits: Limits) -> Result<(Vec<u8>, Totals), ArchiveError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    pack(file.path(), limits)
}

/// Unpacks a stream in a directory of its own in which nothing else may be left.
fn unpack(name: Option<&str>, bytes: &[u8], limits: Limits) -> Result<(TempDir, Unpacked), ArchiveError> {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::new(dir.path().join("out"), name.map(str::as_bytes), limits).unwrap();
    let result = sink.unpack(&mut &*bytes, &mut on());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    match result {
        Ok(unpacked) => {
            assert_eq!(left, ["out"]);
            Ok((dir, unpacked))
        }
        Err(error) => {
            assert!(left.is_empty(), "{left:?} is left after {error}");
            Err(error)
        }
    }
}

/// All that matters of a tree: kind, mode, time, content, and which names are the same file.
fn snapshot(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut inodes: Vec<u64> = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let shown = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let time = (meta.mtime(), meta.mtime_nsec());
        let what = if meta.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else if meta.is_dir() {
            let mut inner: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            inner.sort_unstable_by(|one, two| two.cmp(one));
            todo.extend(inner);
            format!("dir {:o}", meta.mode() & 0o7777)
        } else {
            let known = inodes.iter().position(|inode| *inode == meta.ino());
            let first = known.unwrap_or_else(|| {
                inodes.push(meta.ino());
                inodes.len() - 1
            });
            let bytes = fs::read(&path).unwrap();
            format!("file {first} {:o} {}", meta.mode() & 0o7777, bytes.escape_ascii())
        };
        // The tree's own time and permissions are nobody's when it is seeded.
        out.push(if path == root { what[..3].to_string() } else { format!("{shown} {time:?} {what}") });
    }
    out
}
