//! Paths through the merged tree: symbolic links, listings, content.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::error::Reading;
use super::merged::Name;
use super::{DiskError, InodeKind, Layer, Merged, Node};

/// Symbolic links on the way to one file, at the most: as many as the kernel follows.
const MAX_LINKS: usize = 40;
/// Directories within each other that a listing goes into.
const MAX_DEPTH: usize = 2048;
/// Bytes of a path that a listing goes into.
const MAX_PATH: usize = 64 << 10;
/// Names that a listing has read and not come to yet.
const MAX_PENDING: usize = 1 << 20;
/// Bytes copied at once.
const CHUNK: u64 = 1 << 20;
/// Bytes of a path that are put together in one step.
const NAMED: usize = 4096;

/// A file of a listing.
#[derive(Debug, Clone)]
pub struct Found {
    /// Path from the root, which begins with `/`. The names in it are the guest's: any bytes but `/` and NUL.
    pub path: PathBuf,
    /// Place and inode of the file.
    pub node: Node,
    /// Target of a symbolic link; `None` for other files.
    pub target: Option<PathBuf>,
}

/// Visitor of a listing, which goes on until the visitor breaks.
pub type Visit<'a> = &'a mut dyn FnMut(Found) -> ControlFlow<()>;

impl Merged {
    /// The file at `path`, from the root, whether or not it begins with `/`. Symbolic links are followed within the
    /// tree: `..` and absolute targets do not lead out of it.
    ///
    /// # Errors
    /// When there is none, links lead in a circle, or something on the way is damaged.
    pub fn find(&self, path: &Path) -> Result<Node, DiskError> {
        Ok(self.resolve(path, true)?.1)
    }

    /// Finds a file as [`Merged::find`] does, but when the last name is a symbolic link, that link itself.
    ///
    /// # Errors
    /// As [`Merged::find`].
    pub fn find_link(&self, path: &Path) -> Result<Node, DiskError> {
        Ok(self.resolve(path, false)?.1)
    }

    /// Lists a directory, or a directory and everything below; sorted by name, a directory before its content. Of a
    /// path to something else, that alone. Links at the end of `path` are followed, those found are not.
    ///
    /// # Errors
    /// When there is no such path, or something in it is damaged. What was visited before is sound.
    pub fn list(&self, path: &Path, recursive: bool, visit: Visit<'_>) -> Result<(), DiskError> {
        let (path, node) = self.resolve(path, true)?;
        if node.kind() != InodeKind::Directory {
            let _ = visit(Found { path, node, target: None });
            return Ok(());
        }
        // A directory is in one place only: one that is met again contains itself, or is in two.
        let mut met = HashSet::from([identity(&node)]);
        let asked = |path: &Path| Reading::Path(path.to_owned());
        let first = self.names(&node).map_err(|error| error.reading(|| asked(&path)))?;
        let mut pending = first.len();
        let mut open = vec![(path, node, first.into_iter())];
        while let Some((above, directory, rest)) = open.last_mut() {
            let Some(name) = rest.next() else {
                open.pop();
                continue;
            };
            pending -= 1;
            let looked = self.look(above, directory, name);
            let Some(found) = looked.map_err(|error| error.reading(|| asked(above)))? else { continue };
            let (path, node) = (found.path.clone(), found.node.clone());
            if visit(found).is_break() {
                return Ok(());
            }
            if recursive && node.kind() == InodeKind::Directory {
                if !met.insert(identity(&node)) {
                    let what = format!("{} is a directory that is in two places", path.display());
                    return Err(DiskError::damaged(what));
                }
                let names = self.names(&node).map_err(|error| error.reading(|| asked(&path)))?;
                pending += names.len();
                for (count, limit, what) in [
                    (open.len(), MAX_DEPTH, "directories within each other"),
                    (path.as_os_str().len(), MAX_PATH, "bytes in a path"),
                    (pending, MAX_PENDING, "names in directories within each other"),
                ] {
                    if count > limit {
                        return Err(DiskError::TooMany { what, limit: limit as u64 });
                    }
                }
                open.push((path, node, names.into_iter()));
            }
        }
        Ok(())
    }

