//! Templates on disk: found, believed or not, published, removed.
//!
//! ```text
//!   .templates/0123456789abcdef/.lock             held by whoever makes or removes it
//!   .templates/0123456789abcdef/.building-XXXXXX  memory, state, disk.ext4, manifest.json: on disk before ...
//!   .templates/0123456789abcdef/template          ... it is renamed to this
//! ```
//!
//! The manifest holds the whole key and, of every file, what `fstat` said when it was complete. A start compares both
//! and hashes nothing: nobody can set a file's ctime back, so a file that was touched since is not the file that was
//! saved. A crash between any two steps leaves what the next maker sweeps, never a `template` that is not whole.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TemplateKey;
use crate::hostfs::lock::{self, Lock};
use crate::hostfs::publish::{self, Building};
use crate::hostfs::stamp::{self, FileIdentity};
use crate::hostfs::{CancelToken, HostFsError};
use crate::identity::unix_seconds;

/// The layout of these manifests.
const SCHEMA: u32 = 2;
/// A manifest has some 2 KiB.
const MAX_MANIFEST: u64 = 64 * 1024;
const MANIFEST: &str = "manifest.json";
pub(super) const MEMORY: &str = "memory";
pub(super) const STATE: &str = "state";
pub(super) const DISK: &str = "disk.ext4";
const PUBLISHED: &str = "template";
const LOCK: &str = ".lock";
/// How often a directory that somebody removes under us is made again.
const LOCK_TRIES: usize = 20;
/// So many templates are kept; those that no start used for the longest time go first. Each takes some 60 MiB, and 2 % of
/// the guest's memory.
const KEPT: usize = 12;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: u32,
    key: TemplateKey,
    memory: FileIdentity,
    state: FileIdentity,
    disk: Option<FileIdentity>,
    /// The rate of the host's time-stamp counter, as the guest was told when it booted: its clock goes by that for ever.
    tsc_khz: u64,
    /// Time of the making, Unix seconds.
    created_at: u64,
}

/// A template whose files are open and are those that were saved.
#[derive(Debug)]
pub struct Template {
    /// Guest memory, to be mapped private.
    pub memory: File,
    /// The VMM's state.
    pub state: File,
    /// The disk that goes with it, to be copied; a bare one has none.
    pub disk: Option<File>,
    /// The rate of the host's time-stamp counter when it was made, kHz.
    pub tsc_khz: u64,
    inode: u64,
}

/// Result of the search for a template.
#[derive(Debug)]
pub enum TemplateLookup {
    /// A template that can be restored.
    Found(Template),
    /// None was made yet.
    Missing,
    /// There is something that is not to be trusted, and why.
    Unusable(String),
}

/// A template, described for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StoredTemplate {
    /// Path of its directory.
    pub path: String,
    /// `fresh` or `bare`.
    pub kind: String,
    /// Number of virtual CPUs.
    pub vcpu_count: u8,
    /// Guest memory, MiB.
    pub mem_mib: u32,
    /// `qemu` or `firecracker`.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Bytes of disk it takes.
    pub bytes: u64,
}

/// The templates of this user and host. Making one touches nothing.
#[derive(Clone, Debug)]
pub struct Templates {
    root: PathBuf,
}

