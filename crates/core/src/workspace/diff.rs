//! What differs from the baseline: the guest says where to look, old content comes from the baseline's disk, new content
//! from the guest.
//!
//! Files are looked at a few at a time, so that memory is bounded by how long one may be to count as text.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;

use super::client::Workspaces;
use super::files::{id_of, odd};
use super::files_view::{Diff, DiffEntry, DiffSummary};
use super::layout::Home;
use super::record::Record;
use super::state::BASELINE;
use super::{WORKSPACE_PATH, WorkspaceError, blocking, secrets};
use crate::keeper::{Change, FileAsk, FileReply, FileState, Kind, has_empty_baseline};
use pyro_formats::disk::{self, DiskError, Ext4, Merged, Node};
use pyro_formats::patch::{self, MAX_FILE, Rendered, Side};
use pyro_formats::redact::Redactor;

/// Files that are looked at at once.
const AT_ONCE: usize = 4;
/// Most bytes that all text patches may have together.
const MOST_TEXT: usize = 64 << 20;
/// Bytes that are compared at once.
const PIECE: usize = 256 << 10;

/// The tree of the baseline.
type Baseline = Option<Arc<Merged>>;

/// One side of a difference.
struct Content {
    kind: patch::NodeKind,
    mode: u32,
    /// `None` where it is too long to be text.
    bytes: Option<Vec<u8>>,
}

impl Content {
    /// The same without secrets, and whether there were any. By its lines: in a patch, a mark stands before each.
    fn redacted(self, redactor: &Redactor) -> (Self, bool) {
        let clean = self.bytes.as_ref().map(|bytes| redactor.head(bytes, bytes.len()));
        match clean {
            Some((clean, true)) => (Self { bytes: Some(clean.into_owned()), ..self }, true),
            _ => (self, false),
        }
    }

    fn side(&self) -> Side<'_> {
        Side { kind: self.kind, mode: self.mode, bytes: self.bytes.as_deref() }
    }
}

fn kind(kind: Kind) -> patch::NodeKind {
    match kind {
        Kind::File => patch::NodeKind::File,
        Kind::Directory => patch::NodeKind::Directory,
        Kind::Symlink => patch::NodeKind::Symlink,
        Kind::Other => patch::NodeKind::Other,
    }
}

/// Whether the guest names something below the workspace.
fn is_plain(path: &Path) -> bool {
    let names = path.components().all(|each| matches!(each, Component::Normal(_)));
    names && path != Path::new("") && !path.as_os_str().as_bytes().contains(&0)
}

/// Whether git keeps this for itself: a patch that has it is refused as a whole.
pub(super) fn is_gits(path: &Path) -> bool {
    path.components().any(|each| each.as_os_str().eq_ignore_ascii_case(".git"))
}

impl Workspaces {
    /// What differs from the baseline, with text patches that `git apply` takes. Whatever the workspace was reset to
    /// since, it is compared with its beginning.
    ///
    /// # Errors
    /// When the workspace does not run, or too much differs.
    pub async fn diff(&self, given: &str) -> Result<Diff, WorkspaceError> {
        let home = self.find(given).await?;
        let record = home.read()?.record()?;
        let redactor = secrets::redactor(&home)?;
        let all = has_empty_baseline(&record);
        let (changes, baseline) = if all {
            (self.everything(&home).await?, None)
        } else {
            let mut changes = self.scan(&home).await?;
            // The guest was asked a moment before its disk was kept: what was there then its disk says.
            let older = record.manifest.is_some();
            let baseline = match changes.iter().any(|change| older || change.before.is_some()) {
                true => Some(Arc::new(self.baseline(&home, &record).await?)),
                false => None,
            };
            if older {
                changes = believe_disk(&baseline, changes).await?;
            }
            (changes, baseline)
        };
        let mut fresh = self.fresh(&home, &changes, all, MOST_TEXT, &redactor).await;
        let looks = changes.into_iter().map(|change| {
            let known = fresh.take(&change.path.path());
            self.look_closer(&home, &baseline, change, known, &redactor)
        });
        let mut looks = futures::stream::iter(looks).buffered(AT_ONCE);
        let (mut entries, mut text, mut truncated) = (Vec::new(), String::new(), false);
        let mut summary = DiffSummary::default();
        while let Some(looked) = looks.next().await {
            let Some(entry) = looked? else { continue };
            let mut entry = entry.redacted(&redactor);
            if text.len() + entry.text_patch.len() > MOST_TEXT {
                truncated = true;
                entry.text_patch = String::new();
            }
            text.push_str(&entry.text_patch);
            summary.total += 1;
            *match entry.status {
                "added" => &mut summary.added,
                "deleted" => &mut summary.deleted,
                "type_changed" => &mut summary.type_changed,
                _ => &mut summary.modified,
            } += 1;
            *match entry.text_patch.is_empty() {
                true => &mut summary.non_text,
                false => &mut summary.text_patched,
            } += 1;
            entries.push(entry);
        }
        Ok(Diff {
            workspace_id: id_of(&home),
            changed: !entries.is_empty(),
            summary,
            redacted: entries.iter().any(|entry| entry.redacted),
            entries,
            patch: text,
            patch_truncated: truncated,
        })
    }

