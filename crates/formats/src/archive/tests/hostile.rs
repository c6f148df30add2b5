//! Archives that nobody sends who means well, in both directions.

use std::os::unix::net::UnixListener;

use super::*;

/// The refusal of an archive, the same from a host's file, from a compressed one and from a guest.
fn refusal(entries: &[Raw]) -> (String, Refusal) {
    let bytes = archive(entries);
    let of = |error: ArchiveError| match error {
        ArchiveError::Refused { entry, refusal } => (entry, refusal),
        other => panic!("{other}"),
    };
    let one = of(repack(&bytes, Limits::default()).unwrap_err());
    let two = of(repack(&gzip(&bytes), Limits::default()).unwrap_err());
    let three = of(unpack(None, &bytes, Limits::default()).err().unwrap());
    assert_eq!((&one, &one), (&two, &three));
    one
}

#[test]
fn each_hostile_entry_is_refused_by_name() {
    let leads = |target: &str| Refusal::LeadsOut { target: target.into() };
    let hard_link = |target: &str| Refusal::HardLink { target: target.into() };
    let deep = "x/".repeat(45) + "x";
    let pax = |text: &str| {
        let length = text.len() + 3;
        raw(b'x', "pax", "", &format!("{} {text}\n", if length < 10 { length } else { length + 1 }))
    };
    let sparse = pax("GNU.sparse.major=1");
    for (entries, entry, expected) in [
        (vec![file("/etc/passwd", "x")], "/etc/passwd", Refusal::Absolute),
        (vec![file("../x", "x")], "../x", Refusal::GoesUp),
        (vec![file("a/../../x", "x")], "a/../../x", Refusal::GoesUp),
        (vec![dir("..")], "..", Refusal::GoesUp),
        (vec![pax("path=a/../../x"), file("safe", "x")], "a/../../x", Refusal::GoesUp),
        (vec![raw(b'L', "././@LongLink", "", "../x\0"), file("safe", "x")], "../x", Refusal::GoesUp),
        (vec![pax("path=a\0b"), file("safe", "x")], "a\0b", Refusal::Path),
        (vec![pax("path="), file("safe", "x")], "", Refusal::Path),
        (vec![raw(b'L', "l", "", &"n".repeat(256)), file("x", "")], &"n".repeat(200), Refusal::Long),
        (vec![raw(b'L', "l", "", &"n/".repeat(1901)), file("x", "")], &"n/".repeat(100), Refusal::Long),
        (
            vec![raw(b'L', "l", "", &format!("{deep}/{deep}/{deep}/{deep}/{deep}")), file("x", "")],
            &"x/".repeat(100),
            Refusal::Deep,
        ),
        (vec![link("l", "/etc/passwd")], "l", leads("/etc/passwd")),
        (vec![link("l", "..")], "l", leads("..")),
        (vec![link("a/l", "../../x")], "a/l", leads("../../x")),
        (vec![link("l", "")], "l", leads("")),
        (vec![pax("linkpath=../x"), link("l", "safe")], "l", leads("../x")),
        (vec![raw(b'K', "k", "", "../x\0"), link("l", "safe")], "l", leads("../x")),
        // A link on the way to another makes `..` lead where no one looks.
        (vec![dir("a"), dir("a/b"), link("c", "a/b"), link("d", "c/../../x")], "d", leads("c/../../x")),
        (vec![dir("a"), link("e", "."), link("d/f", "../e/../x")], "d/f", leads("../e/../x")),
        (vec![hard("h", "/etc/passwd")], "h", hard_link("/etc/passwd")),
        (vec![hard("h", "../x")], "h", hard_link("../x")),
        (vec![hard("h", "later"), file("later", "x")], "h", hard_link("later")),
        (vec![link("l", "x"), hard("h", "l")], "h", hard_link("l")),
        (vec![dir("d"), hard("h", "d")], "h", hard_link("d")),
        (vec![hard("h", "h")], "h", hard_link("h")),
        (vec![file("f", "x"), raw(b'1', "h", "f", "more")], "h", Refusal::Content),
        (vec![raw(b'2', "l", "f", "more")], "l", Refusal::Content),
        (vec![link("l", "d"), file("l/x", "x")], "l/x", Refusal::Through),
        (vec![dir("d"), link("d/l", "."), file("d/l/y/z", "x")], "d/l/y/z", Refusal::Through),
        (vec![file("f", "x"), file("f/x", "x")], "f/x", Refusal::Through),
        (vec![link("l", "x"), file("l", "x")], "l", Refusal::Twice),
        (vec![link("l", "x"), link("l", "y")], "l", Refusal::Twice),
        (vec![link("l", "x"), dir("l")], "l", Refusal::Twice),
        (vec![dir("d"), link("d", "x")], "d", Refusal::Twice),
        (vec![file("d/x", "x"), file("d", "x")], "d", Refusal::Twice),
        (vec![raw(b'3', "dev", "", "")], "dev", Refusal::Device),
        (vec![raw(b'4', "dev", "", "")], "dev", Refusal::Device),
        (vec![raw(b'6', "pipe", "", "")], "pipe", Refusal::Fifo),
        (vec![raw(b'S', "sparse", "", "")], "sparse", Refusal::Sparse),
        (vec![sparse, file("sparse", "")], "sparse", Refusal::Sparse),
        (vec![raw(b'D', "dump", "", "")], "dump", Refusal::Type('D')),
        (vec![raw(b'M', "more", "", "")], "more", Refusal::Type('M')),
    ] {
        // However much that is good comes before it.
        let entries = [vec![dir("good"), file("good/file", "x")], entries].concat();
        let (named, refusal) = refusal(&entries);
        assert_eq!((named.as_str(), &refusal), (entry, &expected));
    }
}

