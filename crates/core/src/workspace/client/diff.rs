//! Differences from the baseline: the guest says where to look, old content comes from the baseline's disk, new content
//! from the guest.
//!
//! Files are looked at a few at a time, so that memory is bounded by how long one may be to count as text.

use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use pyro_formats::disk::{self, Budget, DiskError, Ext4, Merged, Node};
use pyro_formats::patch::{self, MAX_FILE, MAX_PATH, Rendered, Side};
use pyro_formats::redact::Redactor;
use pyro_formats::untrusted::Untrusted;
use pyro_proto::message::{FileChange, FileChangeKind, FileEntry, FileKind, FileState};

use super::Workspaces;
use super::guest::RunningGuest;
use crate::failure::FailureKind;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::store::files_view::{Diff, DiffEntry, DiffSummary, kind_name};
use crate::workspace::store::layout::Home;
use crate::workspace::store::record::{Record, WORKSPACE_PATH};
use crate::workspace::store::state::{BASELINE, State};

/// Files that are looked at at once.
const AT_ONCE: usize = 4;
/// Most bytes that all text patches may have together.
const MOST_TEXT: usize = 64 << 20;
/// Bytes that are compared at once.
const PIECE: usize = 256 << 10;
/// Steps of reading the baseline's disk that one diff may take. Each file is looked for by its path: as many of them as a
/// guest can name, in one directory, take most of this.
pub(super) const WORK: u64 = 1 << 28;

/// A path that differs from the baseline, or may: as the guest says, but for the path, which is checked before it is used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// Path below the workspace.
    pub(super) path: PathBuf,
    /// Whether only the content can tell that there is a difference.
    pub(super) touched: bool,
    pub(super) before: Option<FileState>,
    pub(super) after: Option<FileState>,
}

fn permissions(state: FileState) -> FileState {
    FileState { mode: state.mode & 0o7777, ..state }
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    std::ffi::OsString::from_vec(bytes).into()
}

impl From<FileChange> for Difference {
    fn from(change: FileChange) -> Self {
        Self {
            path: path_of(change.path.0),
            touched: change.kind == FileChangeKind::Touched,
            before: change.before.map(permissions),
            after: change.after.map(permissions),
        }
    }
}

impl From<FileEntry> for Difference {
    /// Something that is there, as new.
    fn from(entry: FileEntry) -> Self {
        let state = FileState { kind: entry.kind, mode: entry.mode, size: entry.size };
        Self { path: path_of(entry.path.0), touched: false, before: None, after: Some(permissions(state)) }
    }
}

/// The tree of the baseline.
type Baseline = Option<Arc<Merged>>;

/// Content on the old or the new side of a difference.
pub(super) struct Content {
    pub(super) kind: patch::NodeKind,
    /// Permission bits.
    pub(super) mode: u32,
    /// `None` where it is too long to be text.
    pub(super) bytes: Option<Vec<u8>>,
}

/// Difference that is being put together.
#[derive(Default)]
pub(super) struct DiffDraft {
    entries: Vec<DiffEntry>,
    text: String,
    truncated: bool,
    summary: DiffSummary,
    /// Whether more paths differ than are listed.
    pub(super) entries_truncated: bool,
}

impl DiffDraft {
    /// Paths so far.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a path, with its text where there is room for it.
    pub(super) fn add(&mut self, mut entry: DiffEntry) {
        if self.text.len() + entry.text_patch.len() > MOST_TEXT {
            self.truncated = true;
            entry.text_patch = String::new();
        }
        self.text.push_str(&entry.text_patch);
        let summary = &mut self.summary;
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
        self.entries.push(entry);
    }

