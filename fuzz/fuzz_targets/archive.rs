//! Whatever an archive says: what is unpacked is within the limits and within its directory, what is refused leaves nothing,
//! and what goes in one way comes out the other.
#![no_main]

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use pyro_formats::archive::{ArchiveError, Limits, OutsideLinks, Sink, Source, Totals, look};
use pyro_fuzz::Input;

const BLOCK: usize = 512;
/// Bytes that an input may make of itself.
const MOST: usize = 2 << 20;

const LIMITS: Limits = Limits {
    entries: 40,
    bytes: 1 << 20,
    path: 300,
    depth: 8,
    names: 4000,
    ratio: 200,
    ratio_free: 512 << 10,
    outside_links: OutsideLinks::Refuse,
};

/// Makes a header's sum right.
fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive whose entries are told shortly.
fn built(input: &mut Input<'_>) -> Vec<u8> {
    const KINDS: [u8; 16] = *b"0055122xxLKg7S3V";
    let mut archive = Vec::new();
    while !input.is_empty() && archive.len() < MOST {
        let (kind, how) = (KINDS[usize::from(input.byte() & 15)], input.byte());
        let (name, link) = (input.text(), input.text());
        let mut header = [0; BLOCK];
        let mut put = |at: usize, most: usize, bytes: &[u8]| {
            header[at..at + bytes.len().min(most)].copy_from_slice(&bytes[..bytes.len().min(most)]);
        };
        put(0, 100, name);
        put(157, 100, link);
        put(345, 155, name.get(100..).unwrap_or_default());
        put(257, 8, if how & 1 != 0 { b"ustar\x0000" } else { b"ustar  \0" });
        put(156, 1, &[kind]);
        put(100, 8, format!("{:07o}\0", u32::from(how) * 16 + 0o400).as_bytes());
        put(
            136,
            12,
            if how & 2 != 0 { b"00000000000\0" } else { b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff" },
        );
        let content = match kind {
            b'0' | b'7' if how & 4 != 0 => vec![how; usize::from(input.pair())],
            b'0' | b'7' | b'x' | b'g' | b'L' | b'K' | b'V' => input.text().to_vec(),
            _ => Vec::new(),
        };
        put(124, 12, format!("{:011o}\0", content.len()).as_bytes());
        // Any field may be something else.
        if how & 0x80 != 0 {
            let at = usize::from(input.pair()) % BLOCK;
            put(at, BLOCK - at, input.text());
        }
        seal(&mut header);
        archive.extend_from_slice(&header);
        archive.extend_from_slice(&content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// The input as it is, with right sums where headers are.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    let mut at = 0;
    while at + BLOCK <= archive.len() {
        let header = &mut archive[at..at + BLOCK];
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        seal(header);
        let size = header[124..136].iter().take_while(|byte| byte.is_ascii_digit());
        let size =
            size.fold(0_usize, |size, byte| size.saturating_mul(8).saturating_add(usize::from(byte - b'0')));
        at = at.saturating_add(BLOCK).saturating_add(size.min(MOST).next_multiple_of(BLOCK));
    }
    archive
}

/// What stands at a path and below, as far as it matters, in order; asserts that nothing else does.
fn tree(path: &Path, top: &Path, found: &mut Vec<String>) -> u64 {
    let meta = path.symlink_metadata().unwrap();
    let name = path.strip_prefix(top).unwrap().display().to_string();
    let mode = meta.mode() & 0o7777;
    if meta.is_symlink() {
        let target = fs::read_link(path).unwrap();
        if let Ok(real) = path.canonicalize() {
            assert!(real.starts_with(top.canonicalize().unwrap()), "{name} leads to {}", real.display());
        }
        found.push(format!("{name} -> {}", target.display()));
        return 0;
    }
    assert_eq!(mode & 0o6000, 0, "{name}");
    if meta.is_file() {
        found.push(format!("{name} {mode:o} {} {:?}", meta.nlink(), fs::read(path).unwrap().len()));
        // A file with several names is counted once.
        return if meta.nlink() == 1 { meta.len() } else { 0 };
    }
    assert!(meta.is_dir(), "{name} is neither a file, a directory nor a link");
    found.push(format!("{name} {mode:o}"));
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.iter().map(|path| tree(path, top, found)).sum()
}

/// Unpacks a stream beside what it must not touch. Returns what came of it.
fn unpack(stream: &[u8], name: Option<&[u8]>, limits: Limits) -> Result<Vec<String>, ArchiveError> {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let inside = dir.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    symlink("../outside", inside.join("link")).unwrap();
    let mut last = Totals::default();
    let sink = Sink::new(inside.join("out"), name, limits).unwrap();
    let unpacked = sink.unpack(&mut &stream[..], &mut |totals| {
        last = totals;
        ControlFlow::Continue(())
    });
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 1 + usize::from(unpacked.is_ok()));
    let unpacked = unpacked?;
    assert!(
        unpacked.totals.entries <= limits.entries + 1 && unpacked.totals.bytes <= limits.bytes,
        "{unpacked:?}"
    );
    assert_eq!(unpacked.totals, last);
    let mut found = Vec::new();
    let bytes = tree(&inside.join("out"), &inside.join("out"), &mut found);
    assert!(bytes <= limits.bytes);
    Ok(found)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let how = input.byte();
    let mut limits = LIMITS;
    if how & 1 != 0 {
        limits.outside_links = OutsideLinks::Skip;
    }
    let archive = match how >> 1 & 3 {
        0 => input.rest().to_vec(),
        1 => sealed(input.rest()),
        _ => built(&mut input),
    };

    let mut seen = 0;
    let _ = look(&mut &archive[..], 1000, &mut |file| {
        assert!(file.bytes.len() <= 1000 && (file.target.is_none() || file.bytes.is_empty()));
        seen += 1;
        if seen < 1000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });

    let name = [None, Some(&b"a"[..])][usize::from(how >> 3 & 1)];
    let _ = unpack(&archive, name, limits);

    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    if how & 16 != 0 {
        let mut packed = GzEncoder::new(file.as_file(), Compression::fast());
        packed.write_all(&archive).unwrap();
        packed.finish().unwrap();
        if how & 32 != 0 {
            // A second member, as gzip allows, or what looks like one.
            file.as_file().write_all(&archive[..archive.len().min(600)]).unwrap();
        }
    } else {
        file.as_file().write_all(&archive).unwrap();
    }
    let Ok(source) = Source::open(file.path(), limits) else { return };
    let mut stream = Vec::new();
    let written = source.write_to(&mut stream, &mut |_| ControlFlow::Continue(()));
    let Ok(written) = written else { return };
    assert!(written.totals.entries <= limits.entries && written.totals.bytes <= limits.bytes);
    // What was let through once is let through again, and is the same.
    let found = unpack(&stream, None, limits).unwrap_or_else(|error| panic!("{error}"));
    let back = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    back.as_file().write_all(&stream).unwrap();
    let mut again = Vec::new();
    let source = Source::open(back.path(), limits).unwrap();
    source.write_to(&mut again, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(again == stream, "what was written is written again in another way");
    if how & 16 == 0
        && name.is_none()
        && let Ok(directly) = unpack(&archive, None, limits)
    {
        let without_root = |found: &[String]| found[1..].to_vec();
        assert_eq!(without_root(&directly), without_root(&found));
    }
});
