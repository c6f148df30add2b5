//! Environments, VMs and runs: what they ARE, and how they live on this host.
//!
//! Front ends (the command line, later MCP and Python) turn words into calls of this crate and results into words.
//!
//! Invariant: nothing here prints, exits, or reads environment variables or the home directory; where things are is
//! told by the caller in [`config::Config`].
#![forbid(unsafe_code)]

pub mod backend;
pub mod bug;
pub mod capture;
pub mod cause;
pub mod command;
pub mod config;
pub mod doctor;
pub mod environment;
pub mod failure;
pub mod guest;
pub mod hint;
pub mod host;
pub mod host_compat;
pub mod hostfs;
pub mod identity;
pub mod launch;
pub mod run;
pub mod runtime;
pub mod start;
pub mod template;
pub mod timeline;
pub mod vm;
pub mod workspace;

pub use pyro_formats::hostfs::HostPath;
pub use pyro_formats::{archive, disk, patch, plain};
