//! Content of a cache after good and bad days.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::*;
use crate::environment::{Pruned, catalog};
use crate::hint::Hint;
use pyro_formats::hostfs::copy_sparse;

#[test]
fn an_image_holds_the_tree_exactly() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "");
    let (installed, seen) = phases(&store);
    let installed = installed.unwrap();
    assert_eq!(seen, [PullPhase::Install, PullPhase::Image, PullPhase::Verify, PullPhase::Ready]);
    let image = installed.base_path();
    fsck(&image);
    let stat = |path: &str| {
        run("/sbin/debugfs", &["-R".as_ref(), format!("stat {path}").as_ref(), image.as_os_str()])
    };
    assert!(stat("/bin/su").contains("Mode:  04755"));
    assert!(stat("/bin").contains("User:     1   Group:     2"));
    assert!(stat("/etc/motd").contains("Links: 2"));
    assert!(stat("/null").contains("Type: character special"));
    assert!(stat("/long").contains("Type: symlink") && stat("/long").contains("Size: 80"));
    assert!(stat("/workspace").contains("Type: directory"));

    let manifest = installed.manifest();
    assert_eq!(manifest.packages.len(), 1);
    assert_eq!(manifest.rootfs.size, fs::metadata(&image).unwrap().len());
    assert!(manifest.rootfs.sha256.starts_with(&manifest.version));
    let mut expected = [manifest.version.clone(), "current".into()];
    expected.sort();
    assert_eq!(names(&store), expected);
    let status = store.inspect(NAME).unwrap();
    assert!(status.installed);
    assert_eq!(status.rootfs_image.unwrap(), image.display().to_string());
}

#[test]
fn a_second_pull_does_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "");
    let first = pull(&store).unwrap();
    let (second, seen) = phases(&store);
    assert_eq!(second.unwrap().manifest(), first.manifest());
    assert!(!seen.contains(&PullPhase::Install), "{seen:?}");
    assert_eq!(store.list().unwrap().iter().filter(|status| status.installed).count(), 1);
}

#[test]
fn a_damaged_image_is_never_handed_out_and_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "");
    for damage in ["flip", "truncate", "remove", "symlink", "directory"] {
        let installed = pull(&store).unwrap();
        installed.open_base().unwrap();
        let path = installed.base_path();
        match damage {
            "flip" => {
                let file = fs::File::options().read(true).write(true).open(&path).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, 5000).unwrap();
                file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
            }
            "truncate" => fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap(),
            "remove" => fs::remove_file(&path).unwrap(),
            "symlink" => {
                let elsewhere = root.path().join("elsewhere");
                fs::rename(&path, &elsewhere).unwrap();
                std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            }
            _ => {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            }
        }
        let error = store.installed(NAME).unwrap().unwrap().open_base().unwrap_err();
        assert!(matches!(error, EnvironmentError::Corrupt { .. }), "{damage}: {error}");
        assert_eq!(error.hint(), Some(Hint::ReinstallEnvironment { name: NAME.into() }));
        let (again, seen) = phases(&store);
        assert!(seen.contains(&PullPhase::Install), "{damage}");
        again.unwrap().open_base().unwrap();
    }
}

#[test]
fn a_manifest_that_cannot_be_believed_counts_for_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "");
    for damage in ["edit", "garbage", "empty", "current", "current to elsewhere"] {
        let installed = pull(&store).unwrap();
        let path = installed.manifest_path();
        let text = fs::read_to_string(&path).unwrap();
        let current = root.path().join("debian-12-base/current");
        match damage {
            "edit" => fs::write(&path, text.replace("\"tiny\"", "\"huge\"")).unwrap(),
            "garbage" => fs::write(&path, "{").unwrap(),
            "empty" => fs::write(&path, "").unwrap(),
            "current" => fs::remove_file(&current).unwrap(),
            _ => {
                fs::remove_file(&current).unwrap();
                std::os::unix::fs::symlink("../../etc", &current).unwrap();
            }
        }
        assert!(store.installed(NAME).unwrap().is_none(), "{damage}");
        assert!(!store.inspect(NAME).unwrap().installed);
        pull(&store).unwrap().open_base().unwrap();
    }
}

