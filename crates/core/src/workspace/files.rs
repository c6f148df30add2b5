//! Files of a running workspace, one at a time: what is there, what is in it, and writing one.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::client::Workspaces;
use super::files_view::{FileEntry, FileList, FileRead, FileWritten};
use super::layout::Home;
use super::view::EXECUTION_MODE;
use super::{WORKSPACE_PATH, WorkspaceError, secrets};
use crate::failure::FailureKind;
use crate::keeper::{
    self, Answer, Asked, BYTES, Call, Channel, End, Entry, FileAsk, FileReply, ProtocolError,
};

/// How long a keeper may say nothing: it asks the guest for signs of life meanwhile.
const LONG: Duration = Duration::from_secs(1800);
/// Most bytes of a file that are read at once.
const MOST: u64 = 64 << 20;
/// Bytes that are sent at once.
const PIECE: usize = 128 << 10;

/// A call about files on its way.
pub(super) struct Talk {
    ear: Ear,
    writer: OwnedWriteHalf,
}

/// The listening half of it.
struct Ear {
    reader: OwnedReadHalf,
    body: Vec<u8>,
}

/// What a keeper says in one.
pub(super) enum Heard<'t> {
    Bytes(&'t [u8]),
    Reply(FileReply),
}

impl Ear {
    async fn next(&mut self) -> Result<Heard<'_>, WorkspaceError> {
        let heard = tokio::time::timeout(LONG, keeper::receive_frame(&mut self.reader, &mut self.body));
        let lost = |what| WorkspaceError::KeeperLost { what, log: None };
        match heard.await.map_err(|_| WorkspaceError::Silent)? {
            Ok(Some(BYTES)) => Ok(Heard::Bytes(&self.body)),
            Ok(Some(Channel::Message)) => {
                match serde_json::from_slice(&self.body).map_err(ProtocolError::Message)? {
                    Answer::Files { reply } => Ok(Heard::Reply(reply)),
                    Answer::Failed { fault } => Err(WorkspaceError::Told(fault)),
                    _ => Err(odd()),
                }
            }
            Ok(Some(_)) => Err(odd()),
            Ok(None) | Err(ProtocolError::Ended | ProtocolError::Io(_)) => Err(lost("ended during the call")),
            Err(error) => Err(error.into()),
        }
    }

    async fn reply(&mut self) -> Result<FileReply, WorkspaceError> {
        match self.next().await? {
            Heard::Reply(reply) => Ok(reply),
            Heard::Bytes(_) => Err(odd()),
        }
    }
}

impl Talk {
    /// What is said next.
    pub(super) async fn next(&mut self) -> Result<Heard<'_>, WorkspaceError> {
        self.ear.next().await
    }

    /// What is said next, where that is no bytes.
    pub(super) async fn reply(&mut self) -> Result<FileReply, WorkspaceError> {
        self.ear.reply().await
    }

    /// Sends all of `source`, and gives the reply to it.
    pub(super) async fn send(
        self,
        source: &mut (impl AsyncRead + Unpin),
    ) -> Result<FileReply, WorkspaceError> {
        let Self { mut ear, mut writer } = self;
        let feed = std::pin::pin!(async move {
            let mut buffer = vec![0; PIECE];
            loop {
                let n = source.read(&mut buffer).await?;
                let sent = match n {
                    0 => keeper::send(&mut writer, &End { end: true }).await,
                    n => keeper::send_frame(&mut writer, BYTES, &buffer[..n]).await,
                };
                // A keeper that takes no more has said why. The connection stays open: its end would cancel.
                if n == 0 || sent.is_err() {
                    return Ok::<_, std::io::Error>(writer);
                }
            }
        });
        let listen = std::pin::pin!(ear.reply());
        match select(listen, feed).await {
            Either::Left((reply, _)) => reply,
            Either::Right((Ok(_open), listen)) => listen.await,
            Either::Right((Err(source), _)) => Err(WorkspaceError::Source(source)),
        }
    }
}

/// A path below the workspace, plain: no `.`, no `..`, no slash at either end. Nothing is asked of the guest that is not.
pub(super) fn place(path: &Path) -> Result<Vec<u8>, WorkspaceError> {
    let outside = |why: &str| WorkspaceError::Path {
        kind: FailureKind::OutsideWorkspace,
        message: format!("{}: {why}", path.display()),
    };
    let below = match path.strip_prefix(WORKSPACE_PATH) {
        Ok(below) => below,
        Err(_) if path.is_absolute() => return Err(outside("is not in the workspace")),
        Err(_) => path,
    };
    let mut plain = PathBuf::new();
    for component in below.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => return Err(outside("a path may not contain `..`")),
        }
    }
    Ok(plain.into_os_string().into_encoded_bytes())
}

/// A path below the workspace as payloads show it.
pub(super) fn shown(path: &[u8]) -> String {
    match path {
        [] => WORKSPACE_PATH.to_owned(),
        path => format!("{WORKSPACE_PATH}/{}", String::from_utf8_lossy(path)),
    }
}

