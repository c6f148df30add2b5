//! The disk of a stopped workspace: looked at, read from, exported. Nothing of the guest runs, and nothing is mounted.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pyro_formats::disk::{Budget, DiskError, Ext4, Found, InodeKind, Merged, export};
use pyro_formats::hostfs::HostPath;
use pyro_formats::redact::Redactor;
use pyro_formats::untrusted::Untrusted;

use super::Workspaces;
use super::files::check_size;
use super::reach::{self, Conversation};
use crate::environment::{Installed, Store};
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::ops::{AtRest, HoldDisk, PROMPT};
use crate::workspace::store::disk;
use crate::workspace::store::files_view::{ContentEncoding, DiskExported, DiskList, DiskRead, FileEntry};
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::{Record, WORKSPACE_PATH};
use crate::workspace::store::state::State;
use crate::workspace::tree_pipe::{Worker, absolute};

/// Most entries of a listing.
const MOST: usize = 100_000;
/// Bytes that the names and link targets of a listing may have together.
const MOST_NAMED: usize = 64 << 20;
/// Steps of reading that one call may take: [`MOST`] files of a real disk take a tenth, all of them some ten seconds.
const WORK: u64 = 1 << 23;

/// A disk that nobody writes to as long as this lives.
struct QuietDisk {
    home: Home,
    record: Record,
    _held: DiskHold,
}

/// Guard that keeps a workspace from being started: its keeper's word, or its lock.
enum DiskHold {
    Keeper { _conversation: Conversation },
    Lock { _rest: AtRest },
}

/// A path from the root of the guest; one that does not begin with `/` is below the workspace.
fn from_root(path: &Path) -> PathBuf {
    Path::new(WORKSPACE_PATH).join(path)
}

