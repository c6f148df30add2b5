//! Trees that come out as they went in.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Leaf {
    File(Vec<u8>, u32),
    Holes(u8),
    Directory(u32),
    Link(bool),
    /// Another name of the last file.
    Again,
}

fn leaves() -> impl Strategy<Value = Vec<(usize, String, Leaf, i64, u32)>> {
    let name = prop_oneof![6 => "[a-c]{1,2}", 2 => "[ \"'\\\\\n\té*]{1,3}", 1 => "[a-z]{90,250}"];
    let mode = prop_oneof![Just(0o644_u32), Just(0o755), Just(0o600), Just(0o1777), Just(0o500), Just(0)];
    let leaf = prop_oneof![
        4 => (prop::collection::vec(any::<u8>(), 0..1200), mode.clone()).prop_map(|(bytes, mode)| Leaf::File(bytes, mode)),
        1 => any::<u8>().prop_map(Leaf::Holes),
        3 => mode.prop_map(Leaf::Directory),
        2 => any::<bool>().prop_map(Leaf::Link),
        1 => Just(Leaf::Again),
    ];
    prop::collection::vec(
        (any::<usize>(), name, leaf, -100_000..10_000_000_000_i64, 0..1_000_000_000_u32),
        0..25,
    )
}

/// Makes a tree; returns false where the machine's user may not have it.
fn build(root: &Path, leaves: &[(usize, String, Leaf, i64, u32)]) {
    let mut dirs = vec![root.to_path_buf()];
    let mut last_file = None;
    let mut late = Vec::new();
    for (at, name, leaf, seconds, nanoseconds) in leaves {
        let above = dirs[at % dirs.len()].clone();
        let path = above.join(OsStr::from_bytes(name.as_bytes()));
        if path.symlink_metadata().is_ok() || path.as_os_str().len() > 3000 {
            continue;
        }
        let mut mode = None;
        match leaf {
            Leaf::File(bytes, bits) => {
                fs::write(&path, bytes).unwrap();
                last_file = Some(path.clone());
                mode = Some(*bits);
            }
            Leaf::Holes(byte) => {
                let file = File::create(&path).unwrap();
                file.set_len(300_000).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &[*byte], 200_000).unwrap();
            }
            Leaf::Directory(bits) => {
                fs::create_dir(&path).unwrap();
                dirs.push(path.clone());
                mode = Some(*bits);
            }
            Leaf::Link(up) => {
                symlink(if *up && above != root { "../x" } else { "some/where" }, &path).unwrap()
            }
            Leaf::Again => match &last_file {
                Some(file) => fs::hard_link(file, &path).unwrap(),
                None => continue,
            },
        }
        late.push((path, mode, *seconds, *nanoseconds));
    }
    for (path, mode, seconds, nanoseconds) in late.into_iter().rev() {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        if let Some(mode) = mode {
            // Readable: whoever runs this need not be root.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o500)).unwrap();
        }
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_tree_goes_in_and_comes_back(leaves in leaves()) {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        build(&tree, &leaves);
        let before = snapshot(&tree);
        let counted = Source::open(&tree, Limits::default()).unwrap().count().unwrap().unwrap();
        let (tar, totals) = pack(&tree, Limits::default()).unwrap();
        prop_assert_eq!(counted, totals);
        let (back, unpacked) = unpack(None, &tar, Limits::default()).unwrap();
        prop_assert_eq!(snapshot(&back.path().join("out")), before.clone());
        prop_assert_eq!(unpacked, Unpacked { artifact: Artifact::Directory, totals, skipped_links: Vec::new() });
        // What is plain already stays as it is, compressed or not.
        prop_assert!(repack(&tar, Limits::default()).unwrap() == (tar.clone(), totals));
        prop_assert!(repack(&gzip(&tar), Limits::default()).unwrap() == (tar.clone(), totals));
        // And other programs read it.
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        let packed = dir.path().join("packed");
        fs::write(&packed, &tar).unwrap();
        let status = Command::new("tar").args(["--warning=no-timestamp", "-xpf"]).arg(&packed).arg("-C").arg(&theirs).status().unwrap();
        prop_assert!(status.success());
        prop_assert_eq!(snapshot(&theirs), before.clone());
        open_up(dir.path());
        open_up(back.path());
    }

    #[test]
    fn archives_of_other_programs_are_read(leaves in leaves(), format in 0..3_usize) {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        build(&tree, &leaves);
        let packed = dir.path().join("no name that says what it is");
        let format = ["--format=gnu", "--format=posix", "--format=gnu"][format];
        let mut tar = Command::new("tar");
        let status = tar.args([format, "-czf"]).arg(&packed).arg("-C").arg(&tree).arg(".").status().unwrap();
        prop_assert!(status.success());
        let (tar, _) = pack(&packed, Limits::default()).unwrap();
        let (back, _) = unpack(None, &tar, Limits::default()).unwrap();
        // GNU's own format has no room for fractions of seconds.
        let whole = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().map(|line| match format {
                "--format=gnu" => cut(&line),
                _ => line,
            }).collect()
        };
        prop_assert_eq!(whole(snapshot(&back.path().join("out"))), whole(snapshot(&tree)));
        open_up(dir.path());
        open_up(back.path());
    }
}

