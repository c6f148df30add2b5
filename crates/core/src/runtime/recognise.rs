//! Telling a real kernel, initramfs and agent from something put in their place, by content alone.
//!
//! This is no proof that a file works, which only a boot gives; it is what makes a script, an empty file or a text
//! that says "placeholder" impossible to declare real. Reads a few headers, bounded, and believes no length in them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{AGENT, FIRECRACKER, FLOOR, INITRAMFS, JAILER, KERNEL};

/// A kernel of ours is 20 MB; one that has lost most of that is none.
const KERNEL_SIZE: std::ops::RangeInclusive<u64> = (1 << 20)..=(512 << 20);
/// A static Rust program with an async runtime cannot be smaller than this, and a few instructions in an ELF are.
const AGENT_SIZE: std::ops::RangeInclusive<u64> = (64 << 10)..=(256 << 20);
/// The ELF note that holds the 32-bit entry point of a PVH kernel.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Most bytes of notes to look through.
const MAX_NOTES: u64 = 64 << 10;
/// Most entries of an archive to look through.
const MAX_ENTRIES: usize = 4096;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;

/// Where `/init` lies in an initramfs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Init {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Checks that `file` is what an artifact called `name` must be; `Err` says what gave it away.
pub(super) fn check(name: &str, file: &File) -> Result<(), String> {
    match name {
        KERNEL => kernel(file),
        INITRAMFS | FLOOR => initramfs(file).map(drop),
        AGENT | FIRECRACKER | JAILER => program(file),
        other => {
            Err(format!("this version of pyro does not know what an artifact called {other:?} has to be"))
        }
    }
}

fn kernel(file: &File) -> Result<(), String> {
    let size = size(file)?;
    if !KERNEL_SIZE.contains(&size) {
        return Err(format!("{size} bytes are not the size of a kernel"));
    }
    let elf = Elf::parse(file, 0, size)?;
    elf.loads_its_entry(false)?;
    let has_entry = elf.segments.iter().filter(|s| s.kind == PT_NOTE).any(|s| {
        let mut notes = vec![0; s.size.min(MAX_NOTES) as usize];
        elf.bytes(s.offset, &mut notes).is_ok() && has_pvh_note(&notes)
    });
    if has_entry { Ok(()) } else { Err("it is an ELF file without the note of a PVH entry point".into()) }
}

fn program(file: &File) -> Result<(), String> {
    static_program(file, 0, size(file)?)
}

/// Finds `/init` in a newc archive and checks that it is a static program.
pub(super) fn initramfs(file: &File) -> Result<Init, String> {
    let init = find_init(file)?;
    static_program(file, init.offset, init.len).map_err(|why| format!("in its /init: {why}"))?;
    Ok(init)
}

fn find_init(file: &File) -> Result<Init, String> {
    let size = size(file)?;
    let mut at = 0_u64;
    for _ in 0..MAX_ENTRIES {
        let mut header = [0; 110];
        if at.checked_add(110).is_none_or(|end| end > size) {
            return Err("it is not a newc cpio archive, or one cut short".into());
        }
        read(file, at, &mut header)?;
        if &header[..6] != b"070701" {
            return Err("it is not a newc cpio archive".into());
        }
        let field = |n: usize| hex_field(&header[6 + n * 8..14 + n * 8]);
        let (mode, len, name_len) = (field(1)?, field(6)?, field(11)?);
        let mut name = vec![0; name_len.min(4096) as usize];
        read(file, at + 110, &mut name)?;
        let data = (at + 110 + u64::from(name_len)).next_multiple_of(4);
        if data + u64::from(len) > size {
            return Err("it is an archive cut short".into());
        }
        let name = name.strip_suffix(&[0]).unwrap_or(&name);
        match name {
            b"TRAILER!!!" => return Err("there is no /init in it".into()),
            b"init" | b"/init" | b"./init" => {
                if mode & 0o170_000 != 0o100_000 {
                    return Err("its /init is not a regular file".into());
                }
                if mode & 0o111 == 0 {
                    return Err("its /init is not executable".into());
                }
                return Ok(Init { offset: data, len: u64::from(len) });
            }
            _ => at = (data + u64::from(len)).next_multiple_of(4),
        }
    }
    Err("it holds too many files".into())
}

fn hex_field(digits: &[u8]) -> Result<u32, String> {
    digits.iter().try_fold(0_u32, |value, digit| {
        char::from(*digit)
            .to_digit(16)
            .map(|d| value << 4 | d)
            .ok_or_else(|| "it is a damaged cpio archive".to_owned())
    })
}

