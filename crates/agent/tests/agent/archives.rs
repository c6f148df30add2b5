//! Trees in and out, and archives that mean harm.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::batches::tree;
use crate::support::*;
use pyro_proto::frame::{self, Channel};
use pyro_proto::message::*;
use tar::{Builder, EntryType, Header};

fn put(dest: &str) -> Request {
    Request::TreePut(TreePut { dest: dest.into(), max_entries: 100_000, max_bytes: 1 << 32 })
}

/// Appends an entry, whatever its name: names are written as they are, without the builder's checks.
fn raw(archive: &mut Vec<u8>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    archive.extend(header.as_bytes());
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn finish(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn one(kind: EntryType, path: &str, link: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    raw(&mut archive, EntryType::Regular, "innocent", "", b"x");
    raw(&mut archive, kind, path, link, b"");
    finish(archive)
}

#[test]
fn a_tree_goes_in_and_comes_out_the_same() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("s");
        let long = "n".repeat(200);
        fs::create_dir_all(source.join("a/b").join(&long)).unwrap();
        fs::create_dir(source.join("empty")).unwrap();
        fs::write(source.join("a/file"), "content").unwrap();
        fs::write(source.join("a/b").join(&long).join("deep"), vec![b'y'; 2_000_000]).unwrap();
        fs::hard_link(source.join("a/file"), source.join("z")).unwrap();
        symlink("../a/file", source.join("a/link")).unwrap();
        fs::set_permissions(source.join("a/file"), fs::Permissions::from_mode(0o751)).unwrap();
        fs::write(source.join("read-only"), "r").unwrap();
        fs::set_permissions(source.join("read-only"), fs::Permissions::from_mode(0o4444)).unwrap();
        fs::set_permissions(source.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
        let sparse = fs::File::create(source.join("sparse")).unwrap();
        sparse.set_len(5_000_000).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"end", 4_000_000).unwrap();
        let mut builder = Builder::new(Vec::new());
        builder.follow_symlinks(false);
        builder.append_dir_all("", &source).unwrap();
        let archive = builder.into_inner().unwrap();
        let (_, replies) = client.ask(&put("in/side"), &archive).await;
        let Some(Reply::Put(amount)) = replies.last() else { panic!("{replies:?}") };
        assert!(amount.entries >= 9 && amount.bytes >= 5_200_000, "{amount:?}");
        assert!(replies.iter().any(|reply| matches!(reply, Reply::Progress(_))));
        assert!(agent.staged().is_empty());
        let inside = agent.workspace("in/side");
        assert!(tree(&inside) == tree(&source));
        let stat = |path: &str| fs::metadata(inside.join(path)).unwrap();
        assert_eq!(stat("a/file").mtime(), fs::metadata(source.join("a/file")).unwrap().mtime());
        assert_eq!(stat("a").mtime(), fs::metadata(source.join("a")).unwrap().mtime());
        assert!(stat("sparse").blocks() * 512 < 1_000_000);
        fs::remove_file(inside.join("z")).unwrap();
        fs::hard_link(inside.join("a/file"), inside.join("z")).unwrap();
        // And out again, with what no archive holds.
        let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
        let (bytes, replies) = client.ask(&Request::TreeGet { path: "in/side".into() }, b"").await;
        let Some(Reply::Got { sent, skipped: 1 }) = replies.last() else { panic!("{replies:?}") };
        assert!(sent.bytes >= 5_200_000);
        let out = folder.path().join("out");
        let mut archive = tar::Archive::new(&bytes[..]);
        archive.set_preserve_permissions(true);
        archive.unpack(&out).unwrap();
        fs::remove_file(inside.join("socket")).unwrap();
        assert!(tree(&out.join("side")) == tree(&source));
        let nlink = |path: &str| fs::metadata(out.join("side").join(path)).unwrap().nlink();
        assert_eq!((nlink("z"), nlink("a/file")), (2, 2));
        // Times to the nanosecond.
        let exact = fs::metadata(inside.join("z")).unwrap();
        fs::File::options()
            .write(true)
            .open(inside.join("z"))
            .unwrap()
            .set_modified(exact.modified().unwrap() + std::time::Duration::from_nanos(7))
            .unwrap();
        let (bytes, _) = client.ask(&Request::TreeGet { path: "in/side/z".into() }, b"").await;
        client.last(&put("again"), &bytes).await;
        let again = fs::metadata(agent.workspace("again/z")).unwrap();
        let wanted = fs::metadata(inside.join("z")).unwrap();
        assert_eq!((again.mtime(), again.mtime_nsec()), (wanted.mtime(), wanted.mtime_nsec()));
        // A single link, and nothing else.
        let (bytes, _) = client.ask(&Request::TreeGet { path: "in/side/a/link".into() }, b"").await;
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.link_name().unwrap().unwrap().to_str(), Some("../a/file"));
        let missing = Request::TreeGet { path: "none".into() };
        assert_eq!(client.refused(&missing, b"").await, FailureKind::NotFound);
    });
}

