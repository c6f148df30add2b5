//! Trees and files, into workspaces and out of them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::room::{Room, as_agreed, signal};
use crate::support::{Said, eventually, finish};

/// Made in the room's own directory.
fn place(room: &Room, name: &str) -> PathBuf {
    room.world.home.path().join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small tree with everything in it that a tree may have.
fn tree(room: &Room) -> PathBuf {
    let root = place(room, "tree");
    fs::create_dir_all(root.join("src/deep")).unwrap();
    fs::write(root.join("src/main.txt"), "one\ntwo\nthree").unwrap();
    fs::write(root.join("src/deep/gone.txt"), "gone\n").unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("bin"), [0, 1, 2, 255]).unwrap();
    fs::write(root.join("odd \"name\n"), "x\n").unwrap();
    symlink("src/main.txt", root.join("link")).unwrap();
    let touched =
        Command::new("touch").args(["-d", "2020-01-02T03:04:05", text(&root.join("run.sh"))]).status();
    assert!(touched.unwrap().success());
    root
}

fn seeded(room: &Room, name: &str, seed: &Path) -> Value {
    let args = ["create", "debian:12-base", "--mem-mib", "256", "--name", name, "--seed-path", text(seed)];
    room.json(&args)
}

fn run(program: &str, args: &[&str], dir: &Path, input: &[u8]) -> Said {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(std::process::Stdio::piped());
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    finish(child)
}

fn same(a: &Path, b: &Path) {
    let said = run("diff", &["-r", "--no-dereference", "-x", ".git", text(a), text(b)], Path::new("/"), b"");
    assert_eq!((said.code, said.stdout().as_str()), (Some(0), ""), "{said:?}");
}

fn diff(room: &Room, name: &str) -> Value {
    room.json(&["diff", name])
}

fn paths(diff: &Value) -> Vec<(String, String)> {
    let entry = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        (text("path"), text("status"))
    };
    diff["entries"].as_array().unwrap().iter().map(entry).collect()
}

fn refused(said: &Said, part: &str) {
    assert_eq!(said.code, Some(1), "{part}: {said:?}");
    assert!(said.err.contains(part), "{part}: {said:?}");
}

/// What the host reads by itself differs in the same way.
fn same_verified(room: &Room, workspace: &str, by_guest: &Value) {
    let mut verified = room.json(&["diff", "--verified", workspace]);
    assert_eq!(verified["verified"], json!(true));
    verified["verified"] = json!(false);
    assert_eq!(&verified, by_guest);
}

