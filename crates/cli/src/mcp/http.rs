//! The protocol over HTTP: for clients that cannot start a process. Who has the token has the workspaces; who has not can
//! keep nobody out who has.

mod batch;
mod body;
mod connections;
mod door;
mod sessions;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::model::{ErrorData, JsonRpcError, RequestId};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::{TcpListener, TcpStream};

use self::body::{Bodies, Unread};
use self::connections::{Connections, Place};
pub use self::door::Door;
use self::sessions::{Ledger, Sessions, Use};
use super::host::Host;
use super::message;
use super::outline::LONGEST;
use super::profile::Profile;
use super::server::Server;

/// Where the protocol is spoken.
pub const PATH: &str = "/mcp";
/// A client that has the token has so long to send the head of its next request.
const HEAD: Duration = Duration::from_secs(30);
/// Room for what a connection sends before it is looked at, bytes; a head has to fit in it.
const BUFFER: usize = 32 << 10;
/// Between two looks for sessions that are over.
const SWEEP: Duration = Duration::from_secs(60 * 60);
/// Header by which a client names its session.
const SESSION: &str = "mcp-session-id";

type Service = StreamableHttpService<Server, Sessions>;
type Answer = Response<BoxBody<Bytes, Infallible>>;

/// All that connections share.
struct Shared {
    service: Service,
    door: Door,
    connections: Connections,
    ledger: Ledger,
    bodies: Bodies,
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
    // The door has looked at hosts and origins, and bodies are read before the SDK sees them.
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .disable_allowed_origins()
        .with_max_request_body_bytes(LONGEST);
    let server = Server::new(host, profile);
    let ledger = Ledger::default();
    let sessions = Arc::new(Sessions::new(ledger.clone()));
    let service = StreamableHttpService::new(move || Ok(server.clone()), Arc::clone(&sessions), config);
    let (connections, bodies) = (Connections::default(), Bodies::default());
    let shared = Arc::new(Shared { service, door, connections, ledger, bodies });
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = sweep.tick() => {
                sessions.sweep();
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let place = shared.connections.enter();
                tokio::spawn(attend(Arc::clone(&shared), stream, place));
            }
            // One client's trouble, or too many files are open: neither is this server's end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection to its end.
async fn attend(shared: Arc<Shared>, stream: TcpStream, place: Place) {
    let number = place.number();
    let answer = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(number, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        biased;
        // What goes wrong with one connection is that client's to see.
        _ = served => {}
        () = place.over() => {}
    }
}

impl Shared {
    async fn answer(&self, number: u64, request: Request<Incoming>) -> Answer {
        if request.uri().path() != PATH {
            return refuse(StatusCode::NOT_FOUND, "the protocol is spoken at /mcp");
        }
        if let Err(refused) = self.door.knows(&request) {
            return refuse(refused.status, refused.why);
        }
        let Some(visit) = self.connections.visit(number) else {
            return refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "all connections have calls under way: try again later",
            );
        };
        if let Err(refused) = self.door.meant(&request) {
            return refuse(refused.status, refused.why);
        }
        let session = request.headers().get(SESSION).and_then(|id| id.to_str().ok());
        let session = session.and_then(|id| self.ledger.begin(id));
        let answer = self.serve(request, session.as_ref()).await;
        holding(answer, (visit, session))
    }

    async fn serve(&self, request: Request<Incoming>, session: Option<&Use>) -> Answer {
        let (mut parts, body) = request.into_parts();
        if parts.method != Method::POST {
            return self.service.handle(Request::from_parts(parts, Full::<Bytes>::default())).await;
        }
        let read = match self.bodies.read(body).await {
            Ok(read) => read,
            Err(Unread::TooMuch(error, id)) => return told(StatusCode::PAYLOAD_TOO_LARGE, *id, error),
            Err(Unread::Broken(status, why)) => return refuse(status, why),
        };
        if read.bytes.trim_ascii_start().first() == Some(&b'[') {
            return batch::answer(&self.service, &parts, &read.bytes, session).await;
        }
        if let (Some(session), Some(Some(id))) = (session, read.outline.asker()) {
            let Some(asking) = session.ask(&id) else {
                return told(StatusCode::BAD_REQUEST, None, twice(&id));
            };
            // It goes with the request, and so lasts as long as the call does, whether its client listens or not.
            parts.extensions.insert(Arc::new(asking));
        }
        let is_json = parts
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let answer = self.service.handle(Request::from_parts(parts, Full::new(read.bytes.clone()))).await;
        match answer.status() {
            // What the SDK could not read, it says in words alone.
            StatusCode::UNSUPPORTED_MEDIA_TYPE if is_json => match message::read(&read.bytes) {
                Err(error) => told(StatusCode::BAD_REQUEST, read.outline.asker().flatten(), error),
                Ok(_) => answer,
            },
            StatusCode::INTERNAL_SERVER_ERROR if session.is_none() && self.ledger.is_full() => refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "all sessions have calls under way: end one or try again later",
            ),
            _ => answer,
        }
    }
}

/// Error for a request whose id another has.
fn twice(id: &RequestId) -> ErrorData {
    ErrorData::invalid_request(format!("the id {id} is that of a request under way"), None)
}

/// The answer, which keeps `held` until all of it is sent.
fn holding<T: Send + Sync + 'static>(answer: Answer, held: T) -> Answer {
    answer.map(|body| {
        body.map_frame(move |frame| {
            let _ = &held;
            frame
        })
        .boxed()
    })
}

/// Error of the protocol as an answer.
fn told(status: StatusCode, id: Option<RequestId>, error: ErrorData) -> Answer {
    let body = serde_json::to_vec(&JsonRpcError::new(id, error)).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Refusal in words, after which the connection is over.
fn refuse(status: StatusCode, why: &'static str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Whether clients of other machines could reach this address.
pub fn is_open(address: SocketAddr) -> bool {
    !address.ip().is_loopback()
}
