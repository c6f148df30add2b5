//! The tree as the guest sees it: what its agent mounts, worked out from the two images.
//!
//! ```text
//!   base:/                lower layer --+
//!   disk:/.pyro/upper     upper layer --+-- overlay = /        disk:/workspace = /workspace
//! ```
//!
//! In the upper layer a character device 0:0 hides what has its name in the lower one, and a directory with the
//! attribute `trusted.overlay.opaque` all that is below it. Everything else that is in the upper layer stands before
//! what is in the lower one; two directories are one. A directory that was renamed says in
//! `trusted.overlay.redirect` where its lower part is; guests do not write that, but kernels follow it.

use std::ops::Range;

use super::{Budget, DiskError, Ext4, Inode, InodeKind, dir};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const METACOPY: &[u8] = b"trusted.overlay.metacopy";
/// The directory of the disk that lies at this name in the root.
const WORKSPACE: &[u8] = b"workspace";
const UPPER: [&[u8]; 2] = [b".pyro", b"upper"];
/// Bytes of a redirect, at the most: `PATH_MAX`.
const MAX_REDIRECT: usize = 4096;

/// Image that a file is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The environment's image, shared and never written to.
    Base,
    /// The guest's own disk.
    Disk,
}

/// A file of the merged tree. Two with the same [`Node::layer`] and [`Inode::number`] are hard links.
#[derive(Debug, Clone)]
pub struct Node {
    layer: Layer,
    inode: Inode,
    /// The lower part of a directory that has one.
    lower: Option<Inode>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The root, in which the workspace lies.
    Root,
    /// Within the overlay.
    Overlay,
    /// Within `/workspace`, which no overlay is over.
    Workspace,
}

/// A name in a directory, and its inode in each layer. In a directory that has one layer only, that is the upper one.
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    upper: Option<u32>,
    lower: Option<u32>,
}

impl Node {
    /// The image that it is in; for a directory that is in both, the disk.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// Inode in that image.
    #[must_use]
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// Type of the file.
    #[must_use]
    pub fn kind(&self) -> InodeKind {
        self.inode.kind()
    }
}

/// The root image and a guest's disk over it.
#[derive(Debug)]
pub struct Merged {
    base: Ext4,
    disk: Ext4,
    root: Node,
    /// `None` on a disk that no guest has mounted yet and that has none.
    workspace: Option<Inode>,
}

