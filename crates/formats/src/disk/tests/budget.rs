//! What one call may cost: images whose every object is within its limits, and which have any number of them.

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::disk::inode::position;

/// Directories of the hostile image.
const TRAPS: u64 = 40;
/// Extents that each of them has, all over the same blocks.
const EXTENTS: u16 = 80;
/// Blocks of each extent.
const SPAN: u16 = 16;

/// A disk with directories of which each costs `EXTENTS * SPAN` blocks to read: all lead through one tree of extents to
/// the same blocks, which are full of entries that are not used.
fn trap(dir: &Path) -> PathBuf {
    let image = make(dir, "trap", MODERN, None, "24M");
    let entries = [0, 0, 0, 0, 8, 0, 0, 0].repeat(4096 / 8);
    fs::write(dir.join("unused"), entries.repeat(SPAN.into())).unwrap();
    fs::write(dir.join("tree"), [1; 4096]).unwrap();
    let mut script = String::from("mkdir workspace\n");
    for name in ["unused", "tree"] {
        script += &format!("write {} {name}\n", dir.join(name).display());
    }
    for number in 0..TRAPS {
        script += &format!("mkdir workspace/d{number}\n");
    }
    debugfs(&image, &script);
    let first = |name: &str| {
        let blocks = String::from_utf8(debugfs_bytes(&image, &format!("blocks /{name}"))).unwrap();
        blocks.split_whitespace().map(|block| block.parse::<u64>().unwrap()).collect::<Vec<_>>()
    };
    let unused = first("unused");
    assert!(unused.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{unused:?}");
    let tree = first("tree")[0];
    let header = |entries: u16, depth: u16| {
        let fields = [0xf30a_u16, entries, 340, depth, 0, 0];
        fields.into_iter().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    let mut leaf = header(EXTENTS, 0);
    for extent in 0..EXTENTS {
        leaf.extend((u32::from(extent) * u32::from(SPAN)).to_le_bytes());
        leaf.extend(SPAN.to_le_bytes());
        leaf.extend([0; 2]);
        leaf.extend((unused[0] as u32).to_le_bytes());
    }
    let ext4 = open(&image);
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&leaf, tree * 4096).unwrap();
    for number in 0..TRAPS {
        let inode = at(&ext4, &format!("workspace/d{number}"));
        let place = position(ext4.volume(), inode.number()).unwrap();
        let mut root = header(1, 1);
        root.extend([0; 4]);
        root.extend((tree as u32).to_le_bytes());
        root.extend([0; 4]);
        file.write_all_at(&root, place + 0x28).unwrap();
        let size = u32::from(EXTENTS) * u32::from(SPAN) * 4096;
        file.write_all_at(&size.to_le_bytes(), place + 4).unwrap();
    }
    image
}

fn merged(image: &Path, budget: &Budget) -> Result<Merged, DiskError> {
    let open = || Ext4::open(File::open(image).unwrap(), budget);
    Merged::new(open()?, open()?)
}

fn list(merged: &Merged, path: &str, recursive: bool) -> Result<usize, DiskError> {
    let mut count = 0;
    merged.list(Path::new(path), recursive, &mut |_| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

#[test]
fn many_costly_directories_cost_no_more_than_one_call_may() {
    let dir = tempfile::tempdir().unwrap();
    let image = trap(dir.path());
    // Each of them alone is let through.
    let budget = plenty();
    let tree = merged(&image, &budget).unwrap();
    assert_eq!(list(&tree, "/workspace/d0", false).unwrap(), 0);
    let each = budget.spent();
    assert!(each > u64::from(EXTENTS) * u64::from(SPAN), "{each}");
    // And their names, without what is in them.
    let budget = plenty();
    assert_eq!(list(&merged(&image, &budget).unwrap(), "/workspace", false).unwrap() as u64, TRAPS);
    assert!(budget.spent() < 2000, "{}", budget.spent());

    for limit in [each / 2, each * 5, each * 20] {
        let budget = Budget::new(limit);
        let tree = merged(&image, &budget).unwrap();
        let error = list(&tree, "/workspace", true).unwrap_err();
        let DiskError::TooMuchWork { reading: Reading::Path(path), limit: said } = &error else {
            panic!("{error}");
        };
        assert!(path.to_string_lossy().starts_with("/workspace/d") && *said == limit, "{error}");
        assert_eq!(error.hint(), Some(DiskHint::LessAtOnce));
        assert_eq!(budget.spent(), limit);
        // Nothing more is to be had of it, whatever is asked.
        for again in [list(&tree, "/", false).err(), tree.find(Path::new("/workspace")).err()] {
            assert!(matches!(again, Some(DiskError::TooMuchWork { .. })), "{again:?}");
        }
    }
}

#[test]
fn a_path_through_costly_directories_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let image = trap(dir.path());
    let budget = Budget::new(1000);
    let error = merged(&image, &budget).unwrap().find(Path::new("/workspace/d3/none")).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("/workspace/d3/none") && said.contains("1000 steps"), "{said}");
    assert_eq!(budget.spent(), 1000);
}

#[test]
fn a_call_that_nobody_waits_for_stops_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let image = trap(dir.path());
    let budget = plenty();
    let tree = merged(&image, &budget).unwrap();
    let (mut seen, mut spent) = (0, 0);
    let error = tree
        .list(Path::new("/workspace"), true, &mut |_| {
            seen += 1;
            if seen == 3 {
                budget.cancel();
                spent = budget.spent();
            }
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert!(matches!(error, DiskError::Cancelled), "{error}");
    assert_eq!((seen, spent), (3, budget.spent()));
    // Opening and exporting hear of it as well.
    assert!(matches!(merged(&image, &budget), Err(DiskError::Cancelled)));
    let to = dir.path().join("to");
    let error = export(&File::open(&image).unwrap(), &to, false, &budget).unwrap_err();
    assert!(matches!(error, DiskError::Cancelled), "{error}");
    assert!(!to.exists());
}

/// While its bytes are copied an export does no step, and hears all the same that nobody waits for it.
#[test]
fn an_export_stops_while_it_copies() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (tempfile::tempfile_in(dir.path()).unwrap(), tempfile::tempfile_in(dir.path()).unwrap());
    from.write_all_at(&vec![7; 12 << 20], 0).unwrap();
    let mut asked = 0;
    let copied = crate::hostfs::copy_sparse_asking(&from, &to, || {
        asked += 1;
        if asked == 2 { Err(std::io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    });
    match copied {
        Err(error) => {
            assert_eq!((error.kind(), asked), (std::io::ErrorKind::Interrupted, 2));
            assert_eq!(to.metadata().unwrap().len(), 12 << 20);
        }
        // A reflink is made at once.
        Ok(bytes) => assert_eq!((bytes, asked), (0, 0)),
    }
}

/// What a call may cost is what 100,000 files of a real disk cost, many times over: that many a listing shows.
#[test]
fn honest_trees_cost_a_few_steps_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let (dirs, files) = (60, 50);
    for number in 0..dirs {
        let below = tree.join(format!("usr/lib/node_modules/package {number}/dist"));
        fs::create_dir_all(&below).unwrap();
        for file in 0..files {
            fs::write(below.join(format!("a module {file}.js")), "x").unwrap();
        }
    }
    let base = make(dir.path(), "base", MODERN, Some(&tree), "48M");
    let disk = make(dir.path(), "disk", MODERN, None, "24M");
    // Each package was touched, so that it is in both layers.
    let mut script = String::from("mkdir workspace\nmkdir .pyro\nmkdir .pyro/upper\ncd .pyro/upper\n");
    for name in ["usr", "lib", "node_modules"] {
        script += &format!("mkdir {name}\ncd {name}\n");
    }
    for number in 0..dirs {
        script += &format!("mkdir \"package {number}\"\n");
    }
    debugfs(&disk, &script);
    let budget = plenty();
    let open = |image: &Path| Ext4::open(File::open(image).unwrap(), &budget).unwrap();
    let merged = Merged::new(open(&base), open(&disk)).unwrap();
    let found = list(&merged, "/", true).unwrap() as u64;
    assert!(found > dirs * (files + 2), "{found}");
    // 8,388,608 steps for 100,000 files are 83 each.
    assert!(budget.spent() < found * 20, "{} steps for {found} files", budget.spent());
}

/// Opening replays the journal, which is work as well.
#[test]
fn a_journal_is_replayed_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["-b", "1024", "-J", "size=4", "-O", "none,has_journal,ext_attr,filetype"];
    let image = make(dir.path(), "image", &options, None, "16M");
    fs::write(dir.path().join("new"), vec![b'n'; 1024 * 1000]).unwrap();
    let blocks = (9000..10_000).map(|block: u32| block.to_string()).collect::<Vec<_>>().join(",");
    debugfs(&image, &format!("jo\njw -b {blocks} {}\njc\n", dir.path().join("new").display()));
    let file = || File::open(&image).unwrap();
    let whole = plenty();
    Ext4::open(file(), &whole).unwrap();
    assert!((1000..5000).contains(&whole.spent()), "{}", whole.spent());
    let budget = Budget::new(whole.spent() - 1);
    let error = Ext4::open(file(), &budget).unwrap_err();
    assert!(matches!(error, DiskError::TooMuchWork { reading: Reading::Journal | Reading::Image, .. }));
    let error = Ext4::open(file(), &Budget::new(500)).unwrap_err();
    assert!(matches!(error, DiskError::TooMuchWork { reading: Reading::Journal, .. }), "{error}");
    assert_eq!(error.hint(), Some(DiskHint::Repair));
    let to = dir.path().join("to");
    export(&file(), &to, false, &Budget::new(whole.spent() + 500)).unwrap_err();
    assert!(!to.exists());
    assert_eq!(export(&file(), &to, false, &plenty()).unwrap().replayed, 1000);
}
