//! Machines under a real QEMU with a real kernel. One binary, so that one nextest group limits how many run at once.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../shared/events.rs"]
mod events;
mod guest;
mod life;
mod state;
mod trouble;
