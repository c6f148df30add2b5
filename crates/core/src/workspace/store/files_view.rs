//! What payloads show of files and trees: the contract's fields, and ours added.

use pyro_formats::archive::SkippedLink;
use pyro_formats::redact::Redactor;
use pyro_formats::untrusted::Untrusted;
use pyro_proto::message::{FileEntry as GuestFile, FileKind};
use schemars::JsonSchema;
use serde::Serialize;

use super::paths::shown;

/// What stands at a path, as payloads name it.
pub(crate) fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "symlink",
        FileKind::Other => "other",
    }
}

/// What `workspace file list` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileList {
    /// Whose.
    pub workspace_id: String,
    /// What was listed.
    pub path: String,
    /// Whether with all that is below.
    pub recursive: bool,
    /// In order of their paths.
    pub entries: Vec<FileEntry>,
    /// Whether there is more than is listed.
    pub truncated: bool,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileEntry {
    /// Its path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// `file`, `directory`, `symlink` or `other`.
    pub artifact_type: &'static str,
    /// Bytes.
    pub size_bytes: u64,
    /// Where a link leads.
    pub link_target: Option<String>,
    /// Permissions, as in `0644`.
    pub mode: String,
    /// Last change of its content, Unix seconds.
    pub modified_at: f64,
}

impl FileEntry {
    /// The entry of a file as its guest describes it, without the secrets: a guest chooses names as it likes.
    pub(crate) fn of_guest(file: Untrusted<GuestFile>, redactor: &Redactor) -> Self {
        file.shown(redactor, |file, redactor| {
            let target = file.target.map(|target| String::from_utf8_lossy(&target.0).into_owned());
            Self {
                path: redactor.text(&shown(&file.path.0)),
                artifact_type: kind_name(file.kind),
                size_bytes: file.size,
                link_target: target.map(|target| redactor.text(&target)),
                mode: format!("{:04o}", file.mode & 0o7777),
                modified_at: file.mtime_ns as f64 / 1e9,
            }
        })
    }
}

/// What `workspace file read` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileRead {
    /// Whose.
    pub workspace_id: String,
    /// Which.
    pub path: String,
    /// Bytes that it has.
    pub size_bytes: u64,
    /// Bytes that were asked for.
    pub max_bytes: u64,
    /// Where they begin.
    pub offset: u64,
    /// What was read, as text; bytes that are not UTF-8 are replaced.
    pub content: String,
    /// Whether there is more.
    pub truncated: bool,
    /// Whether secrets of the workspace were in it: `[REDACTED]` stands where one was.
    pub redacted: bool,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// What `workspace file write` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileWritten {
    /// Whose.
    pub workspace_id: String,
    /// Which.
    pub path: String,
    /// Bytes that it has now.
    pub size_bytes: u64,
    /// Bytes that were sent.
    pub bytes_written: u64,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// What `workspace sync push` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Pushed {
    /// Whose.
    pub workspace_id: String,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
    /// What was copied.
    pub workspace_sync: Synced,
}

/// A tree that was copied into a workspace.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Synced {
    /// `directory` or `tar_archive`.
    pub mode: &'static str,
    /// Where it was on the host.
    pub source_path: String,
    /// Where it is in the guest.
    pub destination: String,
    /// Files, directories and links.
    pub entry_count: u64,
    /// Bytes of files.
    pub bytes_written: u64,
    /// Sockets and fifos that were left out.
    pub skipped_count: u64,
    /// Symbolic links that lead out of the tree and were left out.
    pub skipped_link_count: u64,
    /// The first hundred of them.
    pub skipped_links: Vec<SkippedLink>,
}

