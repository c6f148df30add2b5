//! Files of a running workspace, one at a time: what is there, what is in it, and writing one.

use std::path::Path;

use pyro_formats::untrusted::Untrusted;
use pyro_proto::message::FileEntry as GuestFile;
use tokio::io::AsyncRead;

use super::Workspaces;
use super::guest::RunningGuest;
use crate::workspace::error::{WorkspaceError, check_bound};
use crate::workspace::store::files_view::{ContentEncoding, FileEntry, FileList, FileRead, FileWritten};
use crate::workspace::store::paths::{place, shown};
use crate::workspace::store::view::EXECUTION_MODE;

/// Most bytes of a file that are read at once.
const MOST: u64 = 64 << 20;
/// Bytes that a file of any file system can have.
const OFFSETS: std::ops::RangeInclusive<u64> = 0..=i64::MAX as u64;

impl RunningGuest {
    /// File at a plain path; a link is not followed.
    pub(super) async fn stat(&self, path: &[u8]) -> Result<Untrusted<GuestFile>, WorkspaceError> {
        match self.guest.file_stat(path).await {
            Ok(file) => Ok(Untrusted::new(file)),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// Entries of a directory, at most 100,000; and whether there are more.
    pub(super) async fn entries(
        &self,
        path: &[u8],
        recursive: bool,
    ) -> Result<(Vec<Untrusted<GuestFile>>, bool), WorkspaceError> {
        match self.guest.file_list(path, recursive).await {
            Ok((files, truncated)) => Ok((files.into_iter().map(Untrusted::new).collect(), truncated)),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// Reads a file from byte `offset` on, at most `limit` bytes, which `each` is given as they come.
    pub(super) async fn content(
        &self,
        path: &[u8],
        offset: u64,
        limit: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), WorkspaceError>,
    ) -> Result<GuestFile, WorkspaceError> {
        let mut content = match self.guest.file_read(path, offset, limit).await {
            Ok(content) => content,
            Err(error) => return Err(self.failed(error).await),
        };
        loop {
            match content.bytes.next().await {
                Ok(Some(bytes)) => each(bytes)?,
                Ok(None) => return Ok(content.entry),
                Err(error) => return Err(self.failed(error).await),
            }
        }
    }
}

impl Workspaces {
    /// Lists a directory of the workspace, with `recursive` also those below it; or one file.
    ///
    /// # Errors
    /// When it does not run, the path leads out of it, or there is none.
    pub async fn list_files(
        &self,
        given: &str,
        path: &Path,
        recursive: bool,
    ) -> Result<FileList, WorkspaceError> {
        let plain = place(path)?;
        let running = self.running_guest(given).await?;
        let (entries, truncated) = running.entries(&plain, recursive).await?;
        let redactor = &running.redactor;
        Ok(FileList {
            workspace_id: running.home.id(),
            path: shown(&plain),
            recursive,
            entries: entries.into_iter().map(|file| FileEntry::of_guest(file, redactor)).collect(),
            truncated,
            execution_mode: EXECUTION_MODE,
        })
    }

    /// At most `max_bytes` of a file from byte `offset` on: as a payload, and byte for byte, but for the workspace's
    /// secrets. Links are followed inside the workspace.
    ///
    /// # Errors
    /// When it does not run, or the path is no regular file in it.
    pub async fn read_file(
        &self,
        given: &str,
        path: &Path,
        offset: u64,
        max_bytes: u64,
    ) -> Result<(FileRead, Vec<u8>), WorkspaceError> {
        check_size(max_bytes)?;
        check_bound("offset", offset, &OFFSETS)?;
        let plain = place(path)?;
        let running = self.running_guest(given).await?;
        let redactor = &running.redactor;
        let mut content = Vec::new();
        let each = |bytes: &[u8]| {
            content.extend_from_slice(bytes);
            Ok(())
        };
        // A secret that begins before the part, or ends after it, is one too.
        let reach = redactor.reach() as u64;
        let before = offset.min(reach);
        let wanted = before + max_bytes;
        let entry = running.content(&plain, offset - before, wanted + reach, each).await?;
        let content = Untrusted::new(content);
        let part = |end: u64| content.head(redactor, usize::try_from(end).unwrap_or(usize::MAX)).0;
        let clean = part(wanted)[part(before).len()..].to_vec();
        let raw = content.unredacted().get(before as usize..).unwrap_or_default();
        let raw = &raw[..raw.len().min(usize::try_from(max_bytes).unwrap_or(usize::MAX))];
        let redacted = clean != raw;
        let truncated = entry.size > offset.saturating_add(raw.len() as u64);
        let (text, encoding) = ContentEncoding::text_of(&clean, truncated);
        let read = FileRead {
            workspace_id: running.home.id(),
            path: shown(&plain),
            size_bytes: entry.size,
            max_bytes,
            offset,
            content: text,
            encoding,
            truncated,
            redacted,
            execution_mode: EXECUTION_MODE,
        };
        Ok((read, clean))
    }

    /// Makes a file, or replaces its content at once, by all of `source`; missing directories above it are made.
    ///
    /// # Errors
    /// When it does not run, the path leads out of it or is a directory, or its disk is full.
    pub async fn write_file(
        &self,
        given: &str,
        path: &Path,
        source: impl AsyncRead + Unpin,
    ) -> Result<FileWritten, WorkspaceError> {
        let plain = place(path)?;
        let running = self.running_guest(given).await?;
        let mut source = Counted { source, count: 0 };
        let entry = match running.guest.file_write(&plain, None, true, &mut source).await {
            Ok(entry) => entry,
            Err(error) => return Err(running.failed(error).await),
        };
        Ok(FileWritten {
            workspace_id: running.home.id(),
            path: shown(&plain),
            size_bytes: entry.size,
            bytes_written: source.count,
            execution_mode: EXECUTION_MODE,
        })
    }
}

/// Whether so much of a file may be asked for.
pub(super) fn check_size(max_bytes: u64) -> Result<(), WorkspaceError> {
    match max_bytes {
        0..=MOST => Ok(()),
        _ => Err(WorkspaceError::TooMuch { what: "bytes of a file to be read at once", limit: MOST }),
    }
}

/// Reader that counts the bytes it passes on.
struct Counted<R> {
    source: R,
    count: u64,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = std::pin::Pin::new(&mut self.source).poll_read(cx, buffer);
        self.count += (buffer.filled().len() - before) as u64;
        polled
    }
}
