//! The Firecracker adapter with the real binaries: everything that needs no guest user space, on any machine with
//! `/dev/kvm`. The guests are a few instructions each.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod api;
mod ends;
#[path = "../shared/events.rs"]
mod events;
mod guest;
mod jail;
mod life;
mod snapshot;
mod user_space;
