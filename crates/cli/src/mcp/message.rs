//! A message of a client, read. Whether it is too much to be read is seen before, by its outline.

use std::fmt;
use std::marker::PhantomData;

use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequest, CallToolRequestMethod, CallToolRequestParams, ErrorCode, ErrorData, JsonObject,
    JsonRpcMessage, JsonRpcVersion2_0, ProtocolVersion, RequestId, RequestMetaObject,
};
use rmcp::service::RxJsonRpcMessage;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::outline::Outline;

/// The one revision of the protocol that has batches.
pub const BATCHES: ProtocolVersion = ProtocolVersion::V_2025_03_26;
/// Most messages of a batch.
const BATCH: usize = 256;

/// Message from a client.
pub type Incoming = RxJsonRpcMessage<RoleServer>;

/// Reads a message.
///
/// # Errors
/// The answer to whoever asked by what cannot be read.
pub fn read(message: &[u8]) -> Result<Incoming, ErrorData> {
    let read = match serde_json::from_slice(message) {
        Ok(Object(ToolCall { id, params: Object(params), .. })) => Ok(params.request(id)),
        // It may be something else; if it is nothing at all, this says why.
        Err(_) => serde_json::from_slice(message),
    };
    read.map_err(unreadable)
}

/// The messages of a batch, each to be read by itself.
///
/// # Errors
/// The answer to all of it, which is one error without an id.
pub fn batch<'a>(message: &'a [u8], revision: Option<&ProtocolVersion>) -> Result<Vec<&'a [u8]>, ErrorData> {
    let each: Vec<&RawValue> = serde_json::from_slice(message).map_err(unreadable)?;
    if revision != Some(&BATCHES) {
        let why = format!("only revision {BATCHES} of the protocol has batches: send each message by itself");
        return Err(ErrorData::invalid_request(why, None));
    }
    if each.is_empty() || each.len() > BATCH {
        let why = format!("a batch has 1 to {BATCH} messages, not {}", each.len());
        return Err(ErrorData::invalid_request(why, None));
    }
    Ok(each.into_iter().map(|one| one.get().as_bytes()).collect())
}

/// Whether this says that a message is no JSON.
pub fn is_unreadable(error: &ErrorData) -> bool {
    error.code == ErrorCode::PARSE_ERROR
}

/// The id for an answer to a batch's message that cannot be read; nothing where it asks for none.
pub fn asker_in_batch(message: &[u8]) -> Option<Option<RequestId>> {
    match message {
        [b'{', ..] => Outline::of(message).asker(),
        _ => Some(None),
    }
}

fn unreadable(error: serde_json::Error) -> ErrorData {
    let why = format!("the message cannot be read: {error}");
    let code = if error.is_data() { ErrorCode::INVALID_REQUEST } else { ErrorCode::PARSE_ERROR };
    ErrorData::new(code, why, None)
}

/// Most of what is asked, where nothing about it is unusual. The SDK's own reading takes a message for each of many kinds
/// in turn, which costs four times as much, and as much memory again as the message is long.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCall {
    #[serde(rename = "jsonrpc")]
    _version: JsonRpcVersion2_0,
    id: RequestId,
    #[serde(rename = "method")]
    _method: CallToolRequestMethod,
    params: Object<ToolCallParams>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCallParams {
    name: String,
    arguments: Option<JsonObject>,
    #[serde(rename = "_meta")]
    meta: Option<JsonObject>,
}

impl ToolCallParams {
    fn request(self, id: RequestId) -> Incoming {
        let mut params = CallToolRequestParams::new(self.name);
        params.arguments = self.arguments;
        let mut request = CallToolRequest::new(params);
        if let Some(meta) = self.meta {
            request.extensions.insert(RequestMetaObject::from(meta));
        }
        JsonRpcMessage::request(request.into(), id)
    }
}

/// A struct that was written as an object: serde would take an array of its fields for it too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of tools that are read at once are as the SDK reads them; of all others the SDK's word counts.
    #[test]
    fn a_call_is_read_as_the_sdk_reads_it() {
        let call = |id: &str, method: &str, params: &str, more: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}{more}}}"#)
        };
        let exec = r#"{"name":"workspace_exec","arguments":{"workspace_id":"a","command":"é\n\u0000"}}"#;
        let mut direct = 0;
        for line in [
            call("1", "tools/call", exec, ""),
            call("\"a\"", "tools/call", exec, ""),
            call("1", "tools/call", r#"{"name":"x"}"#, ""),
            call("1", "tools/call", r#"{"name":"x","arguments":null}"#, ""),
            call("1", "tools/call", r#"{"arguments":{},"name":"x"}"#, ""),
            call("1", "tools/call", r#"{"name":"x","arguments":[]}"#, ""),
            call("1", "tools/call", r#"{"name":"x","name":"y"}"#, ""),
            call("1", "tools/call", r#"{"name":7}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":{"progressToken":5}}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":{"progressToken":"5","more":{}}}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":null}"#, ""),
            call("1", "tools/call", r#"{"name":"x","_meta":5}"#, ""),
            call("1", "tools/call", r#"["x",{}]"#, ""),
            r#"["2.0",1,"tools/call",{"name":"x"}]"#.to_owned(),
            call("1", "tools/call", r#"{"name":"x","more":1}"#, ""),
            call("1", "tools/call", exec, r#","result":{}"#),
            call("1", "tools/call", exec, r#","more":{}"#),
            call("null", "tools/call", exec, ""),
            call("1.5", "tools/call", exec, ""),
            call("1", "tools/list", "{}", ""),
            call("1", "tools/call", exec, "").replace("2.0", "1.0"),
            call("1", "tools/call", exec, "").replace(r#""id":1,"#, ""),
        ] {
            direct += usize::from(serde_json::from_str::<Object<ToolCall>>(&line).is_ok());
            // What a request carries beside its parameters is only seen when it is written again.
            let shown = |message: Result<Incoming, String>| {
                message.map(|m| (format!("{m:?}"), serde_json::to_string(&m).unwrap()))
            };
            let sdks = serde_json::from_str::<Incoming>(&line).map_err(|error| error.to_string());
            let ours = read(line.as_bytes());
            let ours = ours.map_err(|error| error.message.replace("the message cannot be read: ", ""));
            assert_eq!(shown(ours), shown(sdks), "{line}");
        }
        assert_eq!(direct, 8);
    }
}
