//! Base and disk as one tree, with every mark that overlayfs leaves.

use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, symlink};

use super::*;

/// A base with some files, and a disk over it on which `script` was run.
fn merged(dir: &Path, script: &str) -> Merged {
    let tree = dir.join("tree");
    let join = |name: &str| tree.join(name);
    for name in ["etc", "usr/share/doc", "var/old", "opt/kept", "home"] {
        fs::create_dir_all(join(name)).unwrap();
    }
    for name in ["etc/passwd", "etc/motd", "usr/share/doc/readme", "var/old/a", "var/old/b", "opt/kept/c"] {
        fs::write(join(name), format!("base {name}")).unwrap();
    }
    fs::hard_link(join("etc/passwd"), join("etc/same")).unwrap();
    symlink("usr/share", join("share")).unwrap();
    symlink("/etc/../../../etc/motd", join("out")).unwrap();
    symlink("round", join("round")).unwrap();
    symlink("/workspace/note", join("home/note")).unwrap();
    let base = make(
        dir,
        "base",
        &["-b", "4096", "-I", "256", "-O", "none,extent,ext_attr,filetype"],
        Some(&tree),
        "8M",
    );
    let disk = make(dir, "disk", MODERN, None, "24M");
    fs::write(dir.join("upper"), "upper").unwrap();
    let script = script.replace("UPPER", &dir.join("upper").display().to_string());
    debugfs(&disk, &format!("mkdir workspace\nmkdir .pyro\nmkdir .pyro/upper\nmkdir .pyro/work\n{script}"));
    Merged::new(open(&base), open(&disk)).unwrap()
}

fn list(merged: &Merged, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    merged
        .list(Path::new(path), true, &mut |file| {
            found.push(file.path.display().to_string());
            ControlFlow::Continue(())
        })
        .unwrap();
    found.retain(|path| path != "/lost+found");
    found
}

fn read(merged: &Merged, path: &str) -> String {
    String::from_utf8(merged.read(Path::new(path), 0, 1000).unwrap()).unwrap()
}

#[test]
fn an_untouched_disk_shows_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let merged = merged(dir.path(), "");
    let expected = [
        "/etc",
        "/etc/motd",
        "/etc/passwd",
        "/etc/same",
        "/home",
        "/home/note",
        "/opt",
        "/opt/kept",
        "/opt/kept/c",
        "/out",
        "/round",
        "/share",
        "/usr",
        "/usr/share",
        "/usr/share/doc",
        "/usr/share/doc/readme",
        "/var",
        "/var/old",
        "/var/old/a",
        "/var/old/b",
        "/workspace",
    ];
    assert_eq!(list(&merged, "/"), expected);
    assert_eq!(list(&merged, "share"), ["/usr/share/doc", "/usr/share/doc/readme"]);
    assert_eq!(list(&merged, "/etc/motd"), ["/etc/motd"]);
    assert_eq!(read(&merged, "/etc/passwd"), "base etc/passwd");
    let node = |path: &str| merged.find(Path::new(path)).unwrap();
    assert_eq!(node("/etc/passwd").inode().links(), 2);
    assert_eq!(node("/etc/passwd").inode().number(), node("/etc/same").inode().number());
    assert_eq!((node("/etc").layer(), node("/workspace").layer()), (Layer::Base, Layer::Disk));
}

#[test]
fn what_the_guest_did_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    // A file deleted, one replaced, one new; a directory deleted and made again; one deleted; one become a file.
    let merged = merged(
        dir.path(),
        "cd .pyro/upper\nmkdir etc\ncd etc\nmknod motd c 0 0\nwrite UPPER passwd\nwrite UPPER new\ncd ..\n\
         mkdir var\ncd var\nmkdir old\nea_set old trusted.overlay.opaque y\ncd old\nwrite UPPER z\ncd ../..\n\
         mknod opt c 0 0\nwrite UPPER home\nmkdir workspace\nwrite UPPER workspace/hidden\n\
         mknod null c 1 3\ncd /workspace\nwrite UPPER note\nmknod white c 0 0\nmkdir sub\n",
    );
    let expected = [
        "/etc",
        "/etc/new",
        "/etc/passwd",
        "/etc/same",
        "/home",
        "/null",
        "/out",
        "/round",
        "/share",
        "/usr",
        "/usr/share",
        "/usr/share/doc",
        "/usr/share/doc/readme",
        "/var",
        "/var/old",
        "/var/old/z",
        "/workspace",
        "/workspace/note",
        "/workspace/sub",
        "/workspace/white",
    ];
    assert_eq!(list(&merged, "/"), expected);
    assert_eq!(read(&merged, "/etc/passwd"), "upper");
    assert_eq!(read(&merged, "/etc/same"), "base etc/passwd");
    assert_eq!(read(&merged, "/workspace/note"), "upper");
    assert_eq!(merged.find(Path::new("/null")).unwrap().kind(), InodeKind::CharDevice(1, 3));
    for gone in ["/etc/motd", "/opt", "/opt/kept/c", "/var/old/a", "/workspace/hidden", "/out"] {
        let error = merged.find(Path::new(gone)).unwrap_err();
        assert!(matches!(error, DiskError::NotFound { .. }), "{gone}: {error}");
    }
    for path in expected {
        merged.find_link(Path::new(path)).unwrap();
    }
}

