//! The guest agent as one static program, and the initramfs that holds it.
//!
//! Linked statically against the C library of this machine: inside the guest nothing else is there to link with. It
//! has a target directory of its own, because its flags would otherwise rebuild everything else.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio;
use crate::digest;
use crate::error::{TaskError, at};
use crate::places::Places;
use crate::progress::say;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "guest";
const PROGRAM: &str = "pyro-agent";

/// The agent and its initramfs.
#[derive(Debug)]
pub struct Agent {
    /// The static ELF file.
    pub program: PathBuf,
    /// The archive with it as `/init`.
    pub initramfs: PathBuf,
    /// The version that it says it has.
    pub version: String,
}

/// Builds both; what has not changed keeps its files untouched.
///
/// # Errors
/// When cargo fails, or what it made is not a static program.
pub fn build(places: &Places) -> Result<Agent, TaskError> {
    let target = places.target.join(PROFILE);
    let mut cargo = Command::new(&places.cargo);
    cargo.current_dir(&places.root).args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        PROGRAM,
        "--bin",
        PROGRAM,
    ]);
    cargo.args(["--profile", PROFILE, "--target", TARGET, "--target-dir"]).arg(&target);
    // Encoded flags go before every other source of flags, so nobody's environment changes the agent.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(places));
    let status = cargo.status().map_err(|source| TaskError::Spawn { program: "cargo".into(), source })?;
    if !status.success() {
        return Err(TaskError::Command { what: "building the agent".into(), status: status.to_string() });
    }
    let program = target.join(TARGET).join(PROFILE).join(PROGRAM);
    let initramfs = target.join("initramfs.cpio");
    pack("agent", &program, &initramfs)?;
    Ok(Agent { version: version(&program)?, program, initramfs })
}

/// Packs a static program as the only one of an initramfs, which keeps its file untouched if that changes nothing.
///
/// # Errors
/// When it cannot be read, is no static program, or the archive cannot be written.
pub(crate) fn pack(what: &str, program: &Path, initramfs: &Path) -> Result<(), TaskError> {
    let unfit = |why: String| TaskError::Unfit { path: program.to_owned(), why };
    let content = fs::read(program).map_err(at(program, "read"))?;
    is_static(&content).map_err(|why| unfit(why.into()))?;
    let archive = cpio::initramfs(&content).map_err(|error| unfit(format!("cannot be packed: {error}")))?;
    if fs::read(initramfs).ok().as_ref() != Some(&archive) {
        digest::replace(initramfs, &archive).map_err(at(initramfs, "written"))?;
        say(&format!("[{what}] {} ({} KiB)", initramfs.display(), archive.len() / 1024));
    }
    Ok(())
}

/// Static linking, and no path of this machine in the result.
fn flags(places: &Places) -> OsString {
    let mut all = OsString::from("-Ctarget-feature=+crt-static");
    let remaps = [(Some(&places.root), "pyro"), (places.cargo_home.as_ref(), "cargo")];
    for (path, name) in remaps {
        if let Some(path) = path {
            all.push("\u{1f}--remap-path-prefix=");
            all.push(path);
            all.push(format!("=/{name}"));
        }
    }
    all
}

/// Version that the program names itself; the agent runs here as it does in the guest.
fn version(program: &Path) -> Result<String, TaskError> {
    let mode = fs::metadata(program).map_err(at(program, "read"))?.permissions().mode();
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|source| TaskError::Spawn { program: PROGRAM.into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().last() {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => Err(TaskError::Unfit {
            path: program.to_owned(),
            why: format!("(mode {mode:o}) does not tell its version: {}", output.status),
        }),
    }
}

const PT_INTERP: u32 = 3;

/// Whether this is an x86-64 ELF program that needs no dynamic linker; `Err` says what else it is.
fn is_static(elf: &[u8]) -> Result<(), &'static str> {
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    // 64-bit, little-endian, for x86-64, an executable or a position-independent one
    let fits = elf.starts_with(b"\x7fELF\x02\x01")
        && matches!(number(16, 2), Some(2 | 3))
        && number(18, 2) == Some(62);
    if !fits {
        return Err("is not an ELF program for x86-64");
    }
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    let Some((offset, size, count)) = headers() else { return Err("is cut off") };
    for index in 0..count {
        let at = usize::try_from(offset.saturating_add(index * size))
            .map_err(|_| "has no program headers where it says")?;
        match number(at, 4) {
            Some(kind) if kind == u64::from(PT_INTERP) => {
                return Err("asks for a dynamic linker, and there is none in the guest");
            }
            Some(_) => {}
            None => return Err("has no program headers where it says"),
        }
    }
    if count == 0 { Err("has no program headers") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header and program headers of these kinds.
    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut out = vec![0; 64];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[16] = 3;
        out[18] = 62;
        out[32] = 64;
        out[54] = 56;
        out[56] = kinds.len() as u8;
        for kind in kinds {
            out.extend_from_slice(&kind.to_le_bytes());
            out.resize(out.len() + 52, 0);
        }
        out
    }

    #[test]
    fn a_static_program_is_told_from_others() {
        assert_eq!(is_static(&elf(&[1, 1, 2])), Ok(()));
        assert!(is_static(&elf(&[1, PT_INTERP])).unwrap_err().contains("dynamic linker"));
        assert!(is_static(&elf(&[])).is_err());
        assert!(is_static(b"#!/bin/sh\n").is_err());
        let whole = elf(&[1, 1]);
        for cut in 0..whole.len() - 56 {
            assert!(is_static(&whole[..cut]).is_err(), "{cut}");
        }
        let mut far = elf(&[1]);
        far[32..40].fill(0xff);
        assert!(is_static(&far).is_err());
    }

    #[test]
    fn this_test_itself_is_dynamic() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(is_static(&own).unwrap_err().contains("dynamic linker"));
    }
}
