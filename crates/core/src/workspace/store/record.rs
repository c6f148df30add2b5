//! Records of a workspace in its database: structs of the disk, apart from payloads.

use std::collections::BTreeMap;

use pyro_formats::archive::{OutsideLinks, SkippedLink};
use pyro_formats::hostfs::HostPath;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::vm::{VmRequest, limits};
use crate::workspace::error::WorkspaceError;
use crate::workspace::store::secrets::{self, Secret};

/// Longest name, bytes.
const NAME: usize = 64;
/// Most labels, and the longest key or value, bytes.
const LABELS: usize = 64;
const LABEL: usize = 256;

/// Set in the metadata of a fork.
pub(crate) const FORKED: &str = "forked_from";

/// Where a guest sees its workspace.
pub const WORKSPACE_PATH: &str = "/workspace";

/// Workspace as its database holds it. Fields may be added with a default; another meaning is another version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 12 hexadecimal digits.
    pub id: String,
    /// Name that people call it by.
    pub name: Option<String>,
    /// Labels that people gave it.
    pub labels: BTreeMap<String, String>,
    /// The environment's name.
    pub environment: String,
    /// The environment's version, which its disk is made on top of.
    pub environment_version: String,
    /// Virtual CPUs of the guest.
    pub vcpu_count: u32,
    /// Memory of the guest, MiB.
    pub mem_mib: u32,
    /// Time to live, seconds; 0 for none.
    pub ttl_seconds: u64,
    /// Creation, Unix seconds.
    pub created_at: f64,
    /// Last activity, Unix seconds.
    pub last_activity_at: f64,
    /// Accepted and never needed.
    pub allow_host_compat: bool,
    /// Content of `/workspace` at the beginning.
    pub seed: Seed,
    /// Secrets, without their values.
    pub secrets: Vec<SecretInfo>,
    /// How often it was reset.
    pub reset_count: u64,
    /// Last reset, Unix seconds.
    pub last_reset_at: Option<f64>,
    /// VMM that ran the guest last: `qemu` or `firecracker`.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Remarks about the start and the end of the guest.
    pub metadata: BTreeMap<String, String>,
    /// Guest's name for the baseline, if it has one; a fork's was taken in the workspace that it was made from.
    #[serde(default)]
    pub manifest: Option<String>,
    /// Id of the workspace that this one is a fork of.
    #[serde(default)]
    pub forked_from: Option<String>,
}

impl Record {
    /// Whether the workspace began with nothing in it, so that all that is there is new.
    pub(crate) fn has_empty_baseline(&self) -> bool {
        self.seed.mode == "empty" && !self.is_fork()
    }

    /// Whether the workspace was made from another one.
    pub(crate) fn is_fork(&self) -> bool {
        // Records of earlier versions have it among what is shown alone.
        self.forked_from.is_some() || self.metadata.contains_key(FORKED)
    }
}

/// Content of `/workspace` at the beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Seed {
    /// `empty`, `directory` or `tar_archive`.
    pub mode: String,
    /// Path on the host.
    pub seed_path: Option<String>,
    /// Path in the guest.
    pub destination: String,
    /// How many files and directories.
    pub entry_count: u64,
    /// Bytes of files.
    pub bytes_written: u64,
    /// Symbolic links that lead out of the tree and were left out.
    #[serde(default)]
    pub skipped_link_count: u64,
    /// First hundred of the skipped links.
    #[serde(default)]
    pub skipped_links: Vec<SkippedLink>,
}

impl Seed {
    /// Seed of an empty workspace.
    pub fn empty() -> Self {
        Self {
            mode: "empty".into(),
            seed_path: None,
            destination: WORKSPACE_PATH.into(),
            entry_count: 0,
            bytes_written: 0,
            skipped_link_count: 0,
            skipped_links: Vec::new(),
        }
    }
}

/// Secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretInfo {
    /// Name of the secret.
    pub name: String,
    /// `literal` or `file`.
    pub source_kind: String,
}

/// Command of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// 1 for the first.
    pub sequence: u64,
    /// Command line as payloads show it.
    pub command: String,
    /// Directory that the command ran in.
    pub cwd: String,
    /// Exit code of the command.
    pub exit_code: i32,
    /// How long it ran, milliseconds.
    pub duration_ms: u64,
    /// End, Unix seconds.
    pub recorded_at: f64,
    /// Bytes of standard output, all of them.
    pub stdout_bytes: u64,
    /// Bytes of standard error, all of them.
    pub stderr_bytes: u64,
    /// Whether only the first and last MiB of standard output were kept.
    pub stdout_truncated: bool,
    /// Whether only the first and last MiB of standard error were kept.
    pub stderr_truncated: bool,
    /// Cause of a command's early end: `timeout`, `cancelled`, or what ended the guest.
    pub interrupted: Option<String>,
}

/// Properties of a workspace to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkspaceSpec {
    /// An environment of the catalog, such as `debian:12`.
    pub environment: String,
    /// Virtual CPUs of the guest.
    pub vcpu_count: u32,
    /// Memory of the guest, MiB.
    pub mem_mib: u32,
    /// Idle time after which it is stopped, seconds; 0 for never.
    pub ttl_seconds: u64,
    /// Name that people call it by.
    pub name: Option<String>,
    /// Labels that people gave it.
    pub labels: BTreeMap<String, String>,
    /// Accepted and never needed.
    pub allow_host_compat: bool,
    /// Secrets of the guest, shown to nobody else.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// A directory or an archive of the host that fills `/workspace`.
    #[serde(default)]
    pub seed_path: Option<HostPath>,
    /// Treatment of symbolic links that lead out of `seed_path`.
    #[serde(default)]
    pub outside_links: OutsideLinks,
}

