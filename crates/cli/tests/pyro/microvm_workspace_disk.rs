//! What comes out of workspaces: exports, and disks of stopped ones.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::room::{Room, as_agreed, call, signal};
use crate::support::{Said, eventually, running};

fn refused(said: &Said, part: &str) {
    assert_eq!(said.code, Some(1), "{part}: {said:?}");
    assert!(said.err.contains(part), "{part}: {said:?}");
}

fn names(list: &Value) -> Vec<&str> {
    list["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect()
}

#[test]
fn exports_bring_trees_out_whole_and_nothing_else() {
    let room = Room::new();
    room.create("out");
    room.sh(
        "out",
        "mkdir -p t/sub; echo a > t/a; ln t/a t/hard; ln -s a t/sub/../l; chmod 640 t/a; touch -d @1500000000.25 t/a; \
         truncate -s 256M t/sparse; echo end >> t/sparse; mkfifo t/pipe; chmod 555 t/sub; mkdir bad; ln -s /etc bad/etc",
    );
    let dir = room.world.home.path();
    let target = dir.join("t");
    let to = target.to_str().unwrap();
    let exported = room.json(&["export", "out", "t", "--output", to]);
    as_agreed(&exported, "export_workspace");
    assert_eq!((&exported["workspace_path"], &exported["output_path"]), (&json!("/workspace/t"), &json!(to)));
    assert_eq!((&exported["artifact_type"], &exported["skipped_count"]), (&json!("directory"), &json!(1)));
    let stat = fs::metadata(target.join("a")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o640, 1_500_000_000, 250_000_000));
    assert_eq!(stat.ino(), fs::metadata(target.join("hard")).unwrap().ino());
    assert_eq!(fs::read_link(target.join("l")).unwrap().to_str(), Some("a"));
    let sparse = fs::metadata(target.join("sparse")).unwrap();
    assert_eq!(sparse.len(), (256 << 20) + 4);
    assert!(sparse.blocks() * 512 < 1 << 20, "{}", sparse.blocks());
    assert_eq!(fs::metadata(target.join("sub")).unwrap().mode() & 0o777, 0o555);
    let file = dir.join("file");
    let one = room.json(&["export", "out", "/workspace/t/a", "--output", file.to_str().unwrap()]);
    assert_eq!(
        (&one["artifact_type"], &one["entry_count"], &one["bytes_written"]),
        (&json!("file"), &json!(1), &json!(2))
    );

    let fresh = dir.join("fresh");
    let fresh = fresh.to_str().unwrap();
    for (path, output, part) in [
        ("t", to, "exists already"),
        ("bad", fresh, "leads out"),
        ("bad/etc", fresh, "symbolic link"),
        ("bad/etc/passwd", fresh, "leads out"),
        ("none", fresh, "none"),
        ("/etc", fresh, "not in the workspace"),
        ("t/pipe", fresh, "pipe"),
    ] {
        refused(&room.pyro(&["export", "out", path, "--output", output]), part);
    }
    // A front end that is interrupted removes what it has made so far.
    let mut child = room.world.start(&["workspace", "export", "out", "t", "--output", fresh]);
    let made = || {
        fs::read_dir(dir)
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with(".pyro-export-"))
    };
    eventually("it has begun", made);
    signal(child.id(), "-INT");
    child.wait().unwrap();
    assert!(!made() && !dir.join("fresh").exists(), "something was left");
    assert_eq!(room.sh("out", "echo alive"), "alive\n");
    room.ok(&["delete", "out"]);
    room.check_empty(&[]);
}

