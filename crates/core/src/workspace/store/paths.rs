//! Paths below the workspace, as front ends give them and payloads show them.

use std::path::{Component, Path, PathBuf};

use super::record::WORKSPACE_PATH;
use crate::failure::FailureKind;
use crate::workspace::error::WorkspaceError;

/// A path below the workspace, plain: no `.`, no `..`, no slash at either end. Nothing is asked of the guest that is not.
pub(crate) fn place(path: &Path) -> Result<Vec<u8>, WorkspaceError> {
    let outside = |why: &str| WorkspaceError::Path {
        kind: FailureKind::OutsideWorkspace,
        message: format!("{}: {why}", path.display()),
    };
    let below = match path.strip_prefix(WORKSPACE_PATH) {
        Ok(below) => below,
        Err(_) if path.is_absolute() => return Err(outside("is not in the workspace")),
        Err(_) => path,
    };
    let mut plain = PathBuf::new();
    for component in below.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => return Err(outside("a path may not contain `..`")),
        }
    }
    Ok(plain.into_os_string().into_encoded_bytes())
}

/// A path below the workspace as payloads show it.
pub(crate) fn shown(path: &[u8]) -> String {
    match path {
        [] => WORKSPACE_PATH.to_owned(),
        path => format!("{WORKSPACE_PATH}/{}", String::from_utf8_lossy(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_workspace() {
        for (given, wanted) in [
            ("/workspace", ""),
            ("/workspace/", ""),
            (".", ""),
            ("a//b/", "a/b"),
            ("./a", "a"),
            ("/workspace/a/./b", "a/b"),
        ] {
            assert_eq!(place(Path::new(given)).unwrap(), wanted.as_bytes(), "{given}");
        }
        for bad in ["/", "/etc/passwd", "..", "a/../b", "/workspace/../etc", "/workspaces", "/workspace2/x"] {
            assert!(place(Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!((shown(b"a/b"), shown(b"")), ("/workspace/a/b".into(), "/workspace".into()));
    }
}
