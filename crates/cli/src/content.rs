//! Content of files in payloads, where bytes are asked for as they are.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pyro_core::workspace::ContentEncoding;

/// Content of a payload, and its form, that gives `bytes` as they are.
pub fn in_base64(bytes: &[u8]) -> (String, ContentEncoding) {
    (BASE64_STANDARD.encode(bytes), ContentEncoding::Base64)
}
