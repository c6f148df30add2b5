//! Files: what is done with one of them, and that nothing outside the workspace can be reached.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::support::*;
use pyro_proto::frame;
use pyro_proto::message::*;

fn write(path: &str) -> Request {
    Request::FileWrite { path: path.into(), mode: None, parents: false }
}

fn read(path: &str) -> Request {
    Request::FileRead { path: path.into(), offset: 0, limit: u64::MAX }
}

fn stat(path: &str) -> Request {
    Request::FileStat { path: path.into() }
}

async fn list(client: &Client, path: &str, recursive: bool) -> Vec<FileEntry> {
    let (_, replies) = client.ask(&Request::FileList { path: path.into(), recursive }, b"").await;
    let mut all = Vec::new();
    for reply in replies {
        match reply {
            Reply::Entries(entries) => all.extend(entries),
            Reply::Listed { truncated } => assert!(!truncated),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn files_are_written_whole_and_read_back() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        match client.last(&write("big"), &big).await {
            Reply::Stat(entry) => {
                assert_eq!((entry.size, entry.mode, entry.kind), (3_000_000, 0o644, FileKind::File))
            }
            other => panic!("{other:?}"),
        }
        assert!(fs::read(agent.workspace("big")).unwrap() == big);
        let (bytes, replies) = client.ask(&read("/workspace/./big"), b"").await;
        assert!(bytes == big && replies.len() == 2 && replies[1] == Reply::Done, "{replies:?}");
        let part = Request::FileRead { path: "big".into(), offset: 2_999_990, limit: 4 };
        assert_eq!(client.ask(&part, b"").await.0, big[2_999_990..2_999_994]);
        let past = Request::FileRead { path: "big".into(), offset: 4_000_000, limit: 4 };
        assert_eq!(client.ask(&past, b"").await.0, b"");
        let most = i64::MAX as u64;
        for (offset, limit) in [(most, 4), (most - 1, 4), (most, u64::MAX)] {
            let far = Request::FileRead { path: "big".into(), offset, limit };
            let (bytes, replies) = client.ask(&far, b"").await;
            assert!(bytes.is_empty() && replies.last() == Some(&Reply::Done), "{offset}: {replies:?}");
        }
        for offset in [most + 1, u64::MAX] {
            let nowhere = Request::FileRead { path: "big".into(), offset, limit: 4 };
            assert_eq!(client.refused(&nowhere, b"").await, FailureKind::BadRequest, "{offset}");
        }
        // A file that is replaced keeps its permissions, and its other names their content.
        fs::set_permissions(agent.workspace("big"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::hard_link(agent.workspace("big"), agent.workspace("other")).unwrap();
        client.last(&write("big"), b"small").await;
        assert_eq!(mode(&agent.workspace("big")), 0o4750);
        assert_eq!(fs::read(agent.workspace("big")).unwrap(), b"small");
        assert_eq!(fs::metadata(agent.workspace("other")).unwrap().len(), 3_000_000);
        let set = Request::FileWrite { path: "deep/down/new".into(), mode: Some(0o600), parents: true };
        assert!(matches!(client.last(&set, b"").await, Reply::Stat(_)));
        assert_eq!(mode(&agent.workspace("deep/down/new")), 0o600);
        assert_eq!(client.refused(&write("no/such/place"), b"x").await, FailureKind::NotFound);
        assert_eq!(client.refused(&write("deep"), b"x").await, FailureKind::IsDirectory);
        assert_eq!(client.refused(&write("big/x"), b"x").await, FailureKind::NotDirectory);
        assert_eq!(client.refused(&write(""), b"x").await, FailureKind::IsDirectory);
        assert_eq!(client.refused(&read("deep"), b"").await, FailureKind::IsDirectory);
        assert_eq!(client.refused(&read("none"), b"").await, FailureKind::NotFound);
        assert!(agent.staged().is_empty());
    });
}

#[test]
fn listings_are_sorted_and_say_what_things_are() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        fs::create_dir_all(agent.workspace("b/c")).unwrap();
        fs::write(agent.workspace("b/c/file"), "12345").unwrap();
        fs::write(agent.workspace("b-1"), "").unwrap();
        fs::write(agent.workspace("a\n"), "").unwrap();
        symlink("/etc/passwd", agent.workspace("b/link")).unwrap();
        let paths = |entries: Vec<FileEntry>| -> Vec<String> {
            entries.into_iter().map(|entry| String::from_utf8(entry.path.0).unwrap()).collect()
        };
        assert_eq!(paths(list(&client, "", false).await), ["a\n", "b", "b-1"]);
        let all = list(&client, ".", true).await;
        assert_eq!(all[4].target, Some("/etc/passwd".into()));
        assert_eq!((all[4].kind, all[3].size, all[1].kind), (FileKind::Link, 5, FileKind::Directory));
        assert_eq!(paths(all), ["a\n", "b", "b/c", "b/c/file", "b/link", "b-1"]);
        assert_eq!(paths(list(&client, "b/c", true).await), ["b/c/file"]);
        assert_eq!(paths(list(&client, "b/c/file", true).await), ["b/c/file"]);
        for at in 0..3000 {
            fs::write(agent.workspace(&format!("b/c/{at:04}-{}", "x".repeat(150))), "").unwrap();
        }
        assert_eq!(list(&client, "b/c", false).await.len(), 3001);
    });
}

