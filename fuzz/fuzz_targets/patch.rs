//! Whatever a patch says: it applies to a tree or is refused, and leads nowhere else; what is rendered of the outcome applies
//! in turn and gives the same.
#![no_main]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use pyro_formats::patch::{
    Change, MAX_PATH, Node, NodeKind, Side, Tree, apply, parse, paths, removed, render,
};
use pyro_fuzz::Input;

/// A tree that remembers what it was asked for.
struct Asked<'t> {
    tree: &'t BTreeMap<PathBuf, Node>,
    paths: RefCell<BTreeSet<PathBuf>>,
}

impl Tree for Asked<'_> {
    fn node(&self, path: &Path) -> io::Result<Option<Node>> {
        self.paths.borrow_mut().insert(path.to_path_buf());
        self.tree.node(path)
    }
}

fn file(bytes: &[u8]) -> Node {
    Node { kind: NodeKind::File, mode: 0o644, bytes: bytes.to_vec() }
}

fn tree(own: &[u8]) -> BTreeMap<PathBuf, Node> {
    let other = |kind| Node { kind, mode: 0o755, bytes: Vec::new() };
    BTreeMap::from([
        ("f".into(), file(b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n")),
        ("crlf".into(), file(b"one\r\ntwo\r\nthree\r\n")),
        ("open".into(), file(b"one\ntwo")),
        ("own".into(), file(own)),
        ("binary".into(), file(b"a\0b\n")),
        ("d".into(), other(NodeKind::Directory)),
        ("d/x".into(), file(b"x\n")),
        ("l".into(), Node { kind: NodeKind::Symlink, mode: 0o777, bytes: b"d/x".to_vec() }),
        ("pipe".into(), other(NodeKind::Other)),
    ])
}

/// Whether a path is below the tree, one of the kind that no caller has to look at again.
fn stays(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_PATH
        && !bytes.contains(&0)
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn carry_out(tree: &BTreeMap<PathBuf, Node>, changes: &[Change]) -> BTreeMap<PathBuf, Node> {
    let mut after = tree.clone();
    for path in removed(changes) {
        assert!(after.remove(path).is_some(), "{} is removed and was not there", path.display());
    }
    for change in changes {
        if let Change::Write { path, node, .. } | Change::Rename { to: path, node, .. } = change {
            after.insert(path.clone(), node.clone());
        }
    }
    after
}

/// Applies what is rendered of a change of one file.
fn round_trip(path: &Path, before: Option<&Node>, after: Option<&Node>) {
    let side = |node: &'_ Node| -> Option<(NodeKind, u32)> { Some((node.kind, node.mode)) };
    let make = |node: Option<&Node>| node.cloned();
    let (old, new) = (make(before), make(after));
    fn view(node: &Option<Node>) -> Option<Side<'_>> {
        node.as_ref().map(|node| Side { kind: node.kind, mode: node.mode, bytes: Some(&node.bytes) })
    }
    let rendered = render(path, view(&old), view(&new));
    if rendered.binary || rendered.patch.is_empty() {
        return;
    }
    let patches = parse(rendered.patch.as_bytes(), Path::new("/workspace"))
        .unwrap_or_else(|error| panic!("{error}\n{}", rendered.patch));
    let tree: BTreeMap<PathBuf, Node> = old.into_iter().map(|node| (path.to_path_buf(), node)).collect();
    let changes = match apply(&patches, &tree) {
        Ok(changes) => changes,
        Err(rejected) => panic!("{rejected:?}\n{}", rendered.patch),
    };
    let got = carry_out(&tree, &changes).remove(path);
    let same = match (&got, &new) {
        (Some(got), Some(new)) => {
            got.bytes == new.bytes && side(got).map(|side| side.0) == side(new).map(|side| side.0)
        }
        (None, None) => true,
        _ => false,
    };
    assert!(same, "{got:?} {new:?}\n{}", rendered.patch);
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let own = input.text();
    let rest = input.rest();
    if mode & 1 != 0 {
        let old = (mode & 2 == 0).then(|| file(own));
        let new = (mode & 4 == 0).then(|| file(rest));
        return round_trip(Path::new(if mode & 8 == 0 { "d/f" } else { "a b" }), old.as_ref(), new.as_ref());
    }
    let Ok(patches) = parse(rest, Path::new("/workspace")) else { return };
    for patch in &patches {
        assert!(stays(patch.action.source()) && stays(patch.action.target()));
    }
    let tree = tree(own);
    let asked = Asked { tree: &tree, paths: RefCell::default() };
    let applied = apply(&patches, &asked);
    let known = paths(&patches);
    for path in asked.paths.borrow().iter() {
        assert!(known.iter().any(|known| known.starts_with(path)), "{} was asked for", path.display());
    }
    let Ok(changes) = applied else { return };
    let mut met = BTreeSet::new();
    for change in &changes {
        let (Change::Delete { path } | Change::Write { path, .. } | Change::Rename { to: path, .. }) = change;
        assert!(stays(path) && met.insert(path.clone()), "{} comes twice", path.display());
    }
    let after = carry_out(&tree, &changes);
    for path in &met {
        round_trip(path, tree.get(path), after.get(path));
    }
});
