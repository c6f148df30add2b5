//! A batch over HTTP: its messages go to the SDK one after the other, and what it answers is told in one stream.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, BodyStream, Empty, Full, StreamBody};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use rmcp::model::{ClientRequest, ErrorData, JsonRpcError, JsonRpcMessage, RequestId};

use super::sessions::Use;
use super::{Answer, Service, told, twice};
use crate::mcp::message;

const EVENTS: &str = "text/event-stream";

/// Events of one message of the batch.
type Events = BoxBody<Bytes, Infallible>;

/// Answers a batch of a session.
pub async fn answer(service: &Service, parts: &Parts, body: &[u8], session: Option<&Use>) -> Answer {
    let each = match message::batch(body, session.and_then(Use::revision)) {
        Ok(each) => each,
        Err(error) => return told(StatusCode::BAD_REQUEST, None, error),
    };
    let mut events: Vec<Events> = Vec::new();
    let mut ids = HashSet::new();
    for one in each {
        let mut parts = parts.clone();
        let id = match message::read(one) {
            Ok(JsonRpcMessage::Request(request)) => {
                if matches!(request.request, ClientRequest::InitializeRequest(_)) {
                    let why = "initialize is no part of a batch: send it by itself";
                    events.push(error(Some(request.id), ErrorData::invalid_request(why, None)));
                    continue;
                }
                let asking = session.and_then(|session| session.ask(&request.id));
                let (Some(asking), true) = (asking, ids.insert(request.id.clone())) else {
                    events.push(error(None, twice(&request.id)));
                    continue;
                };
                parts.extensions.insert(Arc::new(asking));
                Some(request.id)
            }
            Ok(_) => None,
            Err(unreadable) => {
                events.extend(message::asker_in_batch(one).map(|id| error(id, unreadable)));
                continue;
            }
        };
        // In the order in which they stand: each is on its way when the next is looked at.
        let answer = service.handle(Request::from_parts(parts, Full::new(Bytes::copy_from_slice(one)))).await;
        let kind =
            answer.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec()).unwrap_or_default();
        match id {
            _ if answer.status().is_success() && kind == EVENTS.as_bytes() => events.push(answer.into_body()),
            // It fails for what all of them have in common.
            _ if !answer.status().is_success() && events.is_empty() => return answer,
            None => {}
            Some(id) => {
                let said = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let why = String::from_utf8_lossy(&said).into_owned();
                events.push(error(Some(id), ErrorData::internal_error(why, None)));
            }
        }
    }
    if events.is_empty() {
        let mut taken = Response::new(Empty::new().boxed());
        *taken.status_mut() = StatusCode::ACCEPTED;
        return taken;
    }
    let events = futures::stream::select_all(events.into_iter().map(BodyStream::new));
    let mut response = Response::new(StreamBody::new(events).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    response.headers_mut().insert(hyper::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// One event, with an error of the protocol.
fn error(id: Option<RequestId>, error: ErrorData) -> Events {
    let error = serde_json::to_string(&JsonRpcError::new(id, error)).unwrap_or_default();
    Full::new(Bytes::from(format!("data: {error}\n\n"))).boxed()
}
