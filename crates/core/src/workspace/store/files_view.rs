//! Payloads about files and trees: the contract's fields, and ours added.

use pyro_formats::archive::SkippedLink;
use pyro_formats::redact::Redactor;
use pyro_formats::untrusted::Untrusted;
use pyro_proto::message::{FileEntry as GuestFile, FileKind};
use schemars::JsonSchema;
use serde::Serialize;

use super::paths::shown;

/// Name of a file's kind in payloads.
pub(crate) fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "symlink",
        FileKind::Other => "other",
    }
}

/// Payload of `workspace file list`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileList {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Path that was listed.
    pub path: String,
    /// Whether all below the directory is listed too.
    pub recursive: bool,
    /// Files in order of their paths.
    pub entries: Vec<FileEntry>,
    /// Whether there is more than is listed.
    pub truncated: bool,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
}

/// File, directory or link in a list.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileEntry {
    /// Path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// `file`, `directory`, `symlink` or `other`.
    pub artifact_type: &'static str,
    /// Size of the content, bytes.
    pub size_bytes: u64,
    /// Where a link leads.
    pub link_target: Option<String>,
    /// Permissions, as in `0644`.
    pub mode: String,
    /// Last change of its content, Unix seconds.
    pub modified_at: f64,
}

impl FileEntry {
    /// Entry of a file as its guest describes it, without the secrets: a guest chooses names as it likes.
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

/// Form in which bytes of a file are in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum ContentEncoding {
    /// Text, as the file has it.
    #[serde(rename = "utf-8")]
    Utf8,
    /// Text with U+FFFD in place of bytes that are no UTF-8: not what the file has.
    #[serde(rename = "utf-8-replaced")]
    Utf8Replaced,
    /// Bytes in base64, with padding.
    #[serde(rename = "base64")]
    Base64,
}

impl ContentEncoding {
    /// Text of `bytes`, and its form. Where they are a `part`, a last character that is not whole is left out.
    pub fn text_of(bytes: &[u8], part: bool) -> (String, Self) {
        match std::str::from_utf8(bytes) {
            Ok(text) => (text.to_owned(), Self::Utf8),
            Err(error) if part && error.error_len().is_none() && error.valid_up_to() > 0 => {
                let whole = bytes.get(..error.valid_up_to()).unwrap_or_default();
                (String::from_utf8_lossy(whole).into_owned(), Self::Utf8)
            }
            Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Self::Utf8Replaced),
        }
    }
}

/// Payload of `workspace file read`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileRead {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Path that was read.
    pub path: String,
    /// Size of the file, bytes.
    pub size_bytes: u64,
    /// Bytes asked for, at most.
    pub max_bytes: u64,
    /// First byte that was read, 0 for the file's first.
    pub offset: u64,
    /// Content in the form that `encoding` names.
    pub content: String,
    /// Form of `content`: `utf-8`, `utf-8-replaced` or `base64`.
    pub encoding: ContentEncoding,
    /// Whether the file goes on after `content`.
    pub truncated: bool,
    /// Whether secrets of the workspace were in it: `[REDACTED]` stands where one was.
    pub redacted: bool,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
}

/// Payload of `workspace file write`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FileWritten {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Path that was written.
    pub path: String,
    /// Size of the file now, bytes.
    pub size_bytes: u64,
    /// Bytes that were sent.
    pub bytes_written: u64,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
}

/// Payload of `workspace sync push`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Pushed {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
    /// Tree that was copied.
    pub workspace_sync: Synced,
}

/// A tree that was copied into a workspace.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Synced {
    /// `directory` or `tar_archive`.
    pub mode: &'static str,
    /// Path of the tree on the host.
    pub source_path: String,
    /// Path of the tree in the guest.
    pub destination: String,
    /// Files, directories and links.
    pub entry_count: u64,
    /// Bytes of files.
    pub bytes_written: u64,
    /// Sockets and fifos that were left out.
    pub skipped_count: u64,
    /// Symbolic links that lead out of the tree and were left out.
    pub skipped_link_count: u64,
    /// First hundred of the skipped links.
    pub skipped_links: Vec<SkippedLink>,
}

/// Payload of `workspace export`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Exported {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Path that was copied.
    pub workspace_path: String,
    /// Path of the copy on the host.
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
    /// First hundred of the skipped links.
    pub skipped_links: Vec<SkippedLink>,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
}

/// Payload of `workspace patch apply`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Patched {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Whether anything is other than before.
    pub changed: bool,
    /// Numbers of changed paths.
    pub summary: PatchSummary,
    /// Changed paths, each once.
    pub entries: Vec<PatchEntry>,
    /// The patch as it was given; bytes that are not UTF-8 are replaced.
    pub patch: String,
    /// Execution mode, always `guest_vsock`.
    pub execution_mode: &'static str,
}