    /// Looks at one name of a directory at `above`; `None` for what is hidden.
    fn look(&self, above: &Path, directory: &Node, name: Name) -> Result<Option<Found>, DiskError> {
        let length = above.as_os_str().len() + name.name.len();
        self.budget().spend(length.div_ceil(NAMED) as u64)?;
        let Some(node) = self.node(directory, &name)? else { return Ok(None) };
        let target = match node.kind() {
            InodeKind::Symlink => Some(OsString::from_vec(self.link_target(&node)?).into()),
            _ => None,
        };
        Ok(Some(Found { path: above.join(OsString::from_vec(name.name)), node, target }))
    }

    /// Reads at most `limit` bytes of a regular file from byte `offset` on. Links are followed.
    ///
    /// # Errors
    /// When there is no such file, it is not a regular one, or it is damaged.
    pub fn read(&self, path: &Path, offset: u64, limit: usize) -> Result<Vec<u8>, DiskError> {
        let node = self.find(path)?;
        if node.kind() != InodeKind::File {
            return Err(DiskError::NotAFile { path: path.to_owned() });
        }
        let left = node.inode().size().saturating_sub(offset);
        let mut content = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(limit)];
        let read = self.read_at(&node, offset, &mut content);
        let length = read.map_err(|error| error.reading(|| Reading::Path(path.to_owned())))?;
        content.truncate(length);
        Ok(content)
    }

    /// Copies the content of a regular file into the empty file `to`, with its holes. `go_on` is asked after each MiB,
    /// and told how many bytes it was. Returns whether all of it was copied.
    ///
    /// # Errors
    /// When the file is damaged or `to`, which errors call `name`, cannot be written.
    pub fn copy(
        &self,
        file: &Node,
        to: &File,
        name: &Path,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, DiskError> {
        // Says whether the content is there, also of a file that is all holes.
        self.read_at(file, 0, &mut [])?;
        to.set_len(file.inode().size()).map_err(DiskError::output(name, "written"))?;
        let mut buffer = vec![0; file.inode().size().min(CHUNK) as usize];
        let mut at = 0;
        while let Some(data) = self.next_data(file, at)? {
            at = data.start;
            while at < data.end {
                let wanted = (data.end - at).min(CHUNK) as usize;
                let part = buffer.get_mut(..wanted).unwrap_or_default();
                let length = self.read_at(file, at, part)?;
                let part = part.get(..length).unwrap_or_default();
                to.write_all_at(part, at).map_err(DiskError::output(name, "written"))?;
                at += wanted as u64;
                if !go_on(wanted as u64) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn resolve(&self, path: &Path, follow: bool) -> Result<(PathBuf, Node), DiskError> {
        self.walk(path, follow).map_err(|error| error.reading(|| Reading::Path(path.to_owned())))
    }

    fn walk(&self, path: &Path, follow: bool) -> Result<(PathBuf, Node), DiskError> {
        let mut way: Vec<(Vec<u8>, Node)> = Vec::new();
        // Names still to go, the next one last.
        let mut todo = names(path.as_os_str().as_bytes());
        let mut links = 0;
        while let Some(name) = todo.pop() {
            self.budget().spend(1)?;
            let here = way.last().map_or(self.root(), |(_, node)| node);
            if here.kind() != InodeKind::Directory {
                return Err(DiskError::NotADirectory { path: joined(&way) });
            }
            if name == b"." || name == b".." {
                if name == b".." {
                    way.pop();
                }
                continue;
            }
            let Some(node) = self.child(here, &name)? else {
                return Err(DiskError::NotFound { path: joined(&way).join(OsString::from_vec(name)) });
            };
            let last = todo.is_empty();
            if node.kind() == InodeKind::Symlink && (follow || !last) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(DiskError::Loop { path: path.to_owned() });
                }
                let target = self.link_target(&node)?;
                if target.first() == Some(&b'/') {
                    way.clear();
                }
                todo.extend(names(&target));
                continue;
            }
            way.push((name, node));
        }
        let path_found = joined(&way);
        let node = way.pop().map_or_else(|| self.root().clone(), |(_, node)| node);
        Ok((path_found, node))
    }
}

/// The names of a path, the last one first. A slash at the end asks for a directory, as `.` does.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    if path.ends_with(b"/") && !names.is_empty() {
        names.push(b".".to_vec());
    }
    names.reverse();
    names
}

fn joined(way: &[(Vec<u8>, Node)]) -> PathBuf {
    let mut path = vec![];
    for (name, _) in way {
        path.push(b'/');
        path.extend(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    OsString::from_vec(path).into()
}

fn identity(node: &Node) -> (Layer, u32) {
    (node.layer(), node.inode().number())
}