#[test]
fn the_disk_of_a_stopped_workspace_is_read_and_exported() {
    let room = Room::new();
    // With a keeper that stays after the stop, and with one that does not.
    for ttl in ["600", "0"] {
        let args = ["create", "debian:12-base", "--mem-mib", "256", "--name", "disk", "--ttl-seconds", ttl];
        room.ok(&args);
        room.sh(
            "disk",
            "echo mine > /etc/mine; rm /etc/issue; rm -r /etc/skel; mkdir /etc/skel; mkdir d; echo x > d/x; ln -s x d/l",
        );
        for args in [
            &["disk", "list", "disk"][..],
            &["disk", "read", "disk", "d/x"],
            &["disk", "export", "disk", "--output", "/nonexistent/x"],
        ] {
            refused(&room.pyro(args), "pyro workspace stop");
        }
        room.ok(&["stop", "disk"]);
        let list = room.json(&["disk", "list", "disk", "--recursive"]);
        as_agreed(&list, "list_workspace_disk");
        assert_eq!(names(&list), ["/workspace/d", "/workspace/d/l", "/workspace/d/x"]);
        assert_eq!((&list["entries"][1]["link_target"], &list["path"]), (&json!("x"), &json!("/workspace")));
        let etc = room.json(&["disk", "list", "disk", "/etc"]);
        assert!(names(&etc).contains(&"/etc/mine") && !names(&etc).contains(&"/etc/issue"), "{etc}");
        assert_eq!(names(&room.json(&["disk", "list", "disk", "/etc/skel"])), Vec::<&str>::new());
        let read = room.json(&["disk", "read", "disk", "d/l"]);
        as_agreed(&read, "read_workspace_disk");
        assert_eq!((&read["content"], &read["path"]), (&json!("x\n"), &json!("/workspace/d/l")));
        assert_eq!(room.ok(&["disk", "read", "disk", "/etc/mine", "--content-only"]).stdout(), "mine\n");
        refused(&room.pyro(&["disk", "read", "disk", "/etc/issue"]), "/etc/issue");
        refused(&room.pyro(&["disk", "read", "disk", "/etc"]), "not a regular file");
        let image = room.world.home.path().join(format!("disk-{ttl}.ext4"));
        let to = image.to_str().unwrap();
        let exported = room.json(&["disk", "export", "disk", "--output", to]);
        as_agreed(&exported, "export_workspace_disk");
        assert_eq!((&exported["disk_format"], &exported["output_path"]), (&json!("ext4"), &json!(to)));
        refused(&room.pyro(&["disk", "export", "disk", "--output", to]), "cannot be written");
        let checked = Command::new("e2fsck").args(["-fn", to]).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let shown = Command::new("debugfs").args(["-R", "cat /workspace/d/x", to]).output().unwrap();
        assert_eq!(shown.stdout, b"x\n");
        room.ok(&["start", "disk"]);
        assert_eq!(room.sh("disk", "cat d/l /etc/mine"), "x\nmine\n");
        room.ok(&["delete", "disk"]);
    }
    room.check_empty(&[]);
}

