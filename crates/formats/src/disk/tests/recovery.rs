//! Images as a killed VM leaves them, against what e2fsck makes of them and what debugfs then reads.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;

const OLD: &[&str] =
    &["-b", "1024", "-I", "256", "-J", "size=1", "-O", "none,has_journal,ext_attr,dir_index,filetype,extent"];
/// With checksums, and block numbers of 32 bits.
const NARROW: &[&str] = &[
    "-b",
    "1024",
    "-I",
    "256",
    "-J",
    "size=1",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,extent,metadata_csum",
];
const BLOCKS: usize = 12;

/// A file system with a file, and the blocks that the file lies in.
fn with_file(dir: &Path, options: &[&str]) -> (PathBuf, Vec<u64>) {
    let size: usize = if options == MODERN { 4096 } else { 1024 };
    fs::write(dir.join("content"), vec![b'o'; BLOCKS * size]).unwrap();
    let image = make(dir, "image", options, None, "16M");
    debugfs(&image, &format!("mkdir workspace\nwrite {} file\n", dir.join("content").display()));
    let blocks: Vec<u64> = String::from_utf8(debugfs_bytes(&image, "blocks /file"))
        .unwrap()
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    assert_eq!(blocks.len(), BLOCKS);
    (image, blocks)
}

/// Journals to be written: how each is opened, and what file systems have it.
const JOURNALS: &[(&str, &[&str])] = &[
    ("jo", OLD),
    ("jo -c -v 2", NARROW),
    ("jo -c -v 3", NARROW),
    ("jo -c -v 2", MODERN),
    ("jo -c -v 3", MODERN),
];

#[test]
fn a_journal_reads_as_if_it_had_been_replayed() {
    for (open_journal, options) in JOURNALS {
        let dir = tempfile::tempdir().unwrap();
        let (image, blocks) = with_file(dir.path(), options);
        let size = if options == &MODERN { 4096 } else { 1024 };
        let write = |name: &str, first: &[u8], byte: u8, count: usize| {
            let mut bytes = vec![byte; count * size];
            bytes[..first.len()].copy_from_slice(first);
            fs::write(dir.path().join(name), bytes).unwrap();
            dir.path().join(name).display().to_string()
        };
        let first = write("first", b"first", b'1', 4);
        // What would look like a block of the journal is kept there in disguise.
        let second = write("second", &0xc03b_3998_u32.to_be_bytes(), b'2', 2);
        let third = write("third", b"lost", b'3', 3);
        let list = |range: std::ops::Range<usize>| {
            blocks[range].iter().map(u64::to_string).collect::<Vec<_>>().join(",")
        };
        let script = format!(
            "{open_journal}\njw -b {} {first}\njw -b {} {second}\njw -r {}\njw -b {} {first}\njw -b {} -c {third}\njc\n",
            list(0..4),
            list(2..4),
            list(0..1),
            list(6..10),
            list(4..7),
        );
        debugfs(&image, &script);
        let raw = fs::read(&image).unwrap();
        let ext4 = open(&image);
        assert!(ext4.volume().recovery().is_some());
        let ours = content(&ext4, &at(&ext4, "file"));
        let block = |index: usize| &ours[index * size..(index + 1) * size];
        assert!(block(0).starts_with(b"ooooo"), "{open_journal}: a revoked block");
        assert!(block(1).starts_with(b"11111"), "{open_journal}: a replayed block");
        assert!(block(2).starts_with(&0xc03b_3998_u32.to_be_bytes()), "{open_journal}: a disguised block");
        assert!(block(3).starts_with(b"22222"), "{open_journal}: the newest content");
        assert!(block(4).starts_with(b"ooooo"), "{open_journal}: a transaction without an end");
        assert!(block(6).starts_with(b"first"), "{open_journal}: after the revocation");
        assert!(fs::read(&image).unwrap() == raw, "the image was written to");

        let copy = dir.path().join("exported");
        let exported = export(&File::open(&image).unwrap(), &copy, false, &plenty()).unwrap();
        assert!(fs::read(&image).unwrap() == raw, "the image was written to");
        assert_eq!(exported.size, 16 << 20);
        assert_eq!((exported.replayed, exported.orphans), (7, 0));
        check(&copy);
        assert!(debugfs_bytes(&copy, "cat /file") == ours);
        assert!(!String::from_utf8(debugfs_bytes(&copy, "ls -p /workspace")).unwrap().is_empty());
        assert!(open(&copy).volume().recovery().is_none());

        let status = tool("e2fsck").arg("-fy").arg(&image).output().unwrap().status;
        assert!(status.code().unwrap() <= 1);
        assert!(debugfs_bytes(&image, "cat /file") == ours, "{open_journal}: e2fsck sees something else");
    }
}

