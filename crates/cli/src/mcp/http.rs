//! The protocol over HTTP: for clients that cannot start a process. Who has the token has the workspaces.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::host::Host;
use super::profile::Profile;
use super::server::{LONGEST, Server};

/// Where the protocol is spoken.
pub const PATH: &str = "/mcp";
/// Connections at once.
const CONNECTIONS: usize = 256;
/// A session in which nothing is said for so long is over. A command may take a day (86,400 s), and says nothing while it
/// runs to a client that did not ask for its progress.
const SILENCE: Duration = Duration::from_secs(25 * 60 * 60);
/// A client has so long to send the head of a request.
const HEAD: Duration = Duration::from_secs(30);

type Service = StreamableHttpService<Server, LocalSessionManager>;
type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Clients that are let in.
pub struct Door {
    /// Secret that a client must send as `Authorization: Bearer TOKEN`.
    pub token: String,
    /// Names of this host, beside its loopback ones, that a `Host` header may have.
    pub hosts: Vec<String>,
    /// Origins of web pages, beside loopback ones, that may call.
    pub origins: Vec<String>,
}

/// Serves until the future is dropped.
///
/// # Errors
/// When no connection can be taken any more.
pub async fn serve(
    listener: TcpListener,
    host: Arc<Host>,
    profile: Profile,
    door: Door,
) -> std::io::Result<Infallible> {
    let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let pages = ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"].map(str::to_owned);
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(loopback.into_iter().chain(door.hosts))
        .with_allowed_origins(pages.into_iter().chain(door.origins))
        .with_max_request_body_bytes(LONGEST);
    let server = Server::new(host, profile);
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(SILENCE);
    let service = StreamableHttpService::new(move || Ok(server.clone()), sessions.into(), config);
    let token = Arc::new(Sha256::digest(door.token.as_bytes()));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Err(std::io::Error::other("the server is closed"));
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // One client's trouble, or too many files are open: neither is this server's end.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (service, token) = (service.clone(), Arc::clone(&token));
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let (service, token) = (service.clone(), Arc::clone(&token));
                async move { Ok::<_, Infallible>(answer(&service, &token, request).await) }
            });
            // What goes wrong with one connection is that client's to see.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            drop(place);
        });
    }
}

async fn answer(service: &Service, token: &[u8], request: Request<Incoming>) -> Answer {
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND, "the protocol is spoken at /mcp");
    }
    if !allowed(token, &request) {
        return refuse(
            StatusCode::UNAUTHORIZED,
            "an Authorization header with the server's bearer token is needed",
        );
    }
    service.handle(request).await
}

/// Whether the request has the token. Digests are compared, so that the time it takes tells nothing of the token.
fn allowed<B>(token: &[u8], request: &Request<B>) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    given.is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case("bearer") && Sha256::digest(given.trim().as_bytes()).as_slice() == token
    })
}

fn refuse(status: StatusCode, why: &'static str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
    }
    response
}

/// Whether clients of other machines could reach this address.
pub fn is_open(address: SocketAddr) -> bool {
    !address.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_needed_whole() {
        let token = Sha256::digest(b"0123456789abcdef");
        let request = |value: &str| {
            let request = Request::builder();
            if value.is_empty() { request.body(()) } else { request.header(AUTHORIZATION, value).body(()) }
        };
        for (value, fits) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer 0123456789abcdef", true),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer ", false),
            ("Basic 0123456789abcdef", false),
            ("0123456789abcdef", false),
            ("", false),
        ] {
            assert_eq!(allowed(&token, &request(value).unwrap()), fits, "{value}");
        }
    }
}
