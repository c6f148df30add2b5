//! Root directory of a VMM: the files it needs, read-only, and nothing else.
//!
//! The directory is built in the VMM's own mount namespace and ends with it: nobody else sees it, and nothing has to
//! be undone.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::VmmRequirements;
use crate::warden::FileAccess;

/// Directories in which distributions keep programs and libraries.
const SYSTEM_DIRS: &[&str] =
    &["/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store", "/gnu/store"];

/// Files that the dynamic linker reads beside [`SYSTEM_DIRS`].
const LINKER_FILES: &[&str] = &["/etc/ld.so.cache", "/etc/alternatives"];

const KVM: &str = "/dev/kvm";

/// Most entries of a root directory. Each directory above a QEMU installed deep in a home directory is one.
pub(super) const MAX_ENTRIES: usize = 128;

/// Name of the VMM's working directory in its root directory.
pub(super) const WORKING_DIR: &str = "vm";

/// Entry of a root directory. Names are relative to the root.
#[derive(Debug)]
pub(super) enum RootEntry {
    Directory(CString),
    Link {
        name: CString,
        target: CString,
    },
    /// File or directory of the host, mounted.
    Bind {
        from: CString,
        name: CString,
        is_directory: bool,
        access: FileAccess,
    },
    /// Device node with the host's number, or the host's node where none can be made.
    Device {
        from: CString,
        name: CString,
        number: u64,
        owner: u32,
    },
}

/// Plan of a root directory: its entries in order, and the VMM's working directory in it.
#[derive(Debug)]
pub(super) struct RootView {
    pub(super) mount_point: CString,
    pub(super) entries: Vec<RootEntry>,
    pub(super) directory: CString,
}

impl RootView {
    /// Turns `requirements` into entries. With a `user` of its own the VMM gets its own KVM device node.
    pub(super) fn new(
        requirements: &VmmRequirements,
        user: Option<u32>,
        program: &Path,
        mount_point: &Path,
    ) -> io::Result<RootView> {
        let mut making = RootViewBuilder::default();
        making.directory("proc")?;
        for path in system(program) {
            making.bind(&path, FileAccess::Read)?;
        }
        if !making.is_bound(program) {
            making.bind(program, FileAccess::Read)?;
        }
        for device in devices(requirements) {
            match user {
                // The host's node may be for root or a group that the VMM is not in.
                Some(owner) if device == KVM => making.device(Path::new(device), owner)?,
                _ => making.bind(Path::new(device), FileAccess::Write)?,
            }
        }
        let mut directory = c"/".to_owned();
        if let Some(working_dir) = &requirements.working_dir {
            making.directory(WORKING_DIR)?;
            let from = c_string(working_dir.as_os_str())?;
            making.entries.push(RootEntry::Bind {
                from,
                name: c_string(WORKING_DIR.as_ref())?,
                is_directory: true,
                access: FileAccess::Write,
            });
            directory = c_string(format!("/{WORKING_DIR}").as_ref())?;
        }
        if making.entries.len() > MAX_ENTRIES {
            return Err(io::Error::other("the VMM needs too many places"));
        }
        Ok(RootView { mount_point: c_string(mount_point.as_os_str())?, entries: making.entries, directory })
    }
}

/// Existing system paths that `program` needs; none for a static program.
pub(super) fn system(program: &Path) -> Vec<PathBuf> {
    if is_static(program).unwrap_or(false) {
        return Vec::new();
    }
    let mut all: Vec<PathBuf> = SYSTEM_DIRS.iter().chain(LINKER_FILES).map(PathBuf::from).collect();
    // An installation elsewhere has its data beside the program.
    if !SYSTEM_DIRS.iter().any(|place| program.starts_with(place)) {
        let prefix = program.parent().and_then(Path::parent);
        let beside = ["lib", "lib64", "share/qemu", "share/seabios"];
        all.extend(prefix.iter().flat_map(|prefix| beside.map(|name| prefix.join(name))));
    }
    all.retain(|path| fs::symlink_metadata(path).is_ok());
    all
}

/// Whether `program` is an executable that needs no other file to be run.
fn is_static(program: &Path) -> io::Result<bool> {
    // Reads the ELF header and program headers; any other file is a script, whose interpreter is in the system.
    const INTERPRETER: u32 = 3;
    let mut head = [0; 4096];
    let read = fs::File::open(program)?.read(&mut head)?;
    let head = &head[..read];
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    };
    let headers = || {
        let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(usize::try_from(first + index * size).ok()?, 4))
            .collect::<Option<Vec<_>>>()
    };
    Ok(head.starts_with(b"\x7fELF\x02\x01")
        && headers().is_some_and(|kinds| !kinds.contains(&u64::from(INTERPRETER))))
}

/// Paths of the device nodes that a VMM opens.
pub(super) fn devices(requirements: &VmmRequirements) -> Vec<&'static str> {
    let kvm = requirements.kvm.then_some(KVM);
    ["/dev/null", "/dev/urandom"].into_iter().chain(kvm).collect()
}

