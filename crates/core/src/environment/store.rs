//! The cache of installed environments: what is in it, and how something gets in.
//!
//! Any number of processes use one cache. Reading takes no lock and needs no permission to write; whoever builds
//! holds the lock of that one environment. A cache that cannot be written to works for what is installed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::catalog::{CatalogEntry, EnvironmentStatus, catalog, dir_name};
use super::event::{Events, PullPhase, Unit};
use super::install::{self, CURRENT, Filler};
use super::manifest::{self, EnvironmentManifest, is_version};
use super::{EnvironmentError, PullEvent};
use crate::hostfs::stamp::{Content, Stamps};
use crate::hostfs::{CancelToken, free, lock, publish};

/// A cache of environments. Making one touches nothing.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    pub(super) filler: Filler,
}

/// An installed version of an environment.
#[derive(Clone, Debug)]
pub struct Installed {
    manifest: EnvironmentManifest,
    dir: PathBuf,
    stamps: Stamps,
}

impl Installed {
    /// Manifest of the environment.
    pub fn manifest(&self) -> &EnvironmentManifest {
        &self.manifest
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of the manifest.
    pub fn manifest_path(&self) -> PathBuf {
        self.dir.join(manifest::FILE)
    }

    /// Path of the image. For people to read; [`Installed::open_base`] is how to use it.
    pub fn base_path(&self) -> PathBuf {
        self.dir.join(manifest::BASE)
    }

    /// Opens the image for reading, verified; its offset is 0. Hashes it only when it is not demonstrably the file
    /// that was hashed before.
    ///
    /// # Errors
    /// [`EnvironmentError::Corrupt`] when it is gone or is not what was installed: pull it again.
    pub fn open_base(&self) -> Result<File, EnvironmentError> {
        self.open_verified(&mut |_, _| true)
    }

    fn open_verified(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<File, EnvironmentError> {
        let corrupt = |why: String| EnvironmentError::Corrupt { name: self.manifest.name.clone(), why };
        let path = self.base_path();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Err(corrupt("its image is missing".into())),
            Err(rustix::io::Errno::LOOP) => return Err(corrupt("its image is a symbolic link".into())),
            Err(error) => return Err(EnvironmentError::cache(&path, "opened", error.into())),
        };
        let unreadable = |e| EnvironmentError::cache(&path, "read", e);
        let stat = file.metadata().map_err(unreadable)?;
        let expected = &self.manifest.rootfs;
        if !stat.is_file() || stat.len() != expected.size {
            return Err(corrupt(format!("its image has {} bytes instead of {}", stat.len(), expected.size)));
        }
        let mut step = |done| progress(done, expected.size);
        let found = match self.stamps.digest_with(&file, Content::Whole, &mut step) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Err(EnvironmentError::Cancelled);
            }
            Err(error) => return Err(unreadable(error)),
        };
        if found != expected.sha256 {
            return Err(corrupt(format!(
                "the SHA-256 of its image is {found} instead of {}",
                expected.sha256
            )));
        }
        Ok(file)
    }
}