/// A line of a snapshot without the nanoseconds.
fn cut(line: &str) -> String {
    match (line.find(" ("), line.find(") ")) {
        (Some(start), Some(end)) if start < end => {
            let seconds = line[start..end].split(',').next().unwrap_or_default();
            format!("{}{seconds}{}", &line[..start], &line[end..])
        }
        _ => line.into(),
    }
}

/// Lets its owner remove a tree.
fn open_up(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            open_up(&path);
        }
    }
}

#[test]
fn a_file_is_exported_as_a_file() {
    let (dir, unpacked) = unpack(Some("f"), &archive(&[file("f", "text")]), Limits::default()).unwrap();
    assert_eq!(unpacked.artifact, Artifact::File);
    assert_eq!(unpacked.totals, Totals { entries: 1, bytes: 4, ..Totals::default() });
    let out = dir.path().join("out");
    assert_eq!(fs::read(&out).unwrap(), b"text");
    let meta = out.metadata().unwrap();
    assert_eq!(meta.modified().unwrap(), UNIX_EPOCH + Duration::from_secs(0o14000000000));
    assert_eq!(meta.mode() & 0o7777, 0o755);
}

#[test]
fn a_directory_is_exported_under_another_name() {
    let entries = [dir("d/"), file("d/x/f", "text"), hard("d/h", "d/x/f"), file("./d/x/f", "later")];
    let (dir, unpacked) = unpack(Some("d"), &archive(&entries), Limits::default()).unwrap();
    assert_eq!((unpacked.artifact, unpacked.totals.entries), (Artifact::Directory, 4));
    assert_eq!(fs::read(dir.path().join("out/x/f")).unwrap(), b"later");
    assert_eq!(fs::read(dir.path().join("out/h")).unwrap(), b"text");
    let time = UNIX_EPOCH + Duration::from_secs(0o14000000000);
    assert_eq!(dir.path().join("out").metadata().unwrap().modified().unwrap(), time);
}

#[test]
fn what_it_is_shows_in_its_content() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, form) in
        [("x.tgz", archive(&[]), Form::Tar), ("y.tar", gzip(&archive(&[])), Form::TarGz)]
    {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let source = Source::open(&path, Limits::default()).unwrap();
        assert_eq!((source.form(), source.count().unwrap()), (form, None));
        assert_eq!(pack(&path, Limits::default()).unwrap(), (vec![0; 1024], Totals::default()));
    }
    assert_eq!(Source::open(dir.path(), Limits::default()).unwrap().form(), Form::Directory);
    // A name may begin as compressed archives do.
    let path = dir.path().join("z.tar");
    fs::write(&path, archive(&[raw(b'0', b"\x1f\x8bname", "", "x")])).unwrap();
    assert_eq!(Source::open(&path, Limits::default()).unwrap().form(), Form::Tar);
    assert_eq!(pack(&path, Limits::default()).unwrap().1.entries, 1);
}

#[test]
fn numbers_need_not_be_octal() {
    // A binary size and a time before 1970, as GNU writes them.
    let mut bytes = archive(&[file("f", "x")]);
    bytes[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes[136..148].copy_from_slice(&[0xff; 12]);
    bytes[148..156].copy_from_slice(b"        ");
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let (dir, _) = unpack(None, &bytes, Limits::default()).unwrap();
    assert_eq!(dir.path().join("out/f").metadata().unwrap().mtime(), -1);
}
