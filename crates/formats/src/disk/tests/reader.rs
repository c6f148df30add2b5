//! An image against the tree that it was made of, and against what debugfs says.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

const VARIANTS: &[(&str, &[&str])] = &[
    ("as pyro makes disks", MODERN),
    (
        "1 KiB blocks, 32 bit",
        &[
            "-b",
            "1024",
            "-I",
            "256",
            "-O",
            "none,has_journal,extent,flex_bg,extra_isize,ext_attr,dir_index,filetype",
        ],
    ),
    (
        "2 KiB blocks, checksums, seed",
        &[
            "-b",
            "2048",
            "-I",
            "256",
            "-O",
            "none,extent,64bit,metadata_csum,metadata_csum_seed,ext_attr,dir_index,filetype",
        ],
    ),
    (
        "ext2: block maps, small inodes",
        &["-b", "1024", "-I", "128", "-O", "none,ext_attr,filetype,dir_index"],
    ),
    (
        "ext3 of 4 KiB blocks",
        &["-b", "4096", "-I", "256", "-O", "none,has_journal,ext_attr,dir_index,filetype"],
    ),
    ("no types in directories", &["-b", "1024", "-I", "256", "-O", "none,extent,ext_attr"]),
    (
        "content in inodes",
        &[
            "-b",
            "4096",
            "-I",
            "1024",
            "-O",
            "none,extent,inline_data,ext_attr,dir_index,filetype,extra_isize",
        ],
    ),
    (
        "descriptors in their groups",
        &[
            "-b",
            "1024",
            "-g",
            "1024",
            "-I",
            "256",
            "-O",
            "none,extent,meta_bg,sparse_super,ext_attr,filetype",
        ],
    ),
    (
        "64 KiB blocks",
        &["-b", "65536", "-I", "256", "-N", "1024", "-O", "none,extent,ext_attr,dir_index,filetype"],
    ),
    (
        "clusters",
        &["-b", "4096", "-I", "256", "-N", "1024", "-O", "none,extent,bigalloc,ext_attr,dir_index,filetype"],
    ),
];

