//! The programs that build an environment, and what their failures mean.

use std::io;
use std::path::Path;
use std::process::Command;

use super::EnvironmentError;
use crate::hostfs::CancelToken;
use crate::hostfs::process::{Jail, run};

/// The jail in which a whole root file system can be built here.
pub(super) fn building_jail(cancel: &CancelToken) -> Result<Jail, EnvironmentError> {
    let jail = if rustix::process::geteuid().is_root() { Jail::Root } else { Jail::User };
    let mut said = String::new();
    let ended = run(&mut jail.command(Path::new("/bin/true"))?, cancel, &mut |line| said.push_str(line));
    let source = match ended {
        Ok(outcome) if outcome.status.success() => return Ok(jail),
        Ok(_) => io::Error::other(said),
        Err(error) => error,
    };
    if cancel.is_cancelled() {
        Err(EnvironmentError::Cancelled)
    } else {
        Err(EnvironmentError::Privileges { source })
    }
}

/// Runs a command as [`run`] does; its failure is an error about the build of `name`.
pub(super) fn run_checked(
    name: &str,
    tool: &'static str,
    command: &mut Command,
    cancel: &CancelToken,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), EnvironmentError> {
    let failed = |cause, tail| EnvironmentError::Build { name: name.into(), tool, cause, tail };
    let outcome = run(command, cancel, on_line).map_err(|error| failed(None, error.to_string()))?;
    if cancel.is_cancelled() {
        return Err(EnvironmentError::Cancelled);
    }
    if outcome.status.success() {
        return Ok(());
    }
    let cause = super::error::BuildCause::recognise(&outcome.tail);
    let tail = if outcome.tail.trim().is_empty() { outcome.status.to_string() } else { outcome.tail };
    Err(failed(cause, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint;
    use crate::hostfs::process::find;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = EnvironmentError::from(find("debugfs-that-is-not-there").unwrap_err());
        assert!(matches!(error.hint(), Some(Hint::InstallPackages { .. })));
        assert!(find("mke2fs").unwrap().is_absolute());
    }
}
