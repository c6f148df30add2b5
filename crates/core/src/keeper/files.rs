//! What is asked of a workspace's files: the keeper passes it on to the guest, and counts it as activity.
//!
//! ```text
//!   Write, Batch, Put    bytes follow the call, then the message [`End`]; one reply
//!   Read, Get            bytes come back, then one reply; Read's first reply comes before the bytes
//!   List, Scan           replies with a part each, then the last
//!   Hold                 one reply; the disk of the stopped workspace is left alone until the connection ends
//! ```
//!
//! A front end that closes its connection abandons the call, and the guest undoes what it had not finished.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use pyro_proto::message::{Bytes, FileBatch, FileOp, TreePut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::exec::Chunk;
use super::life::{Ask, Phase};
use super::machine::Handle;
use super::protocol::{self, Answer, Channel, MAX_CHUNK};
use super::{Keeper, serve};
use crate::guest::{Download, GuestError};
use crate::workspace::WorkspaceError;

/// The channel that a file's bytes are on, in both directions.
pub(crate) const BYTES: Channel = Channel::Stdout;
/// Entries of a listing in one message: with the longest paths it is less than a message may have.
const BATCH: usize = 100;

/// A path or a link's target, which need not be text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

impl Name {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        OsString::from_vec(self.bytes().to_vec()).into()
    }

    fn wire(&self) -> Bytes {
        Bytes::from(self.bytes())
    }
}

impl From<Vec<u8>> for Name {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Text)
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum FileAsk {
    List { path: Name, recursive: bool },
    Stat { path: Name },
    Read { path: Name, offset: u64, limit: u64 },
    Write { path: Name, mode: Option<u32>, parents: bool },
    Batch { edits: Vec<Edit>, prune: bool },
    Put { dest: Name, max_entries: u64, max_bytes: u64 },
    Get { path: Name, max_bytes: u64 },
    Scan,
    Hold,
}

/// One change of several that are made together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case")]
pub enum Edit {
    Write { path: Name, len: u64, mode: Option<u32> },
    Link { path: Name, target: Name },
    Delete { path: Name },
}

/// What is replied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum FileReply {
    Entries { entries: Vec<Entry> },
    Listed { truncated: bool },
    Entry { entry: Entry },
    Done,
    Got { skipped: u64 },
    Changes { changes: Vec<Change> },
    Scanned { entries: u64 },
    Held,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub path: Name,
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
    pub mtime_ns: i64,
    pub target: Option<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

/// A difference from the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub path: Name,
    /// Whether only the content can tell that there is one.
    pub touched: bool,
    pub before: Option<State>,
    pub after: Option<State>,
}

/// What is compared of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
}

/// All bytes of a call have been sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct End {
    pub end: bool,
}

impl From<pyro_proto::message::FileKind> for Kind {
    fn from(kind: pyro_proto::message::FileKind) -> Self {
        use pyro_proto::message::FileKind;
        match kind {
            FileKind::File => Self::File,
            FileKind::Directory => Self::Directory,
            FileKind::Link => Self::Symlink,
            FileKind::Other => Self::Other,
        }
    }
}

impl From<pyro_proto::message::FileEntry> for Entry {
    fn from(entry: pyro_proto::message::FileEntry) -> Self {
        Self {
            path: entry.path.0.into(),
            kind: entry.kind.into(),
            mode: entry.mode & 0o7777,
            size: entry.size,
            mtime_ns: entry.mtime_ns,
            target: entry.target.map(|target| target.0.into()),
        }
    }
}

impl From<pyro_proto::message::FileChange> for Change {
    fn from(change: pyro_proto::message::FileChange) -> Self {
        let state = |state: pyro_proto::message::FileState| State {
            kind: state.kind.into(),
            mode: state.mode & 0o7777,
            size: state.size,
        };
        Self {
            path: change.path.0.into(),
            touched: change.kind == pyro_proto::message::FileChangeKind::Touched,
            before: change.before.map(state),
            after: change.after.map(state),
        }
    }
}

/// The guest is being used, until this is dropped.
struct UsingGuest<'k> {
    keeper: &'k Keeper,
    handle: Handle,
}

impl Drop for UsingGuest<'_> {
    fn drop(&mut self) {
        self.keeper.done(Ask::Use, true);
    }
}

