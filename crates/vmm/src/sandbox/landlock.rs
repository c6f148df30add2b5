//! Landlock ruleset: the files that a VMM may open, whatever its user may.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::{VmmRequirements, view};
use crate::warden::FileAccess;

/// Newest landlock version that is asked for; an older kernel applies the part it knows.
const NEWEST_ABI: ABI = ABI::V6;

/// Makes the ruleset of a VMM; `None` where the kernel has no landlock.
pub(super) fn ruleset(
    requirements: &VmmRequirements,
    reopened: &[(RawFd, FileAccess)],
    program: &Path,
) -> io::Result<Option<OwnedFd>> {
    let made = || {
        let mut rules = Ruleset::default()
            .set_compatibility(landlock::CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST_ABI))?
            .handle_access(AccessNet::from_all(NEWEST_ABI))?
            .scope(Scope::from_all(NEWEST_ABI))?
            .create()?;
        let run = AccessFs::ReadFile | AccessFs::Execute;
        rules = allow(rules, program, run)?;
        for directory in view::system(program) {
            rules = allow(rules, &directory, run | AccessFs::ReadDir)?;
        }
        for device in view::devices(requirements) {
            rules =
                allow(rules, device.as_ref(), AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev)?;
        }
        if let Some(working_dir) = &requirements.working_dir {
            let own = AccessFs::ReadFile
                | AccessFs::WriteFile
                | AccessFs::ReadDir
                | AccessFs::MakeSock
                | AccessFs::MakeReg
                | AccessFs::RemoveFile
                | AccessFs::Truncate;
            rules = allow(rules, working_dir, own)?;
        }
        for (file, access) in reopened {
            let may = match access {
                FileAccess::Read => BitFlags::from(AccessFs::ReadFile),
                FileAccess::Write => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate,
            };
            // SAFETY: the descriptor is one of those that the caller hands to the child, open until the child runs.
            let file = unsafe { BorrowedFd::borrow_raw(*file) };
            // Landlock neither restricts files on file systems that cannot be mounted nor takes rules for them.
            if is_memfd(file) {
                continue;
            }
            rules = rules.add_rule(PathBeneath::new(file, may))?;
        }
        Ok::<_, landlock::RulesetError>(rules)
    };
    Ok(made().map_err(io::Error::other)?.into())
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    match PathFd::new(path) {
        Ok(beneath) => rules.add_rule(PathBeneath::new(beneath, access)),
        // A path that this host does not have needs no rule.
        Err(_) => Ok(rules),
    }
}

fn is_memfd(file: BorrowedFd<'_>) -> bool {
    std::fs::read_link(crate::proc_path(&file))
        .is_ok_and(|path| path.as_os_str().as_bytes().starts_with(b"/memfd:"))
}
