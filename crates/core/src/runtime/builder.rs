//! The only place that writes a manifest.
//!
//! [`BundleBuilder::write`] makes a bundle whose capabilities are all false; it has no parameter that could say
//! otherwise. [`Bundle::raise`] is the one way up and takes [`Evidence`]. Both end in `manifest_bytes`, which applies
//! the safety rule once more to what is about to be written.
//!
//! A bundle is assembled beside its destination and swapped in whole, so a reader sees the old one or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use sha2::{Digest as _, Sha256};

use super::bundle::{init_digest, io_error};
use super::manifest::{Artifact, ArtifactKind, Capabilities, Manifest, is_plain_name};
use super::{
    AGENT, Bundle, Evidence, FIRECRACKER, INITRAMFS, JAILER, MANIFEST, PLATFORM, RuntimeError, SCHEMA,
    recognise,
};
use crate::hostfs::stamp;

/// Gathers what goes into a bundle.
#[derive(Debug)]
pub struct BundleBuilder {
    bundle_version: String,
    component_versions: BTreeMap<String, String>,
    artifacts: BTreeMap<String, Staged>,
}

#[derive(Debug)]
struct Staged {
    source: PathBuf,
    path: String,
    version: String,
    kind: ArtifactKind,
}

impl BundleBuilder {
    /// An empty bundle of that version.
    pub fn new(bundle_version: impl Into<String>) -> Self {
        Self {
            bundle_version: bundle_version.into(),
            component_versions: BTreeMap::new(),
            artifacts: BTreeMap::new(),
        }
    }

    /// Records the version of something the bundle was made from.
    pub fn component(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.component_versions.insert(name.into(), version.into());
        self
    }

    /// Adds an artifact: `source` is copied into the bundle as `path`, a plain file name. A second one of the same
    /// name replaces the first.
    pub fn artifact(
        mut self,
        name: impl Into<String>,
        source: impl Into<PathBuf>,
        path: impl Into<String>,
        version: impl Into<String>,
        kind: ArtifactKind,
    ) -> Self {
        let staged = Staged { source: source.into(), path: path.into(), version: version.into(), kind };
        self.artifacts.insert(name.into(), staged);
        self
    }

    /// Writes the bundle to `dir`, replacing a bundle that is there, and opens it. All its capabilities are false.
    ///
    /// `stamps` is as for [`Bundle::open`].
    ///
    /// # Errors
    /// When an artifact declared real is recognised as none, `dir` holds something else than a bundle, or a file
    /// cannot be read or written.
    pub fn write(self, dir: &Path, stamps: &Path) -> Result<Bundle, RuntimeError> {
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let written = |source| io_error(dir, "written", source);
        fs::create_dir_all(&parent).map_err(written)?;
        let holds_something_else = !dir.join(MANIFEST).exists()
            && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if holds_something_else {
            return Err(written(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "it holds something that is no runtime",
            )));
        }
        let building = tempfile::Builder::new().prefix(".building-").tempdir_in(&parent).map_err(written)?;
        let mut artifacts = BTreeMap::new();
        for (name, staged) in &self.artifacts {
            artifacts.insert(name.clone(), copy(name, staged, building.path())?);
        }
        let manifest = Manifest {
            schema: SCHEMA,
            bundle_version: self.bundle_version,
            platform: PLATFORM.into(),
            component_versions: self.component_versions,
            artifacts,
            capabilities: Capabilities {
                reason: Some("no boot of this runtime was measured".into()),
                ..Capabilities::default()
            },
            evidence: None,
        };
        check_init(&manifest, building.path())?;
        put_manifest(&manifest, building.path())?;
        set_readable(building.path()).map_err(written)?;
        swap_in(building.path(), dir).map_err(written)?;
        sync_dir(&parent).map_err(written)?;
        // When there was a bundle it is in `building` now, and goes with it.
        drop(building);
        Bundle::open(dir, stamps)
    }
}

impl Bundle {
    /// Writes what was measured into the manifest.
    ///
    /// # Errors
    /// When the evidence is of other artifacts, or this bundle has changed or holds anything that is not real.
    pub fn raise(self, evidence: Evidence) -> Result<Self, RuntimeError> {
        let Evidence { record } = evidence;
        let same =
            self.manifest().artifacts.iter().map(|(name, a)| (name, &a.sha256)).eq(record.artifacts.iter());
        if !same {
            return Err(RuntimeError::Evidence("it was taken from other artifacts".into()));
        }
        for (name, artifact) in &self.manifest().artifacts {
            let file = self.open_hashed(name)?;
            let path = self.root().join(&artifact.path);
            recognise::check(name, &file).map_err(|why| RuntimeError::NotReal {
                name: name.clone(),
                path,
                why,
            })?;
        }
        let (root, mut manifest, stamps) = self.into_parts();
        manifest.capabilities = Capabilities {
            vm_boot: true,
            guest_exec: record.exec_stdout.is_some(),
            guest_network: false,
            reason: Some("guest networking is not part of this version".into()),
        };
        manifest.evidence = Some(record);
        put_manifest(&manifest, &root)?;
        Self::open(&root, &stamps)
    }
}