/// Group that a VMM must be in to open the host's KVM device; `None` when none is needed or only root's would do, to
/// which much more is open.
pub(super) fn kvm_group() -> Option<u32> {
    let metadata = fs::metadata(KVM).ok()?;
    needed_group(metadata.mode(), metadata.gid())
}

fn needed_group(mode: u32, group: u32) -> Option<u32> {
    let everybody = libc::S_IROTH | libc::S_IWOTH;
    (group != 0 && mode & everybody != everybody).then_some(group)
}

#[derive(Default)]
struct RootViewBuilder {
    entries: Vec<RootEntry>,
    made: BTreeSet<PathBuf>,
    bound: Vec<PathBuf>,
}

impl RootViewBuilder {
    /// Adds a directory, and those above it.
    fn directory(&mut self, name: impl AsRef<Path>) -> io::Result<()> {
        let name = name.as_ref();
        for part in name.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if !part.as_os_str().is_empty() && self.made.insert(part.to_owned()) {
                self.entries.push(RootEntry::Directory(c_string(part.as_os_str())?));
            }
        }
        Ok(())
    }

    /// Adds a file or directory of the host under its own name; a link stays a link.
    fn bind(&mut self, path: &Path, access: FileAccess) -> io::Result<()> {
        let name = path.strip_prefix("/").map_err(io::Error::other)?;
        let file_type = fs::symlink_metadata(path)?.file_type();
        if let Some(parent) = name.parent() {
            self.directory(parent)?;
        }
        if file_type.is_symlink() {
            let (name, target) = (c_string(name.as_os_str())?, c_string(fs::read_link(path)?.as_os_str())?);
            self.entries.push(RootEntry::Link { name, target });
            return Ok(());
        }
        if file_type.is_dir() {
            self.directory(name)?;
        }
        self.bound.push(path.to_owned());
        let (from, name) = (c_string(path.as_os_str())?, c_string(name.as_os_str())?);
        self.entries.push(RootEntry::Bind { from, name, is_directory: file_type.is_dir(), access });
        Ok(())
    }

    fn is_bound(&self, path: &Path) -> bool {
        self.bound.iter().any(|bound| path.starts_with(bound))
    }

    /// Adds a device node with the number of `path`, owned by `owner`.
    fn device(&mut self, path: &Path, owner: u32) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        if !metadata.file_type().is_char_device() {
            return Err(io::Error::other(format!("{} is no device", path.display())));
        }
        let name = path.strip_prefix("/").map_err(io::Error::other)?;
        if let Some(parent) = name.parent() {
            self.directory(parent)?;
        }
        self.entries.push(RootEntry::Device {
            from: c_string(path.as_os_str())?,
            name: c_string(name.as_os_str())?,
            number: metadata.rdev(),
            owner,
        });
        Ok(())
    }
}

pub(super) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirements(kvm: bool) -> VmmRequirements {
        VmmRequirements {
            shape: crate::Shape { vcpus: 1, mem_mib: 64 },
            limits: crate::VmmLimits::QEMU,
            longest_file: 0,
            spare_threads: 1,
            kvm,
            working_dir: None,
            reopened: Vec::new(),
        }
    }

    #[test]
    fn a_static_program_needs_nothing_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        for (name, option, of_system) in [("static", "-static", false), ("dynamic", "-pie", true)] {
            let program = dir.path().join(name);
            let source = dir.path().join("main.c");
            fs::write(&source, "int main(void) { return 0; }").unwrap();
            let made =
                std::process::Command::new("cc").arg(option).arg(&source).arg("-o").arg(&program).status();
            assert!(made.unwrap().success());
            assert_eq!(!system(&program).is_empty(), of_system, "{name}");
        }
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(system(&script).contains(&"/usr".into()));
    }

    #[test]
    fn roots_group_is_nobodys() {
        assert_eq!(needed_group(0o660, 108), Some(108));
        assert_eq!(needed_group(0o660, 0), None);
        assert_eq!(needed_group(0o666, 108), None, "everybody may open it");
    }

    /// Packages in a home directory have their libraries beside them, deep down.
    #[test]
    fn a_deep_installation_is_shown_with_its_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t/u/v/w/x/y/z");
        for name in ["bin", "lib", "share/qemu"] {
            fs::create_dir_all(prefix.join(name)).unwrap();
        }
        let program = prefix.join("bin/qemu");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let bound = system(&program);
        assert!(bound.contains(&prefix.join("lib")) && bound.contains(&prefix.join("share/qemu")));
        RootView::new(&requirements(false), None, &program, Path::new("/")).unwrap();
    }

    #[test]
    fn a_program_outside_of_the_system_is_shown_alone() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bin/qemu");
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::write(dir.path().join("bin/secret"), "x").unwrap();
        let view = RootView::new(&requirements(false), None, &program, Path::new("/")).unwrap();
        let bound: Vec<_> = view
            .entries
            .iter()
            .filter_map(|entry| match entry {
                RootEntry::Bind { from, .. } => from.to_str().ok(),
                _ => None,
            })
            .collect();
        assert!(bound.contains(&program.to_str().unwrap()), "{bound:?}");
        assert!(!bound.iter().any(|path| path.ends_with("/bin") && *path != "/bin"), "{bound:?}");
    }
}