#[test]
fn what_is_deeper_than_trees_are_walked_is_not_listed() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let deep = agent.workspace("deep");
        fs::create_dir(&deep).unwrap();
        let line =
            "cd \"$0\" && i=0 && while [ $i -lt 700 ]; do mkdir d && cd d && : > f && i=$((i+1)); done";
        let made = client.run(&["/bin/sh", "-c", line, deep.to_str().unwrap()]).await;
        assert_eq!(made.code(), 0);
        let all = Request::FileList { path: "".into(), recursive: true };
        assert_eq!(client.refused(&all, b"").await, FailureKind::TooLarge);
    });
}

#[test]
fn no_path_leads_out() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let outside = agent.disk("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        fs::create_dir(agent.workspace("dir")).unwrap();
        fs::write(agent.workspace("dir/inner"), "inner").unwrap();
        for (target, name) in [
            ("../outside", "up"),
            ("../outside/secret", "up-file"),
            ("/etc", "absolute"),
            ("/proc/self/root/etc", "magic"),
            ("dir/../../outside", "round"),
            ("dir/inner", "good"),
            ("../good", "dir/back"),
            ("../outside/new", "dangling"),
        ] {
            symlink(target, agent.workspace(name)).unwrap();
        }
        const OUT: FailureKind = FailureKind::OutsideWorkspace;
        for path in [
            "../outside/secret",
            "dir/../../outside/secret",
            "/etc/passwd",
            "/workspace/../outside/secret",
            "up/secret",
            "up-file",
            "absolute/passwd",
            "magic/passwd",
            "round/secret",
        ] {
            assert_eq!(client.refused(&read(path), b"").await, OUT, "read {path}");
            assert_eq!(client.refused(&write(path), b"x").await, OUT, "write {path}");
        }
        for path in ["up/secret", "absolute/passwd", "../x", "/etc/x"] {
            assert_eq!(client.refused(&stat(path), b"").await, OUT, "stat {path}");
            let delete = |path: &str| {
                let ops = vec![FileOp::Delete { path: path.into() }];
                Request::FileBatch(FileBatch { ops, prune: false })
            };
            assert_eq!(client.refused(&delete(path), b"").await, OUT, "delete {path}");
            let made = Request::FileWrite { path: path.into(), mode: None, parents: true };
            assert_eq!(client.refused(&made, b"x").await, OUT, "make {path}");
        }
        assert_eq!(client.refused(&Request::FileList { path: "up".into(), recursive: true }, b"").await, OUT);
        assert_eq!(client.refused(&write("dangling"), b"x").await, OUT);
        // Links that stay inside are followed, to the file they lead to; a link itself can be looked at and removed.
        assert_eq!(client.ask(&read("dir/back"), b"").await.0, b"inner");
        client.last(&write("dir/back"), b"changed").await;
        assert_eq!(fs::read(agent.workspace("dir/inner")).unwrap(), b"changed");
        assert!(fs::symlink_metadata(agent.workspace("dir/back")).unwrap().is_symlink());
        assert!(
            matches!(client.last(&stat("up"), b"").await, Reply::Stat(entry) if entry.kind == FileKind::Link)
        );
        let ops = vec![FileOp::Delete { path: "up".into() }];
        let delete = Request::FileBatch(FileBatch { ops, prune: false });
        assert_eq!(client.last(&delete, b"").await, Reply::Done);
        let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["secret"]);
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    });
}

