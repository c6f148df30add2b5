//! The disk of a stopped workspace: looked at, read from, exported. Nothing of the guest runs, and nothing is mounted.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::client::Workspaces;
use super::files::{Talk, check_size, id_of, odd};
use super::files_view::{DiskExported, DiskList, DiskRead, FileEntry};
use super::layout::Home;
use super::pipe::Worker;
use super::record::Record;
use super::state::State;
use super::transfer::absolute;
use super::{WORKSPACE_PATH, WorkspaceError, blocking, disk, secrets};
use crate::environment::lock::Lock;
use crate::environment::{Installed, Store};
use crate::keeper::{FileAsk, FileReply};
use pyro_formats::disk::{DiskError, Ext4, Found, InodeKind, Merged, export};
use pyro_formats::hostfs::HostPath;

/// Most entries of a listing.
const MOST: usize = 100_000;

/// A disk that nobody writes to as long as this lives.
struct Still {
    home: Home,
    record: Record,
    _held: Held,
}

/// What keeps a workspace from being started: its keeper's word, or its lock.
enum Held {
    Keeper { _talk: Talk },
    Lock { _state: State, _lock: Lock },
}

/// A path from the root of the guest; one that does not begin with `/` is below the workspace.
fn from_root(path: &Path) -> PathBuf {
    Path::new(WORKSPACE_PATH).join(path)
}

impl Workspaces {
    /// The environment that a workspace is made on top of.
    pub(super) fn environment(&self, record: &Record) -> Result<Installed, WorkspaceError> {
        let store = Store::new(self.factory.config.environment_dir.clone());
        let installed = store.installed_version(&record.environment, &record.environment_version)?;
        installed.ok_or_else(|| WorkspaceError::NotInstalled {
            environment: record.environment.clone(),
            version: record.environment_version.clone(),
        })
    }

    async fn still(&self, given: &str) -> Result<Still, WorkspaceError> {
        let home = self.find(given).await?;
        let held = match self.talk(&home, FileAsk::Hold).await? {
            Some(mut talk) => match talk.reply().await? {
                FileReply::Held => Held::Keeper { _talk: talk },
                _ => return Err(odd()),
            },
            None => {
                let (lock, state) = self.own(&home).await?;
                Held::Lock { _state: state, _lock: lock }
            }
        };
        let record = home.read()?.record()?;
        Ok(Still { home, record, _held: held })
    }

    fn images(
        &self,
        still: &Still,
    ) -> Result<impl FnOnce() -> Result<Merged, WorkspaceError> + use<>, WorkspaceError> {
        let base = self.environment(&still.record)?.open_base()?;
        let path = still.home.disk();
        Ok(move || {
            let disk = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            Ok(Merged::new(Ext4::open(base)?, Ext4::open(disk)?)?)
        })
    }

    /// What is in a directory of a stopped workspace, as its guest would see it; or one file. Of the whole guest, not
    /// only of `/workspace`.
    ///
    /// # Errors
    /// When the workspace runs, there is no such path, or its disk is damaged.
    pub async fn list_disk(
        &self,
        given: &str,
        path: &Path,
        recursive: bool,
    ) -> Result<DiskList, WorkspaceError> {
        let still = self.still(given).await?;
        let redactor = secrets::redactor(&still.home)?;
        let open = self.images(&still)?;
        let path = from_root(path);
        let shown = path.display().to_string();
        let (entries, truncated) = blocking(move || {
            let merged = open()?;
            let (mut entries, mut truncated) = (Vec::new(), false);
            merged.list(&path, recursive, &mut |found| {
                truncated = entries.len() >= MOST;
                if truncated {
                    return ControlFlow::Break(());
                }
                entries.push(entry(found).redacted(&redactor));
                ControlFlow::Continue(())
            })?;
            Ok((entries, truncated))
        })
        .await?;
        Ok(DiskList { workspace_id: id_of(&still.home), path: shown, recursive, entries, truncated })
    }

    /// The first `max_bytes` of a file of a stopped workspace: as a payload, and byte for byte, but for its secrets.
    ///
    /// # Errors
    /// When the workspace runs, the path is no regular file, or its disk is damaged.
    pub async fn read_disk(
        &self,
        given: &str,
        path: &Path,
        max_bytes: u64,
    ) -> Result<(DiskRead, Vec<u8>), WorkspaceError> {
        check_size(max_bytes)?;
        let still = self.still(given).await?;
        let open = self.images(&still)?;
        let path = from_root(path);
        let shown = path.display().to_string();
        let redactor = secrets::redactor(&still.home)?;
        let end = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let reach = end.saturating_add(redactor.reach());
        let (size_bytes, content) = blocking(move || {
            let merged = open()?;
            let node = merged.find(&path)?;
            if node.kind() != InodeKind::File {
                return Err(DiskError::NotAFile { path }.into());
            }
            Ok((node.inode().size(), merged.read(&path, 0, reach)?))
        })
        .await?;
        let (clean, redacted) = redactor.head(&content, end);
        let read = DiskRead {
            workspace_id: id_of(&still.home),
            path: shown,
            size_bytes,
            max_bytes,
            content: String::from_utf8_lossy(&clean).into_owned(),
            truncated: size_bytes > content.len().min(end) as u64,
            redacted,
        };
        Ok((read, clean.into_owned()))
    }

    /// Writes the disk of a stopped workspace to `output`, which must not exist, as one raw ext4 image, its journal
    /// replayed. `/workspace` of the guest is `/workspace` in it; what was installed is below `/.pyro/upper`.
    ///
    /// # Errors
    /// When the workspace runs, its disk is damaged, or `output` cannot be made.
    pub async fn export_disk(
        &self,
        given: &str,
        output: impl Into<HostPath>,
    ) -> Result<DiskExported, WorkspaceError> {
        let output = absolute(output.into())?;
        let still = self.still(given).await?;
        let (path, to) = (still.home.disk(), output.clone());
        // On a thread that is waited for, so that it tidies up also when nobody wants its result any more.
        let mut worker = Worker::start(move || {
            let image = disk::open(&path)?;
            Ok::<_, WorkspaceError>(export(&image, &to, false)?)
        })?;
        let exported = worker.outcome().await??;
        Ok(DiskExported {
            workspace_id: id_of(&still.home),
            output_path: output.shown().display().to_string(),
            disk_format: "ext4",
            bytes_written: exported.size,
            allocated_bytes: exported.allocated,
        })
    }
}

fn entry(found: Found) -> FileEntry {
    let inode = found.node.inode();
    let text = |path: &Path| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    FileEntry {
        path: text(&found.path),
        artifact_type: match inode.kind() {
            InodeKind::File => "file",
            InodeKind::Directory => "directory",
            InodeKind::Symlink => "symlink",
            _ => "other",
        },
        size_bytes: inode.size(),
        link_target: found.target.as_deref().map(text),
        mode: format!("{:04o}", inode.mode() & 0o7777),
        modified_at: inode.modified().seconds as f64 + f64::from(inode.modified().nanoseconds) / 1e9,
    }
}
