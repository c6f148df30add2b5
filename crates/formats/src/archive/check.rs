//! Checks of what is let through: every entry of every tree, in either direction, passes [`Check::admit`].
//!
//! Paths are remembered as keyed hashes, so that a million of them is 40 MB whatever their length, and nobody outside
//! can make two of them meet.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::error::shown;
use super::{ArchiveError, Content, Entry, Limits, OutsideLinks, Refusal, SkippedLink};

/// Links that were left out and are named: the others are only counted.
const NAMED: usize = 100;

/// The tree so far.
pub(super) struct Check {
    limits: Limits,
    entries: u64,
    bytes: u64,
    names: u64,
    seen: HashMap<Key, EntryKind>,
    hashes: (RandomState, RandomState),
    /// Directory of the entry before: files of one directory come together.
    last: Option<Vec<u8>>,
    /// Paths that must turn out to be directories for a link not to lead out; the link and what it says.
    awaited: Vec<(Key, Vec<u8>, Vec<u8>)>,
    /// The first links that were left out, and how many there were.
    pub(super) skipped: (Vec<SkippedLink>, u64),
}

type Key = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    Directory,
    File,
    Symlink,
}

impl Check {
    pub(super) fn new(limits: Limits) -> Self {
        let hashes = (RandomState::new(), RandomState::new());
        let (seen, awaited, skipped) = (HashMap::new(), Vec::new(), (Vec::new(), 0));
        Self { limits, entries: 0, bytes: 0, names: 0, seen, hashes, last: None, awaited, skipped }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Lets an entry through, with its path and that of a hard link's target made plain: names with one `/` between
    /// them. An empty path is the tree itself. `None` for one that is left out.
    pub(super) fn admit(&mut self, mut entry: Entry) -> Result<Option<Entry>, ArchiveError> {
        let raw = std::mem::take(&mut entry.path);
        let refused = |refusal| ArchiveError::refused(&raw, refusal);
        entry.path = self.plain(&raw).map_err(refused)?;
        self.entries += 1;
        self.names += entry.path.len() as u64;
        if let Content::File(size) = entry.content {
            self.bytes = self.bytes.saturating_add(size);
        }
        for (have, limit, what) in [
            (self.entries, self.limits.entries, "entries"),
            (self.bytes, self.limits.bytes, "bytes"),
            (self.names, self.limits.names, "bytes of names"),
        ] {
            if have > limit {
                return Err(ArchiveError::TooMuch { what, limit });
            }
        }
        if let Content::HardLink(target) = &mut entry.content {
            let nowhere = || refused(Refusal::HardLink { target: shown(target) });
            let plain = self.plain(target).map_err(|_| nowhere())?;
            if self.seen.get(&self.key(&plain)) != Some(&EntryKind::File) || plain == entry.path {
                return Err(nowhere());
            }
            *target = plain;
        }
        self.place(&entry).map_err(refused)?;
        if let Content::Symlink(target) = &entry.content {
            match self.stays(&entry.path, target) {
                Err(Refusal::LeadsOut { target }) if self.limits.outside_links == OutsideLinks::Skip => {
                    self.skipped.1 += 1;
                    if self.skipped.0.len() < NAMED {
                        self.skipped.0.push(SkippedLink { path: shown(&entry.path), target });
                    }
                    return Ok(None);
                }
                other => other.map_err(refused)?,
            }
        }
        Ok(Some(entry))
    }

    /// Checks what can be known only when all entries are through.
    pub(super) fn finish(&self) -> Result<(), ArchiveError> {
        for (key, link, target) in &self.awaited {
            if self.seen.get(key) != Some(&EntryKind::Directory) {
                let refusal = Refusal::LeadsOut { target: shown(target) };
                return Err(ArchiveError::refused(link, refusal));
            }
        }
        Ok(())
    }

    /// A path in plain form.
    fn plain(&self, raw: &[u8]) -> Result<Vec<u8>, Refusal> {
        if raw.is_empty() || raw.contains(&0) {
            return Err(Refusal::Path);
        }
        if raw.first() == Some(&b'/') {
            return Err(Refusal::Absolute);
        }
        let (mut plain, mut depth) = (Vec::with_capacity(raw.len()), 0);
        for name in raw.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(Refusal::GoesUp),
                _ if name.len() > 255 => return Err(Refusal::Long),
                _ => {}
            }
            if !plain.is_empty() {
                plain.push(b'/');
            }
            plain.extend_from_slice(name);
            depth += 1;
        }
        match () {
            () if plain.len() > self.limits.path => Err(Refusal::Long),
            () if depth > self.limits.depth => Err(Refusal::Deep),
            () => Ok(plain),
        }
    }

    fn key(&self, path: &[u8]) -> Key {
        (self.hashes.0.hash_one(path), self.hashes.1.hash_one(path))
    }

    /// Finds the entry's place in the tree: below directories only, and not that of something else.
    fn place(&mut self, entry: &Entry) -> Result<(), Refusal> {
        let path = &entry.path;
        let above = parent(path);
        if self.last.as_deref() != Some(above) {
            let ends = above.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            for end in ends.chain([above.len()]) {
                let key = self.key(&above[..end]);
                if *self.seen.entry(key).or_insert(EntryKind::Directory) != EntryKind::Directory {
                    return Err(Refusal::Through);
                }
            }
            self.last = Some(above.to_vec());
        }
        let kind = match entry.content {
            Content::Directory => EntryKind::Directory,
            Content::File(_) | Content::HardLink(_) => EntryKind::File,
            Content::Symlink(_) => EntryKind::Symlink,
        };
        if path.is_empty() {
            return if kind == EntryKind::Directory { Ok(()) } else { Err(Refusal::Path) };
        }
        let key = self.key(path);
        match self.seen.insert(key, kind) {
            None => Ok(()),
            // An archive that was added to has files twice, and the later one counts.
            Some(before) if before == kind && kind != EntryKind::Symlink => Ok(()),
            Some(_) => Err(Refusal::Twice),
        }
    }

    /// Whether a symbolic link stays in the tree, wherever other links on its way lead. What is above it are real
    /// directories, so going up from there is safe; going up from a name of the link's own is only where that name
    /// turns out to be a directory.
    fn stays(&mut self, path: &[u8], target: &[u8]) -> Result<(), Refusal> {
        let out = || Refusal::LeadsOut { target: shown(target) };
        if target.is_empty() || target.contains(&0) || target.len() > 4095 || target.first() == Some(&b'/') {
            return Err(out());
        }
        let names = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let mut at = names(parent(path));
        let mut own = 0;
        for name in target.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    if own > 0 {
                        let key = self.key(&at.join(&b'/'));
                        // What is left out is left out at once, and not when it was written already.
                        let sure = self.seen.get(&key) == Some(&EntryKind::Directory);
                        if self.awaited.len() >= 100_000
                            || !sure && self.limits.outside_links == OutsideLinks::Skip
                        {
                            return Err(out());
                        }
                        self.awaited.push((key, path.to_vec(), target.to_vec()));
                        own -= 1;
                    }
                    at.pop().ok_or_else(out)?;
                }
                _ => {
                    at.push(name.to_vec());
                    own += 1;
                }
            }
        }
        Ok(())
    }
}

/// Directory that a path is in; empty for the tree itself.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}
