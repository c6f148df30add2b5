//! Dependencies between rooms, as ARCHITECTURE.md has them. A new edge is a decision: it comes with its reason.

use std::path::Path;

use toml::{Table, Value};

use super::Violation;
use crate::error::TaskError;

/// A package of ours, and what it may depend on among our own.
struct Room {
    package: &'static str,
    may: &'static [&'static str],
    /// For tests beside those: a test may hold both ends of the wall.
    tests_may: &'static [&'static str],
}

const ROOMS: [Room; 9] = [
    Room { package: "pyro-proto", may: &[], tests_may: &[] },
    Room { package: "pyro-formats", may: &[], tests_may: &[] },
    Room { package: "pyro-vmm", may: &[], tests_may: &["pyro-proto"] },
    Room { package: "pyro-agent", may: &["pyro-proto"], tests_may: &[] },
    Room {
        package: "pyro-core",
        may: &["pyro-proto", "pyro-formats", "pyro-vmm"],
        tests_may: &["pyro-agent"],
    },
    // Measures each layer by itself, so it may know those beneath core.
    Room { package: "pyro-bench", may: &["pyro-core", "pyro-formats", "pyro-vmm"], tests_may: &[] },
    Room {
        package: "pyro-cli",
        may: &["pyro-core", "pyro-bench"],
        tests_may: &["pyro-proto", "pyro-vmm", "pyro-agent"],
    },
    Room { package: "xtask", may: &["pyro-core"], tests_may: &[] },
    // Fuzz targets are tests that live outside the workspace.
    Room {
        package: "pyro-fuzz",
        may: &["pyro-proto", "pyro-formats", "pyro-vmm", "pyro-core", "pyro-agent"],
        tests_may: &[],
    },
];

/// Checks one manifest.
pub(super) fn check(path: &Path, text: &str) -> Result<Vec<Violation>, TaskError> {
    let manifest: Table = text.parse().map_err(|error| TaskError::Unfit {
        path: path.to_owned(),
        why: format!("is no manifest: {error}"),
    })?;
    let Some(name) = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str)
    else {
        return Ok(Vec::new());
    };
    let violation = |what: String| Violation { path: path.to_owned(), line: 0, what };
    let Some(room) = ROOMS.iter().find(|room| room.package == name) else {
        return Ok(vec![violation(format!("the package {name} is not one of the rooms of ARCHITECTURE.md"))]);
    };
    let mut found = Vec::new();
    for (kind, dependencies) in dependency_tables(&manifest) {
        let tests = kind.starts_with("dev");
        for (key, value) in dependencies {
            let dependency = value.get("package").and_then(Value::as_str).unwrap_or(key);
            let ours = ROOMS.iter().any(|room| room.package == dependency);
            let may = room.may.contains(&dependency) || tests && room.tests_may.contains(&dependency);
            if ours && !may {
                found.push(violation(format!("{name} must not depend on {dependency} ({kind})")));
            }
        }
    }
    let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
    if inherits != Some(true) && name != "pyro-fuzz" {
        found.push(violation(format!("{name} does not take the workspace's lints")));
    }
    Ok(found)
}

/// The dependency tables of a manifest, those for single platforms included.
pub(super) fn dependency_tables(manifest: &Table) -> Vec<(&'static str, &Table)> {
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|all| all.values());
    let tables = std::iter::once(manifest).chain(platforms.filter_map(Value::as_table));
    tables
        .flat_map(|table| KINDS.iter().filter_map(|kind| Some((*kind, table.get(*kind)?.as_table()?))))
        .collect()
}

const KINDS: [&str; 5] =
    ["dependencies", "dev-dependencies", "build-dependencies", "dev_dependencies", "build_dependencies"];
