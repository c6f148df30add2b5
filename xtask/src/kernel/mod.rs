//! The guest kernel, from Debian's own source package, with our configuration.
//!
//! ```text
//!   <cache>/kernel/lock                  held while anything below is made; a second build waits here
//!   <cache>/kernel/scratch/<key>/linux   the source being built; survives an interruption, make goes on in it
//!   <cache>/kernel/<key>/vmlinux, build.json
//! ```
//!
//! The key is the digest of everything that goes into the result: the package's version, its tarball, the
//! configuration, compiler and linker, and [`RECIPE`]. A directory with a key for a name is complete: it came there by
//! one rename.

mod config;
mod make;
mod source;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{TaskError, at};
use crate::places::Places;
use crate::progress::{clock, say};

pub use config::{Fragment, Unmet};
pub use source::Inputs;

/// Raise it whenever the way of building changes what comes out.
const RECIPE: u32 = 1;
/// Objects that a whole build compiles, for the first build's progress; later ones know it from their predecessor.
const OBJECTS: usize = 1520;

/// A kernel in the cache.
#[derive(Debug)]
pub struct Kernel {
    /// The ELF file.
    pub vmlinux: PathBuf,
    /// Inputs that the kernel was made from.
    pub record: Record,
}

/// `build.json`: what a kernel was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Debian's source package.
    pub source_package: String,
    /// Version of the source package.
    pub source_version: String,
    /// Digest of the source package's tarball.
    pub tarball_sha256: String,
    /// Digest of the requested configuration.
    pub fragment_sha256: String,
    /// Compiler and linker.
    pub toolchain: String,
    /// The way of building.
    pub recipe: u32,
    /// Release as the kernel names itself, `uname -r`.
    pub release: String,
    /// Digest of `vmlinux`.
    pub vmlinux_sha256: String,
    /// Seconds that the build took, its last session alone when it was interrupted.
    pub seconds: u64,
    /// Objects that were compiled.
    pub objects: usize,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Programs or headers are missing.
    #[error("building the kernel needs {} more: apt-get install --no-install-recommends {}", count(.0.len()), .0.join(" "))]
    Missing(Vec<&'static str>),
    /// The configuration cannot be had.
    #[error("the kernel's configuration cannot be as requested:\n{}", .0.iter().map(|unmet| format!("  {unmet}")).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Unmet>),
    /// Make failed, or was killed.
    #[error("building the kernel failed ({status}); the end of {}:\n{tail}", .log.display())]
    Make {
        /// Exit status or signal of make.
        status: String,
        /// The whole log.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
}

fn count(packages: usize) -> String {
    format!("{packages} package{}", if packages == 1 { "" } else { "s" })
}

/// The kernel, from the cache or built now.
///
/// # Errors
/// When tools are missing, the configuration cannot be met, or the build fails.
pub fn build(places: &Places) -> Result<Kernel, TaskError> {
    let fragment_path = places.root.join("xtask/kernel/guest.config");
    let fragment = Fragment::parse(&fragment_path)?;
    let inputs = Inputs::gather(&fragment, &places.cache.join("stamps"))?;
    let dir = places.cache.join("kernel");
    let home = dir.join(inputs.key());
    if let Some(kernel) = published(&home, places)? {
        return Ok(kernel);
    }
    fs::create_dir_all(&dir).map_err(at(&dir, "made"))?;
    let lock = take_lock(&dir.join("lock"))?;
    // Another build may have made it while this one waited.
    if let Some(kernel) = published(&home, places)? {
        return Ok(kernel);
    }
    let begin = Instant::now();
    let scratch = scratch_for(&dir.join("scratch"), &inputs.key())?;
    let tree = source::unpack(&scratch, inputs.tarball())?;
    let tree = make::Tree { dir: tree, log: scratch.join("build.log"), lock };
    tree.configure(&fragment_path)?;
    config::check(&fragment, &tree.dir)?;
    let expected = objects_of_a_predecessor(&dir).unwrap_or(OBJECTS);
    say(&format!(
        "[kernel] building linux {} (about {expected} objects); log: {}",
        inputs.version(),
        tree.log.display()
    ));
    let objects = tree.compile(expected)?;
    let record = Record { objects, seconds: begin.elapsed().as_secs(), ..inputs.record(tree.release()?) };
    let kernel = publish(&tree, &scratch, &home, record, places)?;
    say(&format!("[kernel] linux {} built in {}", kernel.record.release, clock(begin.elapsed())));
    // The lock goes with the tree, last: until then nobody else touches the scratch directory.
    let _ = fs::remove_dir_all(&scratch);
    drop(tree);
    Ok(kernel)
}

/// The complete kernel in `home`, when there is one whose content is what it was.
fn published(home: &Path, places: &Places) -> Result<Option<Kernel>, TaskError> {
    let vmlinux = home.join("vmlinux");
    let record =
        fs::read(home.join("build.json")).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    let Some(record) = record.filter(|_| vmlinux.is_file()) else { return Ok(None) };
    if digest::of_file(&vmlinux, &places.cache.join("stamps"))? == record.vmlinux_sha256 {
        return Ok(Some(Kernel { vmlinux, record }));
    }
    say(&format!("[kernel] {} is damaged; building it again", vmlinux.display()));
    Ok(None)
}

fn publish(
    tree: &make::Tree,
    scratch: &Path,
    home: &Path,
    record: Record,
    places: &Places,
) -> Result<Kernel, TaskError> {
    let ready = scratch.join("ready");
    let _ = fs::remove_dir_all(&ready);
    fs::create_dir(&ready).map_err(at(&ready, "made"))?;
    let vmlinux = ready.join("vmlinux");
    tree.strip_to(&vmlinux)?;
    let vmlinux_sha256 = digest::of_file(&vmlinux, &places.cache.join("stamps"))?;
    let record = Record { vmlinux_sha256, ..record };
    let json = ready.join("build.json");
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|source| TaskError::Json { path: json.clone(), source })?;
    fs::write(&json, text).map_err(at(&json, "written"))?;
    for file in [&vmlinux, &json] {
        File::open(file).and_then(|file| file.sync_all()).map_err(at(file, "written"))?;
    }
    if home.exists() {
        // Only a damaged one can be here; see `published`.
        fs::remove_dir_all(home).map_err(at(home, "removed"))?;
    }
    fs::rename(&ready, home).map_err(at(home, "put in place"))?;
    Ok(Kernel { vmlinux: home.join("vmlinux"), record })
}

/// Takes the lock, saying so when somebody else has it.
fn take_lock(path: &Path) -> Result<File, TaskError> {
    let file =
        File::options().create(true).truncate(false).write(true).open(path).map_err(at(path, "opened"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            say("[kernel] another build is running; waiting for it");
            file.lock().map_err(at(path, "locked"))?;
        }
        Err(fs::TryLockError::Error(source)) => return Err(at(path, "locked")(source)),
    }
    Ok(file)
}

/// The scratch directory for `key`; those of other inputs are not coming back, and each holds 1.3 GB of source.
fn scratch_for(all: &Path, key: &str) -> Result<PathBuf, TaskError> {
    if let Ok(entries) = fs::read_dir(all) {
        for entry in entries.flatten().filter(|entry| entry.file_name() != key) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let scratch = all.join(key);
    fs::create_dir_all(&scratch).map_err(at(&scratch, "made"))?;
    Ok(scratch)
}

fn objects_of_a_predecessor(dir: &Path) -> Option<usize> {
    let entries = fs::read_dir(dir).ok()?;
    let records = entries.flatten().filter_map(|entry| {
        let path = entry.path().join("build.json");
        let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
        let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some((written, record.objects))
    });
    records.max().map(|(_, objects)| objects)
}
