//! A directory tree as a read-only ext4 image, made by `mke2fs -d`, which keeps owners, modes, extended attributes,
//! devices and hard links.
//!
//! No journal and no checksums of metadata: nothing ever writes to it and its digest was verified, so both would only
//! cost the guest time. UUID and hash seed are fixed, and so is every time that the build itself made.

use std::collections::BTreeSet;
use std::path::Path;

use super::{EnvironmentError, process};
use crate::hostfs::CancelToken;
use crate::hostfs::process::Jail;

const BLOCK: u64 = 4096;
const INODE: u64 = 256;
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize";
/// Of every base image. Nothing finds one by its UUID.
const UUID: &str = "70790000-6261-4365-8000-000000000001";
/// Blocks left over at the least; they are holes of a sparse file.
const SLACK_BLOCKS: u64 = 2048;
/// How often a size that turned out too small is raised by a quarter.
const ATTEMPTS: u32 = 3;

/// Room that an image must have.
#[derive(Debug, PartialEq, Eq)]
struct Needs {
    blocks: u64,
    inodes: u64,
    /// The newest time of anything that was not made by the build: Unix seconds.
    newest: u64,
}

/// A tree, and the image to make of it.
pub(super) struct ImageRequest<'a> {
    /// The environment, for errors.
    pub(super) name: &'a str,
    /// The root of the tree.
    pub(super) tree: &'a Path,
    /// The file to make.
    pub(super) image: &'a Path,
    /// When the build began: what is newer was made by it. Unix seconds.
    pub(super) began: u64,
}

/// Makes the image.
pub(super) fn make(
    order: &ImageRequest<'_>,
    jail: Jail,
    cancel: &CancelToken,
) -> Result<(), EnvironmentError> {
    let ImageRequest { name, tree, image, began } = *order;
    let mut survey = Survey { began, ..Survey::default() };
    // In the jail, because a directory may belong to an id that only the user namespace may read.
    let mut find = jail.command(Path::new("/usr/bin/find"))?;
    find.arg(tree).args(["-xdev", "-printf", "%y %s %i %T@\n"]);
    process::run_checked(name, "find", &mut find, cancel, &mut |line| survey.take(line))?;
    let needs = survey.needs();

    // Files that the build wrote get the time of the newest file that it did not: the same packages, the same times.
    let mut touch = jail.command(Path::new("/usr/bin/find"))?;
    touch.arg(tree).args(["-xdev", "-newermt", &format!("@{}", began.saturating_sub(1)), "-exec", "touch"]);
    touch.args(["--no-dereference", &format!("--date=@{}", needs.newest), "--", "{}", "+"]);
    process::run_checked(name, "touch", &mut touch, cancel, &mut |_| ())?;

    let mke2fs = crate::hostfs::process::find("mke2fs")?;
    let mut blocks = needs.blocks;
    for attempt in 1.. {
        let mut command = jail.command(&mke2fs)?;
        command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-O", FEATURES]);
        command.args([
            "-U",
            UUID,
            "-E",
            &format!("hash_seed={UUID},lazy_itable_init=0,nodiscard,root_owner=0:0"),
        ]);
        command.args(["-N", &needs.inodes.to_string(), "-d"]).arg(tree).arg(image).arg(blocks.to_string());
        // The machine's own mke2fs.conf must not change what an image is.
        command.env("MKE2FS_CONFIG", "/dev/null").env("E2FSPROGS_FAKE_TIME", needs.newest.to_string());
        match process::run_checked(name, "mke2fs", &mut command, cancel, &mut |_| ()) {
            Err(EnvironmentError::Build { tail, .. })
                if attempt < ATTEMPTS && tail.contains("Could not allocate block in ext2 filesystem") =>
            {
                // `mke2fs` keeps what is there when it is told to use an existing file.
                std::fs::remove_file(image).map_err(|e| EnvironmentError::cache(image, "written", e))?;
                blocks += blocks / 4;
            }
            other => return other,
        }
    }
    Ok(())
}

#[derive(Default)]
struct Survey {
    began: u64,
    blocks: u64,
    inodes: BTreeSet<u64>,
    newest: u64,
}

impl Survey {
    /// Takes a line of `find`: type, size, inode, time with a fraction.
    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, size, inode, time] = words[..] else { return };
        let number = |text: &str| text.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0_u64);
        if !self.inodes.insert(number(inode)) {
            return;
        }
        self.blocks += match kind {
            "f" => number(size).div_ceil(BLOCK),
            "d" => number(size).div_ceil(BLOCK).max(1),
            // A short link's target is in its inode.
            "l" if number(size) < 60 => 0,
            "l" => 1,
            _ => 0,
        };
        if number(time) < self.began {
            self.newest = self.newest.max(number(time));
        }
    }

    fn needs(&self) -> Needs {
        // Ten that ext4 keeps for itself, lost+found, and room for rounding to whole groups.
        let inodes = self.inodes.len() as u64 + 64;
        let tables = (inodes * INODE).div_ceil(BLOCK);
        let content = self.blocks + tables;
        // Bitmaps and descriptors of each group of 32768 blocks; extents of files in many pieces.
        let blocks = content + content / 32 + SLACK_BLOCKS;
        Needs { blocks, inodes, newest: self.newest.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_survey_counts_each_inode_once() {
        let mut survey = Survey { began: 1000, ..Survey::default() };
        for line in [
            "d 4096 1 500.25",
            "f 5000 2 900.0",
            "f 5000 2 900.0",
            "l 10 3 1.0",
            "l 100 4 1.0",
            "c 0 5 1.0",
            "f 1 6 2000.5",
        ] {
            survey.take(line);
        }
        assert_eq!(survey.blocks, 1 + 2 + 1 + 1);
        let needs = survey.needs();
        assert_eq!((needs.inodes, needs.newest), (6 + 64, 900));
        assert!(needs.blocks > survey.blocks + SLACK_BLOCKS);
    }

    proptest! {
        #[test]
        fn any_line_is_harmless(line in "[fdl] ?[0-9]{0,22} ?[0-9]{0,3} ?[0-9.]{0,8}|.*") {
            let mut survey = Survey::default();
            survey.take(&line);
            survey.blocks %= 1 << 40;
            survey.needs();
        }
    }
}
