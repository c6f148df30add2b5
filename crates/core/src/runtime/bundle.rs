//! A bundle on disk, opened and checked.
//!
//! Everything is reached through a descriptor of the bundle's directory, without following links, and each artifact
//! is handed out as the very descriptor that was verified: what is booted is what was checked.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::manifest::{Artifact, ArtifactKind, MAX_MANIFEST, Manifest};
use super::{AGENT, INITRAMFS, MANIFEST, RuntimeError, recognise};
use crate::hostfs::stamp::{self, Content, Stamps};

/// A runtime bundle whose manifest is believable and whose artifacts are there.
#[derive(Debug)]
pub struct Bundle {
    root: PathBuf,
    dir: File,
    manifest: Manifest,
    digest: String,
    stamps: Stamps,
    stamps_parent: PathBuf,
}

impl Bundle {
    /// Opens the bundle in `root`: reads the manifest, and checks of every artifact that it is a file of the right
    /// size, and of every one declared real that it looks like what its name says.
    ///
    /// `stamps` is a directory for digest stamps; it need not exist nor be writable.
    ///
    /// # Errors
    /// When there is none, or anything about it is not as it should be.
    pub fn open(root: &Path, stamps: &Path) -> Result<Self, RuntimeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(CWD, root, flags, Mode::empty()) {
            Ok(dir) => File::from(dir),
            Err(rustix::io::Errno::NOENT) => return Err(RuntimeError::Missing(root.to_owned())),
            Err(error) => return Err(io_error(root, "opened", error.into())),
        };
        let path = root.join(MANIFEST);
        let file = match open_in(&dir, MANIFEST) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RuntimeError::Missing(root.to_owned()));
            }
            Err(error) => return Err(io_error(&path, "opened", error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(|e| io_error(&path, "read", e))?;
        if bytes.len() as u64 > MAX_MANIFEST {
            let why = format!("it is larger than {MAX_MANIFEST} bytes");
            return Err(RuntimeError::Manifest { path, why });
        }
        let manifest = Manifest::parse(&bytes, &path)?;
        let digest = stamp::digest_bytes(&bytes);
        let stamps_parent = stamps.to_owned();
        let stamps = Stamps::new(stamps.join("stamps"));
        let bundle = Self { root: root.to_owned(), dir, manifest, digest, stamps, stamps_parent };
        for (name, artifact) in &bundle.manifest.artifacts {
            let file = bundle.open_unverified(name, artifact)?;
            if artifact.kind == ArtifactKind::Real {
                recognise::check(name, &file).map_err(|why| bundle.not_real(name, artifact, why))?;
            }
        }
        bundle.check_init()?;
        Ok(bundle)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bundle's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 over `manifest.json`, which changes when anything in the bundle does.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// Where an artifact is, when the manifest has it. For people to read; use [`Bundle::open_artifact`] to use it.
    pub fn artifact_path(&self, name: &str) -> Option<PathBuf> {
        self.manifest.artifacts.get(name).map(|artifact| self.root.join(&artifact.path))
    }

    /// Opens an artifact for reading, verified against its digest; the offset is 0.
    ///
    /// # Errors
    /// When it is missing, is a shim or placeholder, or its content is not what the manifest says.
    pub fn open_artifact(&self, name: &str) -> Result<File, RuntimeError> {
        self.open_verified(name, |file| self.stamps.digest(file, Content::Whole))
    }

    /// Hashes every artifact anew, whatever the stamps say.
    ///
    /// # Errors
    /// The first artifact that is not what the manifest says.
    pub fn verify_all(&self) -> Result<(), RuntimeError> {
        for (name, artifact) in &self.manifest.artifacts {
            let file = self.open_unverified(name, artifact)?;
            self.check_digest(name, artifact, stamp::digest(&file, Content::Whole, &mut |_| true))?;
        }
        Ok(())
    }

    /// Root, manifest, and the directory for stamps.
    pub(super) fn into_parts(self) -> (PathBuf, Manifest, PathBuf) {
        (self.root, self.manifest, self.stamps_parent)
    }

    /// As [`Bundle::open_artifact`], hashing anew.
    pub(super) fn open_hashed(&self, name: &str) -> Result<File, RuntimeError> {
        self.open_verified(name, |file| stamp::digest(file, Content::Whole, &mut |_| true))
    }

    fn open_verified(
        &self,
        name: &str,
        digest: impl Fn(&File) -> io::Result<String>,
    ) -> Result<File, RuntimeError> {
        let Some(artifact) = self.manifest.artifacts.get(name) else {
            return Err(RuntimeError::NoArtifact { root: self.root.clone(), name: name.into() });
        };
        if artifact.kind != ArtifactKind::Real {
            return Err(self.not_real(name, artifact, format!("it is a declared {}", artifact.kind.word())));
        }
        let file = self.open_unverified(name, artifact)?;
        self.check_digest(name, artifact, digest(&file))?;
        Ok(file)
    }

    fn open_unverified(&self, name: &str, artifact: &Artifact) -> Result<File, RuntimeError> {
        let path = self.root.join(&artifact.path);
        let changed =
            |why: &str| RuntimeError::Changed { name: name.into(), path: path.clone(), why: why.into() };
        let file = match open_in(&self.dir, &artifact.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(changed("it is missing")),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(changed("it is a symbolic link"));
            }
            Err(error) => return Err(io_error(&path, "opened", error)),
        };
        let stat = file.metadata().map_err(|e| io_error(&path, "read", e))?;
        if !stat.is_file() {
            return Err(changed("it is not a regular file"));
        }
        if stat.len() != artifact.size {
            return Err(changed(&format!("it has {} bytes instead of {}", stat.len(), artifact.size)));
        }
        Ok(file)
    }

    fn check_digest(
        &self,
        name: &str,
        artifact: &Artifact,
        found: io::Result<String>,
    ) -> Result<(), RuntimeError> {
        let path = self.root.join(&artifact.path);
        let found = found.map_err(|e| io_error(&path, "read", e))?;
        if found == artifact.sha256 {
            return Ok(());
        }
        let why = format!("its SHA-256 is {found} instead of {}", artifact.sha256);
        Err(RuntimeError::Changed { name: name.into(), path, why })
    }

    /// The agent by itself must be the program that boots.
    fn check_init(&self) -> Result<(), RuntimeError> {
        let artifacts = &self.manifest.artifacts;
        let (Some(initramfs), Some(agent)) = (artifacts.get(INITRAMFS), artifacts.get(AGENT)) else {
            return Ok(());
        };
        if initramfs.kind != ArtifactKind::Real || agent.kind != ArtifactKind::Real {
            return Ok(());
        }
        let file = self.open_unverified(INITRAMFS, initramfs)?;
        let not_real = |why| self.not_real(INITRAMFS, initramfs, why);
        let init = recognise::initramfs(&file).map_err(not_real)?;
        let content = Content::Range { offset: init.offset, len: init.len };
        let found = self
            .stamps
            .digest(&file, content)
            .map_err(|e| io_error(&self.root.join(&initramfs.path), "read", e))?;
        if found == agent.sha256 {
            Ok(())
        } else {
            Err(not_real("its /init is another program than the agent of this runtime".into()))
        }
    }

    fn not_real(&self, name: &str, artifact: &Artifact, why: String) -> RuntimeError {
        RuntimeError::NotReal { name: name.into(), path: self.root.join(&artifact.path), why }
    }
}

/// The bytes of `/init` in a verified initramfs, hashed: for the builder, which has no stamps.
pub(super) fn init_digest(initramfs: &File) -> Result<String, String> {
    let init = recognise::initramfs(initramfs)?;
    let content = Content::Range { offset: init.offset, len: init.len };
    stamp::digest(initramfs, content, &mut |_| true).map_err(|e| e.to_string())
}

fn open_in(dir: &File, name: &str) -> io::Result<File> {
    // NONBLOCK: opening a FIFO that somebody put there must not hang.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

pub(super) fn io_error(path: &Path, doing: &'static str, source: io::Error) -> RuntimeError {
    RuntimeError::Io { path: path.to_owned(), doing, source }
}
