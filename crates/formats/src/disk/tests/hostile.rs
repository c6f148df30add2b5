//! Images that lie: whatever is in them, an answer or an error comes, soon.

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

/// Files of a listing that are looked into.
const FILES: usize = 300;

/// Small images with everything in them, one of them with a journal to replay.
fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("workspace/a/b")).unwrap();
        fs::create_dir_all(tree.join(".pyro/upper/workspace")).unwrap();
        fs::create_dir_all(tree.join(".pyro/upper/etc")).unwrap();
        for number in 0..60 {
            fs::write(tree.join(format!("workspace/a/a file {number}")), vec![b'x'; number * 100]).unwrap();
        }
        let pieces = File::create(tree.join("workspace/pieces")).unwrap();
        for piece in 0..50_u64 {
            pieces.write_all_at(&[7; 4096], piece * 8192).unwrap();
        }
        std::os::unix::fs::symlink("a/b/../b", tree.join("workspace/link")).unwrap();
        std::os::unix::fs::symlink("long/".repeat(50), tree.join("workspace/long")).unwrap();
        let kinds: &[&[&str]] = &[
            &[
                "-b",
                "1024",
                "-J",
                "size=1",
                "-O",
                "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,metadata_csum",
            ],
            &["-b", "1024", "-J", "size=1", "-O", "none,has_journal,ext_attr,filetype"],
            &[
                "-b",
                "1024",
                "-I",
                "512",
                "-O",
                "none,extent,ext_attr,filetype,inline_data,meta_bg,extra_isize",
            ],
        ];
        let make = |(index, options): (usize, &&[&str])| {
            let image = make(dir.path(), &index.to_string(), options, Some(&tree), "4M");
            fs::write(dir.path().join("new"), vec![b'n'; 8192]).unwrap();
            let new = dir.path().join("new").display().to_string();
            let blocks = String::from_utf8(debugfs_bytes(&image, "blocks /workspace/pieces")).unwrap();
            let list = blocks.split_whitespace().take(8).collect::<Vec<_>>().join(",");
            let open = if index == 0 { "jo -c -v 3" } else { "jo" };
            let journal = format!("{open}\njw -b {list} {new}\njw -r 5,6\njc\n");
            debugfs(
                &image,
                &format!(
                    "cd .pyro/upper\nmknod gone c 0 0\nea_set etc trusted.overlay.redirect /workspace/a\n\
                     ea_set workspace user.x {}\nea_set etc trusted.overlay.opaque n\n\
                     write {new} orphan\nset_inode_field orphan links_count 0\nssv last_orphan 300\n{}",
                    "x".repeat(400),
                    if index < 2 { &journal } else { "" },
                ),
            );
            fs::read(&image).unwrap()
        };
        kinds.iter().enumerate().map(make).collect()
    })
}

/// Asks everything that can be asked.
fn walk(image: &File) -> Result<usize, DiskError> {
    let merged = Merged::new(
        Ext4::open(image.try_clone().unwrap(), &plenty())?,
        Ext4::open(image.try_clone().unwrap(), &plenty())?,
    )?;
    let mut found = Vec::new();
    let listed = merged.list(Path::new("/"), true, &mut |file| {
        found.push(file);
        if found.len() < FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let ext4 = Ext4::open(image.try_clone().unwrap(), &plenty())?;
    let mut buffer = vec![0; 20_000];
    for file in &found {
        let inode = file.node.inode();
        let _ = merged.find(&file.path);
        let _ = merged.read_at(&file.node, 0, &mut buffer);
        let _ = merged.read_at(&file.node, inode.size().saturating_sub(10), &mut buffer);
        let mut at = 0;
        for _ in 0..20 {
            match merged.next_data(&file.node, at) {
                Ok(Some(data)) => {
                    assert!(data.start >= at && data.end > data.start);
                    at = data.end;
                }
                _ => break,
            }
        }
        if let Ok(names) = ext4.attribute_names(inode) {
            for name in names {
                let _ = ext4.attribute(inode, &name);
            }
        }
    }
    listed.map(|()| found.len())
}

#[test]
fn the_images_are_sound_before_they_are_broken() {
    for image in images() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(image, 0).unwrap();
        assert!(walk(&file).unwrap() > 60);
    }
}

/// A change of one image: where, as a choice among blocks that are not empty, and what is written.
fn change() -> impl Strategy<Value = (prop::sample::Index, usize, Vec<u8>)> {
    let interesting = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..5),
        prop::sample::select(vec![0_u32, 1, 2, 8, 0xffff, 0x7fff_ffff, 0xffff_ffff])
            .prop_map(|value| value.to_le_bytes().to_vec()),
    ];
    // Structures begin at the beginning of their blocks.
    (any::<prop::sample::Index>(), prop_oneof![0_usize..128, 0_usize..1020], interesting)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]
    #[test]
    fn a_broken_image_gives_an_answer_or_an_error(
        which in 0_usize..3,
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let mut image = images()[which].clone();
        let used: Vec<usize> = (0..image.len() / 1024)
            .filter(|block| image[block * 1024..][..1024].iter().any(|byte| !matches!(*byte, 0 | 7 | b'x')))
            .collect();
        for (block, offset, bytes) in &changes {
            let at = used[block.index(used.len())] * 1024 + offset;
            let end = (at + bytes.len()).min(image.len());
            image[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&image, 0).unwrap();
        let _ = walk(&file);
        let to = dir.path().join("to");
        if export(&file, &to, false, &plenty()).is_err() {
            prop_assert!(!to.exists());
        }
        let mut same = vec![0; image.len()];
        file.read_exact_at(&mut same, 0).unwrap();
        prop_assert!(same == image, "the image was written to");
    }
}

