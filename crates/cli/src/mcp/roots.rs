//! Paths of the host that a model may name.
//!
//! The arguments of a tool come from a model that may have been talked into something. A path in them is resolved, links
//! and `..` included, and what it leads to must lie in a directory that the person allowed.
//!
//! ```text
//!   given --realpath--> real path, in a root? --openat2, no link followed--> descriptor --> core, as /proc/PID/fd/N
//! ```
//!
//! Invariant: what was checked is what is used. Between the check and the opening a name may be made a link to elsewhere, but
//! then the opening fails; after it no name is looked up again.
//! Invariant: opening has no effect. With `O_PATH` a fifo does not wait and a device does nothing; neither is let through.
//! Invariant: of what lies outside nothing is said, not even whether it exists.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pyro_core::HostPath;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

/// The directories of the host in which a model may read and write.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Real paths, links resolved. Relative paths are relative to the first.
    dirs: Vec<PathBuf>,
    /// Why there are none.
    none: &'static str,
}

/// Why a path of the host is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No directory was allowed.
    #[error("{path:?} is on the host, of which this server may use nothing: {why}")]
    None {
        /// Path as it was given.
        path: String,
        /// Why there is no default.
        why: &'static str,
    },
    /// Path that leads out of every directory that was allowed.
    #[error("{path:?} is outside the directories of the host that this server may use: {}", shown(.roots))]
    Outside {
        /// Path as it was given.
        path: String,
        /// Directories that were allowed.
        roots: Vec<PathBuf>,
    },
    /// A device, a fifo or a socket, where a file or a directory was expected.
    #[error("{path:?} is neither a file nor a directory")]
    Kind {
        /// Path as it was given.
        path: String,
    },
    /// Path that names no file that could be made.
    #[error("{path:?} does not end with the name of a file")]
    Nameless {
        /// Path as it was given.
        path: String,
    },
    /// File that became another while it was looked at.
    #[error("{path:?} changed while it was looked up")]
    Changed {
        /// Path as it was given.
        path: String,
    },
    /// Path that cannot be found or opened.
    #[error("{path:?} cannot be opened")]
    Unusable {
        /// Path as it was given.
        path: String,
        /// Error of the host's file system.
        #[source]
        source: io::Error,
    },
    /// Root that the person allowed and that is no directory.
    #[error("--host-root {}: it is no directory that can be used", .path.display())]
    Root {
        /// Path as it was given.
        path: PathBuf,
        /// Error of the host's file system.
        #[source]
        source: io::Error,
    },
}

impl Refusal {
    /// Remedy, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::None { .. } => Some(
                "the person who started the server can allow a directory with `pyro mcp serve --host-root DIR`",
            ),
            Self::Outside { .. } => Some(
                "use a path in one of these; the person who started the server can allow another directory with \
                 `pyro mcp serve --host-root DIR`",
            ),
            Self::Changed { .. } => Some("try again when nothing else changes the directory"),
            Self::Root { .. } => Some("give a directory that exists, or leave the flag out"),
            Self::Nameless { .. } => Some("end the path with the name of what is to be made"),
            Self::Kind { .. } | Self::Unusable { .. } => None,
        }
    }
}

