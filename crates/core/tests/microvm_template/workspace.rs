//! What a workspace asks of its guest, in a real one: jobs in cgroups, files beside an overlay, a disk that holds still.

use std::time::Duration;

use pyro_core::backend::Preference;
use pyro_core::guest::{Download, GuestError, JobEvent};
use pyro_core::start::StartDisk;
use pyro_proto::message::*;

use crate::backends::on_each_backend;
use crate::support::{BASE, Host, SHAPE, shell, stop};

on_each_backend! {
    async
    jobs_live_in_a_guest_and_all_of_them_can_be_stopped
    files_and_trees_reach_the_disk_beside_the_overlay
    a_frozen_disk_holds_writers_up_and_nobody_else
}

const GRACE: Duration = Duration::from_secs(30);

fn line(text: &str, stdio: ExecStdio) -> ExecRequest {
    ExecRequest {
        argv: vec!["/bin/sh".into(), "-c".into(), text.into()],
        env: Vec::new(),
        cwd: None,
        user: None,
        stdio,
        timeout_ms: None,
        drain_ms: 100,
    }
}

async fn all(mut download: Download) -> (Vec<u8>, Download) {
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await.unwrap() {
        bytes.extend(piece);
    }
    (bytes, download)
}

fn kind(error: GuestError) -> FailureKind {
    match error {
        GuestError::Failed(failure) => failure.kind,
        other => panic!("{other:?}"),
    }
}

async fn jobs_live_in_a_guest_and_all_of_them_can_be_stopped(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    let (started, _) = host.start(SHAPE, StartDisk::Blank).await;
    let guest = &started.booted.guest;
    let id = JobId([7; 6]);
    let size = TerminalSize { rows: 33, cols: 99 };
    guest
        .job_start(id, line("stty size; echo ready; exec /bin/sh -i", ExecStdio::Terminal(size)))
        .await
        .unwrap();
    let mut output = guest.job_attach(id, 0).await.unwrap();
    let mut seen = String::new();
    let mut asked = false;
    let exit = loop {
        match output.next().await.unwrap() {
            JobEvent::Stdout(bytes) => seen.push_str(&String::from_utf8_lossy(bytes)),
            JobEvent::Stderr(_) => panic!("a terminal has one stream"),
            JobEvent::Exited(exit) => break exit,
        }
        if seen.contains("ready") && !asked {
            asked = true;
            assert_eq!(guest.job_input(id, b"echo pwd=$PWD; exit 6\n").await.unwrap(), 22);
        }
    };
    assert_eq!(exit.status, ExitStatus::Code(6));
    assert!(seen.contains("33 99") && seen.contains("pwd=/workspace"), "{seen}");
    assert_eq!(guest.job_list().await.unwrap()[0].written, output.at());
    guest.job_forget(id).await.unwrap();
    // Every process of it, wherever it went.
    let deaf = "trap '' TERM; (trap '' TERM; setsid sleep 4321) & echo ready; while :; do sleep 0.1; done";
    guest.job_start(id, line(deaf, ExecStdio::Output)).await.unwrap();
    while guest.job_list().await.unwrap()[0].written == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let exit = guest.job_stop(id, Duration::from_millis(300)).await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(9));
    assert_eq!(shell(&started, "grep -lsx sleep /proc/[0-9]*/comm | wc -l").await.trim(), "0");
    // A secret is where it belongs, and only there.
    guest.secret_put("TOKEN", b"hunter2hunter2").await.unwrap();
    let shown =
        shell(&started, "stat -c %a:%U /run/pyro-secrets /run/pyro-secrets/TOKEN; cat /run/pyro-secrets/*")
            .await;
    assert_eq!(shown, "700:root\n600:root\nhunter2hunter2");
    stop(started).await;
}

