//! Whole trees: into a running workspace, and out of it.

use std::path::Path;

use pyro_formats::archive::{Artifact, Limits, OutsideLinks, Sink, Source, Written};
use pyro_formats::hostfs::HostPath;
use pyro_proto::message::TreePut;

use super::Workspaces;
use crate::workspace::error::WorkspaceError;
use crate::workspace::store::files_view::{Exported, Pushed, Synced};
use crate::workspace::store::paths::{place, shown};
use crate::workspace::store::view::EXECUTION_MODE;
use crate::workspace::tree_pipe::{OnMoved, Packed, Unpacking, absolute, form_name};

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
        let mode = form_name(opened.form());
        let running = self.running_guest(given).await?;
        let put =
            TreePut { dest: plain.as_slice().into(), max_entries: limits.entries, max_bytes: limits.bytes };
        let mut packed = Packed::new(opened, on_moved)?;
        let sent = match running.guest.tree_put(put, &mut packed, |_| {}).await {
            Ok(sent) => Ok(sent),
            Err(error) => Err(running.failed(error).await),
        };
        let (Written { totals, skipped_links }, _) = packed.finish(sent)?;
        Ok(Pushed {
            workspace_id: running.home.id(),
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
        let running = self.running_guest(given).await?;
        // Twice the content, for headers and for what fills up blocks: the sink knows better what is too much.
        let mut tree = match running.guest.tree_get(&plain, 2 * limits.bytes).await {
            Ok(tree) => tree,
            Err(error) => return Err(running.failed(error).await),
        };
        let mut unpacking = Unpacking::new(sink, on_moved)?;
        while unpacking.takes() {
            match tree.next().await {
                Ok(Some(bytes)) => unpacking.write(bytes).await,
                Ok(None) => break,
                Err(error) => return Err(running.failed(error).await),
            }
        }
        let skipped_count = tree.tree().map_or(0, |(_, skipped)| skipped);
        let unpacked = unpacking.finish().await?;
        Ok(Exported {
            workspace_id: running.home.id(),
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