/// The bytes of a manifest that keeps the safety rule; there is no other way to a manifest's bytes.
fn manifest_bytes(manifest: &Manifest, path: &Path) -> Result<Vec<u8>, RuntimeError> {
    manifest.check_claims(path)?;
    let bytes = stamp::seal(manifest)
        .map_err(|e| RuntimeError::Manifest { path: path.to_owned(), why: e.to_string() })?;
    // A written manifest must also be readable: a path that is not plain, say, is found here.
    Manifest::parse(&bytes, path)?;
    Ok(bytes)
}

fn put_manifest(manifest: &Manifest, dir: &Path) -> Result<(), RuntimeError> {
    let path = dir.join(MANIFEST);
    let bytes = manifest_bytes(manifest, &path)?;
    let put = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".manifest-").tempfile_in(dir)?;
        file.write_all(&bytes)?;
        set_readable(file.path())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        sync_dir(dir)
    };
    put().map_err(|source| io_error(&path, "written", source))
}

fn copy(name: &str, staged: &Staged, dir: &Path) -> Result<Artifact, RuntimeError> {
    let Staged { source, path, version, kind } = staged;
    let target = dir.join(path);
    if !is_plain_name(path) {
        let why = format!("the path of {name}, {path:?}, is not a plain file name");
        return Err(RuntimeError::Manifest { path: dir.join(MANIFEST), why });
    }
    let not_real = |why: String| RuntimeError::NotReal { name: name.into(), path: source.clone(), why };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut from = match rustix::fs::openat(CWD, source, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(not_real("it is a symbolic link".into())),
        Err(error) => return Err(io_error(source, "opened", error.into())),
    };
    if !from.metadata().map_err(|e| io_error(source, "read", e))?.is_file() {
        return Err(not_real("it is not a regular file".into()));
    }
    let written = |e| io_error(&target, "written", e);
    let mut to = File::options().read(true).write(true).create_new(true).open(&target).map_err(written)?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = from.read(&mut buffer).map_err(|e| io_error(source, "read", e))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n]).map_err(written)?;
        size += n as u64;
    }
    to.sync_all().map_err(written)?;
    set_readable(&target).map_err(written)?;
    // The copy is looked at, not the source: it is what the digest describes.
    if *kind == ArtifactKind::Real {
        recognise::check(name, &to).map_err(not_real)?;
    }
    let sha256 = stamp::hex(&hash.finalize());
    Ok(Artifact { path: path.clone(), sha256, size, version: version.clone(), kind: *kind })
}

fn check_init(manifest: &Manifest, dir: &Path) -> Result<(), RuntimeError> {
    let real = |name| manifest.artifacts.get(name).filter(|a| a.kind == ArtifactKind::Real);
    let (Some(initramfs), Some(agent)) = (real(INITRAMFS), real(AGENT)) else { return Ok(()) };
    let path = dir.join(&initramfs.path);
    let file = File::open(&path).map_err(|e| io_error(&path, "opened", e))?;
    let why = match init_digest(&file) {
        Ok(found) if found == agent.sha256 => return Ok(()),
        Ok(_) => "its /init is another program than the agent of this runtime".into(),
        Err(why) => why,
    };
    Err(RuntimeError::NotReal { name: INITRAMFS.into(), path, why })
}

/// Puts `building` where `dir` is; what was there is then at `building`.
fn swap_in(building: &Path, dir: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, building, CWD, dir, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOENT) => {
            rustix::fs::renameat_with(CWD, building, CWD, dir, RenameFlags::NOREPLACE)?;
            // Recreated empty, so that its owner finds something to remove.
            fs::create_dir(building)
        }
        other => Ok(other?),
    }
}

/// Temporary files are made for their owner alone; a bundle is for everybody to read.
///
/// Programs of this host are executable too; what the guest runs is not for the host to run.
fn set_readable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = if path.is_dir() || is_program(path) { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A program that the host runs. Their files have their artifacts' names.
fn is_program(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == FIRECRACKER || name == JAILER)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