async fn files_and_trees_reach_the_disk_beside_the_overlay(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    let (started, _) = host.start(SHAPE, StartDisk::Blank).await;
    let guest = &started.booted.guest;
    shell(&started, "mkdir -p dir && echo old > dir/file && chmod 750 dir/file && ln -s /etc out").await;
    guest.file_write(b"dir/file", None, false, &b"new\n"[..]).await.unwrap();
    assert_eq!(shell(&started, "stat -c %a dir/file; cat dir/file").await, "750\nnew\n");
    let content = guest.file_read(b"/workspace/dir/file", 1, 2).await.unwrap();
    let (bytes, content) = all(content.bytes).await;
    assert!(bytes == b"ew" && content.is_whole());
    for path in [&b"out/passwd"[..], b"../etc/passwd", b"/etc/passwd"] {
        let refused = guest.file_read(path, 0, 10).await.err().unwrap();
        assert_eq!(kind(refused), FailureKind::OutsideWorkspace);
    }
    let (entries, truncated) = guest.file_list(b"", true).await.unwrap();
    let paths: Vec<_> = entries.iter().map(|entry| String::from_utf8_lossy(&entry.path.0)).collect();
    assert_eq!((&paths[..], truncated), (&["dir", "dir/file", "out"].map(Into::into)[..], false));
    // A tree that the guest packed comes back under another name, the same.
    shell(&started, "mkdir -p t/a && seq 1 200000 > t/a/n && ln t/a/n t/h && ln -s a/n t/l && rm out").await;
    let (archive, download) = all(guest.tree_get(b"t", 1 << 30).await.unwrap()).await;
    assert_eq!(download.tree().unwrap().0.entries, 5);
    let put = TreePut { dest: b"copy/of".into(), max_entries: 10, max_bytes: 1 << 30 };
    assert_eq!(guest.tree_put(put.clone(), &archive[..], |_| {}).await.unwrap().entries, 5);
    shell(&started, "diff -r t copy/of/t && test copy/of/t/h -ef copy/of/t/a/n && test -L copy/of/t/l").await;
    let small = TreePut { max_entries: 4, ..put };
    assert_eq!(kind(guest.tree_put(small, &archive[..], |_| {}).await.unwrap_err()), FailureKind::TooLarge);
    // The baseline is nowhere in the workspace.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let entries = guest.baseline_take(None, None).await.unwrap();
    assert_eq!(guest.diff_scan(None).await.unwrap(), (Vec::new(), Some(entries)));
    shell(&started, "echo more >> dir/file; mkdir fresh; rm t/l").await;
    let (changes, _) = guest.diff_scan(None).await.unwrap();
    let found: Vec<_> =
        changes.iter().map(|change| (String::from_utf8_lossy(&change.path.0), change.kind)).collect();
    let wanted = [
        ("dir/file", FileChangeKind::Modified),
        ("fresh", FileChangeKind::Added),
        ("t/l", FileChangeKind::Deleted),
    ];
    assert_eq!(found, wanted.map(|(path, kind)| (path.into(), kind)));
    assert_eq!(shell(&started, "find / -xdev -name baseline -o -name stage | grep pyro || true").await, "");
    stop(started).await;
}

async fn a_frozen_disk_holds_writers_up_and_nobody_else(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    let (started, _) = host.start(SHAPE, StartDisk::Blank).await;
    let guest = started.booted.guest.clone();
    guest.sync().await.unwrap();
    let frozen = guest.freeze(Duration::from_secs(60)).await.unwrap();
    assert_eq!(kind(guest.freeze(Duration::from_secs(1)).await.err().unwrap()), FailureKind::Exists);
    // Who reads is answered; who writes waits, be it the agent for the host.
    assert_eq!(shell(&started, "echo read").await, "read\n");
    let id = JobId([8; 6]);
    guest.job_start(id, line("echo x > held; echo written", ExecStdio::Output)).await.unwrap();
    let mut write = std::pin::pin!(guest.file_write(b"held2", None, false, &b"x"[..]));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut write).await;
    assert!(early.is_err(), "a file was written to a frozen disk");
    assert_eq!(guest.job_list().await.unwrap()[0].written, 0);
    assert!(frozen.thaw().await.unwrap());
    write.await.unwrap();
    let mut output = guest.job_attach(id, 0).await.unwrap();
    while !matches!(output.next().await.unwrap(), JobEvent::Exited(_)) {}
    // By itself when the time is up, and when nobody cares any more.
    let frozen = guest.freeze(Duration::from_millis(50)).await.unwrap();
    shell(&started, "echo y > held").await;
    assert!(!frozen.thaw().await.unwrap());
    drop(guest.freeze(GRACE).await.unwrap());
    shell(&started, "echo z > held").await;
    stop(started).await;
}
