//! The disks of a workspace: the guest's own, and the copies that are its snapshots.
//!
//! A copy is made under another name, renamed and brought to storage (in this order where nothing has the name, else the other
//! way round), and only then written into the database; it is taken out of the database before its file goes. So a row always
//! has its file, and a file without a row is swept.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use pyro_formats::hostfs::{copy_sparse, copy_sparse_ahead};

use crate::identity;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::store::layout::{self, Home};
use crate::workspace::store::state::{BASELINE, State};
use crate::workspace::store::view::{SnapshotInfo, SnapshotKind};

/// Most snapshots of one workspace.
const MOST: usize = 64;
const DRAFT: &str = ".new-";

/// Copies what `from` holds to a new file of that name, on storage when this returns. Blocks.
pub fn copy(from: &File, to: &Path) -> Result<(), WorkspaceError> {
    let draft = Draft::new(to)?;
    draft.fill(from)?;
    draft.finish()
}

/// A file on its way to its name, which it gets when it is whole. Dropped before that it is removed.
pub struct Draft {
    path: PathBuf,
    to: PathBuf,
    file: File,
    passing: bool,
}

impl Draft {
    /// An empty one, to be on storage when it is finished.
    pub fn new(to: &Path) -> Result<Self, WorkspaceError> {
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let path = to.with_file_name(format!("{DRAFT}{name}"));
        layout::remove_if_there(&path)?;
        let file = layout::new_file(&path)?;
        Ok(Self { path, to: to.to_owned(), file, passing: false })
    }

    /// The same, which need not be on storage if it is only `passing`.
    pub fn passing(mut self, passing: bool) -> Self {
        self.passing = passing;
        self
    }

    /// File of the disk.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Copies what `from` holds into it. Blocks.
    pub fn fill(&self, from: &File) -> Result<(), WorkspaceError> {
        let copied = match self.passing {
            true => copy_sparse(from, &self.file),
            false => copy_sparse_ahead(from, &self.file),
        };
        copied.map(drop).map_err(WorkspaceError::Copy)
    }