impl UsingGuest<'_> {
    /// Says of a call that broke off whether the guest is still there.
    fn failed(&self, error: GuestError) -> WorkspaceError {
        match error {
            GuestError::Failed(failure) => WorkspaceError::of_guest(&failure),
            error => match self.handle.watch.try_ended() {
                Some(death) => WorkspaceError::GuestEnded(death.to_string()),
                None => WorkspaceError::Guest { what: "do what it was asked", source: error },
            },
        }
    }
}

/// Whoever asked is gone.
struct Gone;

impl Keeper {
    fn using_guest(&self) -> Result<UsingGuest<'_>, WorkspaceError> {
        self.admit(Ask::Use)?;
        match self.handle() {
            Some(handle) => Ok(UsingGuest { keeper: self, handle }),
            None => {
                self.done(Ask::Use, true);
                Err(WorkspaceError::Stopped)
            }
        }
    }

    /// What only says something: parts and bytes go to `chunks`.
    async fn tell(&self, ask: FileAsk, chunks: mpsc::Sender<Chunk>) -> Result<Answer, WorkspaceError> {
        let using = self.using_guest()?;
        let guest = &using.handle.guest;
        let failed = |error| using.failed(error);
        let reply = match ask {
            FileAsk::List { path, recursive } => {
                let (entries, truncated) = guest.file_list(path.bytes(), recursive).await.map_err(failed)?;
                let mut entries = entries.into_iter().map(Entry::from).peekable();
                while entries.peek().is_some() {
                    let entries = entries.by_ref().take(BATCH).collect();
                    part(&chunks, FileReply::Entries { entries }).await?;
                }
                FileReply::Listed { truncated }
            }
            FileAsk::Stat { path } => {
                FileReply::Entry { entry: guest.file_stat(path.bytes()).await.map_err(failed)?.into() }
            }
            FileAsk::Read { path, offset, limit } => {
                let content = guest.file_read(path.bytes(), offset, limit).await.map_err(failed)?;
                part(&chunks, FileReply::Entry { entry: content.entry.into() }).await?;
                let mut bytes = content.bytes;
                pass_on(&mut bytes, &chunks, &failed).await?;
                FileReply::Done
            }
            FileAsk::Get { path, max_bytes } => {
                let mut tree = guest.tree_get(path.bytes(), max_bytes).await.map_err(failed)?;
                pass_on(&mut tree, &chunks, &failed).await?;
                FileReply::Got { skipped: tree.tree().map_or(0, |(_, skipped)| skipped) }
            }
            FileAsk::Scan => {
                let manifest = self.books().record.manifest.clone();
                let scanned = guest.diff_scan(manifest.as_deref()).await;
                let (changes, entries) = scanned.map_err(failed)?;
                let mut changes = changes.into_iter().map(Change::from).peekable();
                while changes.peek().is_some() {
                    let changes = changes.by_ref().take(BATCH).collect();
                    part(&chunks, FileReply::Changes { changes }).await?;
                }
                FileReply::Scanned { entries }
            }
            FileAsk::Write { .. } | FileAsk::Batch { .. } | FileAsk::Put { .. } | FileAsk::Hold => {
                return Err(protocol::ProtocolError::Ended.into());
            }
        };
        Ok(Answer::Files { reply })
    }

    /// What takes bytes.
    async fn take(&self, ask: FileAsk, bytes: DuplexStream) -> Result<Answer, WorkspaceError> {
        let using = self.using_guest()?;
        let guest = &using.handle.guest;
        let failed = |error| using.failed(error);
        let reply = match ask {
            FileAsk::Write { path, mode, parents } => {
                let entry = guest.file_write(path.bytes(), mode, parents, bytes).await;
                FileReply::Entry { entry: entry.map_err(failed)?.into() }
            }
            FileAsk::Batch { edits, prune } => {
                let op = |edit: Edit| match edit {
                    Edit::Write { path, len, mode } => FileOp::Write { path: path.wire(), len, mode },
                    Edit::Link { path, target } => FileOp::Link { path: path.wire(), target: target.wire() },
                    Edit::Delete { path } => FileOp::Delete { path: path.wire() },
                };
                let batch = FileBatch { ops: edits.into_iter().map(op).collect(), prune };
                guest.file_batch(batch, bytes).await.map_err(failed)?;
                FileReply::Done
            }
            FileAsk::Put { dest, max_entries, max_bytes } => {
                let put = TreePut { dest: dest.wire(), max_entries, max_bytes };
                guest.tree_put(put, bytes, |_| {}).await.map_err(failed)?;
                FileReply::Done
            }
            _ => return Err(protocol::ProtocolError::Ended.into()),
        };
        Ok(Answer::Files { reply })
    }
}