/// A tree with what is hard to read: names, holes, links, an index of a directory.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    let join = |name: &str| tree.join(name);
    fs::create_dir_all(join("deep/er")).unwrap();
    fs::write(join("empty"), "").unwrap();
    fs::write(join("tiny"), "tiny").unwrap();
    fs::write(join("inline"), vec![b'i'; 130]).unwrap();
    fs::write(join("deep/er/large"), (0..700_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>()).unwrap();
    let holes = File::create(join("holes")).unwrap();
    for piece in 0..400_u64 {
        holes.write_all_at(&[piece as u8 | 1; 3000], piece * 16384).unwrap();
    }
    let all_hole = File::create(join("nothing")).unwrap();
    all_hole.set_len(5 << 20).unwrap();
    let far = File::create(join("far")).unwrap();
    far.write_all_at(b"far", 300 << 20).unwrap();
    fs::create_dir(join("many")).unwrap();
    for number in 0..400 {
        fs::write(join("many").join(format!("file with a name of some length {number}")), "").unwrap();
    }
    symlink("tiny", join("short")).unwrap();
    symlink("x/".repeat(100), join("long")).unwrap();
    symlink("y".repeat(900), join("very long")).unwrap();
    fs::hard_link(join("tiny"), join("deep/same")).unwrap();
    fs::write(join(&"n".repeat(255)), "").unwrap();
    fs::write(tree.join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n")), "").unwrap();
    let mode = |name: &str, mode| fs::set_permissions(join(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("tiny", 0o4751);
    mode("deep", 0o1777);
    tree
}

fn compare(image: &Ext4, directory: &Inode, on_host: &Path) -> usize {
    let mut expected: Vec<_> =
        fs::read_dir(on_host).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    expected.sort();
    let entries = image.entries(directory).unwrap();
    let found: Vec<_> =
        entries.iter().map(|entry| entry.name.clone()).filter(|name| name != b"lost+found").collect();
    assert_eq!(found, expected, "{}", on_host.display());
    let mut count = 0;
    for name in expected {
        let path = on_host.join(std::ffi::OsStr::from_bytes(&name));
        let inode = image.lookup(directory, &name).unwrap().unwrap();
        let host = path.symlink_metadata().unwrap();
        count += 1;
        if inode.kind() != InodeKind::Symlink {
            assert_eq!(inode.mode(), host.mode() & 0o7777, "{}", path.display());
        }
        assert_eq!((inode.uid(), inode.gid()), (host.uid(), host.gid()));
        assert_eq!(inode.modified().seconds, host.mtime());
        match inode.kind() {
            InodeKind::Directory => {
                assert!(host.is_dir());
                count += compare(image, &inode, &path);
            }
            InodeKind::Symlink => {
                let target = fs::read_link(&path).unwrap();
                assert_eq!(image.link_target(&inode).unwrap(), target.as_os_str().as_bytes());
            }
            InodeKind::File => {
                assert_eq!(u64::from(inode.links()), host.nlink(), "{}", path.display());
                assert_eq!(inode.size(), host.len());
                if host.len() <= 16 << 20 {
                    assert!(content(image, &inode) == fs::read(&path).unwrap(), "{}", path.display());
                }
            }
            other => panic!("{other:?}"),
        }
    }
    count
}

#[test]
fn every_kind_of_file_system_reads_as_what_it_was_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    for (what, options) in VARIANTS {
        let image = make(dir.path(), "image", options, Some(&tree), "48M");
        let ext4 = open(&image);
        let count = compare(&ext4, &ext4.root().unwrap(), &tree);
        assert_eq!(count, 416, "{what}");
        let far = at(&ext4, "far");
        // mke2fs puts the beginning of a file into the inode before it finds a hole there.
        let inline = *what == "content in inodes";
        let first = ext4.next_data(&far, 0).unwrap().unwrap();
        let data = ext4.next_data(&far, if inline { first.end } else { 0 }).unwrap().unwrap();
        assert!(data.contains(&(300 << 20)) && data.end == far.size(), "{what}: {data:?}");
        assert_eq!(ext4.next_data(&far, data.end).unwrap(), None);
        let nothing = ext4.next_data(&at(&ext4, "nothing"), 0).unwrap();
        assert_eq!(nothing.is_some(), inline, "{what}");
        let mut part = [0; 5];
        assert_eq!(ext4.read_at(&far, (300 << 20) - 2, &mut part).unwrap(), 5);
        assert_eq!(&part, b"\0\0far");
        let listed = String::from_utf8_lossy(&debugfs_bytes(&image, "stat /deep/same")).into_owned();
        assert!(listed.contains("Links: 2") && listed.contains("04751"), "{listed}");
        assert_eq!(at(&ext4, "deep/same").number(), at(&ext4, "tiny").number());
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn devices_and_attributes_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let value = "v".repeat(3000);
    fs::write(dir.path().join("value"), &value).unwrap();
    for (what, options) in VARIANTS {
        let image = make(dir.path(), "image", options, None, "24M");
        let script = format!(
            "mkdir d\nmknod gone c 0 0\nmknod small b 8 17\nmknod big c 1 1\nset_inode_field big block[0] 0\n\
             set_inode_field big block[1] 0x11112c70\nmknod pipe p\n\
             ea_set d trusted.overlay.opaque y\nea_set d user.other something\nea_set d security.x z\n\
             ea_set -f {} d trusted.overlay.redirect\nset_inode_field d mtime @4294967300\n\
             set_inode_field d uid 100000\n",
            dir.path().join("value").display(),
        );
        debugfs(&image, &script);
        let ext4 = open(&image);
        assert!(at(&ext4, "gone").is_whiteout(), "{what}");
        assert_eq!(at(&ext4, "small").kind(), InodeKind::BlockDevice(8, 17));
        assert_eq!(at(&ext4, "big").kind(), InodeKind::CharDevice(300, 70000));
        assert_eq!(at(&ext4, "pipe").kind(), InodeKind::Fifo);
        let d = at(&ext4, "d");
        let get = |name: &str| ext4.attribute(&d, name.as_bytes()).unwrap();
        assert_eq!(get("trusted.overlay.opaque").unwrap(), b"y");
        assert_eq!(get("user.other").unwrap(), b"something");
        assert_eq!(get("user.othe"), None);
        let fits = String::from_utf8_lossy(&debugfs_bytes(&image, "ea_list d")).contains("redirect (3000)");
        assert_eq!(get("trusted.overlay.redirect"), fits.then(|| value.clone().into_bytes()), "{what}");
        assert_eq!(ext4.attribute_names(&d).unwrap().len(), 3 + usize::from(fits));
        assert_eq!(d.uid(), 100_000);
        // Inodes of 128 bytes have no room for what comes after 2038.
        let wide = !options.contains(&"128");
        assert_eq!(d.modified().seconds, if wide { 4_294_967_300 } else { 4 });
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn what_is_no_file_system_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, "short").unwrap();
    assert!(matches!(Ext4::open(File::open(&path).unwrap(), &plenty()), Err(DiskError::NotExt4)));
    fs::write(&path, vec![7; 8192]).unwrap();
    assert!(matches!(Ext4::open(File::open(&path).unwrap(), &plenty()), Err(DiskError::NotExt4)));
    let image = make(dir.path(), "cut", MODERN, None, "24M");
    File::options().write(true).open(&image).unwrap().set_len(23 << 20).unwrap();
    let error = Ext4::open(File::open(&image).unwrap(), &plenty()).unwrap_err();
    assert!(error.to_string().contains("more blocks than the image"), "{error}");
    assert!(error.hint().is_some());
    let image = make(dir.path(), "encrypted", &["-O", "none,extent,filetype,encrypt"], None, "24M");
    let error = Ext4::open(File::open(&image).unwrap(), &plenty()).unwrap_err();
    assert!(matches!(&error, DiskError::Unsupported { what } if what == "encryption"), "{error}");
}
