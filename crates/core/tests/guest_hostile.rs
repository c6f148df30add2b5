//! The guest client against guests that lie, stutter, flood and fall silent. No VM and no agent: the guest here is
//! this test, speaking the wire protocol badly on purpose.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use pyro_core::guest::{Guest, GuestError};
use pyro_proto::frame::{self, Channel, FrameReader, MAX_REQUEST};
use pyro_proto::link::Link;
use pyro_proto::message::{CommandExit, ExecEvent, ExecRequest, ExecStdio, ExitStatus};
use pyro_proto::mux::{self, Stream};
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Only guards against a hang; nothing is measured by it.
const LONG: Duration = Duration::from_secs(60);

fn pair() -> (UnixStream, tokio::net::UnixStream) {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    (host, tokio::net::UnixStream::from_std(guest).unwrap())
}

/// A guest that shakes hands and then treats each call as `behave` says, once the request was read.
async fn guest<F, R>(behave: F) -> Guest
where
    F: Fn(FrameReader<Stream>) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (host, guest) = pair();
    tokio::spawn(async move {
        let (link, _) = Link::accept(guest.compat(), || [9; 16]).await.unwrap();
        let handle = |stream: Stream| {
            tokio::spawn(behave(FrameReader::new(stream)));
        };
        let _ = mux::guest(link, handle, std::future::pending()).await;
    });
    Guest::connect(host, [1; 16], LONG).await.unwrap()
}

fn exec() -> ExecRequest {
    ExecRequest {
        argv: vec!["true".into()],
        env: Vec::new(),
        cwd: None,
        user: None,
        stdio: ExecStdio::Piped,
        timeout_ms: None,
        drain_ms: 100,
    }
}

/// Runs a command against a guest that answers every call with `bytes`, and gives the last thing that came of it.
async fn answer(bytes: Vec<u8>) -> GuestError {
    let guest = guest(move |frames| {
        let bytes = bytes.clone();
        async move {
            let mut frames = frames;
            frames.next(MAX_REQUEST).await.unwrap();
            let mut stream = frames.into_inner();
            let _ = stream.write_all(&bytes).await;
            let _ = stream.close().await;
        }
    })
    .await;
    let place = guest.place_for_command().await.unwrap();
    let mut execution = guest.exec(place, exec()).await.unwrap();
    loop {
        if let Err(error) = execution.output.next().await {
            return error;
        }
    }
}

#[tokio::test]
async fn a_silent_guest_is_an_error_when_the_deadline_passes() {
    let (host, _guest) = pair();
    let error = Guest::connect(host, [1; 16], Duration::from_millis(300)).await.err().unwrap();
    assert!(matches!(error, GuestError::Silent { .. }), "{error:?}");
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_discarded_until_the_deadline() {
    let (host, mut guest) = pair();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while guest.write_all(&[0x70; 4096]).await.is_ok() {}
    });
    let error = Guest::connect(host, [1; 16], Duration::from_millis(500)).await.err().unwrap();
    assert!(matches!(error, GuestError::Silent { .. }), "{error:?}");
}

#[tokio::test]
async fn a_guest_that_hangs_up_during_the_handshake_is_an_error_at_once() {
    let (host, guest) = pair();
    drop(guest);
    let error = tokio::time::timeout(LONG, Guest::connect(host, [1; 16], LONG)).await.unwrap().err().unwrap();
    assert!(matches!(error, GuestError::Link(_)), "{error:?}");
}

#[tokio::test]
async fn garbage_in_the_session_loses_it() {
    let (host, guest) = pair();
    tokio::spawn(async move {
        // The handshake as it should be, then bytes that are no record.
        let mut io = guest.compat();
        let mut handshake = pyro_proto::handshake::GuestHandshake::new();
        let mut buffer = [0; 256];
        loop {
            let n = io.read(&mut buffer).await.unwrap();
            let mut input = &buffer[..n];
            match handshake.advance(&mut input, || [9; 16]).unwrap() {
                Some(pyro_proto::handshake::GuestStep::Answer(bytes)) => io.write_all(&bytes).await.unwrap(),
                Some(_) => break,
                None => {}
            }
        }
        io.write_all(&[0xff; 1000]).await.unwrap();
        std::future::pending::<()>().await;
    });
    let guest = Guest::connect(host, [1; 16], LONG).await.unwrap();
    let error = tokio::time::timeout(LONG, guest.ping()).await.unwrap().unwrap_err();
    assert!(matches!(error, GuestError::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn answers_that_are_none_are_protocol_errors() {
    let message = |bytes: &[u8]| [&frame::header(Channel::Message, bytes.len())[..], bytes].concat();
    for (name, bytes) in [
        ("an unknown variant", message(&[200])),
        ("an empty message", message(&[])),
        ("an oversized message", frame::header(Channel::Message, 0xff_ffff).to_vec()),
        ("an oversized chunk", frame::header(Channel::Stdout, frame::MAX_CHUNK + 1).to_vec()),
        ("an unknown channel", vec![0, 0, 0, 77]),
    ] {
        let error = answer(bytes).await;
        assert!(matches!(error, GuestError::Protocol { .. }), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_call_that_ends_early_is_lost() {
    for bytes in [Vec::new(), vec![1], frame::header(Channel::Stdout, 100).to_vec()] {
        let error = answer(bytes).await;
        assert!(matches!(error, GuestError::Lost { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn input_from_the_guest_and_credit_for_nothing_are_refused() {
    let error = answer(frame::header(Channel::Stdin, 0).to_vec()).await;
    assert!(matches!(error, GuestError::Unexpected { .. }), "{error:?}");
    for bytes in [1, u32::MAX] {
        let error = answer(frame::encode(&ExecEvent::StdinConsumed { bytes }).unwrap()).await;
        assert!(matches!(error, GuestError::Unexpected { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn nothing_follows_the_exit() {
    let exit =
        CommandExit { status: ExitStatus::Code(0), timed_out: false, duration_us: 1, left_running: false };
    let bytes =
        [frame::encode(&ExecEvent::Exited(exit)).unwrap(), frame::header(Channel::Stdout, 0).to_vec()]
            .concat();
    assert!(matches!(answer(bytes).await, GuestError::Lost { .. }));
}

#[tokio::test]
async fn input_waits_for_credit() {
    let guest = guest(|frames| async move {
        let mut frames = frames;
        frames.next(MAX_REQUEST).await.unwrap();
        // Reads everything and grants nothing.
        let mut seen = 0;
        while let Ok(Some((Channel::Stdin, body))) = frames.next(MAX_REQUEST).await {
            seen += body.len();
            assert!(seen <= pyro_proto::message::STDIN_WINDOW);
        }
    })
    .await;
    let place = guest.place_for_command().await.unwrap();
    let mut execution = guest.exec(place, exec()).await.unwrap();
    let chunk = vec![0; pyro_core::guest::Input::MAX_WRITE];
    let mut sent = 0;
    while let Ok(credit) =
        tokio::time::timeout(Duration::from_millis(300), execution.input.credit(chunk.len())).await
    {
        sent += execution.input.write(credit.unwrap(), &chunk).await.unwrap();
    }
    assert!(sent <= pyro_proto::message::STDIN_WINDOW && sent > 0, "{sent}");
    // A signal still gets through.
    execution.input.signal(15).await.unwrap();
}
