//! Whole trees: into a running workspace, and out of it.

use std::path::Path;

use super::WorkspaceError;
use super::client::Workspaces;
use super::files::{Heard, id_of, odd, place, shown};
use super::files_view::{Exported, Pushed, Synced};
use super::pipe::{OnMoved, Packed, Unpacking};
use super::view::EXECUTION_MODE;
use crate::keeper::{FileAsk, FileReply};
use pyro_formats::archive::{Artifact, Form, Limits, OutsideLinks, Sink, Source, Written};
use pyro_formats::hostfs::HostPath;

/// How payloads name what a source is.
pub(crate) fn mode(form: Form) -> &'static str {
    match form {
        Form::Directory => "directory",
        Form::Tar | Form::TarGz => "tar_archive",
    }
}

/// As whoever has another working directory finds it.
pub(super) fn absolute(path: HostPath) -> Result<HostPath, WorkspaceError> {
    let shown = path.shown().to_owned();
    path.absolute().map_err(|e| WorkspaceError::file(&shown, "found", e))
}

impl Workspaces {
    /// Copies a directory, a `.tar` or a `.tar.gz` of the host below `dest`: all of it arrives, or nothing. What is in
    /// `dest` stays unless the tree has it too.
    ///
    /// # Errors
    /// When the workspace does not run, the tree is none or holds what is refused, or the disk is full.
    pub async fn push(
        &self,
        given: &str,
        source: impl Into<HostPath>,
        dest: &Path,
        outside_links: OutsideLinks,
        on_moved: OnMoved,
    ) -> Result<Pushed, WorkspaceError> {
        let plain = place(dest)?;
        let source = absolute(source.into())?;
        let limits = Limits { outside_links, ..Limits::default() };
        let opened = Source::open(&source, limits)?;
        let mode = mode(opened.form());
        let home = self.find(given).await?;
        let ask = FileAsk::Put {
            dest: plain.as_slice().into(),
            max_entries: limits.entries,
            max_bytes: limits.bytes,
        };
        let talk = self.running(&home, ask).await?;
        let mut packed = Packed::new(opened, on_moved)?;
        let sent = talk.send(&mut packed).await;
        let (Written { totals, skipped_links }, reply) = packed.finish(sent)?;
        if reply != FileReply::Done {
            return Err(odd());
        }
        Ok(Pushed {
            workspace_id: id_of(&home),
            execution_mode: EXECUTION_MODE,
            workspace_sync: Synced {
                mode,
                source_path: source.shown().display().to_string(),
                destination: shown(&plain),
                entry_count: totals.entries,
                bytes_written: totals.bytes,
                skipped_count: totals.skipped,
                skipped_link_count: totals.skipped_links,
                skipped_links,
            },
        })
    }

    /// Copies a file or directory of the workspace to `output`, which must not exist: all of it, or nothing.
    ///
    /// # Errors
    /// When the workspace does not run, there is no such path, it holds what is refused, or `output` cannot be made.
    pub async fn export(
        &self,
        given: &str,
        path: &Path,
        output: impl Into<HostPath>,
        outside_links: OutsideLinks,
        on_moved: OnMoved,
    ) -> Result<Exported, WorkspaceError> {
        let plain = place(path)?;
        let limits = Limits { outside_links, ..Limits::default() };
        let output = absolute(output.into())?;
        let name = plain.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty());
        let sink = Sink::new(&output, name, limits)?;
        let home = self.find(given).await?;
        // Twice the content, for headers and for what fills up blocks: the sink knows better what is too much.
        let ask = FileAsk::Get { path: plain.as_slice().into(), max_bytes: 2 * limits.bytes };
        let mut talk = self.running(&home, ask).await?;
        let mut unpacking = Unpacking::new(sink, on_moved)?;
        let mut skipped_count = 0;
        while unpacking.takes() {
            match talk.next().await? {
                Heard::Bytes(bytes) => unpacking.write(bytes).await,
                Heard::Reply(FileReply::Got { skipped }) => {
                    skipped_count = skipped;
                    break;
                }
                Heard::Reply(_) => return Err(odd()),
            }
        }
        let unpacked = unpacking.finish().await?;
        Ok(Exported {
            workspace_id: id_of(&home),
            workspace_path: shown(&plain),
            output_path: output.shown().display().to_string(),
            artifact_type: match unpacked.artifact {
                Artifact::File => "file",
                Artifact::Directory => "directory",
            },
            entry_count: unpacked.totals.entries,
            bytes_written: unpacked.totals.bytes,
            skipped_count,
            skipped_link_count: unpacked.totals.skipped_links,
            skipped_links: unpacked.skipped_links,
            execution_mode: EXECUTION_MODE,
        })
    }
}
