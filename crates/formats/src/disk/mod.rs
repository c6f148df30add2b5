//! A guest's disk, read offline: nothing is mounted and nothing of the guest runs.
//!
//! ```text
//!   Merged      the tree as the guest sees it: base root, upper layer, /workspace       merged, tree
//!   export      one raw ext4 image, its journal replayed, its orphans freed             export, orphan
//!   Ext4        one image: inodes, files, directories, attributes       image, inode, blocks, dir, xattr
//!   Volume      bytes of the image as they are once the journal is replayed             volume, journal
//!   Budget      what one call may cost, counted in work done                            budget
//! ```
//!
//! The image of a VM that was killed has a journal that the kernel would replay when it mounts it. Here the replay
//! is a map in memory from a block to where in the journal its newest content lies, so that the image itself is
//! never written to.
//!
//! Invariant: an image is hostile. Nothing that it says makes this panic, loop for ever, or take memory that has no
//! bound: every count and length is checked before it is used, and what exceeds a bound is a typed error. All that a
//! call does, however many objects it meets, comes out of the one [`Budget`] that its images were opened with; whatever
//! reads or loops spends from it first.
//!
//! The caller sees to it that nobody writes to an image while it is read.

mod blocks;
mod budget;
mod bytes;
mod dir;
mod error;
mod export;
mod image;
mod inode;
mod journal;
mod merged;
mod orphan;
mod superblock;
#[cfg(test)]
mod tests;
mod tree;
mod volume;
mod xattr;

pub use budget::{Budget, CancelOnDrop};
pub use dir::Entry;
pub use error::{DiskError, DiskHint, Reading};
pub use export::{Exported, export};
pub use image::Ext4;
pub use inode::{Inode, InodeKind, Time};
pub use merged::{Layer, Merged, Node};
pub use tree::{Found, Visit};