impl Templates {
    /// Templates in `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn dir(&self, key: &TemplateKey) -> PathBuf {
        self.root.join(key.id())
    }

    /// The template for `key`, its files open.
    pub fn find(&self, key: &TemplateKey) -> TemplateLookup {
        let path = self.dir(key).join(PUBLISHED);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(dir) => File::from(dir),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return TemplateLookup::Missing,
            Err(error) => return TemplateLookup::Unusable(format!("it cannot be opened: {error}")),
        };
        match open(&dir, key) {
            Ok(template) => {
                self.used(key);
                // A maker that was killed between naming its template and tidying up.
                publish::sweep_if_idle(&self.dir(key));
                TemplateLookup::Found(template)
            }
            Err(why) => TemplateLookup::Unusable(why),
        }
    }

    /// Waits until nobody else makes or removes the template of `key`; sweeps what an interrupted maker left.
    pub(super) fn lock(
        &self,
        key: &TemplateKey,
        cancel: &CancelToken,
        waiting: &mut dyn FnMut(),
    ) -> Result<Lock, HostFsError> {
        let dir = self.dir(key);
        for _ in 0..LOCK_TRIES {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|e| HostFsError::file(&dir, "created", e))?;
            match lock::acquire(&dir.join(LOCK), cancel, waiting) {
                Ok(held) => {
                    publish::sweep(&dir);
                    return Ok(held);
                }
                // Somebody removes templates at this moment.
                Err(_) if !dir.exists() => {}
                Err(error) => return Err(error),
            }
        }
        let gone = std::io::ErrorKind::NotFound.into();
        Err(HostFsError::file(&dir, "kept: templates are being removed over and over", gone))
    }

    /// A directory to make the template of `key` in. The caller holds its lock.
    pub(super) fn draft(&self, key: &TemplateKey) -> Result<Draft, HostFsError> {
        let building = Building::new(&self.dir(key))?;
        let out = building.path().join("out");
        fs::DirBuilder::new().mode(0o700).create(&out).map_err(|e| HostFsError::file(&out, "created", e))?;
        Ok(Draft { building, out })
    }

    /// Makes a draft that is on disk the template of `key`, in place of whatever is there.
    pub(super) fn publish(&self, key: &TemplateKey, draft: &Draft) -> Result<(), HostFsError> {
        let target = self.dir(key).join(PUBLISHED);
        publish::move_in(&draft.out, &target, 0o700).map_err(|e| HostFsError::file(&target, "written", e))
    }

    /// Remembers that the template of `key` was of use now, in the times of its lock.
    fn used(&self, key: &TemplateKey) {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        // Forgetting it only makes this template go earlier.
        let _ = rustix::fs::utimensat(CWD, self.dir(key).join(LOCK), &times, rustix::fs::AtFlags::empty());
    }

    /// Removes the templates that were not used for the longest time, but for [`KEPT`] and those being made.
    pub(super) fn thin_out(&self) {
        let used = |dir: &PathBuf| fs::metadata(dir.join(LOCK)).and_then(|stat| stat.modified()).ok();
        let mut dirs = self.dirs();
        dirs.retain(|dir| dir.join(PUBLISHED).exists());
        dirs.sort_by_key(used);
        let surplus = dirs.len().saturating_sub(KEPT);
        for dir in dirs.iter().take(surplus) {
            // A template that cannot be removed now may be the next time.
            let _ = remove(dir);
        }
    }

    /// Removes the template of `key`, unless it is not the one that `bad` was any more. The caller holds the lock.
    pub(super) fn discard(&self, key: &TemplateKey, bad: Option<u64>) {
        let path = self.dir(key).join(PUBLISHED);
        let now = fs::symlink_metadata(&path).ok().map(|stat| stat.ino());
        if now.is_some() && (bad.is_none() || bad == now) {
            // A template that stays is found unusable again.
            let _ = publish::discard(&path);
        }
    }

    /// All templates of the environment image with this SHA-256.
    pub fn of_base(&self, base: &str) -> Vec<StoredTemplate> {
        let stored = |dir: PathBuf| {
            let path = dir.join(PUBLISHED);
            let manifest = read_manifest(&File::open(&path).ok()?).ok()?;
            (manifest.key.base == base).then(|| StoredTemplate {
                bytes: allocated(&path),
                path: path.display().to_string(),
                kind: manifest.key.kind.to_string(),
                vcpu_count: manifest.key.vcpus,
                mem_mib: manifest.key.mem_mib,
                backend: manifest.key.backend,
                accelerator: manifest.key.accelerator,
            })
        };
        self.dirs().into_iter().filter_map(stored).collect()
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let is_ours = |name: &str| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let mut dirs: Vec<_> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(is_ours))
            .map(|entry| entry.path())
            .collect();
        dirs.sort();
        dirs
    }

    /// Removes every template that nobody is making; VMs that run from one keep what they have mapped. Gives the
    /// directories removed and the bytes freed.
    ///
    /// # Errors
    /// When one cannot be removed; the others are.
    pub fn prune(&self) -> Result<(Vec<String>, u64), HostFsError> {
        let (mut removed, mut freed, mut failed) = (Vec::new(), 0, None);
        for dir in self.dirs() {
            match remove(&dir) {
                Ok(Some(bytes)) => {
                    removed.push(dir.display().to_string());
                    freed += bytes;
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok((removed, freed)), Err)
    }
}

impl Template {
    /// Inode of its directory, which tells it from others of the same key.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }
}

/// A template that has no name yet; removed when dropped unpublished.
pub(super) struct Draft {
    building: Building,
    out: PathBuf,
}

impl Draft {
    /// A new file of it. Only its owner gets past the directory; a VMM with a user of its own, which is given the file
    /// and not the way to it, must be able to read it. QEMU opens memory for writing, though it only reads it.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let file = File::options().read(true).write(true).create_new(true).open(self.out.join(name))?;
        // Whatever this process's umask is.
        file.set_permissions(fs::Permissions::from_mode(if name == MEMORY { 0o666 } else { 0o644 }))?;
        Ok(file)
    }

    /// Where it is being made.
    pub(super) fn path(&self) -> &Path {
        self.building.path()
    }

    /// Brings all of it to the host's disk, and describes it.
    pub(super) fn complete(
        &self,
        key: &TemplateKey,
        memory: &File,
        state: &File,
        disk: Option<&File>,
    ) -> io::Result<()> {
        for file in [Some(memory), Some(state), disk].into_iter().flatten() {
            file.sync_all()?;
        }
        let manifest = Manifest {
            schema: SCHEMA,
            key: key.clone(),
            memory: FileIdentity::of(memory)?,
            state: FileIdentity::of(state)?,
            disk: disk.map(FileIdentity::of).transpose()?,
            tsc_khz: pyro_vmm::tsc_khz(),
            created_at: unix_seconds(),
        };
        let mut file = self.create(MANIFEST)?;
        io::Write::write_all(&mut file, &stamp::seal(&manifest)?)?;
        file.sync_all()
    }
}