    /// Gives it its name, with both on storage when this returns, unless it is only passing. What had the name keeps it until
    /// this is whole; where nothing had it, nobody looks for it yet, and file and name go to storage together. Blocks.
    pub fn finish(self) -> Result<(), WorkspaceError> {
        let finish = || {
            if self.passing {
                return fs::rename(&self.path, &self.to);
            }
            if self.to.try_exists()? {
                self.file.sync_all()?;
                fs::rename(&self.path, &self.to)?;
            } else {
                fs::rename(&self.path, &self.to)?;
                self.file.sync_all().inspect_err(|_| drop(fs::remove_file(&self.to)))?;
            }
            sync_dir(&self.to)
        };
        finish().map_err(WorkspaceError::Copy)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already where it has its name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes `to` another name of the file at `from`, which never changes; a copy where that cannot be.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
    match fs::hard_link(from, to) {
        Ok(()) => sync_dir(to).map_err(WorkspaceError::Copy),
        Err(_) => copy(&open(from)?, to),
    }
}

/// Brings the name of a file to storage. Blocks.
pub(super) fn sync_dir(of: &Path) -> io::Result<()> {
    File::open(of.parent().unwrap_or(Path::new("/")))?.sync_all()
}

pub fn open(path: &Path) -> Result<File, WorkspaceError> {
    File::open(path).map_err(|e| WorkspaceError::file(path, "opened", e))
}

/// The guest's disk, for its VMM.
pub fn open_disk(home: &Home) -> Result<File, WorkspaceError> {
    let path = home.disk();
    let opened = File::options().read(true).write(true).open(&path);
    opened.map_err(|e| WorkspaceError::file(&path, "opened", e))
}

/// Brings the guest's disk, as it is now, to storage.
pub async fn sync(home: &Home) -> Result<(), WorkspaceError> {
    let home = home.clone();
    blocking(move || open_disk(&home)?.sync_all().map_err(WorkspaceError::Copy)).await
}

/// Whether a snapshot can be made under this name.
pub fn check_new(state: &State, name: &str) -> Result<(), WorkspaceError> {
    check_free(state, name)?;
    if state.snapshots()?.len() >= MOST {
        return Err(WorkspaceError::SnapshotsFull(MOST));
    }
    Ok(())
}

/// Whether no snapshot has this name.
pub fn check_free(state: &State, name: &str) -> Result<(), WorkspaceError> {
    crate::workspace::store::record::check_name("a snapshot", name)?;
    if name == BASELINE {
        return Err(WorkspaceError::Baseline);
    }
    if state.snapshots()?.iter().any(|snapshot| snapshot.snapshot_name == name) {
        return Err(WorkspaceError::SnapshotTaken(name.to_owned()));
    }
    Ok(())
}

/// Describes the snapshot file that has its name already.
pub fn describe(home: &Home, id: &str, name: &str) -> Result<SnapshotInfo, WorkspaceError> {
    let path = home.snapshot(name);
    let file = open(&path)?;
    let stat = file.metadata().map_err(|e| WorkspaceError::file(&path, "read", e))?;
    let memory = [home.memory(name), home.ram(name)].map(|path| fs::metadata(path).ok());
    let written = memory.iter().flatten().map(|stat| stat.blocks()).sum::<u64>() + stat.blocks();
    let memory = memory[0].is_some();
    Ok(SnapshotInfo {
        workspace_id: id.to_owned(),
        snapshot_name: name.to_owned(),
        kind: SnapshotKind::of(name),
        created_at: identity::unix_now(),
        entry_count: used_inodes(&file).unwrap_or_default(),
        bytes_written: written * 512,
        deletable: name != BASELINE,
        memory,
        contains_secrets: memory,
    })
}

/// The snapshot of this name.
pub fn find(state: &State, name: &str) -> Result<SnapshotInfo, WorkspaceError> {
    let mut all = state.snapshots()?;
    if let Some(at) = all.iter().position(|snapshot| snapshot.snapshot_name == name) {
        return Ok(all.swap_remove(at));
    }
    let names = all.into_iter().rev().map(|snapshot| snapshot.snapshot_name);
    Err(WorkspaceError::SnapshotUnknown { name: name.to_owned(), there: names.take(5).collect() })
}

/// Removes a snapshot. The caller holds the workspace's lock.
pub fn delete(home: &Home, state: &State, name: &str) -> Result<(), WorkspaceError> {
    if name == BASELINE {
        return Err(WorkspaceError::Baseline);
    }
    find(state, name)?;
    state.remove_snapshot(name)?;
    remove_files(home, name)
}

/// Removes the files of a snapshot, which is in no database.
pub fn remove_files(home: &Home, name: &str) -> Result<(), WorkspaceError> {
    let [disk, memory] = [home.snapshot(name), home.memory(name)];
    for path in [disk, memory, home.memory_key(name), home.memory_jobs(name), home.ram(name)] {
        layout::remove_if_there(&path)?;
    }
    Ok(())
}

/// Copies the disk of a snapshot for [`Draft::finish`] to put it in place of the guest's. There was room for all of it on
/// storage when this returns. Blocks.
pub fn draft_of(home: &Home, name: &str) -> Result<Draft, WorkspaceError> {
    let from = open(&home.snapshot(name))?;
    let draft = Draft::new(&home.disk())?;
    draft.fill(&from)?;
    draft.file().sync_all().map_err(WorkspaceError::Copy)?;
    Ok(draft)
}

/// Puts the disk of a snapshot in place of the guest's, which nobody has open any more. Blocks.
pub fn restore(home: &Home, name: &str) -> Result<(), WorkspaceError> {
    copy(&open(&home.snapshot(name))?, &home.disk())
}

/// Removes what interrupted work left beside the disks. The caller holds the workspace's lock.
pub fn sweep(home: &Home, state: &State) -> Result<(), WorkspaceError> {
    let mut known = Vec::new();
    for SnapshotInfo { snapshot_name: name, memory, .. } in state.snapshots()? {
        known.push(home.snapshot(&name));
        if memory {
            known.extend([home.memory(&name), home.ram(&name)]);
            known.extend([home.memory_key(&name), home.memory_jobs(&name)]);
        }
    }
    let sequence = |command: Option<crate::workspace::store::record::Command>| {
        command.map_or(0, |command| command.sequence)
    };
    let kept = sequence(state.next_command(0)?)..=sequence(state.last_command()?);
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries(&home.snapshots()) {
        if !known.contains(&entry.path()) {
            layout::remove_if_there(&entry.path())?;
        }
    }
    for entry in entries(&home.path().join("logs")) {
        let name = entry.file_name();
        let sequence =
            name.to_str().and_then(|name| name.split('.').next()).and_then(|n| n.parse::<u64>().ok());
        if sequence.is_none_or(|sequence| !kept.contains(&sequence)) {
            layout::remove_if_there(&entry.path())?;
        }
    }
    layout::remove_if_there(&home.path().join(format!("{DRAFT}disk.ext4")))
}

/// Inodes that a disk uses beyond those of a blank one, from its superblock.
fn used_inodes(disk: &File) -> io::Result<u64> {
    /// The root, lost+found, the journal and their reserved kin, and the directories of a blank disk.
    const BLANK: u64 = 11 + 4;
    let mut superblock = [0; 64];
    disk.read_exact_at(&mut superblock, 1024)?;
    let word = |at: usize| {
        u64::from(u32::from_le_bytes([
            superblock[at],
            superblock[at + 1],
            superblock[at + 2],
            superblock[at + 3],
        ]))
    };
    Ok(word(0).saturating_sub(word(16)).saturating_sub(BLANK))
}

/// Copies the disk of a workspace whose lock the caller has. Blocks.
pub fn copy_stopped(home: &Home, name: &str) -> Result<SnapshotInfo, WorkspaceError> {
    copy(&open(&home.disk())?, &home.snapshot(name))?;
    describe(home, &home.id(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_its_name_when_it_is_whole_and_leaves_nothing_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let from = tempfile::tempfile().unwrap();
        // More than is handed to storage at once, with a hole in it.
        from.set_len(32 << 20).unwrap();
        from.write_all_at(&vec![7; 9 << 20], 1 << 20).unwrap();
        from.write_all_at(&vec![8; 5 << 20], 20 << 20).unwrap();
        let read = |path: &Path| fs::read(path).unwrap();
        let whole = {
            let mut bytes = vec![0; 32 << 20];
            from.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let to = dir.path().join("disk");
        // Where nothing has the name, where something has it, and what is only passing.
        for (passing, before) in [(false, None), (false, Some("old")), (true, Some("older"))] {
            if let Some(before) = before {
                fs::write(&to, before).unwrap();
            }
            let draft = Draft::new(&to).unwrap().passing(passing);
            draft.fill(&from).unwrap();
            assert_eq!(to.exists(), before.is_some());
            draft.finish().unwrap();
            assert!(read(&to) == whole && names() == 1, "{passing} {before:?}");
            assert!(fs::metadata(&to).unwrap().blocks() * 512 < 20 << 20, "its holes are filled");
        }
        drop(Draft::new(&to).unwrap());
        assert!(read(&to) == whole && names() == 1);
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(Draft::new(&to).is_err());
    }
}
