//! Where things are on this host, as the front end decided it. Plain data: this module looks nothing up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that core must be told about its surroundings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The runtime bundle: kernel, initramfs, manifest.
    pub bundle_dir: PathBuf,
    /// Directory of installed environments.
    pub environment_dir: PathBuf,
    /// Templates: saved guests that starts are restored from.
    pub template_dir: PathBuf,
    /// Small things that only cost time to lose: digest stamps, the remembered choice of a backend.
    pub cache_dir: PathBuf,
    /// The file system on which throw-away disks live, as files that never have a name.
    pub scratch_dir: PathBuf,
    /// The QEMU binary; a bare name was looked up by the front end already where it could be.
    pub qemu_binary: PathBuf,
    /// A Firecracker that is installed on this system, if there is one.
    pub firecracker_binary: Option<PathBuf>,
    /// Where VMMs that need named files have a directory each, on the file system of `scratch_dir`.
    pub run_dir: PathBuf,
    /// Workspaces: a directory each, and their names.
    pub workspaces_dir: PathBuf,
    /// The program that is started as the keeper of a workspace, with the words `keeper run`.
    pub executable: PathBuf,
    /// How long a guest may take to answer, instead of [`crate::launch::boot_deadline`].
    pub boot_deadline: Option<std::time::Duration>,
}

#[cfg(test)]
impl Config {
    /// A configuration for tests: everything is in `dir`, and keepers are `executable`.
    pub(crate) fn below(dir: &std::path::Path, executable: PathBuf) -> Self {
        let dir = dir.to_owned();
        Self {
            bundle_dir: dir.clone(),
            environment_dir: dir.clone(),
            template_dir: dir.clone(),
            cache_dir: dir.clone(),
            scratch_dir: dir.clone(),
            qemu_binary: "qemu".into(),
            firecracker_binary: None,
            run_dir: dir.clone(),
            workspaces_dir: dir,
            executable,
            boot_deadline: None,
        }
    }
}