/// Removes the directory of one key, unless somebody has its lock. Gives the bytes freed.
fn remove(dir: &Path) -> Result<Option<u64>, HostFsError> {
    let held = match lock::try_acquire(&dir.join(LOCK)) {
        Ok(Some(held)) => held,
        Ok(None) => return Ok(None),
        // Somebody else was quicker.
        Err(_) if !dir.exists() => return Ok(None),
        Err(error) => return Err(error),
    };
    publish::sweep(dir);
    let published = dir.join(PUBLISHED);
    let bytes = allocated(&published);
    if published.exists() {
        publish::discard(&published).map_err(|e| HostFsError::file(dir, "removed", e))?;
    }
    let _ = fs::remove_file(dir.join(LOCK));
    let _ = fs::remove_dir(dir);
    drop(held);
    Ok(Some(bytes))
}

fn read_manifest(dir: &File) -> Result<Manifest, String> {
    let mut bytes = Vec::new();
    let file = open_file(dir, MANIFEST, false).map_err(|e| format!("its manifest cannot be read: {e}"))?;
    file.take(MAX_MANIFEST)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("its manifest cannot be read: {e}"))?;
    let mut value = serde_json::from_slice(&bytes).map_err(|_| "its manifest is damaged")?;
    if !stamp::unseal(&mut value) {
        return Err("its manifest is damaged".into());
    }
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|_| "its manifest is of another version of pyro")?;
    if manifest.schema != SCHEMA {
        return Err("its manifest is of another version of pyro".into());
    }
    Ok(manifest)
}

fn open(dir: &File, key: &TemplateKey) -> Result<Template, String> {
    let stat = dir.metadata().map_err(|e| format!("it cannot be read: {e}"))?;
    let user = rustix::process::geteuid().as_raw();
    if stat.uid() != user {
        return Err("it belongs to another user".into());
    }
    if stat.mode() & 0o022 != 0 {
        return Err("others than this user can write to it".into());
    }
    let manifest = read_manifest(dir)?;
    if manifest.key != *key {
        return Err("it was made for something else".into());
    }
    let file = |name: &str, saved: FileIdentity, writable: bool| {
        let file = open_file(dir, name, writable).map_err(|e| format!("its {name} cannot be opened: {e}"))?;
        match FileIdentity::of(&file) {
            Ok(found) if found == saved => Ok(file),
            Ok(found) if found.size != saved.size => {
                Err(format!("its {name} has {} bytes instead of {}", found.size, saved.size))
            }
            Ok(_) => Err(format!("its {name} was touched after it was saved")),
            Err(error) => Err(format!("its {name} cannot be read: {error}")),
        }
    };
    Ok(Template {
        // QEMU opens what it maps for writing, even where it maps it private.
        memory: file(MEMORY, manifest.memory, true)?,
        state: file(STATE, manifest.state, false)?,
        disk: manifest.disk.map(|disk| file(DISK, disk, false)).transpose()?,
        tsc_khz: manifest.tsc_khz,
        inode: stat.ino(),
    })
}

fn open_file(dir: &File, name: &str, writable: bool) -> io::Result<File> {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

/// Bytes of disk that the files of a directory take.
fn allocated(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|stat| stat.blocks() * 512).sum()
}
