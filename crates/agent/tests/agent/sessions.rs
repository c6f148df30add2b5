//! Sessions: beginning, ending, being cut anywhere, and beginning again.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;

use crate::support::*;
use pyro_proto::message::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

fn split(stream: &StdUnixStream) -> UnixStream {
    let stream = stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

#[test]
fn garbage_instead_of_a_handshake_is_discarded() {
    run(async {
        let (mut agent, ours) = Agent::on_stream();
        let mut raw = split(&ours);
        let mut garbage = vec![0; 300_000];
        std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut garbage).unwrap();
        raw.write_all(&garbage).await.unwrap();
        raw.write_all(b"pyroHELOpyroHELOpyroCONF").await.unwrap();
        let client = Client::on(split(&ours)).await;
        assert_eq!(client.sh("echo ok").await.text(), "ok\n");
        assert!(agent.is_alive());
    });
}

#[test]
fn garbage_inside_a_session_ends_it_and_its_commands() {
    run(async {
        let (mut agent, ours) = Agent::on_stream();
        let client = Client::on(split(&ours)).await;
        let mut call = client.exec(exec(&["sleep", "1000"])).await;
        call.started().await;
        (&ours).write_all(b"this is no record").unwrap();
        agent.is_childless().await;
        drop((call, client));
        let client = Client::on(split(&ours)).await;
        assert_eq!(client.sh("echo ok").await.text(), "ok\n");
        assert!(agent.is_alive());
    });
}

#[test]
fn a_host_that_comes_back_replaces_its_silent_self() {
    run(async {
        // Without boundaries: nothing tells the agent that the host is another one but its HELLO.
        let (_agent, ours) = Agent::on_stream();
        let client = Client::on(split(&ours)).await;
        let mut call = client.exec(exec(&["cat", "/dev/zero"])).await;
        call.started().await;
        // The old host stops in the middle of everything, with output on its way.
        std::mem::forget(call);
        drop(client);
        let client = Client::on(split(&ours)).await;
        assert_eq!(client.sh("echo ok").await.text(), "ok\n");
        _agent.is_childless().await;
        // With boundaries: a new connection replaces one that says nothing.
        let agent = Agent::on_socket();
        let silent = agent.dial().await;
        let client = agent.client().await;
        let mut call = client.exec(exec(&["sleep", "1000"])).await;
        call.started().await;
        let other = agent.client().await;
        agent.is_childless().await;
        assert_eq!(other.sh("echo ok").await.text(), "ok\n");
        client.ended().await;
        drop(silent);
    });
}

#[test]
fn detaching_ends_the_session_and_the_next_begins() {
    run(async {
        for on_stream in [false, true] {
            let (agent, ours) = match on_stream {
                false => (Agent::on_socket(), None),
                true => {
                    let (agent, ours) = Agent::on_stream();
                    (agent, Some(ours))
                }
            };
            for _ in 0..3 {
                let client = match &ours {
                    Some(ours) => Client::on(split(ours)).await,
                    None => agent.client().await,
                };
                assert_eq!(client.sh("echo ok").await.text(), "ok\n");
                assert_eq!(client.call(&Request::Detach).await, Reply::Done);
                client.ended().await;
            }
        }
    });
}

#[test]
fn shutting_down_answers_first() {
    run(async {
        let mut agent = Agent::on_socket();
        let client = agent.client().await;
        let mut call = client.exec(exec(&["sleep", "1000"])).await;
        let pid = call.started().await;
        assert_eq!(client.call(&Request::Shutdown).await, Reply::Done);
        client.ended().await;
        assert!(agent.process.wait().unwrap().success());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(!agent.socket.exists());
    });
}

#[test]
fn a_closed_stream_ends_the_agent_and_its_commands() {
    run(async {
        let (mut agent, ours) = Agent::on_stream();
        let client = Client::on(split(&ours)).await;
        let mut call = client.exec(exec(&["sleep", "1000"])).await;
        let pid = call.started().await;
        drop((call, client));
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(agent.process.wait().unwrap().success());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    });
}

/// Passes bytes both ways between `outer` and `inner`, but only the first `limit` from `outer`, counting them.
async fn relay(outer: UnixStream, inner: UnixStream, limit: usize) -> usize {
    let (mut from_host, mut to_host) = outer.into_split();
    let (mut from_guest, mut to_guest) = inner.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_guest, &mut to_host).await });
    let mut passed = 0;
    let mut buffer = [0; 4096];
    while passed < limit {
        let want = buffer.len().min(limit - passed);
        match from_host.read(&mut buffer[..want]).await {
            Ok(n) if n > 0 && to_guest.write_all(&buffer[..n]).await.is_ok() => passed += n,
            _ => break,
        }
    }
    back.abort();
    let _ = back.await;
    // The guest's stream stays open, as a port does: dropping a half shuts its direction down.
    to_guest.forget();
    passed
}

/// A whole conversation: a command that leaves a mark, and one word of input for it.
async fn converse(client: &Client, mark: &str) -> Option<ExecEvent> {
    let request =
        ExecRequest { stdio: ExecStdio::Piped, ..sh(&format!("read -r word; echo \"$word\" >> {mark}")) };
    let mut call = client.exec(request).await;
    call.feed(b"whole\n").await;
    call.finish().await.last
}

/// Cuts the host's bytes after every possible number of them; the next session must work, and what the cut one
/// asked for was either done whole or not at all.
#[test]
fn a_cut_at_any_byte_is_survived() {
    run(async {
        let (agent, ours) = Agent::on_stream();
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let mark_text = mark.to_str().unwrap().to_owned();
        let mut cut = 0;
        loop {
            let (outer, host) = UnixStream::pair().unwrap();
            let relayed = tokio::spawn(relay(outer, split(&ours), cut));
            let name = mark_text.clone();
            let cut_off = tokio::spawn(async move {
                let client = Client::on(host).await;
                converse(&client, &name).await
            });
            let passed = relayed.await.unwrap();
            cut_off.abort();
            let finished = cut_off.await.is_ok_and(|last| last.is_some());
            let marks = std::fs::read_to_string(&mark).unwrap_or_default();
            assert!(marks.is_empty() || marks == "whole\n", "cut at {cut}: {marks:?}");
            let _ = std::fs::remove_file(&mark);
            // Commands of the cut session end with it, here at the latest.
            let client = Client::on(split(&ours)).await;
            agent.is_childless().await;
            let marks = std::fs::read_to_string(&mark).unwrap_or_default();
            assert!(marks.is_empty() || marks == "whole\n", "cut at {cut}, late: {marks:?}");
            let _ = std::fs::remove_file(&mark);
            assert_eq!(client.sh("echo next").await.text(), "next\n", "cut at {cut}");
            assert_eq!(client.call(&Request::Detach).await, Reply::Done);
            client.ended().await;
            if finished || passed < cut {
                break;
            }
            // Handshake and records byte by byte at their edges is what matters; the whole is some 500 bytes.
            cut += 1;
        }
        assert!(cut > 200, "the conversation has only {cut} bytes");
    });
}
