//! Choice of Firecracker: the system's where that is newer than the runtime's and nothing is known to be wrong with it,
//! else the runtime's; jailed whenever we are root.

use std::path::{Path, PathBuf};

use pyro_vmm::{Firecracker, FirecrackerVersion, Jail, VmmLimits, VmmUsers};

use crate::cause;
use crate::config::Config;
use crate::runtime::{Bundle, FIRECRACKER, JAILER};

/// The best one here, asked for its version; `Err` says why there is none.
///
/// # Errors
/// When there is none that can be used: why, in one line.
pub async fn find(config: &Config, bundle: &Bundle) -> Result<Firecracker, String> {
    let bundled = match bundled(bundle) {
        Ok(binary) => match FirecrackerVersion::of(&binary).await {
            Ok(version) => Ok((binary, version)),
            Err(error) => Err(cause::chain(&error)),
        },
        Err(why) => Err(why),
    };
    let system = match &config.firecracker_binary {
        Some(binary) => FirecrackerVersion::of(binary).await.ok().map(|version| (binary.clone(), version)),
        None => None,
    };
    let (binary, version) = better(system, bundled)?;
    made(config, bundle, binary, version)
}

/// A binary and what it says of itself.
type Versioned = (PathBuf, FirecrackerVersion);

/// The system's where it is newer and good, else the runtime's; `Err` says why neither.
fn better(system: Option<Versioned>, bundled: Result<Versioned, String>) -> Result<Versioned, String> {
    match (system, bundled) {
        (Some(system), Ok(bundled)) if is_good(system.1) && system.1 > bundled.1 => Ok(system),
        (_, Ok(bundled)) => Ok(bundled),
        (Some(system), Err(_)) if is_good(system.1) => Ok(system),
        (Some((_, version)), Err(_)) => {
            let known: Vec<_> = version.defects().iter().map(ToString::to_string).collect();
            Err(format!("the system's firecracker {version} is refused: {}", known.join("; ")))
        }
        (None, Err(why)) => Err(why),
    }
}

/// The one that [`find`] found when it was of this version.
pub(super) fn recalled(config: &Config, bundle: &Bundle, version: &str) -> Result<Firecracker, String> {
    let known = version.parse().map_err(|()| format!("{version:?} is no version of firecracker"))?;
    let of_runtime = bundle.manifest().component_versions.get(FIRECRACKER).is_some_and(|v| v == version);
    let binary = match &config.firecracker_binary {
        Some(system) if !of_runtime => system.clone(),
        _ => bundled(bundle)?,
    };
    made(config, bundle, binary, known)
}

/// Nothing that a throw-away VM would meet is known to be wrong with it. Differential snapshots are not made.
fn is_good(version: FirecrackerVersion) -> bool {
    version.defects().iter().all(|defect| *defect == pyro_vmm::FirecrackerDefect::DiffAbove3Gib)
}

/// The runtime's own, verified.
fn bundled(bundle: &Bundle) -> Result<PathBuf, String> {
    let path = bundle.artifact_path(FIRECRACKER).ok_or("this runtime was made without firecracker")?;
    bundle.open_artifact(FIRECRACKER).map_err(|error| cause::chain(&error))?;
    Ok(path)
}

fn made(
    config: &Config,
    bundle: &Bundle,
    binary: PathBuf,
    version: FirecrackerVersion,
) -> Result<Firecracker, String> {
    let jail = match super::users()? {
        Some(users) => Some(jail(bundle, &binary, users)?),
        None => None,
    };
    Ok(Firecracker { binary, version, run_dir: config.run_dir.clone(), jail })
}

fn jail(bundle: &Bundle, firecracker: &Path, users: VmmUsers) -> Result<Jail, String> {
    let binary = if bundle.artifact_path(FIRECRACKER).as_deref() == Some(firecracker) {
        bundle.open_artifact(JAILER).map_err(|error| cause::chain(&error))?;
        bundle.artifact_path(JAILER)
    } else {
        // Both come from one release, in one directory.
        firecracker.parent().map(|dir| dir.join("jailer")).filter(|path| path.is_file())
    };
    let binary = binary.ok_or_else(|| format!("there is no jailer beside {}", firecracker.display()))?;
    Ok(Jail { binary, users, limits: VmmLimits::FIRECRACKER })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, version: &str) -> Versioned {
        (path.into(), version.parse().unwrap())
    }

    fn chosen(system: Option<&str>, bundled: Option<&str>) -> Result<String, String> {
        let system = system.map(|version| one("/usr/bin/firecracker", version));
        let bundled = bundled.map(|version| one("/bundle/firecracker", version)).ok_or("none".to_owned());
        better(system, bundled).map(|(path, version)| format!("{} {version}", path.display()))
    }

    #[test]
    fn the_newer_good_one_is_used() {
        let (system, bundled) = ("/usr/bin/firecracker", "/bundle/firecracker");
        assert_eq!(chosen(Some("1.15.1"), Some("1.12.1")), Ok(format!("{system} 1.15.1")));
        assert_eq!(chosen(Some("1.12.0"), Some("1.12.1")), Ok(format!("{bundled} 1.12.1")));
        assert_eq!(chosen(None, Some("1.12.1")), Ok(format!("{bundled} 1.12.1")));
        assert_eq!(chosen(Some("1.15.1"), None), Ok(format!("{system} 1.15.1")));
        // Known to be broken: newer, and not used; alone, and refused by name.
        for broken in ["1.16.0", "1.16.1"] {
            assert_eq!(chosen(Some(broken), Some("1.12.1")), Ok(format!("{bundled} 1.12.1")));
            assert!(chosen(Some(broken), None).unwrap_err().contains(&format!("{broken} is refused: its ")));
        }
        assert!(chosen(Some("1.7.0"), None).unwrap_err().contains("not supported"));
        assert_eq!(chosen(None, None), Err("none".to_owned()));
    }
}
