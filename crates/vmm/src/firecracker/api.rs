//! Client of Firecracker's API: HTTP/1.1 over its Unix socket, one connection, one request at a time.
//!
//! A request is named by method and path (`PUT /snapshot/load`). The order of requests is the caller's. A VMM that a
//! guest took over answers here too, so answers are bounded.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Longest answer in bytes. Firecracker's own are below 10 KiB.
const ANSWER_LIMIT: usize = 256 * 1024;

/// Pause before another try to connect to a socket that does not exist yet. Tries are cheap, and a start is delayed
/// by the pause.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Failure of a request.
#[derive(Debug)]
pub(super) enum ApiError {
    /// Firecracker refused the request with this HTTP status and message.
    Refused { status: u16, fault: String },
    /// The connection broke, or the answer was not HTTP or too long.
    Broken(String),
}

/// Connection to the API of one Firecracker.
#[derive(Debug)]
pub(super) struct ApiClient {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    peer: Option<u32>,
}

impl Drop for ApiClient {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl ApiClient {
    /// Connects to the socket `name` in `dir`, and waits until it exists. The caller sets the deadline.
    pub(super) async fn connect(dir: &OwnedFd, name: &str) -> io::Result<ApiClient> {
        loop {
            match connect_in_dir(dir, name).await {
                Ok(stream) => return ApiClient::handshake(stream).await,
                Err(error) if is_not_listening_yet(&error) => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn handshake(stream: UnixStream) -> io::Result<ApiClient> {
        let peer = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            // An error of the connection reaches the request that was under way.
            let _ended = connection.await;
        });
        Ok(ApiClient { sender, driver, peer })
    }

    /// Process id of the listener, in this process's PID namespace; `None` when the kernel gives none.
    pub(super) fn peer(&self) -> Option<u32> {
        self.peer
    }

    /// Sends one request, named by method and path, and gives the answer's JSON; `Null` when the body is no JSON.
    pub(super) async fn send(&mut self, request: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let broken = |error: &dyn std::error::Error| ApiError::Broken(error.to_string());
        let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
        self.sender.ready().await.map_err(|error| broken(&error))?;
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let message = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header("Accept", "application/json")
            .header("Content-Type", "application/json")
            .body(Full::new(bytes))
            .map_err(|error| broken(&error))?;
        let answer = self.sender.send_request(message).await.map_err(|error| broken(&error))?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|error| ApiError::Broken(error.to_string()))?
            .to_bytes();
        if status.is_success() {
            return Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null));
        }
        Err(ApiError::Refused { status: status.as_u16(), fault: fault(&bytes) })
    }
}

/// Message of a refusal: `fault_message`, or the first 400 characters of the body.
fn fault(bytes: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(bytes).ok();
    let words = json.as_ref().and_then(|json| json.get("fault_message")).and_then(Value::as_str);
    match words {
        Some(words) => words.trim().to_owned(),
        None => String::from_utf8_lossy(bytes).chars().take(400).collect(),
    }
}

/// Connects to the socket `name` in `dir`, never through a link: a link followed here, with our rights, would lead
/// the confined VMM to sockets that it cannot reach itself. The socket is opened as a descriptor first, so the path's
/// length does not matter.
pub(super) async fn connect_in_dir(dir: &OwnedFd, name: &str) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&socket)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is no socket")));
    }
    UnixStream::connect(crate::proc_path(&socket)).await
}

/// Whether `error` means that the socket does not exist or does not listen yet.
pub(super) fn is_not_listening_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Serves one request with these bytes, which the real API cannot be made to send.
    async fn answered(bytes: Vec<u8>) -> Result<Value, ApiError> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
        let fake = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            let _cut = stream.write_all(&bytes).await;
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let handle = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let mut api = ApiClient::connect(&handle, "api.sock").await.unwrap();
        let answer = api.send("PATCH /vm", Some(&serde_json::json!({ "state": "Paused" }))).await;
        let request = fake.await.unwrap();
        assert!(request.starts_with("PATCH /vm HTTP/1.1\r\n") && request.ends_with("{\"state\":\"Paused\"}"));
        answer
    }

    fn with_body(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        assert_eq!(answered(b"HTTP/1.1 204 \r\n\r\n".to_vec()).await.unwrap(), Value::Null);
        assert_eq!(answered(with_body("200", "{\"a\":1}")).await.unwrap()["a"], 1);
        for (body, expected) in
            [("{\"fault_message\":\" bad drive\\n\"}", "bad drive"), ("not json", "not json"), ("", "")]
        {
            match answered(with_body("400", body)).await {
                Err(ApiError::Refused { status: 400, fault }) => assert_eq!(fault, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for bytes in [
            Vec::new(),
            b"HTTP/1.1 200\r\nContent-Length: 99\r\n\r\ncut".to_vec(),
            b"garbage\r\n\r\n".to_vec(),
            with_body("200", &"x".repeat(ANSWER_LIMIT + 1)),
        ] {
            assert!(matches!(answered(bytes).await, Err(ApiError::Broken(_))));
        }
    }

    #[tokio::test]
    async fn a_link_in_place_of_a_socket_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("v.sock")).unwrap();
        std::fs::write(dir.path().join("plain"), "").unwrap();
        let handle = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        assert!(connect_in_dir(&handle, "elsewhere").await.is_ok());
        for name in ["v.sock", "plain"] {
            let error = connect_in_dir(&handle, name).await.unwrap_err();
            assert!(!is_not_listening_yet(&error), "{error:?}");
        }
        assert!(is_not_listening_yet(&connect_in_dir(&handle, "nothing").await.unwrap_err()));
    }
}
