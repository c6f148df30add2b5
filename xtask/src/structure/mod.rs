//! What must be true of the tree as a whole: who may depend on whom, and how a file may look.
//!
//! Each check reads files below a root and gives violations; nothing is skipped silently. The tree's own test is
//! `tests/structure.rs`, which also plants a violation of every kind.

mod files;
mod hosts;
mod lex;
mod manifests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{TaskError, at};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, relative to the root.
    pub path: PathBuf,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// What is wrong, in one line.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.what),
        }
    }
}

/// Directories that hold nothing of ours.
const FOREIGN: [&str; 5] = [".git", "target", "corpus", "artifacts", "node_modules"];

/// All violations in the tree at `root`, sorted.
///
/// # Errors
/// When a file cannot be read or a manifest not be parsed.
pub fn check(root: &Path) -> Result<Vec<Violation>, TaskError> {
    let mut paths = Vec::new();
    collect(root, root, &mut paths)?;
    let mut found = Vec::new();
    for path in paths {
        let full = root.join(&path);
        let bytes = fs::read(&full).map_err(at(&full, "read"))?;
        // What is not text holds neither code nor host names that anybody reads.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if path.file_name().is_some_and(|name| name == "Cargo.toml") {
            found.extend(manifests::check(&path, &text)?);
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(files::check(&path, &text));
        }
        found.extend(hosts::check(&path, &text));
    }
    found.sort();
    Ok(found)
}

fn collect(root: &Path, dir: &Path, paths: &mut Vec<PathBuf>) -> Result<(), TaskError> {
    for entry in fs::read_dir(dir).map_err(at(dir, "read"))? {
        let entry = entry.map_err(at(dir, "read"))?;
        let kind = entry.file_type().map_err(at(dir, "read"))?;
        let path = entry.path();
        if kind.is_dir() {
            if !FOREIGN.iter().any(|name| entry.file_name() == *name) {
                collect(root, &path, paths)?;
            }
        } else if kind.is_file()
            && let Ok(path) = path.strip_prefix(root)
        {
            paths.push(path.to_owned());
        }
    }
    Ok(())
}