/// Root in the guest writes to the disk below its file system: nothing but the content shows that.
#[test]
fn a_verified_diff_shows_what_the_guest_hides() {
    let room = Room::new();
    let root = place(&room, "tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("f"), "honest-b1a5ed\n".repeat(400)).unwrap();
    fs::write(root.join("same"), "same\n").unwrap();
    seeded(&room, "hidden", &root);
    // FIBMAP, ioctl 1, tells the block that a file begins with.
    let overwrite = r#"sync; disk=$(awk '$2 == "/workspace" {print $1}' /proc/mounts)
        block=$(perl -e 'open F, "<f"; $b = pack("i", 0); ioctl(F, 1, $b) or die $!; print unpack("i", $b)')
        printf EVIL-- | dd of="$disk" bs=1 seek=$((block * 4096)) conv=notrunc,fsync 2>/dev/null
        echo 3 > /proc/sys/vm/drop_caches; head -c 13 f"#;
    assert_eq!(room.sh("hidden", overwrite), "EVIL---b1a5ed");
    // A plain one shows it only where it compares content for another reason, such as a file that was new at the beginning.
    let verified = room.ok(&["diff", "--verified", "hidden"]);
    assert!(
        verified.stdout().contains("+EVIL---b1a5ed") && verified.err.contains("verified"),
        "{verified:?}"
    );
    let verified = room.json(&["diff", "--verified", "hidden"]);
    assert_eq!(paths(&verified), [("f".into(), "modified".into())]);
    room.ok(&["stop", "hidden"]);
    assert_eq!(room.json(&["diff", "--verified", "hidden"])["patch"], verified["patch"]);
}

#[test]
fn a_path_that_is_too_long_is_named_and_the_rest_is_shown() {
    let room = Room::new();
    room.create("long");
    let name = "d".repeat(250);
    let deep = format!(
        "echo a > a; echo z > z; perl -e 'for (1..17) {{ mkdir \"{name}\"; chdir \"{name}\" or die }} open F, \">f\"; print F 1'"
    );
    room.sh("long", &deep);
    let said = room.ok(&["diff", "long"]);
    let patch = said.stdout();
    assert!(patch.contains("+++ b/a\n") && patch.contains("+++ b/z\n"), "{patch}");
    assert!(said.err.contains("left out: ddd") && said.err.contains("too long"), "{said:?}");
    let verified = room.json(&["diff", "--verified", "long"]);
    assert_eq!(verified["patch"].as_str().unwrap(), patch);
    assert_eq!(paths(&verified).len(), 17 + 3);
}

#[test]
fn a_seeded_workspace_differs_from_its_beginning_and_from_nothing_else() {
    let room = Room::new();
    let root = tree(&room);
    let created = seeded(&room, "seeded", &root);
    as_agreed(&created, "create_workspace");
    let seed = &created["workspace_seed"];
    assert_eq!((&seed["mode"], &seed["destination"]), (&json!("directory"), &json!("/workspace")));
    assert_eq!((&seed["seed_path"], &seed["entry_count"]), (&json!(text(&root)), &json!(8)));
    assert_eq!(
        room.sh("seeded", "./run.sh; stat -c %Y run.sh; readlink link"),
        "ran\n1577934245\nsrc/main.txt\n"
    );
    let clean = diff(&room, "seeded");
    assert_eq!((&clean["changed"], &clean["summary"]["total"]), (&json!(false), &json!(0)), "{clean}");

    // Touched, and the same: no difference. The rest of everything that can happen to a file.
    room.sh(
        "seeded",
        "touch run.sh; sed -i s/two/2/ src/main.txt; rm -r src/deep; printf 'a\\nb' > new.txt; echo y > 'odd \"name\n'; \
         printf '\\000new' > bin; ln -sfn run.sh link; mkdir -p more/empty; for i in 1 2 3 4 5 6 7 8 9; do echo $i > more/$i; done; \
         chmod 600 run.sh",
    );
    let said = room.ok(&["diff", "seeded"]);
    assert!(said.err.contains("[diff] modified file bin (binary)"), "{said:?}");
    let copy = place(&room, "copy");
    assert!(Command::new("cp").args(["-a", text(&root), text(&copy)]).status().unwrap().success());
    assert_eq!(run("git", &["init", "-q"], &copy, b"").code, Some(0));
    let applied = run("git", &["apply", "-"], &copy, &said.out);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let out = place(&room, "out");
    room.ok(&["export", "seeded", "/workspace", "--output", text(&out)]);
    // What no text can tell.
    fs::copy(out.join("bin"), copy.join("bin")).unwrap();
    fs::create_dir(copy.join("more/empty")).unwrap();
    same(&copy, &out);
    let changed = diff(&room, "seeded");
    as_agreed(&changed, "diff_workspace");
    let summary = &changed["summary"];
    assert_eq!(
        (&summary["modified"], &summary["deleted"], &summary["added"]),
        (&json!(5), &json!(2), &json!(12))
    );
    assert_eq!(changed["patch"].as_str().unwrap().as_bytes(), said.out);
    same_verified(&room, "seeded", &changed);

    // Whatever it is reset to, and after a stop, it is compared with its beginning.
    room.ok(&["snapshot", "create", "seeded", "later"]);
    room.sh("seeded", "rm -rf src link; echo z > z");
    assert_ne!(paths(&diff(&room, "seeded")), paths(&changed));
    room.ok(&["reset", "seeded", "--snapshot", "later"]);
    assert_eq!(diff(&room, "seeded")["patch"], changed["patch"]);
    room.ok(&["stop", "seeded"]);
    refused(&room.pyro(&["diff", "seeded"]), "pyro workspace start");
    same_verified(&room, "seeded", &changed);
    room.ok(&["start", "seeded"]);
    assert_eq!(diff(&room, "seeded")["patch"], changed["patch"]);
    let fork = room.ok(&["fork", "seeded", "--id-only"]).stdout().trim().to_owned();
    assert_eq!(diff(&room, &fork)["changed"], json!(false));
    room.sh(&fork, "echo fork > f");
    let forked = diff(&room, &fork);
    assert_eq!(paths(&forked), [("f".into(), "added".into())]);
    same_verified(&room, &fork, &forked);
    room.ok(&["reset", &fork]);
    assert_eq!(diff(&room, &fork)["changed"], json!(false));
    room.ok(&["reset", "seeded"]);
    assert_eq!(diff(&room, "seeded")["changed"], json!(false));
    let again = place(&room, "again");
    room.ok(&["export", "seeded", ".", "--output", text(&again)]);
    same(&root, &again);
    for id in [fork.as_str(), "seeded"] {
        room.ok(&["delete", id]);
    }
    room.check_empty(&[]);
}

#[test]
fn what_an_empty_workspace_has_is_new() {
    let room = Room::new();
    room.create("empty");
    assert_eq!(diff(&room, "empty")["changed"], json!(false));
    // A repository in it: git refuses patches of its own directory.
    room.sh(
        "empty",
        "mkdir .git d; echo x > .git/HEAD; for i in 1 2 3 4 5 6 7 8 9; do echo $i > d/$i; done; ln -s d/1 l",
    );
    room.ok(&["snapshot", "create", "empty", "one"]);
    let said = room.ok(&["diff", "empty"]);
    let host = place(&room, "host");
    fs::create_dir(&host).unwrap();
    assert_eq!(run("git", &["init", "-q"], &host, b"").code, Some(0));
    assert_eq!(run("git", &["apply", "-"], &host, &said.out).code, Some(0));
    let out = place(&room, "out");
    room.ok(&["export", "empty", "d", "--output", text(&out)]);
    same(&host.join("d"), &out);
    assert_eq!(fs::read_link(host.join("l")).unwrap(), Path::new("d/1"));
    room.ok(&["reset", "empty"]);
    assert_eq!(diff(&room, "empty")["changed"], json!(false));
    room.ok(&["reset", "empty", "--snapshot", "one"]);
    assert_eq!(room.ok(&["diff", "empty"]).out, said.out);
    room.ok(&["delete", "empty"]);
}

/// A tar archive made by Python, which writes whatever it is told.
fn hostile(room: &Room, name: &str, entry: &str) -> PathBuf {
    let path = place(room, name);
    let script = format!(
        "import tarfile, io\nt = tarfile.open({:?}, 'w')\ni = tarfile.TarInfo('good')\ni.size = 2\nt.addfile(i, io.BytesIO(b'ok'))\n\
         i = tarfile.TarInfo('bad')\n{entry}\nt.addfile(i)\nt.close()\n",
        text(&path)
    );
    let said = run("python3", &["-"], Path::new("/"), script.as_bytes());
    assert_eq!(said.code, Some(0), "{said:?}");
    path
}

#[test]
fn pushes_arrive_whole_or_not_at_all() {
    let room = Room::new();
    let root = tree(&room);
    room.create("push");
    room.sh("push", "echo stays > stays; mkdir -p to/src; echo old > to/src/main.txt");
    let pushed = room.json(&["sync", "push", "push", text(&root), "--dest", "to"]);
    as_agreed(&pushed, "push_workspace_sync");
    let sync = &pushed["workspace_sync"];
    assert_eq!((&sync["mode"], &sync["destination"]), (&json!("directory"), &json!("/workspace/to")));
    assert_eq!((&sync["source_path"], &sync["entry_count"]), (&json!(text(&root)), &json!(8)));
    assert_eq!(pushed["execution_mode"], "guest_vsock");
    for (name, flag) in [("t.tar", "-cf"), ("t.tar.gz", "-czf"), ("t.tgz", "-czf")] {
        let archive = place(&room, name);
        let made = Command::new("tar").args([flag, text(&archive), "-C", text(&root), "."]).status();
        assert!(made.unwrap().success());
        let pushed = room.json(&["sync", "push", "push", text(&archive), "--dest", "/workspace/tar"]);
        assert_eq!(pushed["workspace_sync"]["mode"], "tar_archive");
    }
    let out = place(&room, "out");
    room.ok(&["export", "push", "tar", "--output", text(&out)]);
    same(&root, &out);
    assert_eq!(room.sh("push", "cat stays to/src/main.txt"), "stays\none\ntwo\nthree");

    let all = "cd /workspace && find . | sort | md5sum";
    let before = room.sh("push", all);
    for (name, entry, part) in [
        ("absolute.tar", "i.name = '/etc/bad'", "absolute"),
        ("up.tar", "i.name = '../bad'", "`..`"),
        ("device.tar", "i.type = tarfile.CHRTYPE", "device"),
        ("link.tar", "i.type = tarfile.SYMTYPE; i.linkname = '/etc'", "leads out"),
        ("hard.tar", "i.type = tarfile.LNKTYPE; i.linkname = '../good'", "hard link"),
    ] {
        let archive = hostile(&room, name, entry);
        refused(&room.pyro(&["sync", "push", "push", text(&archive)]), part);
        let args = ["create", "debian:12-base", "--mem-mib", "256", "--seed-path", text(&archive)];
        refused(&room.pyro(&args), part);
    }
    let bytes = fs::read(place(&room, "t.tar")).unwrap();
    fs::write(place(&room, "cut.tar"), &bytes[..bytes.len() / 2]).unwrap();
    refused(&room.pyro(&["sync", "push", "push", text(&place(&room, "cut.tar"))]), "cut off");
    for dest in ["/etc", "../x", "/workspace/../etc"] {
        refused(&room.pyro(&["sync", "push", "push", text(&root), "--dest", dest]), "workspace");
    }
    refused(&room.pyro(&["sync", "push", "push", "/nonexistent"]), "/nonexistent");
    refused(&room.pyro(&["create", "debian:12-base", "--seed-path", "/nonexistent"]), "/nonexistent");
    // More than the disk holds.
    fs::create_dir(place(&room, "huge")).unwrap();
    fs::File::create(place(&room, "huge/file")).unwrap().set_len(17 << 30).unwrap();
    refused(&room.pyro(&["sync", "push", "push", text(&place(&room, "huge"))]), "more than");
    assert_eq!(room.sh("push", all), before);

    // A front end that dies on the way.
    fs::File::options().write(true).open(place(&room, "huge/file")).unwrap().set_len(4 << 30).unwrap();
    for number in ["-KILL", "-INT"] {
        let huge = place(&room, "huge");
        let mut child =
            room.world.start(&["workspace", "sync", "push", "push", text(&huge), "--dest", "half"]);
        eventually("the guest has some of it", || {
            room.json(&["status", "push"])["last_activity_at"].as_f64().unwrap() > 0.0
                && fs::read_to_string(format!("/proc/{}/io", child.id())).is_ok_and(|io| {
                    io.lines().any(|line| {
                        line.strip_prefix("rchar: ").is_some_and(|n| n.parse::<u64>().unwrap() > 256 << 20)
                    })
                })
        });
        signal(child.id(), number);
        child.wait().unwrap();
        assert_eq!(room.sh("push", all), before);
    }
    assert_eq!(room.json(&["list"])["count"], 1, "a refused seed leaves nothing");
    room.ok(&["delete", "push"]);
    room.check_empty(&[]);
}

#[test]
fn files_are_listed_read_and_written() {
    let room = Room::new();
    room.create("files");
    let written = room.json(&["file", "write", "files", "a/b/c.txt", "--text", "-über\n"]);
    as_agreed(&written, "write_workspace_file");
    assert_eq!((&written["path"], &written["bytes_written"]), (&json!("/workspace/a/b/c.txt"), &json!(7)));
    let long = place(&room, "long");
    fs::write(&long, vec![b'x'; 5 << 20]).unwrap();
    room.ok(&["file", "write", "files", "/workspace/long", "--text-file", text(&long)]);
    let said = room.world.pyro_with_input(
        &["workspace", "file", "write", "files", "a/b/c.txt", "--text-file", "-"],
        b"\xffnew",
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    room.sh("files", "ln -s a/b/c.txt link; ln -s /etc/passwd out; chmod 640 long");
    let list = room.json(&["file", "list", "files"]);
    as_agreed(&list, "list_workspace_files");
    assert_eq!((&list["path"], &list["recursive"]), (&json!("/workspace"), &json!(false)));
    let entry = |list: &Value, n: usize| {
        let entry = &list["entries"][n];
        (
            entry["path"].clone(),
            entry["artifact_type"].clone(),
            entry["size_bytes"].clone(),
            entry["link_target"].clone(),
        )
    };
    assert_eq!(entry(&list, 1), (json!("/workspace/link"), json!("symlink"), json!(9), json!("a/b/c.txt")));
    assert_eq!(entry(&list, 2), (json!("/workspace/long"), json!("file"), json!(5 << 20), Value::Null));
    let list = room.json(&["file", "list", "files", "a", "--recursive"]);
    assert_eq!(entry(&list, 1).0, json!("/workspace/a/b/c.txt"));
    assert_eq!(list["entries"].as_array().unwrap().len(), 2);

    let read = room.json(&["file", "read", "files", "link"]);
    as_agreed(&read, "read_workspace_file");
    assert_eq!((&read["content"], &read["truncated"]), (&json!("\u{fffd}new"), &json!(false)));
    assert_eq!(read["encoding"], json!("utf-8-replaced"));
    let read = room.json(&["file", "read", "files", "link", "--base64"]);
    assert_eq!((&read["content"], &read["encoding"]), (&json!("/25ldw=="), &json!("base64")));
    assert_eq!(room.ok(&["file", "read", "files", "link", "--content-only"]).out, b"\xffnew");
    let read = room.json(&["file", "read", "files", "long", "--max-bytes", "3"]);
    assert_eq!(
        (&read["content"], &read["truncated"], &read["size_bytes"]),
        (&json!("xxx"), &json!(true), &json!(5 << 20))
    );
    for (args, part) in [
        (&["file", "read", "files", "out"][..], "leads out"),
        (&["file", "read", "files", "/etc/passwd"], "not in the workspace"),
        (&["file", "read", "files", "../etc/passwd"], "`..`"),
        (&["file", "read", "files", "nothing"], "nothing"),
        (&["file", "read", "files", "a"], "irectory"),
        (&["file", "write", "files", "out", "--text", "x"], "leads out"),
        (&["file", "write", "files", "a/b/c.txt/d", "--text", "x"], "irectory"),
        (&["file", "list", "files", "/"], "not in the workspace"),
        (&["export", "files", "out", "--output", "/nonexistent/x"], "nonexistent"),
    ] {
        refused(&room.pyro(args), part);
    }
    assert_eq!(room.pyro(&["file", "write", "files", "x"]).code, Some(2));
    assert_eq!(room.sh("files", "head -c 4 /etc/passwd; stat -c %a long"), "root640\n");
    room.ok(&["stop", "files"]);
    let read = room.json(&["disk", "read", "files", "/workspace/link", "--base64"]);
    assert_eq!((&read["content"], &read["encoding"]), (&json!("/25ldw=="), &json!("base64")));
    let read = room.json(&["disk", "read", "files", "/workspace/long", "--max-bytes", "3"]);
    assert_eq!((&read["content"], &read["encoding"]), (&json!("xxx"), &json!("utf-8")));
    refused(&room.pyro(&["file", "list", "files"]), "pyro workspace start");
    room.ok(&["delete", "files"]);
}

#[test]
fn patches_are_applied_whole_or_not_at_all() {
    let room = Room::new();
    let root = tree(&room);
    seeded(&room, "patch", &root);
    let patch = "diff --git a/src/main.txt b/src/moved.txt\nrename from src/main.txt\nrename to src/moved.txt\n--- a/src/main.txt\n\
                 +++ b/src/moved.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n\\ No newline at end of file\n\
                 --- a/src/deep/gone.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n\
                 --- /dev/null\n+++ b/src/deep/er/new.txt\n@@ -0,0 +1 @@\n+new\n";
    let broken =
        format!("{patch}--- a/run.sh\n+++ b/run.sh\n@@ -1,2 +1,2 @@\n #!/bin/sh\n-echo walked\n+echo sat\n");
    let said = room.pyro(&["patch", "apply", "patch", "--patch", &broken]);
    refused(&said, "run.sh: hunk 1 (@@ -1,2 +1,2 @@), line 22 of the patch: the file has no such lines");
    assert_eq!(diff(&room, "patch")["changed"], json!(false));
    let file = place(&room, "p.patch");
    fs::write(&file, patch).unwrap();
    let applied = room.json(&["patch", "apply", "patch", "--patch-file", text(&file)]);
    as_agreed(&applied, "apply_workspace_patch");
    assert_eq!((&applied["changed"], &applied["patch"]), (&json!(true), &json!(patch)));
    assert_eq!(applied["summary"], json!({"total": 4, "added": 2, "modified": 0, "deleted": 2}));
    assert_eq!(
        room.sh("patch", "cat src/moved.txt src/deep/er/new.txt; ls src src/deep"),
        "one\nzwei\nthreenew\ndeep\nmoved.txt\n\nsrc/deep:\ner\n".replacen(
            "deep\nmoved",
            "src:\ndeep\nmoved",
            1
        )
    );
    for (text, part) in [
        ("--- a/x\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n", "../x"),
        ("--- /dev/null\n+++ b/link/x\n@@ -0,0 +1 @@\n+x\n", "not a directory"),
        ("no patch\n", "no unified diff"),
        ("--- a/nothing\n+++ b/nothing\n@@ -1 +1 @@\n-a\n+b\n", "no such file"),
    ] {
        refused(&room.pyro(&["patch", "apply", "patch", "--patch", text]), part);
    }
    // What a diff says goes back in by a patch.
    let said = room.ok(&["diff", "patch"]);
    room.ok(&["reset", "patch"]);
    let again =
        room.world.pyro_with_input(&["workspace", "patch", "apply", "patch", "--patch-file", "-"], &said.out);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(room.ok(&["diff", "patch"]).out, said.out);
    // An executable stays one, and permissions that git does not know of stay too.
    room.sh("patch", "chmod 750 run.sh");
    room.ok(&[
        "patch",
        "apply",
        "patch",
        "--patch",
        "--- a/run.sh\n+++ b/run.sh\n@@ -1,2 +1,2 @@\n #!/bin/sh\n-echo ran\n+echo sat\n",
    ]);
    assert_eq!(room.sh("patch", "./run.sh; stat -c %a run.sh"), "sat\n750\n");
    // In the other format, with an absolute path; what may be meant in two places is refused with both.
    room.sh("patch", "printf 'def f():\\n  x = 1\\ndef g():\\n  x = 1\\n' > two.py");
    let begin = |anchor: &str| {
        format!(
            "*** Begin Patch\n*** Update File: /workspace/two.py\n*** Move to: src/three.py\n@@{anchor}\n-  x = 1\n\
             +  x = 2\n*** Add File: added\n+one\n*** Delete File: run.sh\n*** End Patch\n"
        )
    };
    let said = room.pyro(&["patch", "apply", "patch", "--patch", &begin("")]);
    refused(
        &said,
        "src/three.py: hunk 1 (@@), line 4 of the patch: it fits in several places, such as at lines 2, 4",
    );
    let applied = room.json(&["patch", "apply", "patch", "--patch", &begin(" def g")]);
    assert_eq!(applied["summary"], json!({"total": 4, "added": 2, "modified": 0, "deleted": 2}));
    assert_eq!(
        room.sh("patch", "cat src/three.py added; ls run.sh two.py 2>/dev/null || true"),
        "def f():\n  x = 1\ndef g():\n  x = 2\none\n"
    );
    room.ok(&["delete", "patch"]);
}
