//! Remedies for failures, as data: each surface words them with the verbs, flags, tools and arguments that it has.
//!
//! Invariant: no word of any surface stands here, and none in an error of core. A surface words every [`Hint`] in one
//! exhaustive match, and a test of the front end checks each word of it against what that surface has.

use pyro_formats::archive::ArchiveHint;
use pyro_formats::disk::DiskHint;
use pyro_formats::patch::PatchHint;
use serde::{Deserialize, Deserializer, Serialize};

/// Defines the hints with one sample of each field, so that the list of samples cannot lack one.
macro_rules! hints {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $({ $( $(#[doc = $about:literal])+ $field:ident: $type:ty = $sample:expr ),+ $(,)? })?,
    )+) => {
        /// An action that may help after a failure. A hint crosses the keeper's socket, so its names do not change.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Hint {
            $( $(#[doc = $doc])+ $name $({ $( $(#[doc = $about])+ $field: $type ),+ })?, )+
        }

        impl Hint {
            /// Sample of each variant, for a surface to show that it words them all.
            pub fn samples() -> Vec<Self> {
                vec![$( Self::$name $({ $( $field: $sample.into() ),+ })? ),+]
            }

            /// The same hint, each text in it changed by `change`: how secrets are taken out.
            pub(crate) fn map_text(self, change: &dyn Fn(&str) -> String) -> Self {
                match self {
                    $( Self::$name $({ $($field),+ })? =>
                        Self::$name $({ $( $field: MapText::map_text($field, change) ),+ })?, )+
                }
            }
        }
    };
}

hints! {
    /// List the workspaces.
    ListWorkspaces,
    /// List the environments of the catalog.
    ListEnvironments,
    /// Use one of the names that look like the one that was given.
    DidYouMean {
        /// The most similar first; at least one.
        names: Vec<String> = ["debian:12".to_owned(), "debian:12-base".to_owned()],
    },
    /// Use one of those that exist.
    UseExisting {
        /// Names or ids; at least one.
        names: Vec<String> = ["baseline".to_owned(), "before".to_owned()],
    },
    /// Give a name of 1 to 64 letters, digits, `-`, `_` and `.` that begins with a letter or digit and is no id.
    NameRule,
    /// Choose another name, or take the name from the workspace that has it.
    FreeName {
        /// Id of that workspace.
        id: String = "0123456789ab",
    },
    /// Use the version of pyro that wrote it, or a later one.
    NewerVersion,
    /// Remove a snapshot.
    DeleteSnapshot,
    /// Install the version of an environment again, which works while its packages are the same.
    RestoreEnvironment {
        /// Name of the environment.
        name: String = "debian:12",
    },
    /// Install an environment anew.
    ReinstallEnvironment {
        /// Name of the environment.
        name: String = "debian:12",
    },
    /// Start the stopped workspace.
    StartWorkspace,
    /// Start the workspace whose guest ended; its disk and history are there.
    StartAgain,
    /// Stop the workspace whose guest does not answer, and start it again; what it had written to its disk is there.
    RestartWorkspace,
    /// Wait until the workspace's commands have ended.
    WaitForCommands,
    /// Wait a moment and try again.
    TryAgain,
    /// End a keeper that does not answer.
    ForceStop,
    /// Stop the workspace with the version of pyro that started it, or end its keeper.
    StopWithItsVersion,
    /// Stop the running workspace, or use what works on running ones.
    StopWorkspace,
    /// Open a shell.
    OpenShell,
    /// Read what an ended shell wrote, or open another.
    OpenAnotherShell,
    /// Interrupt what runs in a shell.
    InterruptShell,
    /// List the workspace's services.
    ListServices,
    /// Stop a service.
    StopService,
    /// Close a shell or stop a service.
    EndJob,
    /// Read all that a service wrote.
    ReadServiceLog {
        /// Name of the service.
        name: String = "web",
    },
    /// List the workspace's files.
    ListFiles,
    /// Name a file in the directory that was given.
    NameFileWithin,
    /// Name a path below the workspace's directory.
    StayInWorkspace,
    /// Remove something on the workspace's disk, which is full.
    FreeGuestDisk,
    /// Read what a file has now.
    ReadFile,
    /// Ask for less memory.
    LessMemory {
        /// Memory that the host can give now, MiB.
        available_mib: u64 = 1500_u64,
    },
    /// End something that uses the host's memory.
    FreeHostMemory,
    /// Ask for no network.
    WithoutNetwork,
    /// Give a secret a name of 1 to 64 letters, digits, `_`, `-` and `.` that does not begin with `.`.
    SecretNameRule,
    /// Give a longer secret, which is not hidden by accident.
    LongerSecret,
    /// Give secrets when the workspace is made.
    GiveSecrets,
    /// Name the environment variable that is to hold the secret.
    SecretVariable,
    /// Make a VM for each command, in the process that uses it.
    OneCommandVm,
    /// Look at what this host can run.
    Diagnose,
    /// Boot each candidate backend again, to see why it fails.
    BootCandidates,
    /// Look at what Firecracker lacks, or use another backend.
    AnotherBackend,
    /// Install packages of the host.
    InstallPackages {
        /// Names of Debian packages; at least one.
        packages: Vec<String> = ["mmdebstrap".to_owned(), "e2fsprogs".to_owned()],
    },
    /// Install QEMU on the host.
    InstallQemu,
    /// Check a directory's permissions and its free space.
    CheckDirectory,
    /// Probe the runtime that was written, with the artifacts of that writing.
    ProbeWrittenRuntime,
    /// Make the runtime anew, or name another one.
    MakeRuntime,
    /// Make the environments' cache writable, or name another directory for it.
    WritableCache,
    /// Free space for environments, or name a directory on another disk.
    FreeCacheSpace {
        /// Directory that was to be filled.
        dir: String = "/var/cache/pyro",
    },
    /// Remove environments that are not used.
    PruneEnvironments,
    /// Add a package source for the environments' distribution to the host.
    AddPackageSource,
    /// Run as somebody who may make namespaces with several users.
    BuilderPrivileges,
    /// Check that the host's package sources can be reached.
    CheckPackageSources,
    /// Check the host's package sources, clock and archive keys.
    CheckSignatures,
    /// Put the environments' cache on a file system that takes device nodes and owners.
    CacheFileSystem,
    /// Check that the host's package sources hold the whole distribution.
    CompletePackageSources,
    /// Name a path of the host that does not exist.
    NewHostPath,
    /// Unpack the archive of an unknown format, or make another.
    UnpackFirst,
    /// Make or fetch the archive again.
    FetchArchiveAgain,
    /// Try again when nothing writes to the directory.
    TryWhenQuiet,
    /// Replace links that lead out of the tree, or leave them out.
    SkipOutsideLinks,
    /// Start the workspace, whose kernel may repair its disk, or reset it.
    RepairDisk,
    /// List the directory above the path.
    ListDirectoryAbove,
    /// Ask for less of a disk in one call, or export it and look at it with other tools.
    ReadLessOfDisk,
    /// Free space on the host, or export to another file system.
    FreeHostSpace,
    /// Choose another name on the host, or remove the file of that name.
    AnotherHostName,
    /// Write the patch as a unified diff, or as a `*** Begin Patch`.
    WriteUnifiedDiff,
    /// Name files of a patch by their path below the workspace's directory.
    PatchBelowWorkspace,
    /// Copy binary files in another way.
    CopyBinaryFiles,
    /// Apply the patch in parts.
    ApplyInParts,
    /// Run what needs no network; bring files in through standard input.
    BringFilesIn,
    /// Words about the host itself, which are the same on every surface.
    Plain {
        /// Words that name nothing of any surface.
        text: String = "swapoff -a, or encrypt it",
    },
}

impl Hint {
    /// Words about the host itself.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::Plain { text: text.into() }
    }
}

/// Reads a hint as another version of pyro wrote it: one that is not known here is none.
pub(crate) fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hint>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// A field whose texts can be changed.
trait MapText {
    fn map_text(self, change: &dyn Fn(&str) -> String) -> Self;
}

impl MapText for String {
    fn map_text(self, change: &dyn Fn(&str) -> String) -> Self {
        change(&self)
    }
}

impl MapText for Vec<String> {
    fn map_text(self, change: &dyn Fn(&str) -> String) -> Self {
        self.iter().map(|text| change(text)).collect()
    }
}

impl MapText for u64 {
    fn map_text(self, _: &dyn Fn(&str) -> String) -> Self {
        self
    }
}

impl From<ArchiveHint> for Hint {
    fn from(hint: ArchiveHint) -> Self {
        match hint {
            ArchiveHint::NewPath => Self::NewHostPath,
            ArchiveHint::UnpackFirst => Self::UnpackFirst,
            ArchiveHint::FetchAgain => Self::FetchArchiveAgain,
            ArchiveHint::TryWhenQuiet => Self::TryWhenQuiet,
            ArchiveHint::SkipOutsideLinks => Self::SkipOutsideLinks,
        }
    }
}

impl From<DiskHint> for Hint {
    fn from(hint: DiskHint) -> Self {
        match hint {
            DiskHint::Repair => Self::RepairDisk,
            DiskHint::ListAbove => Self::ListDirectoryAbove,
            DiskHint::LessAtOnce => Self::ReadLessOfDisk,
            DiskHint::FreeSpace => Self::FreeHostSpace,
            DiskHint::AnotherName => Self::AnotherHostName,
        }
    }
}

impl From<PatchHint> for Hint {
    fn from(hint: PatchHint) -> Self {
        match hint {
            PatchHint::WriteUnifiedDiff => Self::WriteUnifiedDiff,
            PatchHint::PathBelowWorkspace => Self::PatchBelowWorkspace,
            PatchHint::CopyBinaryFiles => Self::CopyBinaryFiles,
            PatchHint::ApplyInParts => Self::ApplyInParts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hint_crosses_a_socket() {
        for hint in Hint::samples() {
            let text = serde_json::to_string(&hint).unwrap();
            assert_eq!(serde_json::from_str::<Hint>(&text).unwrap(), hint, "{text}");
        }
    }

    #[test]
    fn texts_are_changed_wherever_they_are() {
        let change = |text: &str| text.replace("2", "*");
        let hint = Hint::DidYouMean { names: vec!["a2".into(), "b".into()] };
        assert_eq!(hint.map_text(&change), Hint::DidYouMean { names: vec!["a*".into(), "b".into()] });
        let hint = Hint::FreeName { id: "12".into() };
        assert_eq!(hint.map_text(&change), Hint::FreeName { id: "1*".into() });
        let hint = Hint::LessMemory { available_mib: 2 };
        assert_eq!(hint.clone().map_text(&change), hint);
    }
}