fn shown(roots: &[PathBuf]) -> String {
    roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Roots {
    /// The directories that were `given` with `--host-root`, or else `working_dir`, unless that is `/` or one of `homes`, or
    /// has one in it: who starts a server there has not thought of handing all of it to a model. Nor is `working_dir` used
    /// where no home is known, since it may be one.
    ///
    /// # Errors
    /// [`Refusal::Root`] when one that was given is no directory.
    pub fn new(given: Vec<PathBuf>, working_dir: &Path, homes: &[PathBuf]) -> Result<Self, Refusal> {
        let mut dirs = Vec::new();
        for path in given {
            let real = working_dir.join(&path).canonicalize().and_then(|real| match real.is_dir() {
                true => Ok(real),
                false => Err(Errno::NOTDIR.into()),
            });
            match real {
                Ok(real) if dirs.contains(&real) => {}
                Ok(real) => dirs.push(real),
                Err(source) => return Err(Refusal::Root { path, source }),
            }
        }
        let mut none = "";
        if dirs.is_empty() {
            match working_dir.canonicalize() {
                Ok(real) if real == Path::new("/") => none = "it was started in /",
                Ok(_) if homes.is_empty() => {
                    none = "it was started where it cannot tell which directory is the home, as HOME is not set and the \
                            user is unknown";
                }
                Ok(real) if homes.iter().any(|home| resolved(home).starts_with(&real)) => {
                    none = "it was started in a home directory, or above one";
                }
                Ok(real) => dirs.push(real),
                Err(_) => none = "it was started in a directory that cannot be read",
            }
        }
        Ok(Self { dirs, none })
    }

    /// Words for a model, before it names a path, about the directories that are allowed.
    pub fn words(&self) -> String {
        match self.dirs.as_slice() {
            [] => format!("No path of the host may be used: {}.", self.none),
            dirs => format!("Paths of the host must be below {}; relative ones begin there.", shown(dirs)),
        }
    }

    /// A file or directory that exists, held open.
    ///
    /// # Errors
    /// When it leads out of the roots, does not exist, or is something else.
    pub fn source(&self, given: &str) -> Result<HostPath, Refusal> {
        let real = self.resolve(given, &self.full(given)?)?;
        let (opened, kind) = self.open(given, &real)?;
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Err(Refusal::Kind { path: given.to_owned() });
        }
        HostPath::held(opened, real).map_err(|source| unusable(given, source))
    }

    /// A place for a file or directory in a directory that exists, which is held open. Whether something is there already,
    /// a link for example, is not asked: who makes it must not replace or follow what is there.
    ///
    /// # Errors
    /// When it leads out of the roots, or its directory does not exist.
    pub fn target(&self, given: &str) -> Result<HostPath, Refusal> {
        let full = self.full(given)?;
        let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
            return Err(Refusal::Nameless { path: given.to_owned() });
        };
        let real = self.resolve(given, parent)?;
        let (opened, kind) = self.open(given, &real)?;
        if kind != FileType::Directory {
            return Err(unusable(given, Errno::NOTDIR.into()));
        }
        Ok(HostPath::held_in(opened, name, real.join(name)))
    }

    fn full(&self, given: &str) -> Result<PathBuf, Refusal> {
        match self.dirs.first() {
            Some(first) => Ok(first.join(given)),
            None => Err(Refusal::None { path: given.to_owned(), why: self.none }),
        }
    }

    fn holds(&self, real: &Path) -> bool {
        self.dirs.iter().any(|dir| real.starts_with(dir))
    }

    /// The real path.
    fn resolve(&self, given: &str, full: &Path) -> Result<PathBuf, Refusal> {
        let outside = || Refusal::Outside { path: given.to_owned(), roots: self.dirs.clone() };
        match fs::canonicalize(full) {
            Ok(real) if self.holds(&real) => Ok(real),
            Ok(_) => Err(outside()),
            Err(source) if self.holds(&resolved(full)) => Err(unusable(given, source)),
            Err(_) => Err(outside()),
        }
    }

    /// Opens what `real` meant when it was checked: it has no link and no `..`, so none is followed.
    fn open(&self, given: &str, real: &Path) -> Result<(OwnedFd, FileType), Refusal> {
        let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(CWD, real, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), no_links);
        let opened = opened.and_then(|opened| {
            let kind = FileType::from_raw_mode(fstat(&opened)?.st_mode);
            Ok((opened, kind))
        });
        opened.map_err(|error| match error {
            Errno::LOOP | Errno::NOENT | Errno::NOTDIR => Refusal::Changed { path: given.to_owned() },
            error => unusable(given, error.into()),
        })
    }
}

fn unusable(given: &str, source: io::Error) -> Refusal {
    Refusal::Unusable { path: given.to_owned(), source }
}

/// The real path of as much of it as exists, and the rest as it is.
fn resolved(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, real)) => match path.strip_prefix(above) {
            Ok(rest) if rest.components().all(|part| part.as_os_str() != "..") => real.join(rest),
            // What is not there cannot be gone up from.
            _ => PathBuf::from("/"),
        },
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests;