impl Merged {
    /// Lays `disk` over `base`, as the agent does.
    ///
    /// # Errors
    /// When one of them has no sound root directory, or the disk is damaged.
    pub fn new(base: Ext4, disk: Ext4) -> Result<Self, DiskError> {
        let bottom = base.root()?;
        let top = disk.root()?;
        let directory = |found: Option<Inode>| found.filter(|inode| inode.kind() == InodeKind::Directory);
        let workspace = directory(disk.lookup(&top, WORKSPACE)?);
        let mut upper = Some(top);
        for name in UPPER {
            upper = match upper {
                Some(inode) => directory(disk.lookup(&inode, name)?),
                None => None,
            };
        }
        let root = match upper {
            Some(inode) => {
                let opaque = is_opaque(&disk, &inode)?;
                Node { layer: Layer::Disk, inode, lower: (!opaque).then_some(bottom), place: Place::Root }
            }
            None => Node { layer: Layer::Base, inode: bottom, lower: None, place: Place::Root },
        };
        Ok(Self { base, disk, root, workspace })
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Entries of a directory, sorted by name.
    ///
    /// # Errors
    /// When something in it is damaged, or one layer has more than 524,288 names there.
    pub fn children(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, DiskError> {
        let mut children = Vec::new();
        for name in self.names(directory)? {
            if let Some(node) = self.node(directory, &name)? {
                children.push((name.name, node));
            }
        }
        Ok(children)
    }

    /// Finds one entry of a directory. `name` is a single name, not `.` or `..`.
    ///
    /// # Errors
    /// When something on the way is damaged.
    pub fn child(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>, DiskError> {
        let upper = dir::lookup(self.image(directory), &directory.inode, name)?;
        let lower = match &directory.lower {
            Some(lower) => dir::lookup(&self.base, lower, name)?,
            None => None,
        };
        self.node(directory, &Name { name: name.to_vec(), upper, lower })
    }

    /// The names in a directory, those of hidden files too; no inode is read.
    pub(super) fn names(&self, directory: &Node) -> Result<Vec<Name>, DiskError> {
        let upper = self.image(directory).entries(&directory.inode)?;
        let mut names: Vec<_> =
            upper.into_iter().map(|e| Name { name: e.name, upper: Some(e.inode), lower: None }).collect();
        if let Some(lower) = &directory.lower {
            let lower = self.base.entries(lower)?;
            names.extend(lower.into_iter().map(|e| Name { name: e.name, upper: None, lower: Some(e.inode) }));
        }
        if self.workspace_in(directory, WORKSPACE).is_some() {
            names.push(Name { name: WORKSPACE.to_vec(), upper: None, lower: None });
        }
        // Stable: of one name the upper layer's comes first.
        names.sort_by(|a, b| a.name.cmp(&b.name));
        names.dedup_by(|later, first| {
            let same = later.name == first.name;
            if same {
                first.lower = first.lower.or(later.lower);
            }
            same
        });
        Ok(names)
    }

    /// Resolves a name in a directory; `None` for a file that is hidden.
    pub(super) fn node(&self, directory: &Node, name: &Name) -> Result<Option<Node>, DiskError> {
        if let Some(node) = self.workspace_in(directory, &name.name) {
            return Ok(Some(node));
        }
        let place = match directory.place {
            Place::Workspace => Place::Workspace,
            Place::Root | Place::Overlay => Place::Overlay,
        };
        let (layer, inode) = match (name.upper, name.lower) {
            (Some(number), _) => (directory.layer, self.image(directory).inode(number)?),
            (None, Some(number)) => (Layer::Base, self.base.inode(number)?),
            (None, None) => return Ok(None),
        };
        if place == Place::Overlay && inode.is_whiteout() {
            return Ok(None);
        }
        let mut node = Node { layer, inode, lower: None, place };
        if node.kind() == InodeKind::Directory && layer == Layer::Disk && place == Place::Overlay {
            node.lower = self.lower_part(directory, &node.inode, name.lower)?;
        }
        Ok(Some(node))
    }

    /// Fills `buffer` with a regular file's content from byte `offset` on; less only at its end.
    ///
    /// # Errors
    /// When its content cannot be read, or is not in the layer that its inode is in.
    pub fn read_at(&self, file: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.check_content(file)?;
        self.image(file).read_at(&file.inode, offset, buffer)
    }

    /// The next bytes of a file at or after `from` that are not a hole.
    ///
    /// # Errors
    /// When its blocks are damaged.
    pub fn next_data(&self, file: &Node, from: u64) -> Result<Option<Range<u64>>, DiskError> {
        self.image(file).next_data(&file.inode, from)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn link_target(&self, link: &Node) -> Result<Vec<u8>, DiskError> {
        self.image(link).link_target(&link.inode)
    }

    /// A file of which only owner, mode and times were copied up. Our mounts make none.
    fn check_content(&self, file: &Node) -> Result<(), DiskError> {
        let in_upper = file.layer == Layer::Disk && file.place != Place::Workspace;
        if in_upper && self.disk.attribute(&file.inode, METACOPY)?.is_some() {
            return Err(DiskError::Unsupported { what: "overlayfs's metacopy".into() });
        }
        Ok(())
    }

    /// Work that may still be asked for.
    pub(super) fn budget(&self) -> &Budget {
        self.disk.volume().budget()
    }

    fn image(&self, node: &Node) -> &Ext4 {
        match node.layer {
            Layer::Base => &self.base,
            Layer::Disk => &self.disk,
        }
    }

    fn workspace_in(&self, directory: &Node, name: &[u8]) -> Option<Node> {
        let inode = self.workspace.as_ref()?;
        let there = directory.place == Place::Root && name == WORKSPACE;
        there.then(|| Node { layer: Layer::Disk, inode: inode.clone(), lower: None, place: Place::Workspace })
    }

    /// Finds the lower part that a directory of the upper layer is merged with; `beside` has its name in the lower
    /// layer.
    fn lower_part(
        &self,
        directory: &Node,
        inode: &Inode,
        beside: Option<u32>,
    ) -> Result<Option<Inode>, DiskError> {
        if is_opaque(&self.disk, inode)? {
            return Ok(None);
        }
        let found = match self.disk.attribute(inode, REDIRECT)? {
            Some(to) => self.redirected(directory, &to)?,
            None => beside.map(|number| self.base.inode(number)).transpose()?,
        };
        Ok(found.filter(|inode| inode.kind() == InodeKind::Directory))
    }

    /// The lower part of a directory that was renamed: a path from the root, or a name beside it.
    fn redirected(&self, directory: &Node, to: &[u8]) -> Result<Option<Inode>, DiskError> {
        let (start, path) = match to.strip_prefix(b"/") {
            Some(path) => (Some(self.base.root()?), path),
            None => (directory.lower.clone(), to),
        };
        let absolute = path.len() != to.len();
        let special = |name: &[u8]| matches!(name, b"" | b"." | b"..");
        if to.len() > MAX_REDIRECT
            || path.split(|byte| *byte == b'/').any(special)
            || (!absolute && path.contains(&b'/'))
        {
            return Err(DiskError::damaged("a directory was renamed from an impossible place"));
        }
        let mut found = start;
        for name in path.split(|byte| *byte == b'/') {
            found = match found.filter(|inode| inode.kind() == InodeKind::Directory) {
                Some(inode) => self.base.lookup(&inode, name)?,
                None => None,
            };
        }
        Ok(found)
    }
}

fn is_opaque(disk: &Ext4, inode: &Inode) -> Result<bool, DiskError> {
    Ok(disk.attribute(inode, OPAQUE)?.is_some_and(|value| value == b"y"))
}