#[test]
fn another_definition_is_another_version() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "");
    let first = pull(&store).unwrap();
    let mut manifest = first.manifest().clone();
    manifest.recipe = "of an older catalog".into();
    fs::write(first.manifest_path(), crate::hostfs::stamp::seal(&manifest).unwrap()).unwrap();
    store.installed(NAME).unwrap().expect("it stays in use until it is pulled").open_base().unwrap();
    let (second, seen) = phases(&super::store(root.path(), "echo more > $1/more"));
    assert!(seen.contains(&PullPhase::Install));
    let second = second.unwrap();
    assert_ne!(second.manifest().version, first.manifest().version);
    first.open_base().expect("who uses the old one can go on");
    assert_eq!(store.prune(&[]).unwrap().count, 1);
    assert_eq!(store.installed(NAME).unwrap().unwrap().manifest(), second.manifest());
}

#[test]
fn prune_keeps_what_is_used() {
    let root = tempfile::tempdir().unwrap();
    let version = |more: &str| {
        let store = store(root.path(), more);
        // Another set of packages in the same definition: only a damaged one makes way.
        if let Some(installed) = store.installed(NAME).unwrap() {
            fs::write(installed.manifest_path().with_file_name("base.ext4"), "").unwrap();
        }
        pull(&store).unwrap().manifest().version.clone()
    };
    let (first, second, third) =
        (version("echo 1 > $1/n"), version("echo 2 > $1/n"), version("echo 3 > $1/n"));
    let store = store(root.path(), "");
    let dir = root.path().join("debian-12-base");
    fs::create_dir_all(dir.join(".building-abc/tree")).unwrap();
    fs::create_dir(dir.join("mine")).unwrap();
    fs::write(root.path().join("notes.txt"), "not ours").unwrap();
    fs::create_dir(root.path().join("stranger")).unwrap();
    // An environment that no catalog has any more.
    fs::create_dir_all(root.path().join("debian-11/0123456789ab")).unwrap();
    fs::create_dir_all(root.path().join("debian-11/ba9876543210")).unwrap();
    fs::write(root.path().join("debian-11/.lock"), "").unwrap();

    let pruned = store.prune(&[second.clone(), "0123456789ab".into()]).unwrap();
    let gone: Vec<_> =
        pruned.deleted_environment_dirs.iter().map(|d| d.rsplit('/').next().unwrap()).collect();
    assert_eq!(gone, ["ba9876543210", ".building-abc", first.as_str()]);
    assert_eq!(pruned.count, 3);
    let mut kept = vec!["current".to_owned(), "mine".into(), second, third];
    kept.sort();
    assert_eq!(names(&store), kept);
    store.installed(NAME).unwrap().unwrap().open_base().unwrap();

    let pruned = store.prune(&[]).unwrap();
    assert_eq!(pruned.count, 3, "the version, the old environment's version, and its directory: {pruned:?}");
    assert!(!root.path().join("debian-11").exists());
    assert!(root.path().join("stranger").is_dir() && root.path().join("notes.txt").is_file());
    assert_eq!(store.prune(&[]).unwrap(), Pruned::default());
}

#[test]
fn prune_leaves_a_pull_under_way_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "");
    let cancel = CancelToken::new();
    let mut pruned = None;
    store
        .pull(
            NAME,
            &mut |event| {
                if event.phase == PullPhase::Image {
                    pruned = Some(store.prune(&[]).unwrap());
                }
            },
            &cancel,
        )
        .unwrap();
    assert_eq!(pruned, Some(Pruned::default()));
}

#[test]
fn a_cache_that_cannot_be_written_serves_what_it_has() {
    let root = tempfile::tempdir().unwrap();
    let cache = root.path().join("cache");
    let store = store(&cache, "");
    pull(&store).unwrap();
    store.stamps().clear().unwrap();
    let mount = Mount::read_only(&cache);
    pull(&store).unwrap().open_base().unwrap();
    let error = store.pull("debian:12", &mut |_| (), &CancelToken::new()).unwrap_err();
    assert!(error.to_string().contains(cache.to_str().unwrap()), "{error}");
    assert_eq!(error.hint(), Some(Hint::WritableCache));
    let error = store.new_disk(root.path()).unwrap_err();
    assert!(matches!(error, EnvironmentError::Cache { .. }), "{error}");
    drop(mount);

    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let store = super::store(&file, "");
    assert!(store.installed(NAME).unwrap().is_none());
    assert!(pull(&store).unwrap_err().to_string().contains(file.to_str().unwrap()));
}

