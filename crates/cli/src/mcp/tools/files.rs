//! Files and trees of a workspace: in, out, read, changed, compared.

use std::path::Path;
use std::sync::Arc;

use pyro_core::workspace::{
    ContentEncoding, Diff, DiskExported, DiskList, DiskRead, Exported, FileEntry, FileList, FileRead,
    FileWritten, Patched, Pushed,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{outside_links, workspace_path};
use crate::content::in_base64;
use crate::mcp::call::Call;
use crate::mcp::cut;
use crate::mcp::failure::Failure;
use crate::mcp::host::Host;
use crate::mcp::order::Place;
use crate::mcp::tool::{Effect, Tool};

/// Most entries of a list.
const ENTRIES: usize = 500;

pub fn tools() -> Vec<Tool> {
    use Effect::{Adds, Destroys, Reads, Sets};
    use Place::{After, Edit, Holds};
    vec![
        Tool::new(
            "workspace_sync_push",
            "Copy a host directory or archive into a running workspace; all of it arrives, or nothing.",
            Sets,
            Some(Edit),
            push,
        ),
        Tool::new(
            "workspace_export",
            "Copy a file or directory of a workspace to the host, at a path that does not exist yet.",
            Adds,
            Some(Holds),
            export,
        ),
        Tool::new(
            "workspace_diff",
            "Show all that differs from the workspace's beginning, as a patch; for review before export.",
            Reads,
            Some(Holds),
            diff,
        ),
        Tool::new("workspace_file_list", "List a directory of a workspace.", Reads, Some(Holds), list),
        Tool::new("workspace_file_read", "Read a text file of a workspace.", Reads, Some(Holds), read),
        Tool::new(
            "workspace_file_write",
            "Make a file or replace all of its content. For a change of a few lines workspace_patch_apply is shorter.",
            Destroys,
            Some(Edit),
            write,
        ),
        Tool::new(
            "workspace_patch_apply",
            "Apply a unified diff or a `*** Begin Patch` to one or more files; all of it, or nothing, with reasons by hunk.",
            Destroys,
            Some(Edit),
            patch,
        ),
        Tool::new(
            "workspace_disk_export",
            "Write a stopped workspace's whole disk to the host as an ext4 image.",
            Adds,
            Some(After),
            disk_export,
        ),
        Tool::new(
            "workspace_disk_list",
            "List a directory of a stopped workspace, anywhere in its guest.",
            Reads,
            Some(After),
            disk_list,
        ),
        Tool::new(
            "workspace_disk_read",
            "Read a file of a stopped workspace, anywhere in its guest.",
            Reads,
            Some(After),
            disk_read,
        ),
    ]
}

/// A difference, and where its patch goes on.
#[derive(Serialize, JsonSchema)]
struct Compared {
    #[serde(flatten)]
    diff: Diff,
    patch_bytes: u64,
    /// Absent at its end.
    next_offset: Option<u64>,
}

/// What was read, and where the next part begins.
#[derive(Serialize, JsonSchema)]
struct ReadPart {
    #[serde(flatten)]
    read: FileRead,
    /// Absent at its end.
    next_offset: Option<u64>,
}

fn read_most() -> u64 {
    65536
}

fn check_max_bytes(max_bytes: u64) -> Result<(), Failure> {
    match max_bytes {
        1..=1_048_576 => Ok(()),
        _ => Err(Failure::invalid(
            format!("max_bytes is {max_bytes}: it must be 1 to 1048576"),
            "read the file part by part, or export it",
        )),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Push {
    /// Its id or name
    workspace_id: String,
    /// Host directory or .tar(.gz)
    source_path: String,
    /// /workspace or a directory below it
    #[serde(default = "workspace_path")]
    dest: String,
    /// Leave symbolic links out that lead out of it, as a venv's do, instead of refusing all
    #[serde(default)]
    skip_outside_links: bool,
}

async fn push(host: Arc<Host>, input: Push, call: Call) -> Result<Pushed, Failure> {
    let source = host.roots.source(&input.source_path)?;
    let moved = call.moved("sync");
    let links = outside_links(input.skip_outside_links);
    Ok(host.workspaces.push(&input.workspace_id, source, Path::new(&input.dest), links, moved).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Export {
    /// Its id or name
    workspace_id: String,
    /// File or directory, below /workspace
    path: String,
    /// Host path to make
    output_path: String,
    /// Leave symbolic links out that lead out of it, as a venv's do, instead of refusing all
    #[serde(default)]
    skip_outside_links: bool,
}

async fn export(host: Arc<Host>, input: Export, call: Call) -> Result<Exported, Failure> {
    let output = host.roots.target(&input.output_path)?;
    let moved = call.moved("export");
    let path = Path::new(&input.path);
    let links = outside_links(input.skip_outside_links);
    Ok(host.workspaces.export(&input.workspace_id, path, output, links, moved).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Compare {
    /// Its id or name
    workspace_id: String,
    /// Byte of the patch, for the next part of a long one
    #[serde(default)]
    offset: u64,
    /// Read every byte of the disk on the host, believing nothing that the guest says; slower
    #[serde(default)]
    verified: bool,
}

async fn diff(host: Arc<Host>, input: Compare, _: Call) -> Result<Compared, Failure> {
    let mut diff = match input.verified {
        true => host.workspaces.diff_verified(&input.workspace_id).await?,
        false => host.workspaces.diff(&input.workspace_id).await?,
    };
    let patch_bytes = diff.patch.len() as u64;
    let (part, next) = cut::window(&diff.patch, input.offset, cut::STREAM);
    diff.patch = part.to_owned();
    if patch_bytes > cut::STREAM as u64 {
        // They are parts of the patch: with a long one they are not said twice.
        diff.entries.iter_mut().for_each(|entry| entry.text_patch = String::new());
    }
    diff.entries.truncate(ENTRIES);
    let next_offset = (next < patch_bytes).then_some(next);
    Ok(Compared { diff, patch_bytes, next_offset })
}

/// As many entries as a model can use.
fn short(entries: &mut Vec<FileEntry>, truncated: &mut bool) {
    *truncated |= entries.len() > ENTRIES;
    entries.truncate(ENTRIES);
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListFiles {
    /// Its id or name
    workspace_id: String,
    /// Directory, such as src
    #[serde(default = "workspace_path")]
    path: String,
    /// With all that is below
    #[serde(default)]
    recursive: bool,
}

async fn list(host: Arc<Host>, input: ListFiles, _: Call) -> Result<FileList, Failure> {
    let mut list =
        host.workspaces.list_files(&input.workspace_id, Path::new(&input.path), input.recursive).await?;
    short(&mut list.entries, &mut list.truncated);
    Ok(list)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadFile {
    /// Its id or name
    workspace_id: String,
    /// File, such as src/main.py
    path: String,
    /// At most so much
    #[serde(default = "read_most")]
    #[schemars(range(min = 1, max = 1048576))]
    max_bytes: u64,
    /// From this byte on
    #[serde(default)]
    offset: u64,
    /// Form of the content; base64 for bytes that are no text
    #[serde(default)]
    encoding: WantedEncoding,
}

/// Form of content that is asked for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum WantedEncoding {
    #[default]
    Text,
    Base64,
}

async fn read(host: Arc<Host>, input: ReadFile, _: Call) -> Result<ReadPart, Failure> {
    check_max_bytes(input.max_bytes)?;
    let path = Path::new(&input.path);
    let (mut read, bytes) =
        host.workspaces.read_file(&input.workspace_id, path, input.offset, input.max_bytes).await?;
    let mut given = bytes.as_slice();
    if input.encoding == WantedEncoding::Base64 {
        (read.content, read.encoding) = in_base64(given);
    } else if read.truncated {
        given = cut::whole_characters(given);
        (read.content, read.encoding) = ContentEncoding::text_of(given, true);
    }
    let next_offset = read.truncated.then_some(input.offset + given.len() as u64);
    Ok(ReadPart { read, next_offset })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    /// Its id or name
    workspace_id: String,
    /// File, such as src/main.py; missing directories are made
    path: String,
    /// All of its new content
    text: String,
}

async fn write(host: Arc<Host>, input: WriteFile, _: Call) -> Result<FileWritten, Failure> {
    let path = Path::new(&input.path);
    Ok(host.workspaces.write_file(&input.workspace_id, path, input.text.as_bytes()).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Apply {
    /// Its id or name
    workspace_id: String,
    /// Unified diff, as `git diff` prints it, or `*** Begin Patch` ... `*** End Patch`; paths below /workspace
    patch: String,
}

async fn patch(host: Arc<Host>, input: Apply, _: Call) -> Result<Patched, Failure> {
    let mut patched = host.workspaces.apply_patch(&input.workspace_id, input.patch.as_bytes()).await?;
    // Whoever sent it has it.
    cut::middle(&mut patched.patch, cut::LISTED, |_| "it is what was sent".into());
    Ok(patched)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExportDisk {
    /// Its id or name
    workspace_id: String,
    /// Host path to make
    output_path: String,
}

async fn disk_export(host: Arc<Host>, input: ExportDisk, _: Call) -> Result<DiskExported, Failure> {
    let output = host.roots.target(&input.output_path)?;
    Ok(host.workspaces.export_disk(&input.workspace_id, output).await?)
}

async fn disk_list(host: Arc<Host>, input: ListFiles, _: Call) -> Result<DiskList, Failure> {
    let mut list =
        host.workspaces.list_disk(&input.workspace_id, Path::new(&input.path), input.recursive).await?;
    short(&mut list.entries, &mut list.truncated);
    Ok(list)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadDisk {
    /// Its id or name
    workspace_id: String,
    /// File, such as /etc/hosts
    path: String,
    /// At most so much
    #[serde(default = "read_most")]
    #[schemars(range(min = 1, max = 1048576))]
    max_bytes: u64,
    /// Form of the content; base64 for bytes that are no text
    #[serde(default)]
    encoding: WantedEncoding,
}

async fn disk_read(host: Arc<Host>, input: ReadDisk, _: Call) -> Result<DiskRead, Failure> {
    check_max_bytes(input.max_bytes)?;
    let path = Path::new(&input.path);
    let (mut read, bytes) = host.workspaces.read_disk(&input.workspace_id, path, input.max_bytes).await?;
    if input.encoding == WantedEncoding::Base64 {
        (read.content, read.encoding) = in_base64(&bytes);
    }
    Ok(read)
}
