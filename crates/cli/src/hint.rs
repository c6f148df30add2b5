//! Hints in words for people at a shell: verbs and flags of this program.

use pyro_core::hint::Hint;

/// Words `hint` for a person at a shell, in one line.
pub fn for_people(hint: &Hint) -> String {
    let words = match hint {
        Hint::ListWorkspaces => "`pyro workspace list` shows those that there are",
        Hint::ListEnvironments => "`pyro env list` shows those that there are",
        Hint::DidYouMean { names } => return format!("did you mean {}?", names.join(" or ")),
        Hint::UseExisting { names } => return format!("there is {}", names.join(", ")),
        Hint::NameRule => {
            "a name has 1 to 64 letters, digits, `-`, `_` and `.`, begins with a letter or digit, and is no 12 \
             hexadecimal digits"
        }
        Hint::FreeName { id } => {
            return format!("choose another, or free it with `pyro workspace update {id} --clear-name`");
        }
        Hint::NewerVersion => "use that version for it, or a later one; nothing of it was changed",
        Hint::DeleteSnapshot => "`pyro workspace snapshot delete` removes one",
        Hint::RestoreEnvironment { name } => {
            return format!("`pyro env pull {name}` brings it back if the packages are still the same");
        }
        Hint::ReinstallEnvironment { name } => return format!("`pyro env pull {name}` installs it anew"),
        Hint::StartWorkspace => "`pyro workspace start` brings it back",
        Hint::StartAgain => "its disk and history stay; `pyro workspace start` brings it back",
        Hint::RestartWorkspace => {
            "`pyro workspace stop` and then `pyro workspace start` bring it back; what was written to its disk is there"
        }
        Hint::WaitForCommands => "wait until its commands have ended; services and shells go on",
        Hint::TryAgain => "wait a moment and try again",
        Hint::ForceStop => "`pyro workspace stop --force` ends it; the workspace's disk and history stay",
        Hint::StopWithItsVersion => {
            "stop it with the pyro that started it, or by `pyro workspace stop --force`; its disk and history stay"
        }
        Hint::StopWorkspace => {
            "stop it first with `pyro workspace stop`, or use `pyro workspace file` and `pyro workspace export`"
        }
        Hint::OpenShell => "`pyro workspace shell open` begins one",
        Hint::OpenAnotherShell => {
            "what it wrote can still be read; `pyro workspace shell open` begins another"
        }
        Hint::InterruptShell => "`pyro workspace shell signal` interrupts what runs in it",
        Hint::ListServices => "`pyro workspace service list` shows those that there are",
        Hint::StopService => "`pyro workspace service stop` ends one",
        Hint::EndJob => "`pyro workspace shell close` or `pyro workspace service stop` ends one",
        Hint::ReadServiceLog { name } => {
            return format!("`pyro workspace service logs` shows all that {name} wrote");
        }
        Hint::ListFiles => "`pyro workspace file list --recursive` shows what there is",
        Hint::NameFileWithin => "name a file in it; `pyro workspace file list` shows what there is",
        Hint::StayInWorkspace => "name a path below /workspace that no link leads out of",
        Hint::FreeGuestDisk => "the workspace's disk is full: remove something in it",
        Hint::ReadFile => "`pyro workspace file read` shows what a file has now",
        Hint::LessMemory { available_mib } => {
            return format!("ask for at most {available_mib} MiB (--mem-mib), or end what uses the rest");
        }
        Hint::FreeHostMemory => "end something that uses memory on this host",
        Hint::WithoutNetwork => "run it without --network: the guest has no network then",
        Hint::SecretNameRule => {
            "a name has 1 to 64 letters, digits, `_`, `-` and `.`, and does not begin with `.`"
        }
        Hint::LongerSecret => {
            "a value is hidden wherever it is printed; one that short would hide what is no secret"
        }
        Hint::GiveSecrets => "secrets are given with `pyro workspace create --secret NAME=VALUE`",
        Hint::SecretVariable => "`--secret-env NAME=ENV` gives it to the command as ENV",
        Hint::OneCommandVm => "a VM runs one command and belongs to the process that created it",
        Hint::Diagnose => "`pyro doctor` shows what this host can run",
        Hint::BootCandidates => "`pyro doctor` boots each candidate again and shows why it failed",
        Hint::AnotherBackend => {
            "`pyro doctor` says what it lacks; with PYRO_BACKEND=auto QEMU is used instead"
        }
        Hint::InstallPackages { packages } => {
            return format!("install it with `apt-get install {}`", packages.join(" "));
        }
        Hint::InstallQemu => "install it with `apt-get install --no-install-recommends qemu-system-x86`",
        Hint::CheckDirectory => "check the directory's permissions and the free space",
        Hint::ProbeWrittenRuntime => {
            "probe the bundle that was written, with the artifacts it was written with"
        }
        Hint::MakeRuntime => {
            "in a clone, `cargo xtask runtime` makes the runtime anew; PYRO_RUNTIME_BUNDLE_DIR names another one"
        }
        Hint::WritableCache => {
            "make it a directory that you may write to, or name another one with PYRO_ENVIRONMENT_CACHE_DIR"
        }
        Hint::FreeCacheSpace { dir } => {
            return format!(
                "free some space in {dir}, try `pyro env prune`, or name a directory on another disk with \
                 PYRO_ENVIRONMENT_CACHE_DIR"
            );
        }
        Hint::PruneEnvironments => "free some space, or `pyro env prune`",
        Hint::AddPackageSource => {
            "add a source with `Suites: bookworm` and `Components: main`, signed by the Debian archive keyring, to \
             /etc/apt/sources.list.d"
        }
        Hint::BuilderPrivileges => {
            "run it as root, in a container with the capability SYS_ADMIN; or as another user with the package uidmap \
             installed and ranges in /etc/subuid and /etc/subgid"
        }
        Hint::CheckPackageSources => "check that `apt-get update` works on this machine",
        Hint::CheckSignatures => {
            "check that `apt-get update` works on this machine, its clock, and that the package \
             debian-archive-keyring is up to date"
        }
        Hint::CacheFileSystem => {
            "the cache must be on a file system that takes device nodes and file owners: name another directory with \
             PYRO_ENVIRONMENT_CACHE_DIR"
        }
        Hint::CompletePackageSources => "check that the sources of this machine hold all of Debian 12 main",
        Hint::NewHostPath => "name a path that does not exist, or move it away first",
        Hint::UnpackFirst => "unpack it and name the directory, or make it a .tar.gz",
        Hint::FetchArchiveAgain => "make or fetch the archive again",
        Hint::TryWhenQuiet => "try again when nothing writes to the directory",
        Hint::SkipOutsideLinks => {
            "links may only lead to something in the same tree: replace it, or leave out all such links with \
             --skip-outside-links"
        }
        Hint::RepairDisk => {
            "start the workspace, whose kernel may repair the disk, or reset it to a snapshot"
        }
        Hint::ListDirectoryAbove => "list the directory above it to see what is there",
        Hint::ReadLessOfDisk => {
            "ask for less at once, such as one directory and not all below it; `pyro workspace disk export` writes the \
             whole image out for other tools"
        }
        Hint::FreeHostSpace => "free space there, or export to another file system",
        Hint::AnotherHostName => "choose another name, or remove that file first",
        Hint::WriteUnifiedDiff => {
            "write it as `git diff` does: a line `--- a/FILE`, a line `+++ b/FILE`, then `@@ -1,3 +1,4 @@` and lines \
             that begin with a space, `-` or `+`; or as `*** Begin Patch`, `*** Update File: FILE`, `@@` and such lines, \
             `*** End Patch`"
        }
        Hint::PatchBelowWorkspace => {
            "name files by their path below /workspace, such as src/main.rs or /workspace/src/main.rs"
        }
        Hint::CopyBinaryFiles => {
            "copy binary files with `pyro workspace sync push` or write them with a command"
        }
        Hint::ApplyInParts => "apply it in parts",
        Hint::BringFilesIn => {
            "run commands that need none; bring files in through standard input: `tar c . | pyro run \
             debian:12 -- tar x`"
        }
        Hint::Plain { text } => return text.clone(),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests;
