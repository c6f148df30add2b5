//! Hints in words for models: tools and arguments of this server, and what only the person who started it can do.

use pyro_core::hint::Hint;

/// Words `hint` for a model, in one line.
pub fn for_models(hint: &Hint) -> String {
    let words = match hint {
        Hint::ListWorkspaces => "`workspace_list` shows those that there are",
        Hint::ListEnvironments => "`vm_list_environments` shows those that there are",
        Hint::DidYouMean { names } => return format!("did you mean {}?", names.join(" or ")),
        Hint::UseExisting { names } => return format!("there is {}", names.join(", ")),
        Hint::NameRule => {
            "a name has 1 to 64 letters, digits, `-`, `_` and `.`, begins with a letter or digit, and is no 12 \
             hexadecimal digits"
        }
        Hint::FreeName { id } => {
            return format!(
                "choose another, or free it by `workspace_update` with workspace_id {id} and `clear_name`"
            );
        }
        Hint::NewerVersion => {
            "the person has to use that version for it, or a later one; nothing of it was changed"
        }
        Hint::DeleteSnapshot => "`snapshot_delete` removes one",
        Hint::RestoreEnvironment { name } => {
            return format!(
                "the person can have {name} installed again, which works if its packages are still the same; \
                 `workspace_create` makes another workspace"
            );
        }
        Hint::ReinstallEnvironment { name } => {
            return format!("the person has to have {name} installed anew");
        }
        Hint::StartWorkspace => "`workspace_start` brings it back",
        Hint::StartAgain => "its disk and history stay; `workspace_start` brings it back",
        Hint::RestartWorkspace => {
            "`workspace_stop` and then `workspace_start` bring it back; what was written to its disk is there"
        }
        Hint::WaitForCommands => "wait until its commands have ended; services and shells go on",
        Hint::TryAgain => "wait a moment and try again",
        Hint::ForceStop => {
            "the person has to end what hangs by force, which keeps the workspace's disk and history; meanwhile \
             `workspace_create` makes another"
        }
        Hint::StopWithItsVersion => {
            "the person has to stop it, with the version that started it or by force; its disk and history \
             stay"
        }
        Hint::StopWorkspace => {
            "stop it first with `workspace_stop`, or use `workspace_file_list`, `workspace_file_read` and \
             `workspace_export`"
        }
        Hint::OpenShell => "`shell_open` begins one",
        Hint::OpenAnotherShell => "`shell_read` still shows what it wrote; `shell_open` begins another",
        Hint::InterruptShell => "`shell_signal` interrupts what runs in it",
        Hint::ListServices => "`service_list` shows those that there are",
        Hint::StopService => "`service_stop` ends one",
        Hint::EndJob => "`shell_close` or `service_stop` ends one",
        Hint::ReadServiceLog { name } => return format!("`service_logs` shows all that {name} wrote"),
        Hint::ListFiles => "`workspace_file_list` with `recursive` shows what there is",
        Hint::NameFileWithin => "name a file in it; `workspace_file_list` shows what there is",
        Hint::StayInWorkspace => "name a path below /workspace that no link leads out of",
        Hint::FreeGuestDisk => "the workspace's disk is full: remove something in it",
        Hint::ReadFile => "`workspace_file_read` shows what a file has now",
        Hint::LessMemory { available_mib } => {
            return format!(
                "ask for at most {available_mib} MiB with `mem_mib`, or delete what is not needed any more"
            );
        }
        Hint::FreeHostMemory => {
            "stop workspaces that are not needed now with `workspace_stop`; otherwise the person has to free memory"
        }
        Hint::WithoutNetwork => "leave `network` out: the guest has no network then",
        Hint::SecretNameRule => {
            "a name has 1 to 64 letters, digits, `_`, `-` and `.`, and does not begin with `.`"
        }
        Hint::LongerSecret => {
            "a value is hidden wherever it is printed; one that short would hide what is no secret"
        }
        Hint::GiveSecrets => "secrets are given with `secrets` of `workspace_create`",
        Hint::SecretVariable => {
            "`secret_env` maps a secret's name to the name of an environment variable, such as {\"token\": \"TOKEN\"}"
        }
        Hint::OneCommandVm => {
            "a VM runs one command and is gone with its server; `vm_create` makes another, `vm_run` needs none"
        }
        Hint::Diagnose | Hint::BootCandidates => {
            "no tool can change that: the person has to look into what this host can run"
        }
        Hint::AnotherBackend => "the person has to start this server with another backend",
        Hint::InstallPackages { packages } => {
            return format!("the person has to install on the host: {}", packages.join(", "));
        }
        Hint::InstallQemu => "the person has to install QEMU on the host",
        Hint::CheckDirectory => "the person has to check the directory's permissions and the free space",
        Hint::ProbeWrittenRuntime | Hint::MakeRuntime => {
            "the person has to install pyro's runtime anew; no tool can do it"
        }
        Hint::WritableCache => {
            "the person has to make it a directory that this server may write to, or choose another one for it"
        }
        Hint::FreeCacheSpace { dir } => {
            return format!(
                "the person has to free some space in {dir}, or choose a directory on another disk"
            );
        }
        Hint::PruneEnvironments => "the person has to free some space on the host",
        Hint::AddPackageSource => {
            "the person has to add a source of packages for Debian 12 (bookworm) to the host; \
             `vm_list_environments` shows what is installed already"
        }
        Hint::BuilderPrivileges => {
            "the person has to run this server as somebody who may build environments; `vm_list_environments` shows \
             what is installed already"
        }
        Hint::CheckPackageSources | Hint::CheckSignatures | Hint::CompletePackageSources => {
            "the person has to see to the host's sources of packages; `vm_list_environments` shows what is installed \
             already"
        }
        Hint::CacheFileSystem => {
            "the person has to choose a directory for environments on a file system that takes device nodes and file \
             owners"
        }
        Hint::NewHostPath => "name a path that does not exist yet",
        Hint::UnpackFirst => "unpack it and name the directory, or make it a .tar.gz",
        Hint::FetchArchiveAgain => "make or fetch the archive again",
        Hint::TryWhenQuiet => "try again when nothing writes to the directory",
        Hint::SkipOutsideLinks => {
            "links may only lead to something in the same tree: replace it, or leave out all such links with \
             `skip_outside_links`"
        }
        Hint::RepairDisk => {
            "`workspace_start` lets the workspace's kernel repair the disk, `workspace_reset` goes back to a snapshot"
        }
        Hint::ListDirectoryAbove => "`workspace_disk_list` of the directory above it shows what is there",
        Hint::ReadLessOfDisk => {
            "ask for less at once, such as `workspace_disk_list` without `recursive`; `workspace_disk_export` writes the \
             whole image out for other tools"
        }
        Hint::FreeHostSpace => "free space there, or name an `output_path` on another file system",
        Hint::AnotherHostName => "choose another name, or remove that file first",
        Hint::WriteUnifiedDiff => {
            "write it as git diff does: a line `--- a/FILE`, a line `+++ b/FILE`, then `@@ -1,3 +1,4 @@` and lines \
             that begin with a space, `-` or `+`; or as `*** Begin Patch`, `*** Update File: FILE`, `@@` and such lines, \
             `*** End Patch`"
        }
        Hint::PatchBelowWorkspace => {
            "name files by their path below /workspace, such as src/main.rs or /workspace/src/main.rs"
        }
        Hint::CopyBinaryFiles => {
            "copy binary files with `workspace_sync_push` or write them with `workspace_exec`"
        }
        Hint::ApplyInParts => "apply it in parts",
        Hint::BringFilesIn => "run commands that need none; `workspace_sync_push` brings files in",
        Hint::Plain { text } => return text.clone(),
    };
    words.to_owned()
}

