//! Environments: what there is, how one is built from Debian's packages, and where the built ones are kept.
//!
//! ```text
//!   catalog    names, descriptions, packages                      (data)
//!   sources -> debian -> image                                    (one build, in a directory of its own)
//!   store      versions on disk: locked, verified, published by one rename
//!   disk       the blank writable disk that VMs get copies of
//! ```
//!
//! Everything here blocks; callers put it on a thread and stop it with a [`CancelToken`](crate::hostfs::CancelToken).
//!
//! Invariant: nothing half-made is ever reachable under a name that is trusted. A version is named by the digest of
//! its image, is complete and on disk before it gets that name, and never changes afterwards.

mod catalog;
mod debian;
mod disk;
mod error;
mod event;
mod image;
mod install;
mod manifest;
mod packages;
mod process;
mod prune;
mod sources;
mod store;
#[cfg(test)]
mod tests;

pub use catalog::{CatalogEntry, EnvironmentStatus, catalog, catalog_version};
pub use disk::DISK_BYTES;
pub use error::{BuildCause, EnvironmentError};
pub use event::{Progress, PullEvent, PullPhase, Unit};
pub use manifest::{EnvironmentManifest, Rootfs, Source};
pub use packages::Package;
pub use prune::Pruned;
pub use store::{Installed, Store};