#[test]
fn links_that_stay_are_taken() {
    let entries = [
        dir("a"),
        dir("a/b"),
        link("a/b/up", "../.."),
        link("a/round", "b/../b"),
        link("self", "."),
        link("loop", "loop"),
        link("dangling", "none/at/all"),
        link("a/b/../b/x", "y"),
    ];
    let bytes = archive(&entries[..7]);
    let (tar, totals) = repack(&bytes, Limits::default()).unwrap();
    assert_eq!(totals.entries, 7);
    unpack(None, &tar, Limits::default()).unwrap();
    assert_eq!(refusal(&entries).1, Refusal::GoesUp);
}

#[test]
fn set_user_id_does_not_pass() {
    let (tar, _) = repack(&archive(&[file("f", "x")]), Limits::default()).unwrap();
    assert_eq!(&tar[100..108], b"0000755\0");
    let (dir, _) = unpack(None, &archive(&[file("f", "x")]), Limits::default()).unwrap();
    assert_eq!(dir.path().join("out/f").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn limits_are_kept() {
    let limits = Limits::default();
    let many = archive(&[file("a", "12345"), file("b", "12345"), dir("c")]);
    for (limits, what) in [
        (Limits { entries: 2, ..limits }, "entries"),
        (Limits { bytes: 9, ..limits }, "bytes"),
        (Limits { names: 2, ..limits }, "bytes of names"),
    ] {
        for error in [repack(&many, limits).unwrap_err(), unpack(None, &many, limits).err().unwrap()] {
            assert!(matches!(error, ArchiveError::TooMuch { what: told, .. } if told == what), "{error}");
        }
    }
    // A size that was never sent is not believed before it is counted.
    let huge = archive(&[Raw { size: Some(1 << 32), ..file("huge", "") }]);
    for limits in [limits, Limits { bytes: 1 << 20, ..limits }] {
        for error in [repack(&huge, limits).unwrap_err(), unpack(None, &huge, limits).err().unwrap()] {
            assert!(
                matches!(error, ArchiveError::Truncated { .. } | ArchiveError::TooMuch { .. }),
                "{error}"
            );
        }
    }
    // Nor are headers that would fill the memory.
    let long = archive(&[raw(b'L', "l", "", &"n".repeat(2 << 20)), file("x", "")]);
    let error = repack(&gzip(&long), limits).unwrap_err();
    assert!(error.to_string().contains("headers of an entry are too long"), "{error}");
    let endless = archive(&vec![raw(b'x', "pax", "", ""); 3000]);
    assert!(repack(&endless, limits).unwrap_err().to_string().contains("too long"));
}

#[test]
fn a_bomb_does_not_go_off() {
    let zeros = "\0".repeat(4 << 20);
    let bytes = gzip(&archive(&[file("zeros", &zeros)]));
    let limits = Limits { ratio: 100, ratio_free: 1 << 20, ..Limits::default() };
    assert!(matches!(repack(&bytes, limits), Err(ArchiveError::Bomb { ratio: 100 })));
    assert_eq!(repack(&bytes, Limits::default()).unwrap().1.bytes, 4 << 20);
}

#[test]
fn archives_that_end_anywhere_are_not_whole() {
    let bytes = archive(&[dir("d"), file("d/f", &"x".repeat(700)), link("l", "d")]);
    let packed = gzip(&bytes);
    for end in (1..bytes.len() - 500).step_by(61).chain((512..bytes.len() - 512).step_by(512)) {
        let error = unpack(None, &bytes[..end], Limits::default()).err().unwrap();
        assert!(matches!(error, ArchiveError::Truncated { .. }), "{end}: {error}");
        if end >= 512 {
            assert!(
                matches!(repack(&bytes[..end], Limits::default()), Err(ArchiveError::Truncated { .. })),
                "{end}"
            );
        }
    }
    for end in 2..packed.len() {
        let error = repack(&packed[..end], Limits::default()).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Truncated { .. } | ArchiveError::Damaged { .. }),
            "{end}: {error}"
        );
    }
}