/// What `workspace export` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Exported {
    /// Whose.
    pub workspace_id: String,
    /// What was copied.
    pub workspace_path: String,
    /// Where it is on the host.
    pub output_path: String,
    /// `file` or `directory`.
    pub artifact_type: &'static str,
    /// Files, directories and links.
    pub entry_count: u64,
    /// Bytes of files.
    pub bytes_written: u64,
    /// Sockets, fifos and devices that were left out.
    pub skipped_count: u64,
    /// Symbolic links that lead out of the tree and were left out.
    pub skipped_link_count: u64,
    /// The first hundred of them.
    pub skipped_links: Vec<SkippedLink>,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// What `workspace patch apply` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Patched {
    /// Whose.
    pub workspace_id: String,
    /// Whether anything is other than before.
    pub changed: bool,
    /// How much of what.
    pub summary: PatchSummary,
    /// One for each path that changed.
    pub entries: Vec<PatchEntry>,
    /// The patch as it was given; bytes that are not UTF-8 are replaced.
    pub patch: String,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// How many paths a patch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PatchSummary {
    /// All of them.
    pub total: u64,
    /// New ones.
    pub added: u64,
    /// Those that were there before and are now.
    pub modified: u64,
    /// Those that are gone.
    pub deleted: u64,
}

/// One path that a patch changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PatchEntry {
    /// Which.
    pub path: String,
    /// `added`, `modified` or `deleted`.
    pub status: &'static str,
}

/// What `workspace diff` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Diff {
    /// Whose.
    pub workspace_id: String,
    /// Whether anything is other than at the beginning.
    pub changed: bool,
    /// How much of what.
    pub summary: DiffSummary,
    /// One for each path that differs, in order.
    pub entries: Vec<DiffEntry>,
    /// All text patches, as `git apply` takes them.
    pub patch: String,
    /// Whether text was left out because there was too much of it.
    pub patch_truncated: bool,
    /// Whether secrets of the workspace were in what differs: `[REDACTED]` stands where one was.
    pub redacted: bool,
}

/// How many paths differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffSummary {
    /// All of them.
    pub total: u64,
    /// New ones.
    pub added: u64,
    /// Those with other content or permissions.
    pub modified: u64,
    /// Those that are gone.
    pub deleted: u64,
    /// Those that are something else now, such as a link in place of a file.
    pub type_changed: u64,
    /// Those with a text patch.
    pub text_patched: u64,
    /// Those without.
    pub non_text: u64,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffEntry {
    /// Its path below `/workspace`; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// `added`, `modified`, `deleted` or `type_changed`.
    pub status: &'static str,
    /// What it is, or was: `file`, `directory`, `symlink` or `other`.
    pub artifact_type: &'static str,
    /// Its part of the patch; empty where no text can tell the difference, and for what is in a `.git`, which git does
    /// not patch.
    pub text_patch: String,
    /// Whether that is because its content is not text.
    pub binary: bool,
    /// Its permissions before, as in `0644`.
    pub old_mode: Option<String>,
    /// Its permissions now.
    pub new_mode: Option<String>,
    /// Whether secrets of the workspace were in it, before or now.
    pub redacted: bool,
}

/// What `workspace disk list` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DiskList {
    /// Whose.
    pub workspace_id: String,
    /// What was listed.
    pub path: String,
    /// Whether with all that is below.
    pub recursive: bool,
    /// In order of their paths.
    pub entries: Vec<FileEntry>,
    /// Whether there is more than is listed.
    pub truncated: bool,
}

/// What `workspace disk read` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DiskRead {
    /// Whose.
    pub workspace_id: String,
    /// Which.
    pub path: String,
    /// Bytes that it has.
    pub size_bytes: u64,
    /// Bytes that were asked for.
    pub max_bytes: u64,
    /// What was read, as text; bytes that are not UTF-8 are replaced.
    pub content: String,
    /// Whether there is more.
    pub truncated: bool,
    /// Whether secrets of the workspace were in it: `[REDACTED]` stands where one was.
    pub redacted: bool,
}

/// What `workspace disk export` says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DiskExported {
    /// Whose.
    pub workspace_id: String,
    /// The image.
    pub output_path: String,
    /// `ext4`.
    pub disk_format: &'static str,
    /// Bytes that the image has, with its holes.
    pub bytes_written: u64,
    /// Bytes that it takes on the host's disk.
    pub allocated_bytes: u64,
}
