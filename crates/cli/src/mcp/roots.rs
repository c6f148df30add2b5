//! Which paths of this host a model may name.

use std::path::{Path, PathBuf};

/// Directories that the person allowed.
#[derive(Clone, Debug, Default)]
pub struct Roots(Vec<PathBuf>);

/// A path that may be used.
#[derive(Debug)]
pub struct HostPath(PathBuf);

/// Why one may not.
#[derive(Debug, thiserror::Error)]
#[error("{path}: outside of what may be named")]
pub struct Refusal {
    path: String,
}

impl Refusal {
    /// What would allow it.
    pub fn hint(&self) -> Option<String> {
        Some("the person may allow more with `pyro mcp serve --host-root DIR`".into())
    }
}

impl HostPath {
    /// What to hand on.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What to show.
    pub fn shown(&self) -> &Path {
        &self.0
    }
}

impl Roots {
    /// These.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self(roots)
    }

    fn check(&self, path: PathBuf) -> Result<HostPath, Refusal> {
        if self.0.iter().any(|root| path.starts_with(root)) {
            return Ok(HostPath(path));
        }
        Err(Refusal { path: path.display().to_string() })
    }

    /// Something that is there.
    pub fn source(&self, path: &str) -> Result<HostPath, Refusal> {
        let real = std::fs::canonicalize(path).map_err(|_| Refusal { path: path.to_owned() })?;
        self.check(real)
    }

    /// Something that is to be made.
    pub fn target(&self, path: &str) -> Result<HostPath, Refusal> {
        let refused = || Refusal { path: path.to_owned() };
        let path = std::path::absolute(path).map_err(|_| refused())?;
        let parent = path.parent().ok_or_else(refused)?;
        let real = std::fs::canonicalize(parent).map_err(|_| refused())?;
        self.check(real.join(path.file_name().ok_or_else(refused)?))
    }
}
