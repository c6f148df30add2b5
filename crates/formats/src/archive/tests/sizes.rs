//! Many entries and large ones.

use std::io::BufWriter;

use super::*;

/// From a path through a pipe to another, as into a guest and out again.
fn through(from: &Path, to: &Path) -> (Totals, Totals) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let source = Source::open(from, Limits::default()).unwrap();
    let sink = Sink::new(to, None, Limits::default()).unwrap();
    std::thread::scope(|scope| {
        let packed =
            scope.spawn(move || source.write_to(&mut BufWriter::new(writer), &mut on()).unwrap().totals);
        let unpacked = sink.unpack(&mut reader, &mut on()).unwrap();
        (packed.join().unwrap(), unpacked.totals)
    })
}

#[test]
fn fifty_thousand_entries() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for outer in 0..490 {
        let path = tree.join(format!("{outer}"));
        fs::create_dir_all(&path).unwrap();
        for inner in 0..101 {
            fs::write(path.join(inner.to_string()), outer.to_string()).unwrap();
        }
    }
    let (packed, unpacked) = through(&tree, &dir.path().join("out"));
    assert_eq!(packed.entries, 490 * 102);
    assert_eq!(packed, unpacked);
    assert_eq!(fs::read(dir.path().join("out/489/100")).unwrap(), b"489");
}

#[test]
fn two_gib_of_which_nothing_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let sparse = File::create(tree.join("sparse")).unwrap();
    sparse.set_len(2 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"here", 1 << 30).unwrap();
    let before = memory();
    let (packed, unpacked) = through(&tree, &dir.path().join("out"));
    assert_eq!((packed.bytes, packed), (2 << 30, unpacked));
    let meta = dir.path().join("out/sparse").metadata().unwrap();
    assert_eq!(meta.len(), 2 << 30);
    assert!(meta.blocks() <= 64, "{}", meta.blocks());
    let mut back = [0; 4];
    let out = File::open(dir.path().join("out/sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&out, &mut back, 1 << 30).unwrap();
    assert_eq!(&back, b"here");
    // Other tests may run beside this one; none needs half of what the file has.
    assert!(memory() - before < 1 << 20, "{} KiB", memory() - before);
}

/// The most that this process ever had in memory, KiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