/// What a package manager does to directories of the image, as root: all of it in one shell line, which fails where a call
/// does. Perl makes the calls that no program of the image makes.
const RENAMES: &str = r#"
set -e
renameat2() { perl -e '
    my ($from, $to, $flags) = @ARGV;
    syscall(316, -100, $from, -100, $to, $flags + 0) == 0 or die "$from $to: $!\n"' "$@"; }
mkdir -p /usr/local/a/b
mv /usr/share/doc /usr/share/doc2
perl -e 'rename("/usr/share/doc2/base-files", "/usr/share/doc2/moved") or die "rename: $!\n"'
renameat2 /usr/share/bash-completion /usr/local/a/perl 1
mv /usr/local/a /usr/local/c
mv /usr/share/doc2 /usr/local/c/b/doc
mv /usr/local/c/perl /usr/local/c/b/doc/perl
renameat2 /usr/share/debconf /etc/apt 2
mkdir /usr/share/doc
echo new > /usr/share/doc/new
ln /usr/local/c/b/doc/moved/copyright /usr/local/hard
ln /etc/debian_version /usr/local/hard2
ln /workspace/none /usr/local/none 2> /dev/null && exit 1
chown -R 1000:1000 /usr/local/c
chown -R 0:0 /usr
echo changed >> /usr/local/c/b/doc/moved/copyright
test "$(stat -c %h /usr/local/hard)" = 2
"#;

/// The tree below these directories as the guest's own kernel sees it.
const SEEN: &str = "cd / && find /usr /etc -mindepth 1 | LC_ALL=C sort";

#[test]
fn directories_of_the_image_are_renamed_and_read_where_they_are() {
    let room = Room::new();
    room.create("moves");
    room.ok(&["snapshot", "create", "moves", "before"]);
    room.ok(&["exec", "moves", "--timeout-seconds", "300", "--", RENAMES]);
    let seen = room.sh("moves", SEEN);
    assert!(seen.contains("/usr/local/c/b/doc/moved/copyright\n"), "{seen}");
    room.ok(&["snapshot", "create", "moves", "after"]);
    room.ok(&["stop", "moves"]);

    let listed = |top: &str| room.json(&["disk", "list", "moves", top, "--recursive"]);
    let (usr, etc) = (listed("/usr"), listed("/etc"));
    let mut shown: Vec<_> = [names(&etc), names(&usr)].concat();
    shown.sort_unstable();
    let expected: Vec<_> = seen.lines().collect();
    let missing: Vec<_> = expected.iter().filter(|path| !shown.contains(path)).take(5).collect();
    assert!(shown == expected, "{} of {}, without {missing:?}", shown.len(), expected.len());
    let read = |path: &str| room.ok(&["disk", "read", "moves", path, "--content-only"]).stdout();
    assert!(read("/usr/local/c/b/doc/moved/copyright").ends_with("changed\n"));
    assert_eq!(read("/usr/local/hard"), read("/usr/local/c/b/doc/moved/copyright"));
    assert_eq!(read("/usr/share/doc/new"), "new\n");
    refused(&room.pyro(&["disk", "list", "moves", "/usr/local/a"]), "/usr/local/a");

    // Another kernel finds them again; so does one that begins with a snapshot, and a fork.
    room.ok(&["start", "moves"]);
    assert!(room.sh("moves", SEEN) == seen, "after a start");
    room.ok(&["reset", "moves", "--snapshot", "before"]);
    room.sh("moves", "test -d /usr/share/doc/base-files && ! test -e /usr/local/c");
    room.ok(&["reset", "moves", "--snapshot", "after"]);
    assert!(room.sh("moves", SEEN) == seen, "after a reset");
    let fork = room.ok(&["fork", "moves", "--id-only"]).stdout();
    assert!(room.sh(fork.trim(), SEEN) == seen, "in a fork");
    room.ok(&["delete", fork.trim()]);
    room.ok(&["delete", "moves"]);
    room.check_empty(&[]);
}

/// The next message on a keeper's socket.
fn message(keeper: &mut UnixStream) -> Value {
    let mut head = [0; 5];
    keeper.read_exact(&mut head).unwrap();
    let mut body = vec![0; u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize];
    keeper.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn nobody_starts_a_workspace_whose_disk_is_being_read() {
    let room = Room::new();
    let id = room.create("held");
    let hold = || {
        let mut keeper = UnixStream::connect(room.dir().join(&id).join("keeper.sock")).unwrap();
        let generation = message(&mut keeper)["generation"].clone();
        call(&mut keeper, &generation, "hold_disk", &json!({}));
        let answer = message(&mut keeper);
        (keeper, answer)
    };
    assert_eq!(hold().1["failed"]["kind"], "state");
    room.ok(&["stop", "held"]);
    let (keeper, answer) = hold();
    assert_eq!(answer, json!({"done": null}));
    // A start waits for that, what would undo it does not.
    let mut start = room.world.start(&["workspace", "start", "held"]);
    refused(&room.pyro(&["reset", "held"]), "its disk being copied");
    assert_eq!(room.state("held"), "stopped");
    assert!(start.try_wait().unwrap().is_none());
    drop(keeper);
    assert!(start.wait().unwrap().success());
    assert_eq!(room.sh("held", "echo up"), "up\n");
    room.ok(&["delete", "held"]);
    room.check_empty(&[]);
}

/// Bytes of data in the file that a process writes in `dir`, which may have no name there; `None` where it writes none.
fn written(pid: u32, dir: &Path) -> Option<u64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|fd| fd.path());
    let there = open.filter(|fd| fs::read_link(fd).is_ok_and(|file| file.starts_with(dir)));
    let files = there.filter_map(|fd| fs::metadata(fd).ok()).filter(fs::Metadata::is_file);
    files.map(|stat| stat.blocks() * 512).max()
}

#[test]
fn an_export_of_a_disk_that_is_killed_leaves_nothing() {
    let room = Room::new();
    room.create("cut");
    room.sh("cut", "head -c 100M /dev/urandom > big");
    room.ok(&["stop", "cut"]);
    let dir = room.world.home.path().join("out");
    fs::create_dir(&dir).unwrap();
    let dir = dir.canonicalize().unwrap();
    let to = dir.join("disk");
    // As the copy grows, and when it has its name.
    for least in [Some(0), Some(1), Some(16 << 20), Some(48 << 20), Some(96 << 20), None] {
        let child =
            room.world.start(&["workspace", "disk", "export", "cut", "--output", to.to_str().unwrap()]);
        let so_far = || match least {
            Some(least) => written(child.id(), &dir).is_some_and(|bytes| bytes >= least),
            None => to.exists(),
        };
        // Between two looks all of it may have been done.
        eventually("it has come so far", || so_far() || !running(child.id()));
        signal(child.id(), "-KILL");
        child.wait_with_output().unwrap();
        let left: Vec<_> = fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| name == "disk"), "killed after {least:?} bytes: {left:?}");
        let _ = fs::remove_file(&to);
    }
    room.ok(&["delete", "cut"]);
}
