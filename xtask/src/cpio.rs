//! A newc archive of one file, the same bytes for the same content whoever makes it when and where.
//!
//! `/init` is all an initramfs of ours holds. The kernel brings `/dev/console`, which gives init its standard streams,
//! in the archive that every kernel with initramfs support has built in.

const MAGIC: &str = "070701";
const EXECUTABLE_FILE: u32 = 0o100_755;
const END: &str = "TRAILER!!!";

/// The content is larger than the format can say.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} bytes are more than a newc archive can hold in one file")]
pub struct TooLarge(usize);

/// An archive with `content` as the executable file `init`.
///
/// # Errors
/// When the content has 4 GiB or more.
pub fn initramfs(content: &[u8]) -> Result<Vec<u8>, TooLarge> {
    let len = u32::try_from(content.len()).map_err(|_| TooLarge(content.len()))?;
    let mut out = Vec::with_capacity(content.len() + 512);
    entry(&mut out, "init", EXECUTABLE_FILE, 1, len);
    out.extend_from_slice(content);
    pad(&mut out);
    entry(&mut out, END, 0, 0, 0);
    Ok(out)
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, inode: u32, size: u32) {
    let name_size = name.len() as u32 + 1;
    // inode, mode, uid, gid, links, mtime, size, device and special device in two halves each, name, checksum
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    out.extend_from_slice(MAGIC.as_bytes());
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry {
        name: String,
        mode: u32,
        mtime: u32,
        links: u32,
        content: Vec<u8>,
    }

    /// Reads by the format's description (Documentation/driver-api/early-userspace/buffer-format.rst), not by the
    /// writer above.
    fn read(archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0, "entries begin at a multiple of four");
            let header = &archive[at..at + 110];
            assert_eq!(&header[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&header[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = &archive[at + 110..at + 110 + name_size];
            assert_eq!(name.last(), Some(&0));
            let name = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
            let begin = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!((size, begin), (0, archive.len()));
                return entries;
            }
            let content = archive[begin..begin + size].to_vec();
            entries.push(Entry { name, mode: field(1), links: field(4), mtime: field(5), content });
            at = (begin + size).next_multiple_of(4);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for len in 0..9 {
            let content: Vec<u8> = (0..len).collect();
            let entries = read(&initramfs(&content).unwrap());
            assert_eq!(entries.len(), 1);
            assert_eq!((entries[0].name.as_str(), entries[0].mode), ("init", 0o100_755));
            assert_eq!((entries[0].links, entries[0].mtime), (1, 0));
            assert_eq!(entries[0].content, content);
        }
    }
}
