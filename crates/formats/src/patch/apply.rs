//! Applying patches to a tree, in memory, all or nothing.
//!
//! Files are read and changed in an overlay, so that a later part of a patch sees what an earlier one did. Renames and
//! copies read the tree as it was, as git has it, so that two files can change places.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::{Reason, Rejected, Rejection};
use super::place::{self, Place};
use super::{Action, Change, FilePatch, Hunk, LineKind, MAX_FILE, MAX_FILES, Node, NodeKind, Tree};

/// Applies `patches` to `tree`, which stays as it is: what is to be done is in the result. Paths that end up as they
/// were are left out.
///
/// # Errors
/// Everything that does not fit, of all files and hunks.
pub fn apply(patches: &[FilePatch<'_>], tree: &dyn Tree) -> Result<Vec<Change>, Rejected> {
    let mut work = Work::new(patches, tree);
    let mut rejected = Rejected { rejections: Vec::new(), more: 0 };
    for patch in patches {
        let path = patch.action.target();
        for (hunk, reason) in work.patch(patch).err().unwrap_or_default() {
            if rejected.rejections.len() == Rejected::MOST {
                rejected.more += 1;
                continue;
            }
            let line = hunk.map_or(patch.line, |index| patch.hunks[index].line);
            let hunk = hunk.map(|index| (index + 1, patch.hunks[index].header.clone()));
            rejected.rejections.push(Rejection { path: path.to_path_buf(), hunk, line, reason });
        }
    }
    if !rejected.rejections.is_empty() {
        return Err(rejected);
    }
    work.changes().map_err(|(path, reason)| Rejected {
        rejections: vec![Rejection { path, hunk: None, line: 0, reason }],
        more: 0,
    })
}

/// The paths to remove before anything of `changes` is written.
pub fn removed(changes: &[Change]) -> impl Iterator<Item = &Path> {
    changes.iter().filter_map(|change| match change {
        Change::Delete { path } | Change::Rename { from: path, .. } => Some(path.as_path()),
        Change::Write { .. } => None,
    })
}

/// Failures of one file: of the hunk with that index, or of the file as such.
type Failures = Vec<(Option<usize>, Reason)>;

struct Work<'t> {
    tree: &'t dyn Tree,
    /// Nodes by their paths after the patches so far; `None` when they are gone.
    overlay: BTreeMap<PathBuf, Option<Node>>,
    /// Paths whose content came by a rename, a copy or a creation.
    fresh: BTreeSet<PathBuf>,
    /// New names and the old ones.
    renames: BTreeMap<PathBuf, PathBuf>,
    /// Old names of all renames of the patch.
    renamed: BTreeSet<PathBuf>,
    /// Paths that the patch removes or renames, somewhere.
    leaving: BTreeSet<PathBuf>,
    /// Bytes in the overlay, counting what was replaced.
    size: usize,
}

