//! Packages that a crate must be built without, however far away: read from its manifest and from what Cargo.lock says follows.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use toml::{Table, Value};

use super::Violation;
use super::manifests::dependency_tables;
use crate::error::{TaskError, at};

/// A package of ours, and the packages that it must be built without.
struct Without {
    package: &'static str,
    unwanted: &'static [&'static str],
}

/// Decoders are fuzzed alone, so nothing that runs, stores or starts anything is beneath them.
const WITHOUT: [Without; 1] = [Without {
    package: "pyro-formats",
    unwanted: &["tokio", "rusqlite", "pyro-vmm", "pyro-core", "pyro-proto"],
}];

/// Checks the manifest `text` of the file `path`, with the lock file at `root` when there is one.
pub(super) fn check(root: &Path, path: &Path, text: &str) -> Result<Vec<Violation>, TaskError> {
    let manifest = parse(path, text)?;
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    let Some(without) = WITHOUT.iter().find(|without| Some(without.package) == name) else {
        return Ok(Vec::new());
    };
    let lock_path = root.join("Cargo.lock");
    let lock = match lock_path.is_file() {
        true => parse(&lock_path, &fs::read_to_string(&lock_path).map_err(at(&lock_path, "read"))?)?,
        false => Table::new(),
    };
    let packages: Vec<&Table> = lock
        .get("package")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_table)
        .collect();
    let mut seen = BTreeSet::new();
    let mut open: VecDeque<Vec<String>> = dependency_tables(&manifest)
        .into_iter()
        // Tests may be built with anything: nothing that depends on the crate is built with that.
        .filter(|(kind, _)| !kind.starts_with("dev"))
        .flat_map(|(_, table)| table)
        .map(|(key, value)| vec![value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned()])
        .collect();
    let mut found = Vec::new();
    while let Some(way) = open.pop_front() {
        let Some(dependency) = way.last().filter(|last| seen.insert((*last).clone())) else { continue };
        let bare = dependency.split(' ').next().unwrap_or_default();
        if without.unwanted.contains(&bare) {
            let way = way.join(" -> ");
            let what = format!("{} must be built without {bare}, which comes by {way}", without.package);
            found.push(Violation { path: path.to_owned(), line: 0, what });
            continue;
        }
        for next in packages.iter().filter(|package| is_package(package, dependency)).flat_map(|package| {
            package
                .get("dependencies")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
        }) {
            open.push_back([&way[..], &[next.to_owned()]].concat());
        }
    }
    Ok(found)
}

fn parse(path: &Path, text: &str) -> Result<Table, TaskError> {
    text.parse().map_err(|error| TaskError::Unfit {
        path: path.to_owned(),
        why: format!("cannot be parsed: {error}"),
    })
}

/// Whether a package of the lock file is what a dependency there names: `name`, or `name version` where there are more.
fn is_package(package: &Table, dependency: &str) -> bool {
    let mut words = dependency.split(' ');
    let is = |key: &str, word: Option<&str>| {
        word.is_none_or(|word| package.get(key).and_then(Value::as_str) == Some(word))
    };
    is("name", words.next()) && is("version", words.next())
}
