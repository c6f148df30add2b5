//! Files of the host as decoders and writers use them: paths that cannot be swapped between a check and its use, and copies
//! that keep holes.

mod host_path;
mod sparse;

pub use host_path::HostPath;
pub use sparse::{copy_sparse, copy_sparse_ahead, copy_sparse_asking, dig_holes, next_data};
