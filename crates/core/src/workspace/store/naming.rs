//! Names and labels of workspaces on disk: given, changed, and taken away with a whole workspace.

use std::path::Path;

use super::layout::{self, Home};
use super::record::{Record, WorkspaceChanges};
use super::state::State;
use crate::workspace::error::WorkspaceError;

/// Changes name and labels of a record and writes it down: both, or neither. The caller holds the workspace's lock. Blocks.
pub(crate) fn describe(
    root: &Path,
    state: &State,
    record: &mut Record,
    changes: &WorkspaceChanges,
) -> Result<(), WorkspaceError> {
    record.labels = changes.labels_after(record)?;
    let (before, after) = (record.name.clone(), changes.name_after(record)?);
    let _names = layout::lock_names(root)?;
    if let Some(name) = &after {
        layout::take_name(root, name, &record.id)?;
    }
    record.name.clone_from(&after);
    if let Err(error) = state.save(record) {
        // A name that is not written down must not lead here.
        if let Some(name) = after.filter(|name| before.as_ref() != Some(name)) {
            layout::free_name(root, &name, &record.id);
        }
        return Err(error);
    }
    if let Some(name) = before.filter(|name| after.as_ref() != Some(name)) {
        layout::free_name(root, &name, &record.id);
    }
    Ok(())
}

/// Removes a workspace and its name. The caller holds its lock. Blocks.
pub(crate) fn remove(home: &Home, name: Option<&str>, id: &str) -> Result<(), WorkspaceError> {
    home.remove()?;
    if let Some(name) = name {
        let _names = layout::lock_names(home.root())?;
        layout::free_name(home.root(), name, id);
    }
    Ok(())
}

/// Names of `known` that look like `given`, the most similar first, at most `most`.
pub(crate) fn nearest(given: &str, known: impl Iterator<Item = String>, most: usize) -> Vec<String> {
    let mut known: Vec<(f64, String)> = known
        .map(|name| (strsim::jaro_winkler(given, &name), name))
        .filter(|(likeness, _)| *likeness > 0.6)
        .collect();
    known.sort_by(|a, b| b.0.total_cmp(&a.0));
    known.into_iter().take(most).map(|(_, name)| name).collect()
}

/// Whether a snapshot can be called this.
pub(crate) fn check_snapshot_name(name: &str) -> Result<(), WorkspaceError> {
    super::record::check_name("a snapshot", name)
}
