//! New directories of a difference, read in one go: file by file, thousands of small ones would take minutes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pyro_formats::archive::{SeenFile, look};
use pyro_formats::patch::{self, MAX_FILE, Rendered, Side};
use pyro_proto::message::{FileKind, FileState};

use super::diff::{Difference, is_gits};
use super::guest::RunningGuest;
use crate::workspace::error::WorkspaceError;
use crate::workspace::tree_pipe::Unpacking;

/// A directory with fewer new files is not worth a stream.
const FEW: usize = 8;
/// Most bytes of a directory that is read in one go: beyond, what is not text is better left unread.
const MOST: u64 = 256 << 20;

/// New files, and whether secrets were in them.
type Found = HashMap<PathBuf, (Rendered, bool)>;

/// New files that were read ahead, by path.
pub(super) struct Fresh(Found);

impl Fresh {
    /// Takes the rendering of the new file at `path`, and whether secrets were in it.
    pub(super) fn take(&mut self, path: &Path) -> Option<(Rendered, bool)> {
        self.0.remove(path)
    }
}

/// New directories that are not in a new one, and worth a stream. The workspace itself is one where `all` is new.
fn roots(changes: &[Difference], all: bool) -> Vec<PathBuf> {
    /// Files below, and their bytes.
    type Sum = (usize, u64);
    let added = |change: &Difference| change.before.is_none().then_some(change.after).flatten();
    let mut sums: BTreeMap<PathBuf, Sum> = BTreeMap::new();
    if all {
        sums.insert(PathBuf::new(), (0, 0));
    }
    // In order: a directory comes before what is in it.
    for change in changes {
        let Some(FileState { kind, size, .. }) = added(change) else { continue };
        let path = &change.path;
        let root = path.ancestors().skip(1).find(|above| sums.contains_key(*above)).map(Path::to_path_buf);
        match root.and_then(|root| sums.get_mut(&root)) {
            Some((files, bytes)) if kind == FileKind::File => {
                *files += usize::from(!is_gits(path));
                *bytes = bytes.saturating_add(size);
            }
            Some(_) => {}
            None if kind == FileKind::Directory => {
                sums.insert(path.clone(), (0, 0));
            }
            None => {}
        }
    }
    let worth = |sum: &Sum| sum.0 >= FEW && sum.1 <= MOST;
    sums.into_iter().filter(|(_, sum)| worth(sum)).map(|(path, _)| path).collect()
}

impl RunningGuest {
    /// Reads the new directories of `changes`; what fails is read file by file later. Keeps at most `most` bytes of text.
    pub(super) async fn fresh(&self, changes: &[Difference], all: bool, most: usize) -> Fresh {
        let mut found = HashMap::new();
        let mut left = most;
        for root in roots(changes, all) {
            if let Ok(more) = self.fresh_below(&root, left).await {
                left = left.saturating_sub(more.values().map(|(each, _)| each.patch.len()).sum());
                found.extend(more);
            }
        }
        Fresh(found)
    }

    async fn fresh_below(&self, root: &Path, most: usize) -> Result<Found, WorkspaceError> {
        let name = root.as_os_str().as_bytes();
        let mut tree = match self.guest.tree_get(name, 4 * MOST).await {
            Ok(tree) => tree,
            Err(error) => return Err(self.failed(error).await),
        };
        let redactor = self.redactor.clone();
        let above = root.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut looking = Unpacking::with(move |stream, asked| {
            let (mut found, mut text) = (HashMap::new(), 0);
            look(stream, MAX_FILE as u64, &mut |seen: SeenFile<'_>| {
                let (kind, bytes) = match seen.target {
                    Some(target) => (patch::NodeKind::Symlink, target),
                    None => (patch::NodeKind::File, seen.bytes),
                };
                let path = above.join(OsStr::from_bytes(seen.path));
                if is_gits(&path) {
                    return ControlFlow::Continue(());
                }
                let (clean, any) = redactor.head(bytes, bytes.len());
                let side = Side { kind, mode: seen.mode, bytes: Some(&clean) };
                let rendered = patch::render(&path, None, Some(side));
                text += rendered.patch.len();
                found.insert(path, (rendered, any));
                if text > most || asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok(found)
        })?;
        while looking.takes() {
            match tree.next().await {
                Ok(Some(bytes)) => looking.write(bytes).await,
                Ok(None) => break,
                Err(error) => return Err(self.failed(error).await),
            }
        }
        looking.finish().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &str, kind: FileKind, before: bool) -> Difference {
        let state = FileState { kind, mode: 0o644, size: 10 };
        Difference { path: path.into(), touched: false, before: before.then_some(state), after: Some(state) }
    }

    #[test]
    fn only_new_directories_with_many_files_are_read_in_one_go() {
        let mut changes = vec![change("a", FileKind::Directory, true)];
        for dir in ["a/new", "few"] {
            changes.push(change(dir, FileKind::Directory, false));
            changes.push(change(&format!("{dir}/deep"), FileKind::Directory, false));
            let count = if dir == "few" { FEW - 1 } else { FEW };
            changes.extend((0..count).map(|n| change(&format!("{dir}/deep/{n}"), FileKind::File, false)));
        }
        changes.extend((0..FEW).map(|n| change(&format!("z{n}"), FileKind::File, false)));
        assert_eq!(roots(&changes, false), [PathBuf::from("a/new")]);
        changes.remove(0);
        assert_eq!(roots(&changes, true), [PathBuf::new()]);
    }
}
