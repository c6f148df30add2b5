//! The agent as a process on a socket or an inherited stream, driven by a small host: everything that needs no guest.
//!
//! No test depends on how long something takes: what must happen is waited for, and deadlines only guard against hangs.

#![cfg(test)]

mod archives;
mod baseline;
mod batches;
mod exec;
mod files;
mod jobs;
mod killed;
mod probes;
mod sessions;
mod streams;
mod support;
mod trees;
