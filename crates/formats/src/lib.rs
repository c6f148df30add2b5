//! Decoders and writers of formats whose bytes nobody on the host may believe: a guest, an archive, a disk image or a patch
//! wrote them.
//!
//! Invariant: nothing here knows a runtime, a database or a VMM. Bytes and files come in, values and files go out, so that
//! every decoder can be fuzzed alone.
//!
//! Invariant: every size is bounded before it is allocated, every number checked before it is used, and no name becomes a
//! path outside the directory that the caller opened.
#![forbid(unsafe_code)]

pub mod archive;
pub mod disk;
pub mod hostfs;
pub mod patch;
pub mod plain;
pub mod redact;
pub mod untrusted;
