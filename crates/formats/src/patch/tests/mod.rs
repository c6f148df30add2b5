//! Patches as git writes them, as language models write them, and as nobody should.

mod dialect;
mod git;
mod malformed;
mod placing;
mod reading;
mod rendering;
mod roundtrip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

/// Path of the trees here.
const ROOT: &str = "/workspace";

fn parse(patch: &[u8]) -> Result<Vec<FilePatch<'_>>, PatchError> {
    super::parse(patch, Path::new(ROOT))
}

type Files = BTreeMap<PathBuf, Node>;

fn file(bytes: impl AsRef<[u8]>) -> Node {
    Node { kind: NodeKind::File, mode: 0o644, bytes: bytes.as_ref().to_vec() }
}

fn tree(files: &[(&str, &str)]) -> Files {
    files.iter().map(|(path, bytes)| (PathBuf::from(path), file(bytes))).collect()
}

/// The tree after a patch.
fn patched(mut tree: Files, patch: impl AsRef<[u8]>) -> Files {
    let patches = parse(patch.as_ref()).unwrap();
    let changes = apply(&patches, &tree).unwrap_or_else(|rejected| panic!("{rejected}"));
    let gone: Vec<PathBuf> = removed(&changes).map(Path::to_path_buf).collect();
    gone.iter().for_each(|path| assert!(tree.remove(path).is_some(), "{path:?} was not there"));
    for change in changes {
        match change {
            Change::Delete { .. } => {}
            Change::Write { path, node, added } => {
                assert_eq!(tree.insert(path, node).is_none(), added);
            }
            Change::Rename { to, node, .. } => assert_eq!(tree.insert(to, node), None),
        }
    }
    tree
}

/// Text that a patch makes of one file.
fn edited(before: &str, patch: &str) -> String {
    let mut after = patched(tree(&[("f", before)]), patch);
    String::from_utf8(after.remove(Path::new("f")).unwrap().bytes).unwrap()
}

/// Why a patch does not apply to one file.
fn refused(before: &str, patch: &str) -> Vec<Rejection> {
    apply(&parse(patch.as_bytes()).unwrap(), &tree(&[("f", before)])).unwrap_err().rejections
}