/// A journal goes round: a log that begins near its end goes on at its beginning.
#[test]
fn where_the_log_begins_makes_no_difference() {
    for options in [OLD, NARROW, MODERN] {
        let dir = tempfile::tempdir().unwrap();
        let (image, blocks) = with_file(dir.path(), options);
        let size = if options == MODERN { 4096 } else { 1024 };
        fs::write(dir.path().join("new"), vec![b'n'; 8 * size]).unwrap();
        let list = blocks[..8].iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let new = dir.path().join("new").display().to_string();
        let script = format!(
            "jo{}\njw -b {list} {new}\njw -r {}\njc\n",
            if options == OLD { "" } else { " -c -v 3" },
            blocks[5]
        );
        debugfs(&image, &script);
        let straight = open(&image);
        let expected = content(&straight, &at(&straight, "file"));
        assert!(expected.starts_with(b"nnn") && expected[5 * size..].starts_with(b"ooo"));
        let recovery = straight.volume().recovery().unwrap();

        let raw = fs::read(&image).unwrap();
        let begin = recovery.block as usize * size;
        let length = bytes::be32(&raw[begin..], 16) as usize;
        let log: Vec<usize> = String::from_utf8(debugfs_bytes(&image, "blocks <8>"))
            .unwrap()
            .split_whitespace()
            .skip(1)
            .map(|number| number.parse().unwrap())
            .collect();
        assert_eq!(log.len(), length - 1);
        let start = bytes::be32(&raw[begin..], 28) as usize;
        for turn in 1..16 {
            let mut turned = raw.clone();
            for (index, to) in log.iter().enumerate() {
                let from = log[(index + turn) % log.len()];
                turned[to * size..(to + 1) * size].copy_from_slice(&raw[from * size..(from + 1) * size]);
            }
            let superblock = &mut turned[begin..begin + 1024];
            let moved = (start - 1 + length - 1 - turn) % (length - 1) + 1;
            bytes::put(superblock, 28, (moved as u32).to_be_bytes());
            if options != OLD {
                bytes::put(superblock, 0xfc, [0; 4]);
                let sum = bytes::crc(!0, superblock);
                bytes::put(superblock, 0xfc, sum.to_be_bytes());
            }
            fs::write(&image, turned).unwrap();
            let ext4 = open(&image);
            assert!(content(&ext4, &at(&ext4, "file")) == expected, "{turn}");
        }
    }
}

/// Deleted while open, of each shape that content has.
#[test]
fn orphans_are_freed_in_an_export() {
    let cases: &[&[&str]] = &[
        MODERN,
        OLD,
        &["-b", "1024", "-I", "128", "-J", "size=1", "-O", "none,has_journal,ext_attr,filetype"],
        &[
            "-b",
            "2048",
            "-I",
            "256",
            "-O",
            "none,has_journal,ext_attr,filetype,extent,64bit,metadata_csum,flex_bg",
        ],
    ];
    for options in cases {
        let dir = tempfile::tempdir().unwrap();
        // A data block, a hole, a data block: extents do not fit into the inode.
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let pieces = File::create(tree.join("pieces")).unwrap();
        for piece in 0..300_u64 {
            std::os::unix::fs::FileExt::write_all_at(&pieces, &[7; 4096], piece * 8192).unwrap();
        }
        fs::write(tree.join("small"), "small").unwrap();
        fs::write(tree.join("stays"), "stays").unwrap();
        fs::create_dir(tree.join("d")).unwrap();
        std::os::unix::fs::symlink("long/".repeat(30), tree.join("link")).unwrap();
        let image = make(dir.path(), "image", options, Some(&tree), "24M");
        let free = |image: &Path| -> Vec<String> {
            let said = String::from_utf8(debugfs_bytes(image, "show_super_stats -h")).unwrap();
            said.lines().filter(|line| line.starts_with("Free ")).map(str::to_owned).collect()
        };
        let ext4 = open(&image);
        let names = ["pieces", "small", "link"];
        let numbers: Vec<u32> = names.iter().map(|name| at(&ext4, name).number()).collect();
        let mut script = String::new();
        for (index, name) in names.iter().enumerate() {
            let next = numbers.get(index + 1).copied().unwrap_or_else(|| at(&ext4, "stays").number());
            script += &format!(
                "ea_set {name} user.x {}\nset_inode_field {name} links_count 0\n\
                 set_inode_field {name} dtime {next}\nunlink {name}\n",
                "x".repeat(500)
            );
        }
        script += &format!("ssv last_orphan {}\n", numbers[0]);
        debugfs(&image, &script);
        assert!(!tool("e2fsck").arg("-fn").arg(&image).output().unwrap().status.success());
        let copy = dir.path().join("exported");
        let exported = export(&File::open(&image).unwrap(), &copy, false, &plenty()).unwrap();
        assert_eq!(exported.orphans, 3, "{options:?}");
        check(&copy);
        assert_eq!(debugfs_bytes(&copy, "cat /stays"), b"stays");
        // e2fsck counts what is free itself.
        tool("e2fsck").arg("-fy").arg(&image).output().unwrap();
        assert_eq!(free(&copy), free(&image), "{options:?}");
    }
}

