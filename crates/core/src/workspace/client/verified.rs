//! Differences from the baseline by what the host reads alone: both disks, byte for byte, whatever the guest says of them.
//!
//! ```text
//!   baseline's disk ---+
//!                      +--- walk of both /workspace, name by name ---> kinds, permissions, content ---> entries
//!   copy of the disk --+      (the guest holds still for the copy, where it does as it is told)
//! ```
//!
//! A guest whose root is hostile can write anything to its disk, and answer anything: what it cannot do is to have a file on
//! its disk that differs from the baseline and is not shown here.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pyro_formats::disk::{Budget, DiskError, Ext4, InodeKind, Merged, Node};
use pyro_formats::redact::Redactor;
use pyro_proto::message::{FileKind, MAX_ENTRIES};

use super::Workspaces;
use super::diff::{Content, DiffDraft, WORK, bytes_of, entry, kind, kind_on_disk, rendered, status};
use crate::identity;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::store::files_view::{Diff, DiffEntry, kind_name};
use crate::workspace::store::record::WORKSPACE_PATH;
use crate::workspace::store::state::State;

/// Directories within each other that are walked.
const MAX_DEPTH: usize = 2048;
/// Bytes that are compared at once.
const PIECE: usize = 256 << 10;

/// A path of both trees, or of one.
struct Pair {
    path: PathBuf,
    old: Option<Node>,
    new: Option<Node>,
}

impl Workspaces {
    /// Compares the workspace with its baseline as [`Self::diff`] does, by every byte of both disks and none of the guest's
    /// words, whether it runs or not. The disk is that of one moment where the guest held it still when it was told to.
    ///
    /// # Errors
    /// When there is no such workspace, one of the disks is damaged, or both ask for more work than a call may cost.
    pub async fn diff_verified(&self, given: &str) -> Result<Diff, WorkspaceError> {
        let home = self.find(given).await?;
        let redactor = super::redactor(&home).await?;
        let name = format!("fork-{}", identity::new_id()?);
        let copy = self.pass(&home, &name, false).await?;
        let record = super::read(&home, State::record).await?;
        let budget = Budget::new(WORK);
        let _call = budget.cancel_on_drop();
        let before = self.baseline(&home, &record, &budget).await?;
        let (path, base) = (home.snapshot(&name), self.environment(&record)?.open_base()?);
        let id = home.id();
        let compared = blocking(move || {
            let disk = File::open(&path).map_err(|e| WorkspaceError::file(&path, "opened", e))?;
            let after = Merged::new(Ext4::open(base, &budget)?, Ext4::open(disk, &budget)?)?;
            let draft = Comparison { before: &before, after: &after, redactor: &redactor };
            Ok(draft.run()?.finish(id, true))
        })
        .await;
        copy.release().await;
        compared
    }
}

struct Comparison<'a> {
    before: &'a Merged,
    after: &'a Merged,
    redactor: &'a Redactor,
}