#[test]
fn a_full_disk_is_one_clear_error_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let small = root.path().join("small");
    let mount = Mount::tmpfs(&small, "16m");
    let error = pull(&store(&small, "")).unwrap_err();
    assert!(matches!(error, EnvironmentError::NoSpace { free, .. } if free <= 16 << 20), "{error}");
    drop(mount);

    // Room enough to begin with; then the tree, or the image of it, takes more than there is.
    let needed = catalog().iter().find(|entry| entry.name == NAME).unwrap().build_bytes;
    for mib in [needed / (1 << 20) + 60, needed / (1 << 20) * 7 / 10] {
        let dir = root.path().join(format!("medium-{mib}"));
        let mount = Mount::tmpfs(&dir, &format!("{}m", needed / (1 << 20) + 40));
        let store = store(&dir, &format!("yes 0123456789abcdef | head -c {mib}M > $1/big"));
        let error = pull(&store).unwrap_err();
        assert!(matches!(error, EnvironmentError::NoSpace { .. }), "{error:?}");
        assert!(error.to_string().contains("MiB are needed"), "{error}");
        assert_eq!(names(&store), [""; 0], "nothing is left behind");
        drop(mount);
    }
}

#[test]
fn a_failed_build_says_why_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let fails = store(root.path(), "echo 'E: Temporary failure resolving a.invalid'; exit 3");
    let error = pull(&fails).unwrap_err();
    assert!(error.to_string().contains("Temporary failure resolving"), "{error}");
    assert_eq!(error.hint(), Some(Hint::CheckPackageSources));
    assert_eq!(names(&fails), [""; 0]);
    // An older version stays in use.
    let works = store(root.path(), "");
    pull(&works).unwrap();
    assert!(pull(&fails).unwrap().open_base().is_ok(), "it is installed, so there is nothing to build");
    let error = store(root.path(), "").pull("debian:13", &mut |_| (), &CancelToken::new()).unwrap_err();
    let Some(Hint::DidYouMean { names }) = error.hint() else { panic!("{error}") };
    assert!(error.is_callers_mistake() && names.contains(&"debian:12".to_owned()), "{names:?}");
}

#[test]
fn the_blank_disk_is_small_sound_and_remade_when_damaged() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), "");
    let path = store.blank_disk().unwrap();
    fsck(&path);
    let stat = fs::metadata(&path).unwrap();
    assert_eq!(stat.len(), crate::environment::DISK_BYTES);
    assert!(stat.blocks() * 512 < 512 << 10, "{} bytes are allocated", stat.blocks() * 512);
    for dir in ["/workspace", "/.pyro/upper", "/.pyro/work"] {
        let text = run("/sbin/debugfs", &["-R".as_ref(), format!("stat {dir}").as_ref(), path.as_os_str()]);
        assert!(text.contains("Mode:  0755") && text.contains("User:     0   Group:     0"), "{text}");
    }

    let mut disk = store.new_disk(&root.path().join("scratch")).unwrap();
    assert_eq!(disk.metadata().unwrap().nlink(), 0, "it has no name");
    assert!(disk.metadata().unwrap().blocks() * 512 < 512 << 10);
    let copy = root.path().join("copy");
    let named = fs::File::options().create_new(true).read(true).write(true).open(&copy).unwrap();
    copy_sparse(&disk, &named).unwrap();
    fsck(&copy);
    let mut magic = [0; 2];
    disk.seek(SeekFrom::Start(1080)).unwrap();
    disk.read_exact(&mut magic).unwrap();
    assert_eq!(magic, [0x53, 0xef]);
    // A VM's disk is its own.
    disk.seek(SeekFrom::Start(1 << 30)).unwrap();
    disk.write_all(b"guest").unwrap();

    let damaged = fs::File::options().write(true).open(&path).unwrap();
    damaged.write_all_at(b"damage", 2 << 30).unwrap();
    assert_eq!(store.blank_disk().unwrap(), path);
    fsck(&path);
    let mut clean = [1; 6];
    fs::File::open(&path).unwrap().read_exact_at(&mut clean, 2 << 30).unwrap();
    assert_eq!(clean, [0; 6]);
    assert_eq!(store.prune(&[]).unwrap().count, 0, "the current blank disk is used");
}