/// Reads images on a thread of its own, within the work that one call may cost; stops when nobody waits for it any more.
async fn reading<T: Send + 'static>(
    work: impl FnOnce(&Budget) -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    let budget = Budget::new(WORK);
    let _call = budget.cancel_on_drop();
    blocking(move || work(&budget)).await
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

    async fn quiet(&self, given: &str) -> Result<QuietDisk, WorkspaceError> {
        let home = self.find(given).await?;
        let held = match reach::meet(&home).await? {
            Some(mut conversation) => {
                conversation.ask(&HoldDisk {}, PROMPT).await?;
                DiskHold::Keeper { _conversation: conversation }
            }
            None => DiskHold::Lock { _rest: self.own(&home).await? },
        };
        let record = super::read(&home, State::record).await?;
        Ok(QuietDisk { home, record, _held: held })
    }

    fn images(
        &self,
        quiet: &QuietDisk,
    ) -> Result<impl FnOnce(&Budget) -> Result<Merged, WorkspaceError> + use<>, WorkspaceError> {
        let base = self.environment(&quiet.record)?.open_base()?;
        let path = quiet.home.disk();
        Ok(move |budget: &Budget| {
            let disk = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            Ok(Merged::new(Ext4::open(base, budget)?, Ext4::open(disk, budget)?)?)
        })
    }

    /// Lists a directory of a stopped workspace, as its guest would see it; or one file. Reaches the whole guest, not
    /// only of `/workspace`.
    ///
    /// # Errors
    /// When the workspace runs, there is no such path, or its disk is damaged or takes too much work to read.
    pub async fn list_disk(
        &self,
        given: &str,
        path: &Path,
        recursive: bool,
    ) -> Result<DiskList, WorkspaceError> {
        let quiet = self.quiet(given).await?;
        let redactor = super::redactor(&quiet.home).await?;
        let open = self.images(&quiet)?;
        let path = from_root(path);
        let shown = path.display().to_string();
        let (entries, truncated) = reading(move |budget| {
            let merged = open(budget)?;
            let (mut entries, mut truncated, mut named) = (Vec::new(), false, 0);
            merged.list(&path, recursive, &mut |found| {
                named += found.path.as_os_str().len();
                named += found.target.as_ref().map_or(0, |target| target.as_os_str().len());
                truncated = entries.len() >= MOST || named > MOST_NAMED;
                if truncated {
                    return ControlFlow::Break(());
                }
                entries.push(entry(&found, &redactor));
                ControlFlow::Continue(())
            })?;
            Ok((entries, truncated))
        })
        .await?;
        Ok(DiskList { workspace_id: quiet.home.id(), path: shown, recursive, entries, truncated })
    }

    /// The first `max_bytes` of a file of a stopped workspace: as a payload, and byte for byte, but for its secrets.
    ///
    /// # Errors
    /// When the workspace runs, the path is no regular file, or its disk is damaged or takes too much work to read.
    pub async fn read_disk(
        &self,
        given: &str,
        path: &Path,
        max_bytes: u64,
    ) -> Result<(DiskRead, Vec<u8>), WorkspaceError> {
        check_size(max_bytes)?;
        let quiet = self.quiet(given).await?;
        let open = self.images(&quiet)?;
        let path = from_root(path);
        let shown = path.display().to_string();
        let redactor = super::redactor(&quiet.home).await?;
        let end = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let reach = end.saturating_add(redactor.reach());
        let (size_bytes, content) = reading(move |budget| {
            let merged = open(budget)?;
            let node = merged.find(&path)?;
            if node.kind() != InodeKind::File {
                return Err(DiskError::NotAFile { path }.into());
            }
            Ok((node.inode().size(), merged.read(&path, 0, reach)?))
        })
        .await?;
        let content = Untrusted::new(content);
        let (clean, redacted) = content.head(&redactor, end);
        let truncated = size_bytes > content.unredacted().len().min(end) as u64;
        let (text, encoding) = ContentEncoding::text_of(&clean, truncated);
        let read = DiskRead {
            workspace_id: quiet.home.id(),
            path: shown,
            size_bytes,
            max_bytes,
            content: text,
            encoding,
            truncated,
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
        let quiet = self.quiet(given).await?;
        let (path, to) = (quiet.home.disk(), output.clone());
        // On a thread that is waited for, so that it tidies up also when nobody wants its result any more.
        let budget = Budget::new(WORK);
        let within = budget.clone();
        let mut worker = Worker::start(move || {
            let image = disk::open(&path)?;
            Ok::<_, WorkspaceError>(export(&image, &to, false, &within)?)
        })?;
        // Dropped before the worker is, which is then soon done.
        let _call = budget.cancel_on_drop();
        let exported = worker.outcome().await??;
        Ok(DiskExported {
            workspace_id: quiet.home.id(),
            output_path: output.shown().display().to_string(),
            disk_format: "ext4",
            bytes_written: exported.size,
            allocated_bytes: exported.allocated,
        })
    }
}

/// File of a disk that a guest wrote, without the secrets.
fn entry(found: &Found, redactor: &Redactor) -> FileEntry {
    let inode = found.node.inode();
    let text = |path: &Path| {
        Untrusted::new(String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()).text(redactor)
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reading_ends_with_the_call_that_asked_for_it() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut mke2fs = std::process::Command::new("mke2fs");
        mke2fs.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(["-q", "-F", "-t", "ext4"]);
        assert!(mke2fs.arg(image.path()).arg("1M").status().unwrap().success());
        let (tell, told) = std::sync::mpsc::channel();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let file = image.reopen().unwrap();
        let read = reading(move |budget| {
            let mut begin = Some(begin);
            let once = || Ext4::open(file.try_clone().unwrap(), budget)?.root();
            let error = loop {
                match once() {
                    Ok(_) => drop(begin.take().map(|begin| begin.send(()))),
                    Err(error) => break error,
                }
            };
            tell.send(error).unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            ended = read => panic!("it ended before anybody stopped it: {ended:?}"),
            begun = begun => begun.unwrap(),
        }
        assert!(matches!(told.recv().unwrap(), DiskError::Cancelled));
    }
}