    /// Everything that is there, as new.
    async fn everything(&self, home: &Home) -> Result<Vec<Change>, WorkspaceError> {
        let (entries, truncated) = self.entries(home, b"", true).await?;
        if truncated {
            let limit = pyro_proto::message::MAX_ENTRIES;
            return Err(WorkspaceError::TooMuch { what: "new files", limit });
        }
        let change = |entry: crate::keeper::Entry| Change {
            after: Some(FileState { kind: entry.kind, mode: entry.mode, size: entry.size }),
            path: entry.path,
            touched: false,
            before: None,
        };
        Ok(entries.into_iter().map(change).collect())
    }

    /// What the guest finds to differ, or may.
    async fn scan(&self, home: &Home) -> Result<Vec<Change>, WorkspaceError> {
        let mut talk = self.running(home, FileAsk::Scan).await?;
        let mut all = Vec::new();
        loop {
            match talk.reply().await? {
                FileReply::Changes { changes } => all.extend(changes),
                FileReply::Scanned { .. } => return Ok(all),
                _ => return Err(odd()),
            }
        }
    }

    async fn baseline(&self, home: &Home, record: &Record) -> Result<Merged, WorkspaceError> {
        let path = home.snapshot(BASELINE);
        let base = self.environment(record)?.open_base()?;
        blocking(move || {
            let disk = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            Ok(Merged::new(Ext4::open(base)?, Ext4::open(disk)?)?)
        })
        .await
    }

    /// One difference as it is shown; `None` where there is none.
    async fn look_closer(
        &self,
        home: &Home,
        baseline: &Baseline,
        change: Change,
        known: Option<(Rendered, bool)>,
        redactor: &Redactor,
    ) -> Result<Option<DiffEntry>, WorkspaceError> {
        let path = change.path.path();
        if !is_plain(&path) {
            return Err(odd());
        }
        let known = if is_gits(&path) && change.before.is_none() { Some(Default::default()) } else { known };
        if let (Some(rendered), None, Some(after)) = (known, change.before, change.after) {
            let status = ("added", after.kind.name());
            return Ok(Some(entry(&path, status, (None, Some(after.mode)), rendered)));
        }
        let before = match change.before {
            Some(state) => Some((old_node(baseline, &path)?, state)),
            None => None,
        };
        let same_size = matches!((change.before, change.after), (Some(a), Some(b)) if a.size == b.size);
        let old = match &before {
            Some((node, state)) => Some(read_old(baseline, node.clone(), *state).await?),
            None => None,
        };
        let compare = match &before {
            Some((Some(node), _)) if change.touched && same_size => Some(node.clone()),
            _ => None,
        };
        let (new, equal) = match change.after {
            Some(state) => self.read_new(home, &path, state, baseline, compare).await?,
            None => (None, false),
        };
        let mode = |content: &Option<Content>| content.as_ref().map(|content| content.mode);
        let (old_mode, new_mode) = (mode(&old), mode(&new));
        let status = match (&old, &new) {
            (None, None) => return Ok(None),
            (None, Some(_)) => "added",
            (Some(_), None) => "deleted",
            (Some(old), Some(new)) if old.kind != new.kind => "type_changed",
            (Some(_), Some(_)) if equal && old_mode == new_mode => return Ok(None),
            (Some(old), Some(new)) if is_same_link(old, new) => return Ok(None),
            (Some(_), Some(_)) => "modified",
        };
        let shown = match (&new, change.after, change.before) {
            (Some(_), Some(state), _) | (None, _, Some(state)) | (_, Some(state), None) => state.kind.name(),
            _ => Kind::Other.name(),
        };
        let (named, redactor) = (path.clone(), redactor.clone());
        let rendered = tokio::task::spawn_blocking(move || {
            if is_gits(&named) {
                return Default::default();
            }
            let [old, new] = [old, new].map(|side| side.map(|content| content.redacted(&redactor)));
            let any = [&old, &new].into_iter().flatten().any(|(_, any)| *any);
            (
                patch::render(
                    &named,
                    old.as_ref().map(|old| old.0.side()),
                    new.as_ref().map(|new| new.0.side()),
                ),
                any,
            )
        });
        let rendered = rendered.await.map_err(|_| WorkspaceError::Locked)?;
        Ok(Some(entry(&path, (status, shown), (old_mode, new_mode), rendered)))
    }

