//! The guest side of pyro: the agent that answers on the one byte stream of a microVM.
//!
//! ```text
//!   server     who may speak: transports, one session at a time
//!   session    what is asked: one future per call, all dropped with the session
//!   exec       running a command: plan, spawn, tree, stdio, conversation
//!   jobs       commands that outlive the session: shells and services
//!   helper     work that blocks, in a process of its own
//!   files      what such a helper does: files, trees, the baseline, freezing
//!   probe      whether a service is ready
//!   secrets    what is kept in memory for commands to read
//!   boot       only as PID 1: mounts, root, port, power
//!   reaper     the one place that waits for children
//! ```
//!
//! Everything runs on one thread: as PID 1 of a small guest there is nothing to gain from more, and a single-threaded
//! process may create children with `CLONE_VFORK` without surprises.
//!
//! Invariant: nothing from the host or from a command makes the agent panic or exit; as PID 1 that would be the end
//! of the guest. A call that cannot be answered is a [`pyro_proto::message::Failure`].

pub mod boot;
pub mod console;
pub mod exec;
pub mod failure;
pub mod files;
pub mod helper;
pub mod identity;
pub mod jobs;
pub mod probe;
pub mod reaper;
pub mod root;
pub mod secrets;
pub mod server;
pub mod session;
pub mod users;
pub mod wire;
