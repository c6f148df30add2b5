//! Everything that makes pyro out of its source and does not ship: kernel, agent, runtime bundle, structural checks.
//!
//! A library so that the checks can be tests; `main.rs` is only words. What is expensive is kept in a cache keyed by
//! the content of its inputs ([`places`]), so that doing it again costs nothing and an interruption loses little.
//!
//! Invariant: of our crates this one knows core alone.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cpio;
pub mod digest;
pub mod error;
pub mod firecracker;
pub mod floor;
pub mod kernel;
pub mod places;
pub mod progress;
pub mod runtime;
pub mod structure;