/// Names of this server, for tests that look at words.
#[cfg(test)]
pub mod vocabulary {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;

    use crate::mcp::roots::Refusal;
    use crate::mcp::tools;

    /// Arguments of each tool, by its name.
    pub fn tools() -> BTreeMap<String, BTreeSet<String>> {
        let arguments = |tool: &crate::mcp::tool::Tool| {
            let properties = tool.shown().input_schema.get("properties").and_then(|all| all.as_object());
            properties.into_iter().flat_map(|all| all.keys().cloned()).collect()
        };
        tools::all().iter().map(|tool| (tool.name().to_owned(), arguments(tool))).collect()
    }

    /// Words that a model is to pass on to the person: hints of [`Refusal`] and of what the person alone may allow.
    pub fn words_for_the_person() -> Vec<&'static str> {
        let (path, roots) = (String::new(), Vec::new());
        let source = || io::ErrorKind::NotFound.into();
        [
            Refusal::None { path: path.clone(), why: "" },
            Refusal::Outside { path: path.clone(), roots },
            Refusal::Kind { path: path.clone() },
            Refusal::Nameless { path: path.clone() },
            Refusal::Changed { path: path.clone() },
            Refusal::Unusable { path, source: source() },
            Refusal::Root { path: "/".into(), source: source() },
        ]
        .iter()
        .filter_map(Refusal::hint)
        .chain([crate::mcp::host::ASK_FOR_HOST_COMPAT])
        .collect()
    }
}