impl<'t> Work<'t> {
    fn new(patches: &[FilePatch<'_>], tree: &'t dyn Tree) -> Self {
        let (mut renamed, mut leaving) = (BTreeSet::new(), BTreeSet::new());
        for patch in patches {
            match &patch.action {
                Action::Rename { from, .. } => {
                    renamed.insert(from.clone());
                    leaving.insert(from.clone());
                }
                Action::Delete(path) | Action::Remove(path) => {
                    leaving.insert(path.clone());
                }
                Action::Modify(_) | Action::Create(_) | Action::Copy { .. } => {}
            }
        }
        let (overlay, renames, fresh) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { tree, overlay, fresh, renames, renamed, leaving, size: 0 }
    }

    fn node(&self, path: &Path) -> Result<Option<Node>, Reason> {
        match self.overlay.get(path) {
            Some(node) => Ok(node.clone()),
            None => Ok(self.tree.node(path)?),
        }
    }

    fn put(&mut self, path: &Path, node: Node) -> Result<(), Reason> {
        self.size = self.size.saturating_add(node.bytes.len());
        if node.bytes.len() > MAX_FILE || self.size > MAX_FILES {
            return Err(Reason::TooLarge);
        }
        self.overlay.insert(path.to_path_buf(), Some(node));
        Ok(())
    }

    fn patch(&mut self, patch: &FilePatch<'_>) -> Result<(), Failures> {
        let whole = |reason| vec![(None, reason)];
        match &patch.action {
            Action::Create(path) => self.create(path, patch),
            Action::Modify(path) => {
                let there = self.exists(path).map_err(whole)?;
                let begins = patch.hunks.iter().all(|hunk| {
                    hunk.old_start == Some(0) && hunk.lines.iter().all(|line| line.kind == LineKind::Add)
                });
                let other = patch.other(path).filter(|_| !there);
                match other {
                    Some(other) if self.exists(other).map_err(whole)? => self.modify(other, patch),
                    _ if !there && begins && !patch.hunks.is_empty() => self.create(path, patch),
                    _ => self.modify(path, patch),
                }
            }
            Action::Delete(path) | Action::Remove(path) => self.delete(path, patch),
            Action::Rename { from, to } | Action::Copy { from, to } => self.transfer(from, to, patch),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool, Reason> {
        Ok(self.node(path)?.is_some())
    }

    fn create(&mut self, path: &Path, patch: &FilePatch<'_>) -> Result<(), Failures> {
        self.free(path).map_err(|reason| vec![(None, reason)])?;
        let mode = patch.new_mode.unwrap_or(0o100644);
        let (kind, mode) = match is_link(mode) {
            true => (NodeKind::Symlink, 0o777),
            false => (NodeKind::File, if mode & 0o100 == 0 { 0o644 } else { 0o755 }),
        };
        let bytes = patched(&[], &patch.hunks)?;
        let node = finished(Node { kind, mode, bytes }).map_err(|reason| vec![(None, reason)])?;
        self.put(path, node).map_err(|reason| vec![(None, reason)])?;
        self.fresh.insert(path.to_path_buf());
        Ok(())
    }

    fn modify(&mut self, path: &Path, patch: &FilePatch<'_>) -> Result<(), Failures> {
        let whole = |reason| vec![(None, reason)];
        self.was_above(path).map_err(whole)?;
        let node = self.node(path).map_err(whole)?.ok_or_else(|| whole(Reason::Missing))?;
        let node = changed(node, patch)?;
        self.put(path, node).map_err(whole)
    }

    fn delete(&mut self, path: &Path, patch: &FilePatch<'_>) -> Result<(), Failures> {
        let whole = |reason| vec![(None, reason)];
        let mut path = path;
        let mut found = self.node(path).map_err(whole)?;
        if let (None, Some(other)) = (&found, patch.other(path)) {
            (path, found) = (other, self.node(other).map_err(whole)?);
        }
        self.was_above(path).map_err(whole)?;
        let node = changed(found.ok_or_else(|| whole(Reason::Missing))?, patch)?;
        let lines = place::lines(&node.bytes).count();
        if lines > 0 && matches!(patch.action, Action::Delete(_)) {
            return Err(whole(Reason::Remains { lines }));
        }
        self.overlay.insert(path.to_path_buf(), None);
        self.fresh.remove(path);
        Ok(())
    }

    /// Renames or copies.
    fn transfer(&mut self, from: &Path, to: &Path, patch: &FilePatch<'_>) -> Result<(), Failures> {
        let whole = |reason| vec![(None, reason)];
        self.was_above(from).map_err(whole)?;
        self.free(to).map_err(whole)?;
        // A copy means what was there before the patch; so does a rename of what another rename put there since.
        let copy = matches!(patch.action, Action::Copy { .. });
        let before = match copy || self.fresh.contains(from) {
            true => self.tree.node(from).map_err(|error| whole(error.into()))?,
            false => None,
        };
        let node = match before {
            Some(node) => node,
            None => self.node(from).map_err(whole)?.ok_or_else(|| whole(Reason::Missing))?,
        };
        let node = changed(node, patch)?;
        if matches!(patch.action, Action::Rename { .. }) {
            if !self.fresh.contains(from) {
                self.overlay.insert(from.to_path_buf(), None);
            }
            self.renames.insert(to.to_path_buf(), from.to_path_buf());
        }
        self.put(to, node).map_err(whole)?;
        self.fresh.insert(to.to_path_buf());
        Ok(())
    }

    /// Whether something may be made at `path`.
    fn free(&self, path: &Path) -> Result<(), Reason> {
        self.above(path)?;
        match self.node(path)? {
            None => Ok(()),
            Some(node) if node.kind == NodeKind::Directory => {
                // It may be about to become empty.
                match self.leaving.iter().any(|leaving| leaving.starts_with(path) && leaving != path) {
                    true => Ok(()),
                    false => Err(Reason::Exists),
                }
            }
            Some(_) if self.renamed.contains(path) && !self.fresh.contains(path) => Ok(()),
            Some(_) => Err(Reason::Exists),
        }
    }

    /// Whether all that stood above `path` before the patch are directories.
    fn was_above(&self, path: &Path) -> Result<(), Reason> {
        if self.overlay.contains_key(path) {
            return Ok(());
        }
        for above in path.ancestors().skip(1).filter(|above| *above != Path::new("")) {
            if self.tree.node(above)?.is_some_and(|node| node.kind != NodeKind::Directory) {
                return Err(Reason::Above { path: above.to_path_buf() });
            }
        }
        Ok(())
    }

    /// Whether all that will stand above `path` are directories.
    fn above(&self, path: &Path) -> Result<(), Reason> {
        for above in path.ancestors().skip(1).filter(|above| *above != Path::new("")) {
            match self.node(above)? {
                Some(node) if node.kind != NodeKind::Directory && !self.leaving.contains(above) => {
                    return Err(Reason::Above { path: above.to_path_buf() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn changes(mut self) -> Result<Vec<Change>, (PathBuf, Reason)> {
        let (mut deletes, mut renames, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        let mut moved = BTreeSet::new();
        for (to, from) in std::mem::take(&mut self.renames) {
            let before =
                |path: &Path| self.tree.node(path).map_err(|error| (path.to_path_buf(), error.into()));
            let gone = matches!(self.overlay.get(&from), Some(None)) && before(&from)?.is_some();
            if !gone || moved.contains(&from) || before(&to)?.is_some() {
                continue;
            }
            if let Some(Some(node)) = self.overlay.remove(&to) {
                moved.insert(from.clone());
                renames.push(Change::Rename { from, to, node });
            }
        }
        for (path, node) in self.overlay {
            let before = self.tree.node(&path).map_err(|error| (path.clone(), error.into()))?;
            match (before, node) {
                (Some(_), None) if !moved.contains(&path) => deletes.push(Change::Delete { path }),
                (_, None) => {}
                (Some(before), Some(node)) if before == node => {}
                (before, Some(node)) => writes.push(Change::Write { path, node, added: before.is_none() }),
            }
        }
        Ok(deletes.into_iter().chain(renames).chain(writes).collect())
    }
}

fn is_link(mode: u32) -> bool {
    mode & 0o170000 == 0o120000
}

/// Applies one patch to a node that is there.
fn changed(node: Node, patch: &FilePatch<'_>) -> Result<Node, Failures> {
    let whole = |reason| vec![(None, reason)];
    let link = patch.old_mode.or(patch.new_mode).map(is_link);
    let wanted = if link == Some(true) { "a symbolic link" } else { "a file" };
    let is = match node.kind {
        NodeKind::File => "a file",
        NodeKind::Symlink => "a symbolic link",
        NodeKind::Directory => "a directory",
        NodeKind::Other => "a device, a socket or a fifo",
    };
    // Renaming a link, or removing one, needs no word about what it is.
    let any = link.is_none() && patch.hunks.is_empty() && node.kind == NodeKind::Symlink;
    if is != wanted && !any {
        return Err(whole(Reason::Kind { is, wanted }));
    }
    if node.bytes.len() > MAX_FILE {
        return Err(whole(Reason::TooLarge));
    }
    if !patch.hunks.is_empty() && node.bytes.iter().take(8000).any(|byte| *byte == 0) {
        return Err(whole(Reason::Binary));
    }
    let Node { kind, mut mode, bytes } = node;
    if let Some(new) = patch.new_mode.filter(|_| kind == NodeKind::File) {
        if is_link(new) {
            return Err(whole(Reason::Kind { is, wanted: "a symbolic link" }));
        }
        // git knows one bit only: whoever may read it may run it.
        mode = if new & 0o100 == 0 { mode & !0o111 } else { mode | ((mode & 0o444) >> 2) | 0o100 };
    }
    let bytes = if patch.hunks.is_empty() { bytes } else { patched(&bytes, &patch.hunks)? };
    let node = Node { kind, mode, bytes };
    match patch.action {
        Action::Delete(_) | Action::Remove(_) => Ok(node),
        _ => finished(node).map_err(whole),
    }
}

/// Checks a link's target, and takes off a line feed that does not belong to it.
fn finished(mut node: Node) -> Result<Node, Reason> {
    if node.kind == NodeKind::Symlink {
        if node.bytes.last() == Some(&b'\n') {
            node.bytes.pop();
        }
        if node.bytes.is_empty()
            || node.bytes.len() > 4095
            || node.bytes.iter().any(|b| matches!(b, 0 | b'\n'))
        {
            return Err(Reason::Link);
        }
    }
    Ok(node)
}

fn patched(bytes: &[u8], hunks: &[Hunk<'_>]) -> Result<Vec<u8>, Failures> {
    let lines: Vec<&[u8]> = place::lines(bytes).collect();
    let places = place::places(&lines, hunks);
    let places =
        places.map_err(|all| all.into_iter().map(|(index, why)| (Some(index), why)).collect::<Failures>())?;
    let mut order: Vec<(&Hunk<'_>, Place)> = hunks.iter().zip(places).collect();
    order.sort_by_key(|(_, place)| (place.at, place.covers));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for (hunk, place) in order {
        lines[at..place.at].iter().for_each(|line| push(&mut out, line, b"\n"));
        at = place.at + place.covers;
        write_hunk(&mut out, hunk, place, &lines);
    }
    lines[at..].iter().for_each(|line| push(&mut out, line, b"\n"));
    Ok(out)
}

/// Appends a line; one without an end before it gets `end`.
fn push(out: &mut Vec<u8>, line: &[u8], end: &[u8]) {
    if out.last().is_some_and(|last| *last != b'\n') {
        out.extend_from_slice(end);
    }
    out.extend_from_slice(line);
}

fn write_hunk(out: &mut Vec<u8>, hunk: &Hunk<'_>, place: Place, lines: &[&[u8]]) {
    let covered = &lines[place.at..place.at + place.covers];
    // What is added takes the line ends of what it comes among, when the patch has them wrong.
    let dos_file = covered.iter().any(|line| line.ends_with(b"\r\n"))
        && covered.iter().all(|line| line.ends_with(b"\r\n") || !line.ends_with(b"\n"));
    let unix_file = !covered.iter().any(|line| line.ends_with(b"\r\n"));
    let body = &hunk.lines[place.skip_front..hunk.lines.len() - place.skip_back];
    let known = |kind: LineKind| hunk.lines.iter().filter(move |line| line.kind == kind);
    // Of a line without an end, a carriage return is content.
    let old = known(LineKind::Context).chain(known(LineKind::Remove)).filter(|line| line.newline);
    let (with, without) = old.fold((0, 0), |(with, without), line| match line.text.ends_with(b"\r") {
        true => (with + 1, without),
        false => (with, without + 1),
    });
    let (to_dos, to_unix) = (dos_file && with == 0 && without > 0, unix_file && without == 0 && with > 0);
    let end: &[u8] = if dos_file { b"\r\n" } else { b"\n" };
    let mut next = covered.iter();
    for line in body {
        match line.kind {
            LineKind::Context => push(out, next.next().copied().unwrap_or_default(), end),
            LineKind::Remove => {
                next.next();
            }
            LineKind::Add => {
                let bare = line.text.strip_suffix(b"\r").unwrap_or(line.text);
                push(out, if to_dos || to_unix { bare } else { line.text }, end);
                if line.newline {
                    out.extend_from_slice(if to_dos { b"\r\n" } else { b"\n" });
                }
            }
        }
    }
    // A patch that says nothing about the end of the last line leaves that as it was.
    let adds_last = body.last().is_some_and(|line| line.kind == LineKind::Add);
    let last = place.at + place.covers == lines.len() && !covered.is_empty() && adds_last;
    let open = lines.last().is_some_and(|line| !line.ends_with(b"\n"));
    if last && open && hunk.lines.iter().all(|line| line.newline) {
        let kept = place::body(out).len();
        out.truncate(kept);
    }
}