impl Store {
    /// A cache in `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root, filler: Filler::Debian }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every environment of the catalog, in its order.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn list(&self) -> Result<Vec<EnvironmentStatus>, EnvironmentError> {
        catalog().iter().map(|entry| self.status(entry)).collect()
    }

    /// Finds an environment by its name.
    ///
    /// # Errors
    /// When it is unknown or the cache cannot be read.
    pub fn inspect(&self, name: &str) -> Result<EnvironmentStatus, EnvironmentError> {
        self.status(CatalogEntry::find(name)?)
    }

    fn status(&self, entry: &CatalogEntry) -> Result<EnvironmentStatus, EnvironmentError> {
        let installed = self.installed(entry.name)?;
        Ok(EnvironmentStatus::new(entry, &self.root, installed.as_ref()))
    }

    /// The installed version of an environment. `None` when there is none, or only one whose manifest cannot be
    /// believed, which [`Store::pull`] replaces. Its image is verified when it is opened.
    ///
    /// # Errors
    /// When the environment is unknown or the cache cannot be read.
    pub fn installed(&self, name: &str) -> Result<Option<Installed>, EnvironmentError> {
        let entry = CatalogEntry::find(name)?;
        let dir = self.environment_dir(entry);
        let link = dir.join(CURRENT);
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(EnvironmentError::cache(&link, "read", error)),
        };
        let Some(version) = target.to_str() else { return Ok(None) };
        self.installed_version(name, version)
    }

    /// A given version of an environment, current or not, as a disk on top of it needs it. Otherwise as
    /// [`Store::installed`].
    ///
    /// # Errors
    /// When the environment is unknown or the cache cannot be read.
    pub fn installed_version(
        &self,
        name: &str,
        version: &str,
    ) -> Result<Option<Installed>, EnvironmentError> {
        let entry = CatalogEntry::find(name)?;
        if !is_version(version) {
            return Ok(None);
        }
        let dir = self.environment_dir(entry).join(version);
        match EnvironmentManifest::read(&dir.join(manifest::FILE), name, version) {
            Ok(manifest) => Ok(Some(Installed { manifest, dir, stamps: self.stamps() })),
            Err(error) if absent(&error) || error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(EnvironmentError::cache(&dir, "read", error)),
        }
    }

    /// Installs an environment, or verifies the one that is installed. Blocks, for minutes if need be.
    ///
    /// One that is installed, sound, and of the catalog's present definition is left alone. Two pulls at once, of one
    /// process or several, do the work once.
    ///
    /// # Errors
    /// Whatever keeps it from being built; nothing is left behind then, and an older version stays in use.
    pub fn pull(
        &self,
        name: &str,
        events: &mut dyn FnMut(PullEvent),
        cancel: &CancelToken,
    ) -> Result<Installed, EnvironmentError> {
        let entry = CatalogEntry::find(name)?;
        let mut events = Events { environment: entry.name, sink: events };
        let dir = self.environment_dir(entry);
        if let Some(installed) = self.up_to_date(entry, &mut events, cancel)? {
            publish::sweep_if_idle(&dir);
            events.phase(PullPhase::Ready);
            return Ok(installed);
        }
        let needed = entry.build_bytes;
        let built = fs::create_dir_all(&dir)
            .map_err(|e| EnvironmentError::cache(&self.root, "created", e))
            .and_then(|()| self.pull_locked(entry, &dir, &mut events, cancel));
        match built {
            Ok(installed) => {
                events.phase(PullPhase::Ready);
                Ok(installed)
            }
            Err(error) => Err(self.explain_full_disk(error, needed)),
        }
    }

    fn pull_locked(
        &self,
        entry: &CatalogEntry,
        dir: &Path,
        events: &mut Events<'_>,
        cancel: &CancelToken,
    ) -> Result<Installed, EnvironmentError> {
        let mut waited = false;
        let held = lock::acquire(&dir.join(".lock"), cancel, &mut || {
            waited = true;
            events.detail(PullPhase::Waiting, "another pull of it is running");
        })?;
        if waited && let Some(installed) = self.up_to_date(entry, events, cancel)? {
            return Ok(installed);
        }
        publish::sweep(dir);
        let (needed, free) = (entry.build_bytes, free(&self.root));
        if free < needed {
            return Err(EnvironmentError::NoSpace { dir: self.root.clone(), needed, free });
        }
        if cancel.is_cancelled() {
            return Err(EnvironmentError::Cancelled);
        }
        install::build(entry, &self.filler, dir, &self.stamps(), events, cancel)?;
        drop(held);
        // Through the front door: what is handed out is what everybody else will find.
        self.installed(entry.name)?.ok_or_else(|| EnvironmentError::Unsound {
            name: entry.name.into(),
            why: "it is not there after it was installed".into(),
        })
    }

    /// The installed version, if a pull would bring about no other.
    fn up_to_date(
        &self,
        entry: &CatalogEntry,
        events: &mut Events<'_>,
        cancel: &CancelToken,
    ) -> Result<Option<Installed>, EnvironmentError> {
        let Some(installed) = self.installed(entry.name)? else { return Ok(None) };
        if installed.manifest.recipe != entry.recipe() {
            return Ok(None);
        }
        let mut announced = false;
        let verified = installed.open_verified(&mut |done, size| {
            if !std::mem::replace(&mut announced, true) {
                events.phase(PullPhase::Verify);
            }
            events.progress(PullPhase::Verify, done, size, Unit::Bytes, None);
            !cancel.is_cancelled()
        });
        match verified {
            Ok(_) => Ok(Some(installed)),
            Err(EnvironmentError::Corrupt { why, .. }) => {
                events.detail(
                    PullPhase::Verify,
                    format!("what is installed is damaged and is replaced: {why}"),
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn environment_dir(&self, entry: &CatalogEntry) -> PathBuf {
        self.root.join(dir_name(entry.name))
    }

    pub(super) fn stamps(&self) -> Stamps {
        Stamps::new(self.root.join(".stamps"))
    }

    /// Makes one clear error of a full disk, whichever step it came from. By now nothing half-made is left.
    pub(super) fn explain_full_disk(&self, error: EnvironmentError, needed: u64) -> EnvironmentError {
        match error {
            EnvironmentError::NoSpace { .. } => error,
            error if error.is_full_disk() => {
                EnvironmentError::NoSpace { dir: self.root.clone(), needed, free: free(&self.root) }
            }
            error => error,
        }
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput
    )
}