    /// Payload for the workspace of this id.
    pub(super) fn finish(self, workspace_id: String, verified: bool) -> Diff {
        Diff {
            workspace_id,
            changed: !self.entries.is_empty(),
            summary: self.summary,
            redacted: self.entries.iter().any(|entry| entry.redacted),
            entries: self.entries,
            entries_truncated: self.entries_truncated,
            patch: self.text,
            patch_truncated: self.truncated,
            verified,
        }
    }
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

pub(super) fn kind(kind: FileKind) -> patch::NodeKind {
    match kind {
        FileKind::File => patch::NodeKind::File,
        FileKind::Directory => patch::NodeKind::Directory,
        FileKind::Link => patch::NodeKind::Symlink,
        FileKind::Other => patch::NodeKind::Other,
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
    /// Compares the workspace with its baseline; text patches are as `git apply` takes them. A reset workspace is
    /// compared with its beginning all the same.
    ///
    /// What differs and cannot be read is named with the reason. The guest says where to look: what a difference is worth
    /// where the guest may lie, [`Self::diff_verified`] tells.
    ///
    /// # Errors
    /// When the workspace does not run.
    pub async fn diff(&self, given: &str) -> Result<Diff, WorkspaceError> {
        let running = self.running_guest(given).await?;
        let record = super::read(&running.home, State::record).await?;
        let budget = Budget::new(WORK);
        let _call = budget.cancel_on_drop();
        let all = record.has_empty_baseline();
        let ((changes, entries_truncated), baseline) = if all {
            (running.everything().await?, None)
        } else {
            let (mut changes, truncated) = running.scan(&record).await?;
            // The guest was asked a moment before its disk was kept: what was there then its disk says.
            let older = record.manifest.is_some();
            let baseline = match changes.iter().any(|change| older || change.before.is_some()) {
                true => Some(Arc::new(self.baseline(&running.home, &record, &budget).await?)),
                false => None,
            };
            if older {
                changes = believe_disk(&baseline, changes).await?;
            }
            ((changes, truncated), baseline)
        };
        let mut fresh = running.fresh(&changes, all, MOST_TEXT).await;
        let looks = changes.into_iter().map(|change| {
            let known = fresh.take(&change.path);
            running.look_closer(&baseline, change, known)
        });
        let mut looks = futures::stream::iter(looks).buffered(AT_ONCE);
        let mut draft = DiffDraft { entries_truncated, ..DiffDraft::default() };
        while let Some(looked) = looks.next().await {
            looked?.into_iter().for_each(|entry| draft.add(entry));
        }
        Ok(draft.finish(running.home.id(), false))
    }

    pub(super) async fn baseline(
        &self,
        home: &Home,
        record: &Record,
        budget: &Budget,
    ) -> Result<Merged, WorkspaceError> {
        let (path, budget) = (home.snapshot(BASELINE), budget.clone());
        let base = self.environment(record)?.open_base()?;
        blocking(move || {
            let disk = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            Ok(Merged::new(Ext4::open(base, &budget)?, Ext4::open(disk, &budget)?)?)
        })
        .await
    }
}

impl RunningGuest {
    /// Everything that is there, as new; and whether there is more.
    async fn everything(&self) -> Result<(Vec<Difference>, bool), WorkspaceError> {
        let (entries, truncated) = self.entries(b"", true).await?;
        Ok((entries.into_iter().map(|file| Difference::from(file.into_unredacted())).collect(), truncated))
    }

    /// Differences that the guest finds, some of which may turn out to be none; and whether there are more.
    async fn scan(&self, record: &Record) -> Result<(Vec<Difference>, bool), WorkspaceError> {
        match self.guest.diff_scan(record.manifest.as_deref()).await {
            Ok((changes, all)) => Ok((changes.into_iter().map(Difference::from).collect(), all.is_none())),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// Renders a difference as it is shown; `None` where there is none. One that cannot be read is shown with the reason.
    async fn look_closer(
        &self,
        baseline: &Baseline,
        change: Difference,
        known: Option<(Rendered, bool)>,
    ) -> Result<Option<DiffEntry>, WorkspaceError> {
        let (path, before, after) = (change.path.clone(), change.before, change.after);
        match self.render(baseline, change, known).await {
            Err(WorkspaceError::Path { kind, message }) if kind != FailureKind::OutsideWorkspace => {
                let status = match (before, after) {
                    (None, _) => "added",
                    (_, None) => "deleted",
                    (Some(was), Some(is)) if was.kind != is.kind => "type_changed",
                    _ => "modified",
                };
                let shown = kind_name(after.or(before).map_or(FileKind::Other, |state| state.kind));
                let modes = [before, after].map(|state| state.map(|state| state.mode));
                let unread = Rendered::default();
                let left_out = Some(message);
                let entry = entry(&path, (status, shown), modes.into(), (unread, false), &self.redactor);
                Ok(Some(DiffEntry { left_out, ..entry }))
            }
            done => done,
        }
    }

    /// Renders a difference; `None` where there is none.
    async fn render(
        &self,
        baseline: &Baseline,
        change: Difference,
        known: Option<(Rendered, bool)>,
    ) -> Result<Option<DiffEntry>, WorkspaceError> {
        let path = change.path;
        if !is_plain(&path) {
            return Err(WorkspaceError::Path {
                kind: FailureKind::OutsideWorkspace,
                message: self.redactor.text(&format!("the guest names {path:?} as a path of the workspace")),
            });
        }
        let known = if is_gits(&path) && change.before.is_none() { Some(Default::default()) } else { known };
        if let (Some(rendered), None, Some(after)) = (known, change.before, change.after) {
            let status = ("added", kind_name(after.kind));
            return Ok(Some(entry(&path, status, (None, Some(after.mode)), rendered, &self.redactor)));
        }
        let same_size = matches!((change.before, change.after), (Some(a), Some(b)) if a.size == b.size);
        let (node, old) = match change.before {
            Some(state) => {
                let (node, content) = read_old(baseline, &path, state).await?;
                (node, Some(content))
            }
            None => (None, None),
        };
        let compare = node.filter(|_| change.touched && same_size);
        let (new, equal) = match change.after {
            Some(state) => self.read_new(&path, state, baseline, compare).await?,
            None => (None, false),
        };
        let modes = [&old, &new].map(|side| side.as_ref().map(|content| content.mode));
        let Some(status) = status(old.as_ref(), new.as_ref(), equal) else { return Ok(None) };
        let shown = match (&new, change.after, change.before) {
            (Some(_), Some(state), _) | (None, _, Some(state)) | (_, Some(state), None) => {
                kind_name(state.kind)
            }
            _ => kind_name(FileKind::Other),
        };
        let (named, redactor) = (path.clone(), self.redactor.clone());
        let rendered = blocking(move || Ok(rendered(&named, old, new, &redactor))).await?;
        Ok(Some(entry(&path, (status, shown), modes.into(), rendered, &self.redactor)))
    }

    /// Whether the beginning of a long file shows that it is no text, so that the rest need not be read.
    async fn is_binary(&self, name: &[u8], state: FileState) -> Result<bool, WorkspaceError> {
        let mut binary = false;
        if state.size > PIECE as u64 {
            let each = |piece: &[u8]| {
                binary |= piece.contains(&0);
                Ok(())
            };
            match self.content(name, 0, PIECE as u64, each).await {
                // Reading all of it says why.
                Ok(_) | Err(WorkspaceError::Path { .. } | WorkspaceError::Told(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(binary)
    }

    /// Reads the guest's present content, and whether the baseline has the same; `None` when it went meanwhile.
    async fn read_new(
        &self,
        path: &Path,
        state: FileState,
        baseline: &Baseline,
        compare: Option<Node>,
    ) -> Result<(Option<Content>, bool), WorkspaceError> {
        let name = path.as_os_str().as_bytes();
        let mut bytes = Vec::new();
        let (mut at, mut equal) = (0_u64, compare.is_some());
        let done = match state.kind {
            FileKind::File if compare.is_none() && self.is_binary(name, state).await? => {
                return Ok((Some(Content { kind: kind(state.kind), mode: state.mode, bytes: None }), false));
            }
            FileKind::File => {
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
                self.content(name, 0, limit, each).await.map(|_| ())
            }
            FileKind::Link => self.stat(name).await.map(|file| {
                let entry = file.into_unredacted();
                bytes = entry.target.map_or_else(Vec::new, |target| target.0);
            }),
            FileKind::Directory | FileKind::Other => Ok(()),
        };
        match done {
            Ok(()) => {
                let equal = equal && compare.is_some_and(|node| node.inode().size() == at);
                let bytes = (bytes.len() <= MAX_FILE).then_some(bytes);
                Ok((Some(Content { kind: kind(state.kind), mode: state.mode, bytes }), equal))
            }
            Err(error) if error.kind() == FailureKind::NotFound => Ok((None, false)),
            // The file became something else meanwhile.
            Err(error) if matches!(error.kind(), FailureKind::IsDirectory | FailureKind::NotRegular) => {
                Ok((Some(Content { kind: kind(state.kind), mode: state.mode, bytes: None }), false))
            }
            Err(error) => Err(error),
        }
    }
}

/// Status of a path that differs; `None` where it does not. `equal` says whether the content is known to be the same.
pub(super) fn status(old: Option<&Content>, new: Option<&Content>, equal: bool) -> Option<&'static str> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some("added"),
        (Some(_), None) => Some("deleted"),
        (Some(old), Some(new)) if old.kind != new.kind => Some("type_changed"),
        (Some(old), Some(new)) if equal && old.mode == new.mode => None,
        (Some(old), Some(new)) if is_same_link(old, new) => None,
        (Some(_), Some(_)) => Some("modified"),
    }
}

/// Part of the patch for one path, without secrets, and whether there were any. Blocks.
pub(super) fn rendered(
    path: &Path,
    old: Option<Content>,
    new: Option<Content>,
    redactor: &Redactor,
) -> (Rendered, bool) {
    if is_gits(path) {
        return Default::default();
    }
    let [old, new] = [old, new].map(|side| side.map(|content| content.redacted(redactor)));
    let any = [&old, &new].into_iter().flatten().any(|(_, any)| *any);
    let [old, new] = [&old, &new].map(|side| side.as_ref().map(|(content, _)| content.side()));
    (patch::render(path, old, new), any)
}

/// Path that differs, as it may be shown: `patch` is redacted already, the path is not.
pub(super) fn entry(
    path: &Path,
    (status, artifact_type): (&'static str, &'static str),
    (old_mode, new_mode): (Option<u32>, Option<u32>),
    (Rendered { patch, binary }, redacted): (Rendered, bool),
    redactor: &Redactor,
) -> DiffEntry {
    let octal = |mode: Option<u32>| mode.map(|mode| format!("{mode:04o}"));
    let name = Untrusted::new(path.to_string_lossy().into_owned());
    let shown = name.text(redactor);
    // A patch names its path, too.
    let in_name = shown != *name.unredacted();
    let patch = if in_name { redactor.text(&patch) } else { patch };
    let length = path.as_os_str().len();
    let too_long = length > MAX_PATH && !patch.is_empty();
    let left_out = too_long
        .then(|| format!("its path is too long for a patch ({length} bytes, of {MAX_PATH} at the most)"));
    DiffEntry {
        path: shown,
        status,
        artifact_type,
        // A binary file in the patch would make git refuse all of it.
        text_patch: if binary || too_long { String::new() } else { patch },
        binary,
        old_mode: octal(old_mode),
        new_mode: octal(new_mode),
        redacted: redacted || in_name,
        left_out,
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

pub(super) fn kind_on_disk(kind: disk::InodeKind) -> FileKind {
    match kind {
        disk::InodeKind::File => FileKind::File,
        disk::InodeKind::Directory => FileKind::Directory,
        disk::InodeKind::Symlink => FileKind::Link,
        _ => FileKind::Other,
    }
}

/// With what the baseline's disk has in place of what the guest noted a moment before, and without what is the same there.
/// (What was made in that moment and is gone again is not seen.)
async fn believe_disk(
    baseline: &Baseline,
    changes: Vec<Difference>,
) -> Result<Vec<Difference>, WorkspaceError> {
    let baseline = baseline.clone();
    blocking(move || {
        let correct = |change: Difference| {
            let path = &change.path;
            let node = if is_plain(path) { node_without_links(&baseline, path)? } else { None };
            let before = node.map(|node| FileState {
                kind: kind_on_disk(node.kind()),
                mode: node.inode().mode(),
                size: node.inode().size(),
            });
            let same_kind = before.zip(change.after).filter(|(was, is)| was.kind == is.kind);
            // Content must be compared for files and links, equal modes aside.
            let has_content = |kind| matches!(kind, FileKind::File | FileKind::Link);
            if same_kind.is_some_and(|(was, is)| was.mode == is.mode && !has_content(is.kind)) {
                return Ok(None);
            }
            let touched = same_kind.is_some_and(|(_, is)| is.kind == FileKind::File);
            Ok(Some(Difference { before, touched, ..change }))
        };
        let corrected = changes.into_iter().filter_map(|change| correct(change).transpose());
        Ok(corrected.collect::<Result<_, DiskError>>()?)
    })
    .await
}

/// Where the baseline has `path` itself, and not something else that links on the way lead to.
fn node_without_links(baseline: &Baseline, path: &Path) -> Result<Option<Node>, DiskError> {
    let Some(tree) = baseline else { return Ok(None) };
    let mut here = old_node(baseline, Path::new("."))?;
    for name in path {
        here = match here.filter(|node| node.kind() == disk::InodeKind::Directory) {
            Some(directory) => tree.child(&directory, name.as_bytes())?,
            None => return Ok(None),
        };
    }
    Ok(here)
}

/// What the baseline has at `path`, where it has anything there, and its content.
async fn read_old(
    baseline: &Baseline,
    path: &Path,
    state: FileState,
) -> Result<(Option<Node>, Content), WorkspaceError> {
    let (baseline, path) = (baseline.clone(), path.to_owned());
    blocking(move || {
        let node = old_node(&baseline, &path)?;
        let bytes = match (&baseline, &node) {
            (Some(tree), Some(node)) => bytes_of(tree, node, state.kind)?,
            _ => None,
        };
        Ok((node, Content { kind: kind(state.kind), mode: state.mode, bytes }))
    })
    .await
}

/// Content of a file, or target of a link, to be rendered as one of this kind; `None` where it is too long to be text, or has
/// no content. Blocks.
pub(super) fn bytes_of(tree: &Merged, node: &Node, kind: FileKind) -> Result<Option<Vec<u8>>, DiskError> {
    match kind {
        FileKind::File if node.inode().size() <= MAX_FILE as u64 => {
            let mut bytes = vec![0; usize::try_from(node.inode().size()).unwrap_or(MAX_FILE)];
            let length = tree.read_at(node, 0, &mut bytes)?;
            bytes.truncate(length);
            Ok(Some(bytes))
        }
        FileKind::Link => tree.link_target(node).map(Some),
        _ => Ok(None),
    }
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