async fn part(chunks: &mpsc::Sender<Chunk>, reply: FileReply) -> Result<(), WorkspaceError> {
    let answer = serde_json::to_vec(&Answer::Files { reply }).map_err(protocol::ProtocolError::Message)?;
    chunks.send((Channel::Message, answer)).await.map_err(|_| protocol::ProtocolError::Ended.into())
}

/// Sends all bytes of a download on, no faster than they are read.
async fn pass_on(
    bytes: &mut Download,
    chunks: &mpsc::Sender<Chunk>,
    failed: &impl Fn(GuestError) -> WorkspaceError,
) -> Result<(), WorkspaceError> {
    while let Some(piece) = bytes.next().await.map_err(failed)? {
        for piece in piece.chunks(MAX_CHUNK) {
            chunks.send((BYTES, piece.to_vec())).await.map_err(|_| protocol::ProtocolError::Ended)?;
        }
    }
    Ok(())
}

/// Answers one call; `None` when the front end is gone.
pub(super) async fn call(
    keeper: &Arc<Keeper>,
    ask: FileAsk,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> Option<Result<Answer, WorkspaceError>> {
    match ask {
        FileAsk::Hold => hold(keeper, reader, writer).await,
        FileAsk::Write { .. } | FileAsk::Batch { .. } | FileAsk::Put { .. } => {
            let (pipe, bytes) = tokio::io::duplex(MAX_CHUNK);
            tokio::select! {
                biased;
                answer = keeper.take(ask, bytes) => Some(answer),
                Gone = receive(reader, pipe) => None,
            }
        }
        ask => {
            let (chunks, output) = mpsc::channel(serve::AHEAD);
            serve::stream_output(keeper.tell(ask, chunks), output, reader, writer).await
        }
    }
}

/// Passes on what the front end sends, and notices when it is gone. What is taken no more is thrown away.
async fn receive(reader: &mut OwnedReadHalf, pipe: DuplexStream) -> Gone {
    let mut pipe = Some(pipe);
    let mut body = Vec::new();
    loop {
        match protocol::receive_frame(reader, &mut body).await {
            Ok(Some(BYTES)) => {
                if let Some(to) = &mut pipe
                    && to.write_all(&body).await.is_err()
                {
                    pipe = None;
                }
            }
            // All of it has come: the end of the pipe says so.
            Ok(Some(Channel::Message)) if serde_json::from_slice::<End>(&body).is_ok() => pipe = None,
            _ => return Gone,
        }
    }
}

/// Leaves the disk of a stopped workspace alone until the front end, which reads it, is gone.
async fn hold(
    keeper: &Keeper,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> Option<Result<Answer, WorkspaceError>> {
    if keeper.life().phase() != Phase::Stopped {
        return Some(Err(WorkspaceError::Runs));
    }
    if let Err(error) = keeper.admit(Ask::Snapshot) {
        return Some(Err(error));
    }
    let told = protocol::send(writer, &Answer::Files { reply: FileReply::Held }).await;
    let mut byte = [0];
    while told.is_ok() && reader.read(&mut byte).await.is_ok_and(|n| n > 0) {}
    keeper.done(Ask::Snapshot, false);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_bytes_that_are_no_text() {
        for bytes in [&b"a/b"[..], b"\xff\n", b""] {
            let json = serde_json::to_string(&Name::from(bytes)).unwrap();
            assert_eq!(serde_json::from_str::<Name>(&json).unwrap().bytes(), bytes, "{json}");
        }
    }

    #[test]
    fn the_longest_listing_fits_into_a_message() {
        let name = || Name::from(&[0xff; pyro_proto::message::MAX_PATH][..]);
        let entry = || Entry {
            path: name(),
            kind: Kind::Symlink,
            mode: 0o7777,
            size: u64::MAX,
            mtime_ns: i64::MIN,
            target: Some(name()),
        };
        let reply = FileReply::Entries { entries: (0..BATCH).map(|_| entry()).collect() };
        let length = serde_json::to_vec(&Answer::Files { reply }).unwrap().len();
        assert!(length < protocol::MAX_MESSAGE, "{length}");
    }
}