/// Links in a circle lead nowhere, so not out either.
#[test]
fn a_loop_of_links_is_called_one() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        for (target, name) in [("loop", "loop"), ("there", "back"), ("back", "there"), ("loop/x", "through")]
        {
            symlink(target, agent.workspace(name)).unwrap();
        }
        let made = |path: &str| Request::FileWrite { path: path.into(), mode: None, parents: true };
        let listed = |path: &str| Request::FileList { path: path.into(), recursive: true };
        for request in [
            read("loop"),
            write("loop"),
            read("back"),
            write("there"),
            read("through"),
            stat("loop/x"),
            made("loop/x"),
            made("there/x/y"),
            listed("back"),
        ] {
            match client.last(&request, b"x").await {
                Reply::Failed(failure) => {
                    assert_eq!(failure.kind, FailureKind::BadRequest, "{request:?}: {failure:?}");
                    assert!(failure.message.contains("loop of links"), "{request:?}: {failure:?}");
                }
                other => panic!("{request:?}: {other:?}"),
            }
        }
        // The link itself can be looked at.
        assert!(matches!(client.last(&stat("loop"), b"").await, Reply::Stat(_)));
    });
}

/// Somebody in the guest exchanges a directory and a link that leads out, all the time.
#[test]
fn a_race_reaches_nothing_outside() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let outside = agent.disk("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), "secret").unwrap();
        fs::create_dir(agent.workspace("real")).unwrap();
        fs::write(agent.workspace("real/f"), "open").unwrap();
        symlink(&outside, agent.workspace("evil")).unwrap();
        let line = "cd \"$0\"; while :; do mv real d; mv d real; mv evil d; mv d evil; done 2>/dev/null";
        let mut race =
            client.exec(exec(&["/bin/sh", "-c", line, agent.workspace("").to_str().unwrap()])).await;
        race.started().await;
        for _ in 0..150 {
            let (bytes, _) = client.ask(&read("d/f"), b"").await;
            assert!(bytes.is_empty() || bytes != b"secret");
            client.ask(&write("d/f"), b"written").await;
        }
        assert_eq!(fs::read(outside.join("f")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    });
}

#[test]
fn odd_files_hold_nobody_up() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let fifo = agent.workspace("fifo");
        assert_eq!(client.run(&["mkfifo", fifo.to_str().unwrap()]).await.code(), 0);
        let _socket = std::os::unix::net::UnixListener::bind(agent.workspace("socket")).unwrap();
        for path in ["fifo", "socket"] {
            assert_eq!(client.refused(&read(path), b"").await, FailureKind::NotRegular, "{path}");
            assert_eq!(client.refused(&write(path), b"x").await, FailureKind::NotRegular, "{path}");
        }
        assert!(matches!(client.last(&stat("fifo"), b"").await, Reply::Stat(e) if e.kind == FileKind::Other));
    });
}

#[test]
fn an_abandoned_write_changes_nothing() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        fs::write(agent.workspace("file"), "before").unwrap();
        let inode = fs::metadata(agent.workspace("file")).unwrap().ino();
        for whole_session in [false, true] {
            let client = agent.client().await;
            let mut stream = client.open().await;
            frame::send(&mut stream, &write("file")).await.unwrap();
            let mut call = {
                use futures::io::AsyncReadExt;
                let (read, write) = stream.split();
                Call { frames: frame::FrameReader::new(read), write }
            };
            call.feed(&vec![b'x'; 200_000]).await;
            until(|| !agent.staged().is_empty()).await;
            if whole_session {
                drop(client)
            } else {
                drop(call)
            }
            until(|| agent.staged().is_empty()).await;
            assert_eq!(fs::read(agent.workspace("file")).unwrap(), b"before");
            assert_eq!(fs::metadata(agent.workspace("file")).unwrap().ino(), inode);
        }
        drop(client);
        agent.is_childless().await;
    });
}

#[test]
fn an_agent_without_a_disk_says_so() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        assert_eq!(client.refused(&stat("x"), b"").await, FailureKind::Unsupported);
        assert_eq!(client.refused(&Request::Sync, b"").await, FailureKind::Unsupported);
        let agent = Agent::with_disk();
        let client = agent.client().await;
        assert_eq!(client.last(&Request::Sync, b"").await, Reply::Done);
        // The disk of a plain process is the machine's.
        assert_eq!(client.refused(&Request::Freeze { max_ms: 10 }, b"").await, FailureKind::Unsupported);
    });
}