impl WorkspaceSpec {
    /// The defaults of the contract: 1 vCPU, 1024 MiB, 600 s.
    pub fn new(environment: impl Into<String>) -> Self {
        let VmRequest { environment, vcpu_count, mem_mib, ttl_seconds, allow_host_compat, .. } =
            VmRequest::new(environment);
        Self {
            environment,
            vcpu_count,
            mem_mib,
            ttl_seconds,
            name: None,
            labels: BTreeMap::new(),
            allow_host_compat,
            secrets: Vec::new(),
            seed_path: None,
            outside_links: OutsideLinks::Refuse,
        }
    }

    /// Checks all that can be checked without making anything.
    pub(crate) fn check(&self, available_mib: Option<u64>) -> Result<(), WorkspaceError> {
        let request = VmRequest {
            environment: self.environment.clone(),
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            ttl_seconds: self.ttl_seconds,
            network: false,
            allow_host_compat: false,
        };
        limits::check(&request, available_mib)?;
        if let Some(name) = &self.name {
            check_name("a workspace", name)?;
        }
        secrets::check(&self.secrets)?;
        check_labels(&self.labels)
    }
}

impl WorkspaceSpec {
    /// The record of a workspace that is made for it.
    pub(crate) fn record(&self, id: &str, environment_version: &str, now: f64) -> Record {
        Record {
            id: id.to_owned(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            environment: self.environment.clone(),
            environment_version: environment_version.to_owned(),
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            ttl_seconds: self.ttl_seconds,
            created_at: now,
            last_activity_at: now,
            allow_host_compat: self.allow_host_compat,
            seed: Seed::empty(),
            secrets: self.secrets.iter().map(Secret::info).collect(),
            reset_count: 0,
            last_reset_at: None,
            backend: "none".into(),
            accelerator: "none".into(),
            metadata: BTreeMap::new(),
            manifest: None,
            forked_from: None,
        }
    }
}

/// Changes of a workspace's name and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceChanges {
    /// A new name.
    pub name: Option<String>,
    /// No name any more.
    pub clear_name: bool,
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Keys of labels to remove.
    pub clear_labels: Vec<String>,
}

impl WorkspaceChanges {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The name afterwards.
    pub(crate) fn name_after(&self, record: &Record) -> Result<Option<String>, WorkspaceError> {
        match (&self.name, self.clear_name) {
            (Some(name), _) => check_name("a workspace", name).map(|()| Some(name.clone())),
            (None, true) => Ok(None),
            (None, false) => Ok(record.name.clone()),
        }
    }

    /// The labels afterwards.
    pub(crate) fn labels_after(&self, record: &Record) -> Result<BTreeMap<String, String>, WorkspaceError> {
        let mut labels = record.labels.clone();
        labels.retain(|key, _| !self.clear_labels.contains(key));
        labels.extend(self.labels.clone());
        check_labels(&labels).map(|()| labels)
    }
}

/// Whether `text` can be an identifier.
pub fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether `name` can be the name of `what`: it is a file's name too, and must not look like an identifier.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), WorkspaceError> {
    let fits = (1..=NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && !is_id(name);
    if fits { Ok(()) } else { Err(WorkspaceError::Name { what, name: name.to_owned() }) }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), WorkspaceError> {
    if labels.len() > LABELS {
        return Err(WorkspaceError::Labels(format!("there are {} and may be {LABELS}", labels.len())));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL || value.len() > LABEL {
            return Err(WorkspaceError::Labels(format!(
                "{key:?}={value:?}: a key has 1 to {LABEL} bytes and a value at most {LABEL}"
            )));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return Err(WorkspaceError::Labels(format!("{key:?}={value:?} has control characters")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_file_names_and_no_identifiers() {
        for good in ["a", "my-repro", "v1.2_x", "0123456789ag", "0123456789abc"] {
            assert!(check_name("a workspace", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", "0123456789ab", &"x".repeat(65), "a\n"] {
            assert!(check_name("a workspace", bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(name in "\\PC{0,20}") {
            if check_name("a snapshot", &name).is_ok() {
                prop_assert_eq!(std::path::Path::new(&name).components().count(), 1);
                prop_assert!(!name.contains('/') && name != ".." && name != ".");
            }
        }
    }

    #[test]
    fn labels_are_set_after_others_are_cleared() {
        let mut record = WorkspaceSpec::new("debian:12").record("0123456789ab", "cafe", 1.0);
        record.labels = BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        let changes = WorkspaceChanges {
            labels: BTreeMap::from([("a".into(), "3".into())]),
            clear_labels: vec!["a".into(), "b".into()],
            ..WorkspaceChanges::default()
        };
        assert_eq!(changes.labels_after(&record).unwrap(), BTreeMap::from([("a".into(), "3".into())]));
        assert!(!changes.is_empty() && WorkspaceChanges::default().is_empty());
    }

    #[test]
    fn a_fork_is_known_as_one_also_from_an_earlier_record() {
        let mut record = WorkspaceSpec::new("debian:12").record("0123456789ab", "cafe", 1.0);
        assert!(record.has_empty_baseline() && !record.is_fork());
        record.metadata.insert(FORKED.into(), "ffffffffffff".into());
        let mut text = serde_json::to_value(&record).unwrap();
        text.as_object_mut().unwrap().remove("forked_from");
        let earlier: Record = serde_json::from_value(text).unwrap();
        assert!(earlier.is_fork() && !earlier.has_empty_baseline());
        // What is only shown may say what it likes of one that knows.
        record.metadata.clear();
        record.forked_from = Some("ffffffffffff".into());
        assert!(record.is_fork());
    }
}
