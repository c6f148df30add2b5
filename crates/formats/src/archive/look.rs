//! Looking through a stream that a guest sent, without making anything of it.

use std::io::Read;
use std::ops::ControlFlow;

use super::read::Reader;
use super::{ArchiveError, CHUNK, Content};

/// A file or symbolic link of a stream. Its path is as the guest says it.
pub struct SeenFile<'s> {
    /// Path below the tree's root, as the archive has it after checks.
    pub path: &'s [u8],
    /// Permission bits and the sticky bit.
    pub mode: u32,
    /// Target of a symbolic link; `None` for a file.
    pub target: Option<&'s [u8]>,
    /// Content of a file; empty for a link.
    pub bytes: &'s [u8],
}

/// Shows every file that has at most `most` bytes, and every symbolic link, until `each` has seen enough.
pub fn look(
    stream: &mut dyn Read,
    most: u64,
    each: &mut dyn FnMut(SeenFile<'_>) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let mut reader = Reader::new(stream);
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    while let Some(entry) = reader.next()? {
        bytes.clear();
        let target = match &entry.content {
            Content::File(size) if *size <= most => {
                loop {
                    match reader.content(&mut buffer)? {
                        [] => break,
                        piece => bytes.extend_from_slice(piece),
                    }
                }
                None
            }
            Content::Symlink(target) => Some(target.as_slice()),
            _ => continue,
        };
        let seen = SeenFile { path: &entry.path, mode: entry.mode, target, bytes: &bytes };
        if each(seen).is_break() {
            break;
        }
    }
    Ok(())
}
