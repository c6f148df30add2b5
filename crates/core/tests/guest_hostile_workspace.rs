//! The calls about jobs and files against guests that lie. No VM and no agent: the guest here is this test, speaking
//! the wire protocol badly on purpose.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures::io::AsyncWriteExt;
use pyro_core::guest::{Guest, GuestError};
use pyro_proto::frame::{self, Channel, FrameReader, MAX_REQUEST};
use pyro_proto::link::Link;
use pyro_proto::message::*;
use pyro_proto::mux::{self, Stream};
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Only guards against a hang; nothing is measured by it.
const LONG: Duration = Duration::from_secs(60);

/// A guest that answers every call with `bytes`, and then, if it `ends`, with the end of the stream.
async fn guest(bytes: Vec<u8>, ends: bool) -> Guest {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    let guest = tokio::net::UnixStream::from_std(guest).unwrap();
    tokio::spawn(async move {
        let (link, _) = Link::accept(guest.compat(), || [9; 16]).await.unwrap();
        let handle = move |stream: Stream| {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut frames = FrameReader::new(stream);
                frames.next(MAX_REQUEST).await.unwrap();
                let mut stream = frames.into_inner();
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
                if !ends {
                    std::future::pending::<()>().await;
                }
            });
        };
        let _ = mux::guest(link, handle, std::future::pending()).await;
    });
    Guest::connect(host, [1; 16], LONG).await.unwrap()
}

fn says(replies: &[Reply]) -> Vec<u8> {
    replies.iter().flat_map(|reply| frame::encode(reply).unwrap()).collect()
}

fn entry() -> FileEntry {
    FileEntry {
        path: "x".into(),
        kind: FileKind::File,
        mode: 0o644,
        size: 3,
        mtime_ns: 0,
        links: 1,
        target: None,
    }
}

fn unexpected<T>(result: Result<T, GuestError>, what: &str) {
    match result {
        Err(GuestError::Unexpected { .. }) => {}
        Err(other) => panic!("{what}: {other:?}"),
        Ok(_) => panic!("{what}: believed"),
    }
}

#[tokio::test]
async fn replies_to_other_calls_are_refused() {
    let id = JobId([1; 6]);
    let guest = guest(says(&[Reply::Taken { bytes: 9 }]), true).await;
    unexpected(guest.job_list().await, "job_list");
    unexpected(guest.job_attach(id, 0).await, "job_attach");
    unexpected(guest.job_stop(id, Duration::ZERO).await, "job_stop");
    unexpected(guest.probe(ServiceProbe::Tcp { port: 1 }).await, "probe");
    unexpected(guest.file_stat(b"x").await, "file_stat");
    unexpected(guest.file_list(b"x", true).await, "file_list");
    unexpected(guest.file_read(b"x", 0, 9).await, "file_read");
    unexpected(guest.file_write(b"x", None, false, &b""[..]).await, "file_write");
    unexpected(guest.baseline_take(None, None).await, "baseline_take");
    unexpected(guest.diff_scan(None).await, "diff_scan");
    unexpected(guest.freeze(LONG).await, "freeze");
    unexpected(guest.sync().await, "sync");
    // More than it was given.
    unexpected(guest.job_input(id, b"12345678").await, "job_input");
}

#[tokio::test]
async fn more_than_was_asked_for_is_refused() {
    let mut bytes = says(&[Reply::Stat(entry())]);
    bytes.extend(frame::header(Channel::Stdout, 10));
    bytes.extend([b'x'; 10]);
    bytes.extend(says(&[Reply::Done]));
    let guest = guest(bytes, true).await;
    let mut content = guest.file_read(b"x", 0, 10).await.unwrap();
    assert_eq!(content.bytes.next().await.unwrap(), Some(&[b'x'; 10][..]));
    assert!(!content.bytes.is_whole());
    assert_eq!(content.bytes.next().await.unwrap(), None);
    assert!(content.bytes.is_whole() && content.bytes.tree().is_none());
    let mut content = guest.file_read(b"x", 0, 9).await.unwrap();
    unexpected(content.bytes.next().await.map(drop), "ten bytes of nine");
}

#[tokio::test]
async fn endless_listings_are_given_up() {
    let many = Reply::Entries(vec![entry(); 1000]);
    let listing = guest(says(&vec![many; 101]), false).await;
    unexpected(listing.file_list(b"", true).await, "entries");
    let long = FileEntry { path: Bytes(vec![b'x'; 60_000]), ..entry() };
    let listing = guest(says(&vec![Reply::Entries(vec![long]); 1200]), false).await;
    unexpected(listing.file_list(b"", true).await, "long entries");
}

#[tokio::test]
async fn a_refusal_ends_an_upload_that_nobody_reads() {
    let failure = Failure {
        kind: FailureKind::NoSpace,
        stage: "write".into(),
        errno: Some(28),
        message: "full".into(),
    };
    let guest = guest(says(&[Reply::Failed(failure)]), false).await;
    let endless = tokio::io::repeat(b'x');
    let refused = tokio::time::timeout(LONG, guest.file_write(b"x", None, false, endless)).await.unwrap();
    assert!(matches!(refused, Err(GuestError::Failed(failure)) if failure.kind == FailureKind::NoSpace));
}

#[tokio::test]
async fn a_call_that_ends_early_is_lost() {
    let mut half = says(&[Reply::Stat(entry())]);
    half.extend(frame::header(Channel::Stdout, 10));
    let guest = guest(half, true).await;
    let mut content = guest.file_read(b"x", 0, 10).await.unwrap();
    assert!(matches!(content.bytes.next().await, Err(GuestError::Lost { .. })));
}