    /// Whether the beginning of a long file shows that it is no text, so that the rest need not be read.
    async fn is_binary(&self, home: &Home, name: &[u8], state: FileState) -> Result<bool, WorkspaceError> {
        let mut binary = false;
        if state.size > PIECE as u64 {
            let each = |piece: &[u8]| {
                binary |= piece.contains(&0);
                Ok(())
            };
            match self.content(home, name, 0, PIECE as u64, each).await {
                // Reading all of it says why.
                Ok(_) | Err(WorkspaceError::Told(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(binary)
    }

    /// What the guest has now, and whether it is what the baseline has; `None` when it went meanwhile.
    async fn read_new(
        &self,
        home: &Home,
        path: &Path,
        state: FileState,
        baseline: &Baseline,
        compare: Option<Node>,
    ) -> Result<(Option<Content>, bool), WorkspaceError> {
        let name = path.as_os_str().as_bytes();
        let mut bytes = Vec::new();
        let (mut at, mut equal) = (0_u64, compare.is_some());
        let done = match state.kind {
            Kind::File if compare.is_none() && self.is_binary(home, name, state).await? => {
                return Ok((Some(Content { kind: kind(state.kind), mode: state.mode, bytes: None }), false));
            }
            Kind::File => {
                // Only what is to be compared is read beyond what can be text.
                let limit = if equal { u64::MAX } else { MAX_FILE as u64 + 1 };
                let each = |piece: &[u8]| {
                    if let (true, Some(node), Some(baseline)) = (equal, &compare, baseline) {
                        equal = is_at(baseline, node, at, piece)?;
                    }
                    at += piece.len() as u64;
                    if bytes.len() <= MAX_FILE {
                        bytes.extend_from_slice(piece);
                    }
                    Ok(())
                };
                self.content(home, name, 0, limit, each).await.map(|_| ())
            }
            Kind::Symlink => self.stat(home, name).await.map(|entry| {
                bytes = entry.target.map_or_else(Vec::new, |target| target.bytes().to_vec());
            }),
            Kind::Directory | Kind::Other => Ok(()),
        };
        match done {
            Ok(()) => {
                let equal = equal && compare.is_some_and(|node| node.inode().size() == at);
                let bytes = (bytes.len() <= MAX_FILE).then_some(bytes);
                Ok((Some(Content { kind: kind(state.kind), mode: state.mode, bytes }), equal))
            }
            Err(WorkspaceError::Told(fault)) if fault.kind == "not_found" => Ok((None, false)),
            // It became something else meanwhile.
            Err(WorkspaceError::Told(fault))
                if fault.kind == "is_directory" || fault.kind == "not_regular" =>
            {
                Ok((Some(Content { kind: kind(state.kind), mode: state.mode, bytes: None }), false))
            }
            Err(error) => Err(error),
        }
    }
}

fn entry(
    path: &Path,
    (status, artifact_type): (&'static str, &'static str),
    (old_mode, new_mode): (Option<u32>, Option<u32>),
    (Rendered { patch, binary }, redacted): (Rendered, bool),
) -> DiffEntry {
    let octal = |mode: Option<u32>| mode.map(|mode| format!("{mode:04o}"));
    DiffEntry {
        path: path.to_string_lossy().into_owned(),
        status,
        artifact_type,
        // What is binary would have git refuse all of it.
        text_patch: if binary { String::new() } else { patch },
        binary,
        old_mode: octal(old_mode),
        new_mode: octal(new_mode),
        redacted,
    }
}

impl DiffEntry {
    /// The same without secrets in its name.
    fn redacted(self, redactor: &Redactor) -> Self {
        let path = redactor.text(&self.path);
        match path == self.path {
            true => self,
            false => Self { path, text_patch: redactor.text(&self.text_patch), redacted: true, ..self },
        }
    }
}

/// Where the baseline has `path`.
fn old_node(baseline: &Baseline, path: &Path) -> Result<Option<Node>, DiskError> {
    let Some(baseline) = baseline else { return Ok(None) };
    match baseline.find_link(&PathBuf::from(WORKSPACE_PATH).join(path)) {
        // The guest says that it was there: what it was is not known then.
        Err(DiskError::NotFound { .. } | DiskError::NotADirectory { .. }) => Ok(None),
        found => found.map(Some),
    }
}

fn is_same_link(old: &Content, new: &Content) -> bool {
    old.kind == patch::NodeKind::Symlink
        && new.kind == old.kind
        && old.bytes.is_some()
        && old.bytes == new.bytes
}

fn kind_on_disk(kind: disk::InodeKind) -> Kind {
    match kind {
        disk::InodeKind::File => Kind::File,
        disk::InodeKind::Directory => Kind::Directory,
        disk::InodeKind::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// With what the baseline's disk has in place of what the guest noted a moment before, and without what is the same there.
/// (What was made in that moment and is gone again is not seen.)
async fn believe_disk(baseline: &Baseline, changes: Vec<Change>) -> Result<Vec<Change>, WorkspaceError> {
    let baseline = baseline.clone();
    let corrected = tokio::task::spawn_blocking(move || {
        let correct = |change: Change| {
            let path = change.path.path();
            let node = if is_plain(&path) { node_without_links(&baseline, &path)? } else { None };
            let before = node.map(|node| FileState {
                kind: kind_on_disk(node.kind()),
                mode: node.inode().mode(),
                size: node.inode().size(),
            });
            let same_kind = before.zip(change.after).filter(|(was, is)| was.kind == is.kind);
            // What files and links hold must tell.
            let has_content = |kind| matches!(kind, Kind::File | Kind::Symlink);
            if same_kind.is_some_and(|(was, is)| was.mode == is.mode && !has_content(is.kind)) {
                return Ok(None);
            }
            let touched = same_kind.is_some_and(|(_, is)| is.kind == Kind::File);
            Ok(Some(Change { before, touched, ..change }))
        };
        changes.into_iter().filter_map(|change| correct(change).transpose()).collect::<Result<_, DiskError>>()
    });
    Ok(corrected.await.map_err(|_| WorkspaceError::Locked)??)
}

/// Where the baseline has `path` itself, and not something else that links on the way lead to.
fn node_without_links(baseline: &Baseline, path: &Path) -> Result<Option<Node>, DiskError> {
    let mut above: Vec<_> = path.ancestors().skip(1).filter(|above| *above != Path::new("")).collect();
    while let Some(dir) = above.pop() {
        if old_node(baseline, dir)?.is_none_or(|node| node.kind() != disk::InodeKind::Directory) {
            return Ok(None);
        }
    }
    old_node(baseline, path)
}

async fn read_old(
    baseline: &Baseline,
    node: Option<Node>,
    state: FileState,
) -> Result<Content, WorkspaceError> {
    let content = |bytes| Content { kind: kind(state.kind), mode: state.mode, bytes };
    let (Some(baseline), Some(node)) = (baseline.clone(), node) else { return Ok(content(None)) };
    let read = tokio::task::spawn_blocking(move || match state.kind {
        Kind::File if node.inode().size() <= MAX_FILE as u64 => {
            let mut bytes = vec![0; usize::try_from(node.inode().size()).unwrap_or(MAX_FILE)];
            let length = baseline.read_at(&node, 0, &mut bytes)?;
            bytes.truncate(length);
            Ok(Some(bytes))
        }
        Kind::Symlink => baseline.link_target(&node).map(Some),
        _ => Ok(None),
    });
    Ok(content(read.await.map_err(|_| WorkspaceError::Locked)??))
}

/// Whether the baseline's file has `piece` at `at`.
fn is_at(baseline: &Merged, node: &Node, at: u64, piece: &[u8]) -> Result<bool, WorkspaceError> {
    let mut buffer = vec![0; piece.len().min(PIECE)];
    let mut at = at;
    for part in piece.chunks(PIECE) {
        let there = buffer.get_mut(..part.len()).unwrap_or_default();
        if baseline.read_at(node, at, there)? < part.len() || there != part {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_names_is_below_the_workspace() {
        for good in ["a", "a/b", "...", "a b"] {
            assert!(is_plain(Path::new(good)), "{good}");
        }
        for bad in ["", "/", "/a", "..", "a/../b", "a\0b"] {
            assert!(!is_plain(Path::new(bad)), "{bad:?}");
        }
        assert!(is_gits(Path::new("a/.git/HEAD")) && is_gits(Path::new(".GIT")));
        assert!(!is_gits(Path::new(".gitignore")) && !is_gits(Path::new("a.git/b")));
    }
}