#[test]
fn damage_is_found() {
    let bytes = archive(&[file("f", "x"), file("g", "y")]);
    let damaged = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        unpack(None, &bytes, Limits::default()).err().unwrap().to_string()
    };
    assert!(damaged(1024, b'!').contains("damaged after 1 entries: a header's sum is wrong"));
    assert!(damaged(2048 + 600, 1).contains("goes on after its end"));
    let mut packed = gzip(&bytes);
    let last = packed.len() - 6;
    packed[last] ^= 1;
    assert!(matches!(repack(&packed, Limits::default()), Err(ArchiveError::Damaged { .. })));
    let global = [raw(b'g', "g", "", "13 path=../x\n"), file("f", "x")];
    assert!(unpack(None, &archive(&global), Limits::default()).err().unwrap().to_string().contains("global"));
    for text in ["x", "8 path=a\n", "99 path=a\n", "0 \n", "9 sizes=1\n", "10 size=-1\n", "11 mtime=x\n"] {
        let entries = [raw(b'x', "pax", "", text), file("f", "x")];
        let result = unpack(None, &archive(&entries), Limits::default());
        assert!(matches!(result, Err(ArchiveError::Damaged { .. })), "{text:?}");
    }
}

#[test]
fn only_what_was_asked_for_is_exported() {
    let refused =
        |name: &str, entries: &[Raw]| match unpack(Some(name), &archive(entries), Limits::default()).err() {
            Some(ArchiveError::Refused { refusal, .. }) => refusal,
            other => panic!("{other:?}"),
        };
    assert_eq!(refused("out", &[dir("out"), file("other/x", "")]), Refusal::Stranger);
    assert_eq!(refused("out", &[dir("out"), file("outer", "")]), Refusal::Stranger);
    assert_eq!(refused("out", &[dir("out"), file("out/../x", "")]), Refusal::GoesUp);
    assert_eq!(refused("f", &[file("f", "x"), file("f/x", "")]), Refusal::Through);
    assert_eq!(refused("f", &[file("f", "x"), file("f", "y")]), Refusal::Twice);
    assert_eq!(refused("l", &[link("l", "x")]), Refusal::Link);
    assert_eq!(refused("d", &[dir("d"), link("d/l", "../e")]), Refusal::LeadsOut { target: "../e".into() });
    assert!(matches!(
        unpack(Some("d"), &archive(&[]), Limits::default()),
        Err(ArchiveError::Damaged { entries: 0, .. })
    ));
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let sink = Sink::new(&out, None, Limits::default()).unwrap();
    fs::write(&out, "mine").unwrap();
    assert!(matches!(Sink::new(&out, None, Limits::default()), Err(ArchiveError::Exists { .. })));
    // It came to be after the sink was made.
    let bytes = archive(&[file("f", "x")]);
    assert!(matches!(sink.unpack(&mut &*bytes, &mut on()), Err(ArchiveError::Exists { .. })));
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
    let error = Sink::new(dir.path().join("dangling"), None, Limits::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::Exists { .. }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_directory_has_links_and_devices_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tree");
    fs::create_dir(&path).unwrap();
    let _socket = UnixListener::bind(path.join("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::write(path.join("f"), "x").unwrap();
    let (_, totals) = pack(&path, Limits::default()).unwrap();
    assert_eq!(totals, Totals { entries: 1, bytes: 1, skipped: 2, ..Totals::default() });
    assert!(matches!(pack(&path.join("fifo"), Limits::default()), Err(ArchiveError::NotAnArchive { .. })));
    std::os::unix::fs::symlink(dir.path(), path.join("out")).unwrap();
    let error = pack(&path, Limits::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::Refused { refusal: Refusal::LeadsOut { .. }, .. }), "{error}");
}

/// Somebody swaps a directory for a link to a secret, over and over, while the tree is read.
#[test]
fn a_directory_swapped_for_a_link_is_not_followed() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let dir = tempfile::tempdir().unwrap();
    let (tree, secret) = (dir.path().join("tree"), dir.path().join("secret"));
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(tree.join("d/f"), "open").unwrap();
    fs::write(secret.join("f"), "SECRET").unwrap();
    std::os::unix::fs::symlink("../secret", dir.path().join("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                renameat_with(CWD, dir.path().join("link"), CWD, tree.join("d"), RenameFlags::EXCHANGE)
                    .unwrap();
            }
        });
        for _ in 0..2000 {
            // It is a link that leads out, a directory, or one that turned into the other; never what is behind it.
            if let Ok((bytes, _)) = pack(&tree, Limits::default()) {
                assert!(!bytes.windows(6).any(|word| word == b"SECRET"));
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn what_is_no_archive_says_what_it_is() {
    for (bytes, part) in [
        (&b"PK\x03\x04"[..], "zip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh9", "bzip2"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"", "empty"),
        (b"hello", "neither a directory nor"),
        (&gzip(&b"hello".repeat(200)), "a single file compressed"),
    ] {
        let error = repack(bytes, Limits::default()).unwrap_err();
        assert!(
            matches!(error, ArchiveError::NotAnArchive { .. }) && error.to_string().contains(part),
            "{error}"
        );
    }
    assert!(matches!(pack(Path::new("/none"), Limits::default()), Err(ArchiveError::File { .. })));
}

#[test]
fn cancelling_leaves_nothing() {
    let bytes = archive(&[dir("d"), file("d/f", "x")]);
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::new(dir.path().join("out"), None, Limits::default()).unwrap();
    let mut stop = |totals: Totals| match totals.entries {
        0 | 1 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    assert!(matches!(sink.unpack(&mut &*bytes, &mut stop), Err(ArchiveError::Cancelled)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(at in 0..2048_usize, bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..40)) {
        let mut archive = archive(&[raw(b'x', "pax", "", "11 path=abc\n"), file("f", "x")]);
        let end = (at + bytes.len()).min(archive.len());
        archive[at..end].copy_from_slice(&bytes[..end - at]);
        let _ = unpack(None, &archive, Limits { bytes: 1 << 20, ..Limits::default() });
    }
}

#[test]
fn links_that_lead_out_are_left_out_where_that_is_asked_for() {
    let entries = [
        dir("venv"),
        dir("venv/bin"),
        link("venv/bin/python", "/usr/bin/python3"),
        link("venv/bin/python3", "python"),
        link("venv/up", "../../other"),
        link("venv/in", "bin/../bin"),
        // Nobody knows yet whether `later` is a directory.
        link("maybe", "later/../later"),
        dir("later"),
        file("venv/f", "f"),
    ];
    let skip = Limits { outside_links: OutsideLinks::Skip, ..Limits::default() };
    let wanted =
        [("venv/bin/python", "/usr/bin/python3"), ("venv/up", "../../other"), ("maybe", "later/../later")]
            .map(|(path, target)| SkippedLink { path: path.into(), target: target.into() });
    let bytes = archive(&entries);
    let error = repack(&bytes, Limits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"venv/bin/python\" is a symbolic link that leads out of the tree, to \"/usr/bin/python3\""
    );
    assert_eq!(error.hint(), Some(ArchiveHint::SkipOutsideLinks));

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let written = Source::open(file.path(), skip).unwrap().write_to(&mut Vec::new(), &mut on()).unwrap();
    assert_eq!((&written.skipped_links[..], written.totals.skipped_links), (&wanted[..], 3));
    assert_eq!(written.totals.entries, 6);
    let (out, unpacked) = unpack(None, &bytes, skip).unwrap();
    assert_eq!((&unpacked.skipped_links[..], unpacked.totals.skipped_links), (&wanted[..], 3));
    let at = |path: &str| out.path().join("out").join(path).symlink_metadata();
    assert!(at("venv/bin/python").is_err() && at("maybe").is_err());
    assert!(at("venv/bin/python3").unwrap().is_symlink() && at("venv/in").unwrap().is_symlink());
    // From a directory, and nothing is below a link that was left out.
    let tree = out.path().join("out");
    std::os::unix::fs::symlink("/usr/bin/python3", tree.join("venv/bin/python")).unwrap();
    let written = Source::open(&tree, skip).unwrap().write_to(&mut Vec::new(), &mut on()).unwrap();
    assert_eq!(written.skipped_links, wanted[..1]);
    let through = archive(&[link("out", "/etc"), super::file("out/passwd", "x")]);
    let error = unpack(None, &through, skip).unwrap_err();
    assert!(matches!(error, ArchiveError::Refused { refusal: Refusal::Through, .. }), "{error}");
    // Many are counted, and the first ones named.
    let many: Vec<_> = (0..150).map(|n| link(&format!("l{n}"), "/etc")).collect();
    let (_out, unpacked) = unpack(None, &archive(&many), skip).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((unpacked.skipped_links.len(), unpacked.totals.skipped_links), (100, 150));
}
