//! The guest side of pyro: the agent that answers on the one byte stream of a microVM.
//!
//! ```text
//!   boot       start as a plain process or as PID 1, and the end of a guest
//!   server     transports, one session at a time
//!   session    calls of a session: one future each, all dropped with it
//!   exec       running a command: plan, spawn, tree, stdio, driver
//!   jobs       commands that outlive the session: shells and services
//!   files      calls about files: trees, the baseline, freezing
//!   helper     a process of its own for work that blocks, as files do
//!   probe      readiness of services
//!   secrets    secrets kept in memory for commands to read
//!   identity   clock, randomness, names and ids of the guest
//!   root       assembling the root file system, and watching its disk
//!   users      accounts that commands run as
//!   reaper     the one place that waits for children
//!   wire       byte streams to the host: descriptors, virtio-serial port, vsock
//!   console    the kernel's log, for trouble that no session can carry
//!   failure    failures as data
//! ```
//!
//! Modules depend on each other downwards only: `boot | server -> session -> {exec, jobs, files -> helper} -> root,
//! wire`.
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
