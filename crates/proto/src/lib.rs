//! The language of the wall: all that host and guest send each other over one byte stream per VM.
//!
//! Four layers, each in its own module, from the wire up:
//!
//! ```text
//!   message    requests, events, replies, failures            (serde + postcard)
//!   frame      one message or one chunk of bytes in a stream  (4-byte header, bounded)
//!   mux        one logical stream per call                    (yamux, bounded)
//!   link       bytes of THIS connection, never of an older one (handshake + records)
//! ```
//!
//! Invariant: nothing here opens, reads or writes anything by itself. The codecs are pure; `link`, `mux` and
//! `frame` are generic over a byte stream that their caller owns. Nothing knows a VMM, a workspace or a host path.
//!
//! Invariant: whatever the peer sends is bounded before it is allocated and checked before it is believed.

pub mod files;
pub mod frame;
pub mod handshake;
pub mod jobs;
pub mod link;
pub mod message;
pub mod mux;
pub mod record;
#[cfg(test)]
mod samples;

/// The generation of everything in this crate that goes over the wire.
///
/// Any change to bytes on the wire raises it by one; `schema/generation-N.txt` holds the frozen encodings, and a
/// test fails when they differ from this code's encodings. Host and agent travel together in one runtime bundle,
/// but a restored guest may be older than the host: the lower generation wins, and a host refuses a guest whose
/// generation it no longer speaks.
pub const GENERATION: u16 = 5;

/// The oldest generation that this code still speaks.
pub const OLDEST_GENERATION: u16 = 5;
