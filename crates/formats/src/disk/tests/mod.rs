//! Images that `mke2fs` and `debugfs` made, read by us and by them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;

mod budget;
mod hostile;
mod merged;
mod reader;
mod recovery;
mod redirect;

/// Features of file systems that the kernel makes and of our own blank disk.
const MODERN: &[&str] = &[
    "-b",
    "4096",
    "-I",
    "256",
    "-J",
    "size=4",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,\
     extra_isize,metadata_csum",
];

/// A program of e2fsprogs, which are where only root looks.
fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("MKE2FS_CONFIG", "/dev/null");
    command.env("DEBUGFS_PAGER", "cat").stdin(Stdio::null());
    command
}

/// A file system of `size`, such as `8M`, that holds `tree`.
fn make(dir: &Path, name: &str, options: &[&str], tree: Option<&Path>, size: &str) -> PathBuf {
    let image = dir.join(name);
    let mut command = tool("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-m", "0"]).args(options);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    let output = command.arg(&image).arg(size).output().unwrap();
    assert!(output.status.success(), "{options:?} {}", String::from_utf8_lossy(&output.stderr));
    image
}

/// Runs commands of debugfs; returns what it says.
fn debugfs(image: &Path, script: &str) -> String {
    let mut command = tool("debugfs");
    command.args(["-w", "-f", "-"]).arg(image);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs one command of debugfs that writes bytes.
fn debugfs_bytes(image: &Path, request: &str) -> Vec<u8> {
    tool("debugfs").args(["-R", request]).arg(image).output().unwrap().stdout
}

/// Asserts that `e2fsck` finds nothing to say about an image.
fn check(image: &Path) {
    let output = tool("e2fsck").arg("-fn").arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Budget that no sound image of a test comes near: what the calls of core have.
fn plenty() -> Budget {
    Budget::new(1 << 23)
}

fn open(image: &Path) -> Ext4 {
    Ext4::open(File::open(image).unwrap(), &plenty()).unwrap()
}

fn at(image: &Ext4, path: &str) -> Inode {
    let mut inode = image.root().unwrap();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        inode = image.lookup(&inode, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("no {path}"));
    }
    inode
}

fn content(image: &Ext4, inode: &Inode) -> Vec<u8> {
    let mut bytes = vec![0; inode.size() as usize];
    assert_eq!(image.read_at(inode, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}
