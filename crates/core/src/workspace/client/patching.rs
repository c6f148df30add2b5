//! Applying a patch to the files of a running workspace: what it touches is read, changed here, and written back as one
//! change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use pyro_formats::patch::{self, Change, MAX_FILE, MAX_FILES, Node, NodeKind, Tree};
use pyro_proto::message::{FileBatch, FileKind, FileOp};

use super::Workspaces;
use super::guest::RunningGuest;
use crate::failure::FailureKind;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::store::files_view::{PatchEntry, PatchSummary, Patched};
use crate::workspace::store::paths::shown;
use crate::workspace::store::record::WORKSPACE_PATH;
use crate::workspace::store::view::EXECUTION_MODE;

/// Files that are asked for at once.
const AT_ONCE: usize = 4;
/// Most edits of one patch: what the guest takes together.
const MOST: usize = pyro_proto::message::MAX_BATCH;

/// Nodes at the paths that a patch may touch.
struct Fetched(BTreeMap<PathBuf, Result<Option<Node>, String>>);

impl Tree for Fetched {
    fn node(&self, path: &Path) -> io::Result<Option<Node>> {
        match self.0.get(path) {
            Some(Ok(node)) => Ok(node.clone()),
            Some(Err(why)) => Err(io::Error::other(why.clone())),
            None => Ok(None),
        }
    }
}

impl Workspaces {
    /// Applies a patch, in either format that [`patch::parse`] reads, to the workspace's files: all of it, or nothing.
    ///
    /// # Errors
    /// When it cannot be read, or does not fit: [`WorkspaceError::Rejected`] has the reasons, hunk by hunk.
    pub async fn apply_patch(&self, given: &str, text: &[u8]) -> Result<Patched, WorkspaceError> {
        let patches = patch::parse(text, Path::new(WORKSPACE_PATH))?;
        let running = self.running_guest(given).await?;
        // Two patches at once would each be applied to what the other is about to replace.
        let locking = running.home.clone();
        let _edits = blocking(move || locking.lock_edits()).await?;
        let tree = running.fetch(&patch::paths(&patches)).await?;
        let redactor = &running.redactor;
        // Why it does not fit is said with lines of the files.
        let changes = patch::apply(&patches, &tree)
            .map_err(|rejected| WorkspaceError::from(rejected).redacted(redactor))?;
        let (mut edits, mut contents, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let name = |path: &Path| path.as_os_str().as_bytes().into();
        edits.extend(patch::removed(&changes).map(|path| FileOp::Delete { path: name(path) }));
        for change in changes {
            let mut entry = |path: &Path, status| {
                entries.push(PatchEntry { path: shown(path.as_os_str().as_bytes()), status });
            };
            let (path, node) = match change {
                Change::Delete { path } => {
                    entry(&path, "deleted");
                    continue;
                }
                Change::Write { path, node, added } => {
                    entry(&path, if added { "added" } else { "modified" });
                    (path, node)
                }
                Change::Rename { from, to, node } => {
                    entry(&from, "deleted");
                    entry(&to, "added");
                    (to, node)
                }
            };
            edits.push(match node.kind {
                NodeKind::Symlink => FileOp::Link { path: name(&path), target: (&node.bytes).into() },
                _ => {
                    let len = node.bytes.len() as u64;
                    contents.extend(node.bytes);
                    FileOp::Write { path: name(&path), len, mode: Some(node.mode) }
                }
            });
        }
        if edits.len() > MOST {
            return Err(WorkspaceError::TooMuch { what: "files in one patch", limit: MOST as u64 });
        }
        if !edits.is_empty() {
            let batch = FileBatch { ops: edits, prune: true };
            if let Err(error) = running.guest.file_batch(batch, &contents[..]).await {
                return Err(running.failed(error).await);
            }
        }
        let count = |status| entries.iter().filter(|entry| entry.status == status).count() as u64;
        Ok(Patched {
            workspace_id: running.home.id(),
            changed: !entries.is_empty(),
            summary: PatchSummary {
                total: entries.len() as u64,
                added: count("added"),
                modified: count("modified"),
                deleted: count("deleted"),
            },
            entries,
            patch: redactor.text(&String::from_utf8_lossy(text)),
            execution_mode: EXECUTION_MODE,
        })
    }
}

impl RunningGuest {
    /// Fetches the nodes at `paths` and at the directories above them.
    async fn fetch(&self, paths: &BTreeSet<PathBuf>) -> Result<Fetched, WorkspaceError> {
        let mut all: BTreeSet<PathBuf> = paths.clone();
        for path in paths {
            all.extend(
                path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).map(Path::to_owned),
            );
        }
        let looks = all.into_iter().map(|path: PathBuf| async move {
            let node = match self.node(&path, paths.contains(&path)).await {
                Ok(node) => Ok(node),
                Err(error) if matches!(error.kind(), FailureKind::NotFound | FailureKind::NotDirectory) => {
                    Ok(None)
                }
                Err(WorkspaceError::Path { message, .. }) => Err(message),
                Err(WorkspaceError::Told(fault))
                    if !matches!(fault.kind, FailureKind::WrongState | FailureKind::GuestEnded) =>
                {
                    Err(fault.message)
                }
                Err(error) => return Err(error),
            };
            Ok((path, node))
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
        let (mut found, mut bytes) = (BTreeMap::new(), 0);
        while let Some(looked) = looks.next().await {
            let (path, node) = looked?;
            bytes += node.as_ref().ok().and_then(Option::as_ref).map_or(0, |node| node.bytes.len());
            if bytes > MAX_FILES {
                let what = "bytes in the files of one patch";
                return Err(WorkspaceError::TooMuch { what, limit: MAX_FILES as u64 });
            }
            found.insert(path, node);
        }
        Ok(Fetched(found))
    }

    async fn node(&self, path: &Path, read: bool) -> Result<Option<Node>, WorkspaceError> {
        let path = path.as_os_str().as_bytes();
        let entry = self.stat(path).await?.into_unredacted();
        let (kind, mut bytes) = match entry.kind {
            FileKind::File => (NodeKind::File, Vec::new()),
            FileKind::Directory => (NodeKind::Directory, Vec::new()),
            FileKind::Link => (NodeKind::Symlink, entry.target.map_or_else(Vec::new, |target| target.0)),
            FileKind::Other => (NodeKind::Other, Vec::new()),
        };
        if kind == NodeKind::File && read {
            // One byte above the limit is read, which tells that the file is too long.
            let limit = MAX_FILE as u64 + 1;
            let each = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            self.content(path, 0, limit, each).await?;
        }
        Ok(Some(Node { kind, mode: entry.mode & 0o7777, bytes }))
    }
}
