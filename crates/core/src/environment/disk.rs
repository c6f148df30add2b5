//! The blank disk: what every VM's writable disk begins as.
//!
//! ```text
//!   /workspace      what the guest sees as /workspace
//!   /.pyro/upper    the upper layer of the guest's root
//!   /.pyro/work     what overlayfs needs beside it
//! ```
//!
//! Made once for a cache, never written to again, and copied with its holes. Virtual size is the same for all VMs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{EnvironmentError, Store, process};
use crate::hostfs::process::{Jail, find};
use crate::hostfs::publish::{self, Building};
use crate::hostfs::stamp::{self, Content};
use crate::hostfs::{CancelToken, free, lock};
use pyro_formats::hostfs::copy_sparse;

/// Virtual size of a VM's disk, bytes: 16 GiB.
pub const DISK_BYTES: u64 = 16 << 30;

/// Raised when anything below changes what comes out.
const RECIPE: u32 = 1;
/// No `resize_inode`, which alone takes 4 MiB. Metadata lies together at the front (`packed_meta_blocks`), so that
/// there are few extents to copy; inode tables and journal are holes (`lazy_…`), which read as the zeros they need.
const MKE2FS: &[&str] = &[
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-I",
    "256",
    "-m",
    "0",
    "-J",
    "size=8",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,\
     extra_isize,metadata_csum",
    "-U",
    UUID,
    "-E",
    "hash_seed=70790000-6469-4b00-8000-000000000001,lazy_itable_init=1,lazy_journal_init=1,packed_meta_blocks=1,\
     nodiscard,root_owner=0:0",
];
const UUID: &str = "70790000-6469-4b00-8000-000000000001";
/// Made with debugfs, as which everything is root's, whoever runs it.
const DIRS: &[&str] = &["/workspace", "/.pyro", "/.pyro/upper", "/.pyro/work"];
const EPOCH: &str = "1686355200";
/// More than an empty disk takes, in bytes.
const NEEDED: u64 = 4 << 20;

const DISK: &str = "disk.ext4";
const MANIFEST: &str = "manifest.json";

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: u32,
    size: u64,
    /// SHA-256 over size and non-zero blocks, so that it does not depend on where a file system puts holes.
    extents_sha256: String,
}

impl Store {
    /// The blank disk, made now if there is none that is sound. Never write to it: see [`Store::new_disk`].
    ///
    /// # Errors
    /// When it cannot be made, which takes `mke2fs` and `debugfs`, or the cache cannot be written to.
    pub fn blank_disk(&self) -> Result<PathBuf, EnvironmentError> {
        let dir = self.blank_dir();
        let path = dir.join(DISK);
        if self.is_sound(&dir) {
            return Ok(path);
        }
        let disks = self.disks_dir();
        fs::create_dir_all(&disks).map_err(|e| EnvironmentError::cache(&disks, "created", e))?;
        let cancel = CancelToken::new();
        let held = lock::acquire(&disks.join(".lock"), &cancel, &mut || ())?;
        if !self.is_sound(&dir) {
            self.make_blank(&disks, &dir, &cancel).map_err(|e| self.explain_full_disk(e, NEEDED))?;
        }
        drop(held);
        Ok(path)
    }

    /// A new VM's disk: a copy of the blank one as a file without a name on the file system of `dir`, which is made
    /// if need be. Takes 0.3 MiB there, or nothing where files can share blocks.
    ///
    /// # Errors
    /// As [`Store::blank_disk`], or when `dir` cannot be written to.
    pub fn new_disk(&self, dir: &Path) -> Result<File, EnvironmentError> {
        self.copy_disk(&self.open_blank_disk()?, dir)
    }

    /// The blank disk, for reading.
    ///
    /// # Errors
    /// As [`Store::blank_disk`].
    pub fn open_blank_disk(&self) -> Result<File, EnvironmentError> {
        let blank = self.blank_disk()?;
        File::open(&blank).map_err(|e| EnvironmentError::cache(&blank, "opened", e))
    }