#[test]
fn what_is_there_stays_but_for_what_the_archive_has() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        fs::create_dir_all(agent.workspace("d/kept")).unwrap();
        fs::write(agent.workspace("d/old"), "old").unwrap();
        fs::write(agent.workspace("d/stays"), "stays").unwrap();
        symlink("/etc/passwd", agent.workspace("d/link")).unwrap();
        let mut archive = Vec::new();
        raw(&mut archive, EntryType::Regular, "d/old", "", b"new");
        raw(&mut archive, EntryType::Regular, "d/link", "", b"file");
        raw(&mut archive, EntryType::Regular, "d/kept/x", "", b"twice");
        raw(&mut archive, EntryType::Regular, "./d/kept/x", "", b"x");
        raw(&mut archive, EntryType::Directory, "e/", "", b"");
        assert!(matches!(client.last(&put(""), &finish(archive)).await, Reply::Put(_)));
        let tree: Vec<_> =
            tree(&agent.workspace("")).into_iter().map(|(path, (_, text))| (path, text)).collect();
        let wanted = [
            ("d", "/"),
            ("d/kept", "/"),
            ("d/kept/x", "x"),
            ("d/link", "file"),
            ("d/old", "new"),
            ("d/stays", "stays"),
            ("e", "/"),
        ];
        assert_eq!(tree, wanted.map(|(path, text)| (path.to_owned(), text.to_owned())));
        assert!(agent.staged().is_empty());
    });
}

#[test]
fn a_conflict_at_the_end_undoes_everything() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        fs::create_dir_all(agent.workspace("d/sub")).unwrap();
        fs::write(agent.workspace("d/a"), "a").unwrap();
        fs::write(agent.workspace("file"), "file").unwrap();
        symlink("d", agent.workspace("zlink")).unwrap();
        let before = tree(&agent.workspace(""));
        for (last, kind, wanted) in [
            ("file/x", EntryType::Regular, FailureKind::NotDirectory),
            ("zlink/x", EntryType::Regular, FailureKind::NotDirectory),
            ("d", EntryType::Regular, FailureKind::IsDirectory),
            ("d/sub", EntryType::Regular, FailureKind::IsDirectory),
        ] {
            let mut archive = Vec::new();
            if last != "d" {
                raw(&mut archive, EntryType::Directory, "d/", "", b"");
                raw(&mut archive, EntryType::Regular, "d/a", "", b"changed");
                raw(&mut archive, EntryType::Regular, "d/new", "", b"new");
            }
            raw(&mut archive, EntryType::Regular, "0/first", "", b"new");
            raw(&mut archive, kind, last, "", b"");
            assert_eq!(client.refused(&put(""), &finish(archive)).await, wanted, "{last}");
            assert_eq!(tree(&agent.workspace("")), before, "{last}");
        }
        let archive = one(EntryType::Regular, "x", "");
        assert_eq!(client.refused(&put("file/below"), &archive).await, FailureKind::NotDirectory);
        assert_eq!(client.refused(&put("../out"), &archive).await, FailureKind::OutsideWorkspace);
        assert_eq!(tree(&agent.workspace("")), before);
        assert!(agent.staged().is_empty());
    });
}