impl Comparison<'_> {
    fn run(&self) -> Result<DiffDraft, DiskError> {
        let mut draft = DiffDraft::default();
        let root = Path::new(WORKSPACE_PATH);
        let top =
            Pair { path: PathBuf::new(), old: found(self.before, root)?, new: found(self.after, root)? };
        let mut open = vec![self.below(&top)?.into_iter()];
        while let Some(rest) = open.last_mut() {
            let Some(pair) = rest.next() else {
                open.pop();
                continue;
            };
            let shown = self.look(&pair)?;
            let deeper = self.below(&pair)?;
            if draft.len() as u64 >= MAX_ENTRIES && shown.is_some() {
                draft.entries_truncated = true;
                break;
            }
            let too_deep = open.len() >= MAX_DEPTH && !deeper.is_empty();
            let why = || format!("what is below more than {MAX_DEPTH} directories is not compared");
            match shown {
                Some(entry) if too_deep => draft.add(DiffEntry { left_out: Some(why()), ..entry }),
                Some(entry) => draft.add(entry),
                None if too_deep => {
                    let modes = [&pair.old, &pair.new].map(|node| node.as_ref().map(mode));
                    let shown = ("modified", kind_name(FileKind::Directory));
                    let entry = entry(&pair.path, shown, modes.into(), Default::default(), self.redactor);
                    draft.add(DiffEntry { left_out: Some(why()), ..entry });
                }
                None => {}
            }
            if !too_deep {
                open.push(deeper.into_iter());
            }
        }
        Ok(draft)
    }

    /// What both directories hold, by name; nothing of what is no directory.
    fn below(&self, pair: &Pair) -> Result<Vec<Pair>, DiskError> {
        let children = |tree: &Merged, node: &Option<Node>| match node {
            Some(node) if node.kind() == InodeKind::Directory => tree.children(node),
            _ => Ok(Vec::new()),
        };
        let mut old = children(self.before, &pair.old)?.into_iter().peekable();
        let mut new = children(self.after, &pair.new)?.into_iter().peekable();
        let mut pairs = Vec::new();
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return Ok(pairs),
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            let Some(name) = was.as_ref().or(is.as_ref()).map(|(name, _)| name.clone()) else {
                return Ok(pairs);
            };
            pairs.push(Pair {
                path: pair.path.join(OsStr::from_bytes(&name)),
                old: was.map(|(_, node)| node),
                new: is.map(|(_, node)| node),
            });
        }
    }

    /// Entry of a path that differs.
    fn look(&self, pair: &Pair) -> Result<Option<DiffEntry>, DiskError> {
        let equal = match (&pair.old, &pair.new) {
            (Some(old), Some(new)) if old.kind() == new.kind() => match old.kind() {
                InodeKind::File => self.same_content(old, new)?,
                InodeKind::Symlink => self.before.link_target(old)? == self.after.link_target(new)?,
                _ => true,
            },
            _ => false,
        };
        if equal && pair.old.as_ref().map(mode) == pair.new.as_ref().map(mode) {
            return Ok(None);
        }
        let content = |tree: &Merged, node: &Option<Node>| {
            let Some(node) = node else { return Ok(None) };
            let file_kind = kind_on_disk(node.kind());
            let bytes = bytes_of(tree, node, file_kind)?;
            Ok::<_, DiskError>(Some(Content { kind: kind(file_kind), mode: mode(node), bytes }))
        };
        let (old, new) = (content(self.before, &pair.old)?, content(self.after, &pair.new)?);
        let Some(status) = status(old.as_ref(), new.as_ref(), equal) else { return Ok(None) };
        let modes = [&old, &new].map(|side| side.as_ref().map(|content| content.mode));
        let shown =
            pair.new.as_ref().or(pair.old.as_ref()).map_or(FileKind::Other, |node| kind_on_disk(node.kind()));
        let patch = rendered(&pair.path, old, new, self.redactor);
        Ok(Some(entry(&pair.path, (status, kind_name(shown)), modes.into(), patch, self.redactor)))
    }

    /// Whether two files have the same bytes; holes are not read.
    fn same_content(&self, old: &Node, new: &Node) -> Result<bool, DiskError> {
        if old.inode().size() != new.inode().size() {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
        let mut at = 0;
        loop {
            let next = [self.before.next_data(old, at)?, self.after.next_data(new, at)?];
            let Some(start) = next.into_iter().flatten().map(|data| data.start).min() else {
                return Ok(true);
            };
            at = start.max(at);
            let read = [self.before.read_at(old, at, &mut ours)?, self.after.read_at(new, at, &mut theirs)?];
            let [Some(was), Some(is)] = [ours.get(..read[0]), theirs.get(..read[1])] else {
                return Ok(false);
            };
            if was != is {
                return Ok(false);
            }
            // The rest of a file that is shorter than it says has no data.
            if read[0] == 0 {
                return Ok(true);
            }
            at += read[0] as u64;
        }
    }
}

/// Permission bits.
fn mode(node: &Node) -> u32 {
    node.inode().mode() & 0o7777
}

/// File at `path` itself, where the tree has it.
fn found(tree: &Merged, path: &Path) -> Result<Option<Node>, DiskError> {
    match tree.find_link(path) {
        Err(DiskError::NotFound { .. } | DiskError::NotADirectory { .. }) => Ok(None),
        found => found.map(Some),
    }
}
