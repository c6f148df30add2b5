//! Starts from templates, in real microVMs, from what `make test` prepared.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../backends/mod.rs"]
mod backends;
mod bare;
mod identity;
mod killed;
mod support;
mod trouble;
mod workspace;