/// The reader's own numbers: a file as large as one can be is no reason to allocate or to walk for long.
#[test]
fn an_absurd_size_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), "image", MODERN, None, "24M");
    debugfs(
        &image,
        "mkdir d\nmknod f p\nset_inode_field f mode 0100644\nset_inode_field f size 0xffffffff000\n",
    );
    let ext4 = open(&image);
    let f = at(&ext4, "f");
    assert_eq!(f.size(), 0xfff_ffff_f000);
    let mut end = [1; 100];
    assert_eq!(ext4.read_at(&f, f.size() - 50, &mut end).unwrap(), 50);
    assert_eq!(ext4.next_data(&f, 0).unwrap(), None);
    debugfs(&image, "set_inode_field f size 0x7fffffffffffffff\n");
    let ext4 = open(&image);
    let error = ext4.lookup(&ext4.root().unwrap(), b"f").unwrap_err();
    assert!(error.to_string().contains("larger than a file can be"), "{error}");
}

/// Copied as if it were content, the rest of such a file would fill the host's disk with zeros.
#[test]
fn beyond_what_an_inode_can_hold_there_is_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["-b", "1024", "-I", "256", "-O", "none,extent,ext_attr,filetype,inline_data,extra_isize"];
    let image = make(dir.path(), "image", &options, None, "4M");
    fs::write(dir.path().join("small"), "small").unwrap();
    debugfs(&image, &format!("write {} f\n", dir.path().join("small").display()));
    assert_eq!(content(&open(&image), &at(&open(&image), "f")), b"small");
    debugfs(&image, "set_inode_field f size 0x10000000000\n");
    let ext4 = open(&image);
    let f = at(&ext4, "f");
    let data = ext4.next_data(&f, 0).unwrap().unwrap();
    assert!(data.start == 0 && data.end < 66_000, "{data:?}");
    assert_eq!(ext4.next_data(&f, data.end).unwrap(), None);
    let mut end = [1; 9];
    assert_eq!(ext4.read_at(&f, f.size() - 9, &mut end).unwrap(), 9);
    assert_eq!(end, [0; 9]);
}

/// A journal that leads to the same few blocks again and again would be read for hours.
#[test]
fn a_journal_with_a_block_in_two_places_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["-b", "1024", "-J", "size=1", "-O", "none,has_journal,ext_attr,filetype"];
    let image = make(dir.path(), "image", &options, None, "4M");
    let blocks = String::from_utf8(debugfs_bytes(&image, "blocks <8>")).unwrap();
    let second = blocks.split_whitespace().nth(1).unwrap();
    fs::write(dir.path().join("new"), [b'n'; 1024]).unwrap();
    debugfs(&image, &format!("jo\njw -b 1000 {}\njc\n", dir.path().join("new").display()));
    assert!(open(&image).volume().recovery().is_some());
    debugfs(&image, &format!("set_inode_field <8> block[7] {second}\n"));
    let error = Ext4::open(File::open(&image).unwrap(), &plenty()).unwrap_err();
    assert!(error.to_string().contains("in two places"), "{error}");
}

/// Free clusters of all groups together are more than a number can hold.
#[test]
fn counters_that_overflow_are_no_reason_to_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = MODERN.to_vec();
    options.extend(["-g", "2048"]);
    let image = make(dir.path(), "image", &options, None, "24M");
    fs::write(dir.path().join("new"), [b'n'; 4096]).unwrap();
    debugfs(&image, &format!("jo -c -v 3\njw -b 4000 {}\njc\n", dir.path().join("new").display()));
    let file = File::options().read(true).write(true).open(&image).unwrap();
    for group in 0..3 {
        for half in [0xc, 0x2c] {
            file.write_all_at(&[0xff; 2], 4096 + group * 64 + half).unwrap();
        }
    }
    // Clusters of 2^31 blocks, and the feature that says so.
    file.write_all_at(&33_u32.to_le_bytes(), 1024 + 0x1c).unwrap();
    file.write_all_at(&(superblock::METADATA_CSUM | superblock::BIGALLOC).to_le_bytes(), 1024 + 0x64)
        .unwrap();
    assert_eq!(export(&file, dir.path().join("to"), false, &plenty()).unwrap().replayed, 1);
}
