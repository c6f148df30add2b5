//! Rules for the tree as a whole: which crate and which module may depend on which, how a file may look and read.
//!
//! Each check reads files below a root and gives violations; nothing is skipped silently. The tree's own test is
//! `tests/structure.rs`, which also plants a violation of every kind.

mod closure;
mod edges;
mod files;
mod graph;
mod hosts;
mod lex;
mod manifests;
pub mod modules;
pub mod prose;
mod references;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{TaskError, at};

/// Place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, relative to the root.
    pub path: PathBuf,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// Broken rule, in one line.
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
    let paths = paths(root)?;
    let mut found = modules::check(root, &edges::CRATES)?;
    found.extend(prose::check(root, &paths, &prose::CRATES)?);
    for path in paths {
        let full = root.join(&path);
        let bytes = fs::read(&full).map_err(at(&full, "read"))?;
        // What is not text holds neither code nor host names that anybody reads.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if path.file_name().is_some_and(|name| name == "Cargo.toml") {
            found.extend(manifests::check(&path, &text)?);
            found.extend(closure::check(root, &path, &text)?);
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(files::check(&path, &text));
        }
        found.extend(hosts::check(&path, &text));
    }
    found.sort();
    Ok(found)
}

/// The edges between modules that the tree at `root` has, in the form of the table that allows them.
///
/// # Errors
/// When a source file cannot be read.
pub fn edges(root: &Path) -> Result<String, TaskError> {
    modules::describe(root, &edges::CRATES)
}

/// Doc comments of the tree at `root` that do not name their subject, and how many there are in each crate.
///
/// # Errors
/// When a source file cannot be read.
pub fn prose(root: &Path) -> Result<String, TaskError> {
    prose::describe(root, &paths(root)?, &prose::CRATES)
}

/// Every file of ours below `root`, relative to it.
///
/// # Errors
/// When a directory cannot be read.
pub fn paths(root: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let mut paths = Vec::new();
    collect(root, root, &mut paths)?;
    paths.sort();
    Ok(paths)
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