#[test]
fn an_export_is_sparse_private_and_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), "image", MODERN, None, "4G");
    let file = File::open(&image).unwrap();
    let copy = dir.path().join("copy");
    let exported = export(&file, &copy, false, &plenty()).unwrap();
    assert_eq!(exported.size, 4 << 30);
    let metadata = copy.metadata().unwrap();
    assert!(metadata.blocks() * 512 < 64 << 20 && exported.allocated < 64 << 20);
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    check(&copy);

    fs::write(&copy, "mine").unwrap();
    let error = export(&file, &copy, false, &plenty()).unwrap_err();
    assert!(matches!(error, DiskError::Output { .. }) && error.hint().is_some(), "{error}");
    assert_eq!(fs::read(&copy).unwrap(), b"mine");
    let broken = dir.path().join("broken");
    fs::write(&broken, vec![0; 4096]).unwrap();
    export(&File::open(&broken).unwrap(), &copy, true, &plenty()).unwrap_err();
    assert_eq!(fs::read(&copy).unwrap(), b"mine");
    export(&file, &copy, true, &plenty()).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), 4 << 30);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_committed_transaction_that_is_broken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (image, blocks) = with_file(dir.path(), MODERN);
    fs::write(dir.path().join("new"), vec![b'n'; 4096]).unwrap();
    let new = dir.path().join("new").display().to_string();
    debugfs(&image, &format!("jo -c -v 3\njw -b {} {new}\njc\n", blocks[0]));
    let mut raw = fs::read(&image).unwrap();
    let found = raw.windows(4096).position(|window| window.iter().all(|byte| *byte == b'n')).unwrap();
    raw[found + 9] = b'x';
    fs::write(&image, raw).unwrap();
    let error = Ext4::open(File::open(&image).unwrap(), &plenty()).unwrap_err();
    assert!(error.to_string().contains("journal is broken"), "{error}");
}

/// Deleted files that share a block of attributes with one that stays.
#[test]
fn shared_attributes_lose_the_users_that_go() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), "image", OLD, None, "16M");
    fs::write(dir.path().join("content"), "x").unwrap();
    let write: String = ["a", "b", "c", "stays"]
        .map(|name| format!("write {} {name}\n", dir.path().join("content").display()))
        .concat();
    debugfs(&image, &format!("{write}ea_set a user.x {}\n", "x".repeat(500)));
    let ext4 = open(&image);
    let (numbers, block) =
        (["a", "b", "c"].map(|name| at(&ext4, name).number()), at(&ext4, "a").attribute_block);
    assert_ne!(block, 0);
    let mut script = format!("set_inode_field stays file_acl {block}\nset_inode_field stays blocks 4\n");
    for (index, name) in ["a", "b", "c"].iter().enumerate() {
        let next = numbers.get(index + 1).copied().unwrap_or(0);
        script += &format!(
            "set_inode_field {name} file_acl {block}\nset_inode_field {name} links_count 0\n\
             set_inode_field {name} dtime {next}\nunlink {name}\n"
        );
    }
    debugfs(&image, &format!("{script}ssv last_orphan {}\n", numbers[0]));
    let file = File::options().read(true).write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &4_u32.to_le_bytes(), block * 1024 + 4).unwrap();
    let copy = dir.path().join("exported");
    assert_eq!(export(&file, &copy, false, &plenty()).unwrap().orphans, 3);
    check(&copy);
    let ext4 = open(&copy);
    assert_eq!(ext4.attribute(&at(&ext4, "stays"), b"user.x").unwrap().unwrap().len(), 500);
    assert_eq!(bytes::le32(&ext4.volume().block(block).unwrap(), 4), 1);
}