/// How many paths a patch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PatchSummary {
    /// Changed paths in all.
    pub total: u64,
    /// Paths that are new.
    pub added: u64,
    /// Paths that were there before and still are.
    pub modified: u64,
    /// Paths that are gone.
    pub deleted: u64,
}

/// Path that a patch changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PatchEntry {
    /// Path below `/workspace`.
    pub path: String,
    /// `added`, `modified` or `deleted`.
    pub status: &'static str,
}

/// Payload of `workspace diff`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Diff {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Whether anything is other than at the beginning.
    pub changed: bool,
    /// Numbers of paths that differ.
    pub summary: DiffSummary,
    /// Paths that differ, each once, in order.
    pub entries: Vec<DiffEntry>,
    /// Whether more paths differ than are listed.
    pub entries_truncated: bool,
    /// All text patches, as `git apply` takes them.
    pub patch: String,
    /// Whether text was left out because there was too much of it.
    pub patch_truncated: bool,
    /// Whether secrets of the workspace were in what differs: `[REDACTED]` stands where one was.
    pub redacted: bool,
    /// Whether the host read every byte of both sides by itself; otherwise the guest said where to look.
    pub verified: bool,
}

/// How many paths differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffSummary {
    /// Paths that differ, in all.
    pub total: u64,
    /// Paths that are new.
    pub added: u64,
    /// Paths with other content or permissions.
    pub modified: u64,
    /// Paths that are gone.
    pub deleted: u64,
    /// Paths of another kind than before, such as a link in place of a file.
    pub type_changed: u64,
    /// Paths with a text patch.
    pub text_patched: u64,
    /// Paths without a text patch.
    pub non_text: u64,
}

/// Path that differs from the baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffEntry {
    /// Path below `/workspace`; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// `added`, `modified`, `deleted` or `type_changed`.
    pub status: &'static str,
    /// Kind now, or before if it is gone: `file`, `directory`, `symlink` or `other`.
    pub artifact_type: &'static str,
    /// Part of the patch; empty where no text can tell the difference, and for files in a `.git`, which git does
    /// not patch.
    pub text_patch: String,
    /// Whether `text_patch` is empty because the content is not text.
    pub binary: bool,
    /// Permissions before, as in `0644`.
    pub old_mode: Option<String>,
    /// Permissions now, as in `0644`.
    pub new_mode: Option<String>,
    /// Whether secrets of the workspace were in it, before or now.
    pub redacted: bool,
    /// Why its content is not shown, where it could not be read.
    pub left_out: Option<String>,
}

/// Payload of `workspace disk list`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DiskList {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Path that was listed.
    pub path: String,
    /// Whether all below the directory is listed too.
    pub recursive: bool,
    /// Files in order of their paths.
    pub entries: Vec<FileEntry>,
    /// Whether there is more than is listed.
    pub truncated: bool,
}

/// Payload of `workspace disk read`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DiskRead {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Path that was read.
    pub path: String,
    /// Size of the file, bytes.
    pub size_bytes: u64,
    /// Bytes asked for, at most.
    pub max_bytes: u64,
    /// Content in the form that `encoding` names.
    pub content: String,
    /// Form of `content`: `utf-8`, `utf-8-replaced` or `base64`.
    pub encoding: ContentEncoding,
    /// Whether the file goes on after `content`.
    pub truncated: bool,
    /// Whether secrets of the workspace were in it: `[REDACTED]` stands where one was.
    pub redacted: bool,
}

/// Payload of `workspace disk export`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DiskExported {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Image on the host.
    pub output_path: String,
    /// Format, always `ext4`.
    pub disk_format: &'static str,
    /// Bytes that the image has, with its holes.
    pub bytes_written: u64,
    /// Bytes that it takes on the host's disk.
    pub allocated_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        let of = ContentEncoding::text_of;
        for (bytes, part, text, encoding) in [
            (&b""[..], false, "", ContentEncoding::Utf8),
            ("grün".as_bytes(), false, "grün", ContentEncoding::Utf8),
            (b"a\xffb", false, "a\u{fffd}b", ContentEncoding::Utf8Replaced),
            // The beginning of a character, at the end of a part and of a file.
            (b"gr\xc3", true, "gr", ContentEncoding::Utf8),
            (b"gr\xc3", false, "gr\u{fffd}", ContentEncoding::Utf8Replaced),
            (b"\xff\xc3", true, "\u{fffd}\u{fffd}", ContentEncoding::Utf8Replaced),
        ] {
            assert_eq!(of(bytes, part), (text.to_owned(), encoding), "{bytes:?}");
        }
    }
}
