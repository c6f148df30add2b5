//! Guest's byte stream: a connection through the socket that Firecracker keeps for the host side of vsock.
//!
//! The host names a port, Firecracker answers `OK` when the guest has accepted, and closes the connection when nobody
//! in the guest listens. A guest that is still booting, or stuck, gives no answer at all. So every try is bounded,
//! and tries are repeated until one succeeds; the caller sets the deadline.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::api::{RETRY_INTERVAL, connect_in_dir, is_not_listening_yet};

/// Vsock port on which the guest listens for the stream.
pub(super) const GUEST_PORT: u32 = 52;

/// Longest wait of one try for its `OK`. A guest that listens accepts within a millisecond; Firecracker itself gives
/// a guest two seconds, and a connection that it lost is tried again.
const TRY_DEADLINE: Duration = Duration::from_secs(3);

/// Longest accepted answer in bytes: `OK` and a port number.
const LINE_LIMIT: usize = 32;

/// Connects through the socket `name` in `dir`, and tries again until the guest accepts. The caller sets the
/// deadline.
pub(super) async fn connect(dir: &OwnedFd, name: &str) -> io::Result<UnixStream> {
    loop {
        match tokio::time::timeout(TRY_DEADLINE, attempt(dir, name)).await {
            Ok(Ok(Some(stream))) => return Ok(stream),
            Ok(Err(error)) if !is_not_listening_yet(&error) => return Err(error),
            // The guest does not listen yet, or did not answer.
            Ok(Ok(None) | Err(_)) | Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

/// Tries once; `None` when the connection was closed before its `OK`.
async fn attempt(dir: &OwnedFd, name: &str) -> io::Result<Option<UnixStream>> {
    let mut stream = connect_in_dir(dir, name).await?;
    match request_port(&mut stream).await {
        Ok(true) => Ok(Some(stream)),
        Ok(false) => Ok(None),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(None),
            _ => Err(error),
        },
    }
}

async fn request_port(stream: &mut UnixStream) -> io::Result<bool> {
    stream.write_all(format!("CONNECT {GUEST_PORT}\n").as_bytes()).await?;
    let mut line = Vec::new();
    // The line is read byte by byte, because bytes of the guest may follow it at once.
    loop {
        let mut byte = [0];
        match stream.read(&mut byte).await? {
            0 => return Ok(false),
            _ if byte[0] == b'\n' => break,
            _ if line.len() == LINE_LIMIT => break,
            _ => line.push(byte[0]),
        }
    }
    if line.starts_with(b"OK ") {
        return Ok(true);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("the connection was answered with {line:?}")))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Serves one connection for each of `answers`; gives the stream and the requests.
    async fn served(answers: &'static [&'static [u8]]) -> (io::Result<UnixStream>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("v.sock")).unwrap();
        let fake = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 64];
                let count = stream.read(&mut bytes).await.unwrap();
                asked.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
                stream.write_all(answer).await.unwrap();
            }
            asked
        });
        let handle = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let stream = connect(&handle, "v.sock").await;
        (stream, fake.await.unwrap())
    }

    #[tokio::test]
    async fn it_tries_until_somebody_listens_and_takes_no_byte_of_the_guest() {
        let (stream, asked) = served(&[b"", b"", b"OK 1073741824\nguest speaks first"]).await;
        assert_eq!(asked, ["CONNECT 52\n"; 3]);
        let mut first = String::new();
        stream.unwrap().read_to_string(&mut first).await.unwrap();
        assert_eq!(first, "guest speaks first");
    }

    #[tokio::test]
    async fn another_protocol_is_an_error() {
        let (stream, _) = served(&[b"HTTP/1.1 400\r\n"]).await;
        assert_eq!(stream.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (stream, _) = served(&[b"a line that is longer than any that would be believed"]).await;
        assert_eq!(stream.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