pub(super) fn id_of(home: &Home) -> String {
    home.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Workspaces {
    /// Begins a call about files.
    pub(super) async fn talk(&self, home: &Home, ask: FileAsk) -> Result<Option<Talk>, WorkspaceError> {
        let Some(conversation) = self.meet(home).await? else { return Ok(None) };
        let (reader, mut writer) = conversation.stream.into_split();
        keeper::send(&mut writer, &Asked::now(&Call::Files { ask })).await?;
        Ok(Some(Talk { ear: Ear { reader, body: Vec::new() }, writer }))
    }

    /// As [`Self::talk`], of a workspace that must run.
    pub(super) async fn running(&self, home: &Home, ask: FileAsk) -> Result<Talk, WorkspaceError> {
        self.talk(home, ask).await?.ok_or(WorkspaceError::Stopped)
    }

    /// What stands at a plain path; a link is not followed.
    pub(super) async fn stat(&self, home: &Home, path: &[u8]) -> Result<Entry, WorkspaceError> {
        match self.running(home, FileAsk::Stat { path: path.into() }).await?.reply().await? {
            FileReply::Entry { entry } => Ok(entry),
            _ => Err(odd()),
        }
    }

    /// What is in a directory, at most 100,000 entries; and whether there are more.
    pub(super) async fn entries(
        &self,
        home: &Home,
        path: &[u8],
        recursive: bool,
    ) -> Result<(Vec<Entry>, bool), WorkspaceError> {
        let mut talk = self.running(home, FileAsk::List { path: path.into(), recursive }).await?;
        let mut all = Vec::new();
        loop {
            match talk.reply().await? {
                FileReply::Entries { entries } => all.extend(entries),
                FileReply::Listed { truncated } => return Ok((all, truncated)),
                _ => return Err(odd()),
            }
        }
    }

    /// Reads a file from byte `offset` on, at most `limit` bytes, which `each` is given as they come.
    pub(super) async fn content(
        &self,
        home: &Home,
        path: &[u8],
        offset: u64,
        limit: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), WorkspaceError>,
    ) -> Result<Entry, WorkspaceError> {
        let mut talk = self.running(home, FileAsk::Read { path: path.into(), offset, limit }).await?;
        let FileReply::Entry { entry } = talk.reply().await? else { return Err(odd()) };
        loop {
            match talk.next().await? {
                Heard::Bytes(bytes) => each(bytes)?,
                Heard::Reply(FileReply::Done) => return Ok(entry),
                Heard::Reply(_) => return Err(odd()),
            }
        }
    }

    /// What is in a directory of the workspace, with `recursive` also in those below it; or one file.
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
        let home = self.find(given).await?;
        let redactor = secrets::redactor(&home)?;
        let (entries, truncated) = self.entries(&home, &plain, recursive).await?;
        Ok(FileList {
            workspace_id: id_of(&home),
            path: shown(&plain),
            recursive,
            entries: entries.into_iter().map(|entry| FileEntry::from(entry).redacted(&redactor)).collect(),
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
        let plain = place(path)?;
        let home = self.find(given).await?;
        let redactor = secrets::redactor(&home)?;
        let mut content = Vec::new();
        let each = |bytes: &[u8]| {
            content.extend_from_slice(bytes);
            Ok(())
        };
        // A secret that begins before the part, or ends after it, is one too.
        let reach = redactor.reach() as u64;
        let before = offset.min(reach);
        let wanted = before + max_bytes;
        let entry = self.content(&home, &plain, offset - before, wanted + reach, each).await?;
        let part = |end: u64| redactor.head(&content, usize::try_from(end).unwrap_or(usize::MAX)).0;
        let clean = part(wanted)[part(before).len()..].to_vec();
        let raw = content.get(before as usize..).unwrap_or_default();
        let raw = &raw[..raw.len().min(usize::try_from(max_bytes).unwrap_or(usize::MAX))];
        let redacted = clean != raw;
        let read = FileRead {
            workspace_id: id_of(&home),
            path: shown(&plain),
            size_bytes: entry.size,
            max_bytes,
            offset,
            content: String::from_utf8_lossy(&clean).into_owned(),
            truncated: entry.size > offset.saturating_add(raw.len() as u64),
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
        let home = self.find(given).await?;
        let ask = FileAsk::Write { path: plain.as_slice().into(), mode: None, parents: true };
        let mut source = Counted { source, count: 0 };
        let FileReply::Entry { entry } = self.running(&home, ask).await?.send(&mut source).await? else {
            return Err(odd());
        };
        Ok(FileWritten {
            workspace_id: id_of(&home),
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

/// What is read, counted.
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

pub(super) fn odd() -> WorkspaceError {
    WorkspaceError::KeeperLost { what: "gave the answer to another question", log: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_workspace() {
        for (given, wanted) in [
            ("/workspace", ""),
            ("/workspace/", ""),
            (".", ""),
            ("a//b/", "a/b"),
            ("./a", "a"),
            ("/workspace/a/./b", "a/b"),
        ] {
            assert_eq!(place(Path::new(given)).unwrap(), wanted.as_bytes(), "{given}");
        }
        for bad in ["/", "/etc/passwd", "..", "a/../b", "/workspace/../etc", "/workspaces", "/workspace2/x"] {
            assert!(place(Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!((shown(b"a/b"), shown(b"")), ("/workspace/a/b".into(), "/workspace".into()));
    }
}
