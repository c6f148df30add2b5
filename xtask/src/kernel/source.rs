//! Inputs of a kernel's build: the source package, and the tools of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Fragment, KernelError, RECIPE, Record};
use crate::digest;
use crate::error::{TaskError, at};
use crate::places::{find_program, plain_environment};
use crate::progress::say;

const PACKAGE: &str = "linux-source-6.1";
const TARBALL: &str = "/usr/src/linux-source-6.1.tar.xz";

/// Programs and headers that a build needs, and the packages that have them.
const PROGRAMS: [(&str, &str); 9] = [
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("make", "make"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];
const HEADERS: [(&str, &str); 2] =
    [("/usr/include/stdio.h", "libc6-dev"), ("/usr/include/gelf.h", "libelf-dev")];

/// Everything that decides what a build gives.
#[derive(Debug)]
pub struct Inputs {
    version: String,
    tarball_sha256: String,
    fragment_sha256: String,
    toolchain: String,
}

impl Inputs {
    /// Looks at this machine.
    ///
    /// # Errors
    /// When a package is missing, or a tool cannot be asked for its version.
    pub fn gather(fragment: &Fragment, stamps: &Path) -> Result<Self, TaskError> {
        let mut missing: Vec<_> = PROGRAMS
            .iter()
            .filter(|(program, _)| find_program(program).is_none())
            .map(|(_, package)| *package)
            .collect();
        missing.extend(
            HEADERS.iter().filter(|(header, _)| !Path::new(header).exists()).map(|(_, package)| *package),
        );
        if !Path::new(TARBALL).exists() {
            missing.push(PACKAGE);
        }
        if !missing.is_empty() {
            return Err(KernelError::Missing(missing).into());
        }
        let toolchain =
            format!("{}; {}", first_line("gcc", &["--version"])?, first_line("ld", &["--version"])?);
        Ok(Self {
            version: first_line("dpkg-query", &["--show", "--showformat=${Version}", PACKAGE])?,
            tarball_sha256: digest::of_file(Path::new(TARBALL), stamps)?,
            fragment_sha256: digest::of_bytes(fragment.text().as_bytes()),
            toolchain,
        })
    }

    /// The directory name of what is built from these.
    pub fn key(&self) -> String {
        let Self { version, tarball_sha256, fragment_sha256, toolchain } = self;
        let all = format!("{RECIPE}\n{version}\n{tarball_sha256}\n{fragment_sha256}\n{toolchain}\n");
        digest::of_bytes(all.as_bytes())[..32].to_owned()
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn tarball(&self) -> &Path {
        Path::new(TARBALL)
    }

    /// The record of a kernel made from these, without what only its build knows.
    pub(super) fn record(&self, release: String) -> Record {
        Record {
            source_package: PACKAGE.into(),
            source_version: self.version.clone(),
            tarball_sha256: self.tarball_sha256.clone(),
            fragment_sha256: self.fragment_sha256.clone(),
            toolchain: self.toolchain.clone(),
            recipe: RECIPE,
            release,
            vmlinux_sha256: String::new(),
            seconds: 0,
            objects: 0,
        }
    }
}

fn first_line(program: &str, args: &[&str]) -> Result<String, TaskError> {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(plain_environment());
    let output = command.output().map_err(|source| TaskError::Spawn { program: program.into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.trim().to_owned()),
        _ => Err(TaskError::Command {
            what: format!("{program} {}", args.join(" ")),
            status: output.status.to_string(),
        }),
    }
}

/// The unpacked source in `scratch`. It has its name only when it is whole.
pub(super) fn unpack(scratch: &Path, tarball: &Path) -> Result<PathBuf, TaskError> {
    let tree = scratch.join("linux");
    if tree.exists() {
        say("[kernel] going on where an earlier build was interrupted");
        return Ok(tree);
    }
    say(&format!("[kernel] unpacking {}", tarball.display()));
    let partial = scratch.join("unpacking");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir(&partial).map_err(at(&partial, "made"))?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(tarball).arg("--directory").arg(&partial);
    tar.args(["--strip-components=1", "--no-same-owner"]).env_clear().envs(plain_environment());
    let status = tar.status().map_err(|source| TaskError::Spawn { program: "tar".into(), source })?;
    if !status.success() {
        return Err(TaskError::Command {
            what: "unpacking the kernel's source".into(),
            status: status.to_string(),
        });
    }
    fs::rename(&partial, &tree).map_err(at(&tree, "put in place"))?;
    Ok(tree)
}
