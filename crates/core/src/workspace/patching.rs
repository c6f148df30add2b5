//! Applying a patch to the files of a running workspace: what it touches is read, changed here, and written back as one
//! change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;

use super::client::Workspaces;
use super::files::{id_of, odd, shown};
use super::files_view::{PatchEntry, PatchSummary, Patched};
use super::layout::Home;
use super::view::EXECUTION_MODE;
use super::{WorkspaceError, blocking, secrets};
use crate::keeper::{self, Edit, FileAsk, FileReply, Name};
use pyro_formats::patch::{self, Change, MAX_FILE, MAX_FILES, Node, NodeKind, Tree};

/// Files that are asked for at once.
const AT_ONCE: usize = 4;
/// Most edits of one patch: what the guest takes together.
const MOST: usize = pyro_proto::message::MAX_BATCH;

/// What stands at the paths that a patch may touch.
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
    /// Applies a unified diff to the workspace's files: all of it, or nothing.
    ///
    /// # Errors
    /// When it cannot be read, or does not fit: [`WorkspaceError::Rejected`] has the reasons, hunk by hunk.
    pub async fn apply_patch(&self, given: &str, text: &[u8]) -> Result<Patched, WorkspaceError> {
        let patches = patch::parse(text)?;
        let home = self.find(given).await?;
        // Two patches at once would each be applied to what the other is about to replace.
        let locking = home.clone();
        let _edits = blocking(move || locking.lock_edits()).await?;
        let tree = self.fetch(&home, &patch::paths(&patches)).await?;
        let redactor = secrets::redactor(&home)?;
        // Why it does not fit is said with lines of the files.
        let changes = patch::apply(&patches, &tree)
            .map_err(|rejected| WorkspaceError::from(rejected).redacted(&redactor))?;
        let (mut edits, mut contents, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let name = |path: &Path| Name::from(path.as_os_str().as_bytes());
        edits.extend(patch::removed(&changes).map(|path| Edit::Delete { path: name(path) }));
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
                NodeKind::Symlink => Edit::Link { path: name(&path), target: node.bytes.into() },
                _ => {
                    let len = node.bytes.len() as u64;
                    contents.extend(node.bytes);
                    Edit::Write { path: name(&path), len, mode: Some(node.mode) }
                }
            });
        }
        if edits.len() > MOST {
            return Err(WorkspaceError::TooMuch { what: "files in one patch", limit: MOST as u64 });
        }
        if !edits.is_empty() {
            let talk = self.running(&home, FileAsk::Batch { edits, prune: true }).await?;
            if talk.send(&mut &contents[..]).await? != FileReply::Done {
                return Err(odd());
            }
        }
        let count = |status| entries.iter().filter(|entry| entry.status == status).count() as u64;
        Ok(Patched {
            workspace_id: id_of(&home),
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

    /// What stands at `paths`, and whether what is above them are directories.
    async fn fetch(&self, home: &Home, paths: &BTreeSet<PathBuf>) -> Result<Fetched, WorkspaceError> {
        let mut all: BTreeSet<PathBuf> = paths.clone();
        for path in paths {
            all.extend(
                path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).map(Path::to_owned),
            );
        }
        let looks = all.into_iter().map(|path: PathBuf| async move {
            let node = match self.node(home, &path, paths.contains(&path)).await {
                Ok(node) => Ok(node),
                Err(WorkspaceError::Told(fault))
                    if fault.kind == "not_found" || fault.kind == "not_directory" =>
                {
                    Ok(None)
                }
                Err(WorkspaceError::Told(fault)) if fault.kind != "state" && fault.kind != "guest_ended" => {
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

    async fn node(&self, home: &Home, path: &Path, read: bool) -> Result<Option<Node>, WorkspaceError> {
        let path = path.as_os_str().as_bytes();
        let entry = self.stat(home, path).await?;
        let (kind, mut bytes) = match entry.kind {
            keeper::Kind::File => (NodeKind::File, Vec::new()),
            keeper::Kind::Directory => (NodeKind::Directory, Vec::new()),
            keeper::Kind::Symlink => {
                (NodeKind::Symlink, entry.target.map_or_else(Vec::new, |target| target.bytes().to_vec()))
            }
            keeper::Kind::Other => (NodeKind::Other, Vec::new()),
        };
        if kind == NodeKind::File && read {
            // One byte more than may be, which tells that it is too long.
            let limit = MAX_FILE as u64 + 1;
            let each = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            self.content(home, path, 0, limit, each).await?;
        }
        Ok(Some(Node { kind, mode: entry.mode, bytes }))
    }
}