#[test]
fn hostile_archives_change_nothing() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        fs::write(agent.workspace("mine"), "mine").unwrap();
        let before = tree(&agent.workspace(""));
        use EntryType::*;
        for (kind, path, link) in [
            (Regular, "/etc/evil", ""),
            (Regular, "/workspace/evil", ""),
            (Regular, "../evil", ""),
            (Regular, "a/../../evil", ""),
            (Directory, "../evil/", ""),
            (Directory, "..", ""),
            (Symlink, "l", "/etc"),
            (Symlink, "l", "../.."),
            (Symlink, "a/l", "../../x"),
            (Symlink, "l", "a/../../x"),
            (Symlink, "l", "/workspace/../etc"),
            (Symlink, "l", ""),
            (Symlink, "../l", "x"),
            (Link, "h", "/etc/passwd"),
            (Link, "h", "../mine"),
            (Link, "h", "mine"),
            (Link, "h", ""),
            (Char, "null", ""),
            (Block, "disk", ""),
            (Fifo, "pipe", ""),
            (EntryType::new(b'?'), "odd", ""),
        ] {
            let refused = client.refused(&put(""), &one(kind, path, link)).await;
            assert_eq!(refused, FailureKind::BadArchive, "{kind:?} {path} {link}");
            assert_eq!(tree(&agent.workspace("")), before, "{kind:?} {path} {link}");
        }
        // A link of its own that is then used as a directory, and a hard link through it.
        for (kind, path, link) in [(Regular, "l/x", ""), (Directory, "l/x", ""), (Link, "h", "l/innocent")] {
            let mut archive = Vec::new();
            raw(&mut archive, Directory, "d/", "", b"");
            raw(&mut archive, Regular, "d/innocent", "", b"");
            raw(&mut archive, Symlink, "l", "d", b"");
            raw(&mut archive, kind, path, link, b"");
            assert_eq!(client.refused(&put(""), &finish(archive)).await, FailureKind::BadArchive, "{path}");
        }
        // Bombs: by number, by size, by a size that is only said, by depth.
        let small =
            |max_entries, max_bytes| Request::TreePut(TreePut { dest: "".into(), max_entries, max_bytes });
        let mut archive = Vec::new();
        for at in 0..20 {
            raw(&mut archive, Regular, &format!("f{at}"), "", &[b'x'; 1000]);
        }
        let archive = finish(archive);
        assert_eq!(client.refused(&small(19, 1 << 20), &archive).await, FailureKind::TooLarge);
        assert_eq!(client.refused(&small(20, 19_999), &archive).await, FailureKind::TooLarge);
        let mut huge = Header::new_gnu();
        huge.set_path("huge").unwrap();
        huge.set_size(1 << 60);
        huge.set_mode(0o644);
        huge.set_mtime(0);
        huge.set_cksum();
        assert_eq!(client.refused(&put(""), huge.as_bytes()).await, FailureKind::TooLarge);
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_data(&mut header, "d/".repeat(1000) + "f", std::io::empty()).unwrap();
        assert_eq!(client.refused(&put(""), &builder.into_inner().unwrap()).await, FailureKind::BadArchive);
        // Cut anywhere, or no archive at all.
        for cut in [100, 511, 700, 1600, 5000] {
            let cut = client.refused(&put(""), &archive[..cut]).await;
            assert_eq!(cut, FailureKind::BadArchive);
        }
        let mut noise = vec![0; 20_000];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
        assert_eq!(client.refused(&put(""), &noise).await, FailureKind::BadArchive);
        assert_eq!(tree(&agent.workspace("")), before);
        assert!(agent.staged().is_empty());
        assert!(!agent.disk("evil").exists() && !std::path::Path::new("/etc/evil").exists());
    });
}

#[test]
fn an_archive_that_is_cut_off_changes_nothing() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        fs::write(agent.workspace("mine"), "mine").unwrap();
        let mut archive = Vec::new();
        for at in 0..50 {
            raw(&mut archive, EntryType::Regular, &format!("f{at}"), "", &[b'x'; 10_000]);
        }
        // Whole, but for the word that it is.
        let archive = finish(archive);
        let mut stream = client.open().await;
        frame::send(&mut stream, &put("")).await.unwrap();
        let (read, write) = futures::io::AsyncReadExt::split(stream);
        let mut call = Call { frames: frame::FrameReader::new(read), write };
        call.feed(&archive).await;
        until(|| !agent.staged().is_empty()).await;
        drop((call, client));
        agent.is_childless().await;
        assert!(agent.staged().is_empty());
        assert_eq!(tree(&agent.workspace("")).len(), 1);
    });
}

#[test]
fn what_a_dead_guest_left_half_done_is_swept() {
    run(async {
        let agent = Agent::with_disk();
        let left = agent.disk(".pyro/stage/17/tree/a/b");
        // The agent has swept once it listens; this is for the next one.
        drop(agent.client().await);
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("f"), "").unwrap();
        let socket = agent.disk("second.sock");
        let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_pyro-agent"))
            .arg("--socket")
            .arg(&socket)
            .arg("--disk")
            .arg(agent.disk(""))
            .spawn()
            .unwrap();
        until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        assert!(agent.staged().is_empty());
        second.kill().unwrap();
        second.wait().unwrap();
    });
}

/// Much passes through little memory, and what is slow to read holds nobody up.
#[test]
fn large_trees_pass_through_little_memory() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let mut big = fs::File::create(agent.workspace("big")).unwrap();
        std::io::copy(&mut std::io::repeat(b'x').take(200_000_000), &mut big).unwrap();
        let mut stream = client.open().await;
        frame::send(&mut stream, &Request::TreeGet { path: "".into() }).await.unwrap();
        let mut frames = frame::FrameReader::new(stream);
        let mut bytes = 0;
        assert_eq!(client.sh("echo ok").await.text(), "ok\n");
        loop {
            let (channel, body) = frames.next(frame::MAX_MESSAGE).await.unwrap().unwrap();
            if channel == Channel::Message {
                assert!(matches!(frame::decode(body).unwrap(), Reply::Got { skipped: 0, .. }));
                break;
            }
            bytes += body.len();
        }
        assert!(bytes > 200_000_000);
        assert!(agent.resident_kib() < 40_000, "{}", agent.resident_kib());
    });
}