fn static_program(file: &File, offset: u64, len: u64) -> Result<(), String> {
    let mut start = [0; 2];
    if len >= 2 && read(file, offset, &mut start).is_ok() && &start == b"#!" {
        return Err("it is a script".into());
    }
    if !AGENT_SIZE.contains(&len) {
        return Err(format!("{len} bytes are not the size of the agent"));
    }
    let elf = Elf::parse(file, offset, len)?;
    if elf.segments.iter().any(|s| s.kind == PT_INTERP) {
        return Err("it is dynamically linked".into());
    }
    elf.loads_its_entry(true)
}

struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    size: u64,
    memory: u64,
}

/// The headers of an x86-64 ELF executable that lies in a range of a file.
struct Elf<'a> {
    file: &'a File,
    base: u64,
    len: u64,
    entry: u64,
    segments: Vec<Segment>,
}

impl<'a> Elf<'a> {
    fn parse(file: &'a File, base: u64, len: u64) -> Result<Self, String> {
        let mut elf = Self { file, base, len, entry: 0, segments: Vec::new() };
        let mut head = [0; 64];
        elf.bytes(0, &mut head).map_err(|_| "it is not an ELF file".to_owned())?;
        let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let kind = u16_at(16);
        // 64 bits, little endian, executable or position-independent, x86-64.
        if head[..4] != *b"\x7fELF" || head[4..6] != [2, 1] || !matches!(kind, 2 | 3) || u16_at(18) != 62 {
            return Err("it is not an x86-64 ELF executable".into());
        }
        elf.entry = u64_at(&head, 24);
        let (table, entry_size, count) = (u64_at(&head, 32), u16_at(54), u16_at(56));
        if entry_size != 56 || count == 0 || count > 128 {
            return Err("its ELF program headers are not usable".into());
        }
        let mut raw = vec![0; 56 * usize::from(count)];
        elf.bytes(table, &mut raw)?;
        for raw in raw.chunks_exact(56) {
            let segment = Segment {
                kind: u32_at(raw, 0),
                flags: u32_at(raw, 4),
                offset: u64_at(raw, 8),
                vaddr: u64_at(raw, 16),
                paddr: u64_at(raw, 24),
                size: u64_at(raw, 32),
                memory: u64_at(raw, 40),
            };
            if segment.offset.checked_add(segment.size).is_none_or(|end| end > len) {
                return Err("it is an ELF file cut short".into());
            }
            elf.segments.push(segment);
        }
        Ok(elf)
    }

    /// Whether the entry point lies in a segment that is loaded from the file. A kernel's is a physical address.
    fn loads_its_entry(&self, virt: bool) -> Result<(), String> {
        let holds = |s: &Segment| {
            let start = if virt { s.vaddr } else { s.paddr };
            let inside = self.entry.checked_sub(start).is_some_and(|at| at < s.size && at < s.memory);
            s.kind == PT_LOAD && s.flags & PF_X != 0 && inside
        };
        if self.segments.iter().any(holds) {
            Ok(())
        } else {
            Err("it is an ELF file without code to start at".into())
        }
    }

    fn bytes(&self, at: u64, out: &mut [u8]) -> Result<(), String> {
        if at.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err("it is an ELF file cut short".into());
        }
        read(self.file, self.base + at, out)
    }
}

fn has_pvh_note(mut notes: &[u8]) -> bool {
    while notes.len() >= 12 {
        let (name, desc, kind) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize, u32_at(notes, 8));
        let body = 12 + name.min(MAX_NOTES as usize).next_multiple_of(4);
        let end = body + desc.min(MAX_NOTES as usize).next_multiple_of(4);
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && desc >= 4 && notes.get(12..12 + name) == Some(b"Xen\0") {
            return true;
        }
        notes = notes.get(end..).unwrap_or_default();
    }
    false
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

fn size(file: &File) -> Result<u64, String> {
    Ok(file.metadata().map_err(|e| unreadable(&e))?.len())
}

fn read(file: &File, at: u64, out: &mut [u8]) -> Result<(), String> {
    file.read_exact_at(out, at).map_err(|e| unreadable(&e))
}

fn unreadable(error: &io::Error) -> String {
    format!("it cannot be read ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn garbage_is_never_real(bytes: Vec<u8>, cut in 0_usize..200) {
            let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
            elf.extend(&bytes);
            let mut cpio = b"070701".to_vec();
            cpio.extend(bytes.iter().map(|b| b"0123456789abcdef"[usize::from(b % 16)]));
            for content in [&bytes, &elf, &cpio] {
                let file = file(&content[..content.len().min(cut)]);
                for name in [KERNEL, INITRAMFS, AGENT, FLOOR, "other"] {
                    prop_assert!(check(name, &file).is_err());
                }
            }
        }

        #[test]
        fn notes_end(bytes: Vec<u8>) {
            has_pvh_note(&bytes);
        }
    }
}