#[test]
fn a_renamed_directory_finds_its_lower_part() {
    let dir = tempfile::tempdir().unwrap();
    let merged = merged(
        dir.path(),
        "cd .pyro/upper\nmkdir moved\nea_set moved trusted.overlay.redirect /var/old\ncd moved\nmknod a c 0 0\ncd ..\n\
         mkdir beside\nea_set beside trusted.overlay.redirect etc\nmkdir odd\n\
         mkdir nowhere\nea_set nowhere trusted.overlay.redirect /no/such\n",
    );
    assert_eq!(list(&merged, "moved"), ["/moved/b"]);
    assert_eq!(read(&merged, "moved/b"), "base var/old/b");
    assert_eq!(list(&merged, "beside"), ["/beside/motd", "/beside/passwd", "/beside/same"]);
    assert!(list(&merged, "nowhere").is_empty());
    drop(merged);
    for odd in ["/../etc", "a/b", "..", "/"] {
        debugfs(
            &dir.path().join("disk"),
            &format!("ea_set .pyro/upper/odd trusted.overlay.redirect {odd}\n"),
        );
        let merged = Merged::new(open(&dir.path().join("base")), open(&dir.path().join("disk"))).unwrap();
        let error = merged.find(Path::new("/odd")).unwrap_err();
        assert!(matches!(error, DiskError::Damaged { .. }), "{odd}: {error}");
    }
}

#[test]
fn paths_stay_in_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let merged = merged(
        dir.path(),
        "cd workspace\nwrite UPPER note\nsymlink up ../../../../etc\nsymlink gone nothing\n",
    );
    assert_eq!(read(&merged, "/out"), "base etc/motd");
    assert_eq!(read(&merged, "../../etc/motd"), "base etc/motd");
    assert_eq!(read(&merged, "/home/note"), "upper");
    assert_eq!(read(&merged, "/workspace/up/motd"), "base etc/motd");
    assert_eq!(read(&merged, "/workspace/../share/doc/./readme"), "base usr/share/doc/readme");
    assert_eq!(merged.find_link(Path::new("/out")).unwrap().kind(), InodeKind::Symlink);
    assert_eq!(merged.find_link(Path::new("/share/")).unwrap().kind(), InodeKind::Directory);
    let error = |path: &str| merged.read(Path::new(path), 0, 10).unwrap_err();
    assert!(matches!(error("/round"), DiskError::Loop { .. }));
    assert!(matches!(error("/round/x"), DiskError::Loop { .. }));
    assert!(matches!(error("/etc"), DiskError::NotAFile { .. }));
    assert!(matches!(error("/etc/motd/x"), DiskError::NotADirectory { .. }));
    assert!(matches!(error("/etc/motd/.."), DiskError::NotADirectory { .. }));
    assert!(matches!(error("/etc/motd/"), DiskError::NotADirectory { .. }));
    assert!(
        matches!(error("/workspace/gone"), DiskError::NotFound { path } if path == Path::new("/workspace/nothing"))
    );
    assert_eq!(merged.read(Path::new("/etc/motd"), 5, 3).unwrap(), b"etc");
    assert_eq!(merged.read(Path::new("/etc/motd"), 100, 3).unwrap(), b"");
}

#[test]
fn a_listing_stops_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let merged = merged(dir.path(), "");
    let mut count = 0;
    merged
        .list(Path::new("/"), true, &mut |_| {
            count += 1;
            if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(count, 3);
}

/// Only the content may be elsewhere than its inode says when `metacopy` is on; it is not ours to guess.
#[test]
fn a_file_without_its_content_is_not_read_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    let merged = merged(
        dir.path(),
        "cd .pyro/upper\nmkdir etc\nwrite UPPER etc/motd\nea_set etc/motd trusted.overlay.metacopy x\n",
    );
    let error = merged.read(Path::new("/etc/motd"), 3, 10).unwrap_err();
    assert!(matches!(error, DiskError::Unsupported { .. }), "{error}");
}

#[test]
fn a_directory_in_two_places_ends_a_listing() {
    let dir = tempfile::tempdir().unwrap();
    let merged =
        merged(dir.path(), "cd workspace\nmkdir a\nlink a b\nmkdir a/c\nlink . a/c/up\nlink a a/c/a\n");
    let mut count = 0;
    let error = merged
        .list(Path::new("/workspace"), true, &mut |_| {
            count += 1;
            assert!(count < 100);
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("two places"), "{error}");
}

#[test]
fn a_copy_keeps_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("sparse");
    let file = File::create(&disk).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(&[3; 5000], 2 << 30).unwrap();
    file.set_len(3 << 30).unwrap();
    let merged = merged(dir.path(), &format!("cd workspace\nwrite {} sparse\n", disk.display()));
    let node = merged.find(Path::new("/workspace/sparse")).unwrap();
    let to = tempfile::tempfile().unwrap();
    let mut bytes = 0;
    let mut count = |more| {
        bytes += more;
        true
    };
    assert!(merged.copy(&node, &to, Path::new("copy"), &mut count).unwrap());
    assert!(bytes <= 5 * 4096, "{bytes}");
    assert_eq!(to.metadata().unwrap().len(), 3 << 30);
    let mut back = [0; 5001];
    to.read_exact_at(&mut back, (2 << 30) - 1).unwrap();
    assert!(back[0] == 0 && back[1..] == [3; 5000]);
    assert!(!merged.copy(&node, &to, Path::new("copy"), &mut |_| false).unwrap());
}
