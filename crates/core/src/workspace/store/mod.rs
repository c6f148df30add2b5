//! A workspace on disk, and what payloads show of it.
//!
//! ```text
//!   layout    directories, locks            naming   names, labels, and removal        paths   below /workspace
//!   state     the database                  record   what is in it                     view, files_view, jobs_view: payloads
//!   history   of commands                   jobs     shells and services               spool   what those wrote, in files
//!   disk      disks and their copies        secrets  what may be one, where they are   service_spec  what a service is to be
//!   holder    who holds a lock, to end one that hangs
//! ```
//!
//! Invariant: whether a workspace runs is never read from a file. A keeper that answers says so; where none does, the
//! workspace is stopped.

pub(crate) mod disk;
pub(crate) mod files_view;
pub(crate) mod history;
pub(crate) mod holder;
pub(crate) mod jobs;
pub(crate) mod jobs_view;
pub(crate) mod layout;
pub(crate) mod naming;
pub(crate) mod paths;
pub(crate) mod record;
pub(crate) mod secrets;
pub(crate) mod service_spec;
pub(crate) mod spool;
pub(crate) mod state;
pub(crate) mod view;