    /// A copy of the disk `from`, as [`Store::new_disk`] makes one of the blank disk.
    ///
    /// # Errors
    /// When `dir` cannot be written to.
    pub fn copy_disk(&self, from: &File, dir: &Path) -> Result<File, EnvironmentError> {
        let make = || {
            let to = match tempfile::tempfile_in(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(dir)?;
                    tempfile::tempfile_in(dir)?
                }
                made => made?,
            };
            copy_sparse(from, &to)?;
            Ok(to)
        };
        make().map_err(|error: io::Error| {
            if super::error::is_full(&error) {
                EnvironmentError::NoSpace { dir: dir.to_owned(), needed: NEEDED, free: free(dir) }
            } else {
                EnvironmentError::cache(dir, "used for a disk", error)
            }
        })
    }

    pub(super) fn disks_dir(&self) -> PathBuf {
        self.root().join(".disks")
    }

    /// Where the blank disk of this version of pyro is.
    pub(super) fn blank_dir(&self) -> PathBuf {
        let recipe = stamp::digest_bytes(format!("{RECIPE} {MKE2FS:?} {DIRS:?} {EPOCH}").as_bytes());
        self.disks_dir().join(format!("blank-{}", &recipe[..super::manifest::ID_DIGITS]))
    }

    fn is_sound(&self, dir: &Path) -> bool {
        let read = || -> Option<bool> {
            let mut value = serde_json::from_slice(&fs::read(dir.join(MANIFEST)).ok()?).ok()?;
            let manifest: Manifest =
                stamp::unseal(&mut value).then(|| serde_json::from_value(value).ok()).flatten()?;
            let file = File::open(dir.join(DISK)).ok()?;
            let size = file.metadata().ok()?.len();
            let found = self.stamps().digest(&file, Content::Extents).ok()?;
            Some(manifest == Manifest { schema: 1, size, extents_sha256: found })
        };
        read().unwrap_or(false)
    }

    fn make_blank(&self, disks: &Path, dir: &Path, cancel: &CancelToken) -> Result<(), EnvironmentError> {
        let written = |e| EnvironmentError::cache(disks, "written", e);
        publish::sweep(disks);
        let building = Building::new(disks)?;
        let out = building.path().join("out");
        fs::create_dir(&out).map_err(written)?;
        let image = out.join(DISK);
        let mut mke2fs = Jail::None.command(&find("mke2fs")?)?;
        mke2fs.args(MKE2FS).arg(&image).arg((DISK_BYTES / 4096).to_string());
        mke2fs.env("MKE2FS_CONFIG", "/dev/null").env("E2FSPROGS_FAKE_TIME", EPOCH);
        process::run_checked("the blank disk", "mke2fs", &mut mke2fs, cancel, &mut |_| ())?;

        let script = building.path().join("debugfs");
        let commands: String = DIRS.iter().map(|dir| format!("mkdir {dir}\nstat {dir}\n")).collect();
        fs::write(&script, commands).map_err(written)?;
        let mut debugfs = Jail::None.command(&find("debugfs")?)?;
        debugfs.arg("-w").arg("-f").arg(&script).arg(&image).env("E2FSPROGS_FAKE_TIME", EPOCH);
        // debugfs says what went wrong and exits with 0 all the same: count what it made.
        let mut made = 0;
        process::run_checked("the blank disk", "debugfs", &mut debugfs, cancel, &mut |line| {
            made += usize::from(line.contains("Type: directory") && line.contains("0755"));
        })?;
        if made != DIRS.len() {
            let why = format!("debugfs made {made} of {} directories", DIRS.len());
            return Err(EnvironmentError::Unsound { name: "the blank disk".into(), why });
        }
        let put = || -> io::Result<()> {
            let file = File::open(&image)?;
            file.sync_all()?;
            let extents_sha256 = stamp::digest(&file, Content::Extents, &mut |_| true)?;
            let manifest = Manifest { schema: 1, size: file.metadata()?.len(), extents_sha256 };
            let path = out.join(MANIFEST);
            fs::write(&path, stamp::seal(&manifest)?)?;
            File::open(&path)?.sync_all()
        };
        put().map_err(written)?;
        publish::move_in(&out, dir, 0o755).map_err(written)
    }
}
