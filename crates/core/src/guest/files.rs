//! Files of the workspace, one at a time or several as one change; secrets.

use pyro_proto::message::{Bytes, FileBatch, FileEntry, MAX_ENTRIES, Reply, Request};
use tokio::io::AsyncRead;

use super::call::Download;
use super::{Guest, GuestError};

const ELSE: &str = "the reply belongs to another call";
/// Most bytes that the paths of a listing may have together.
pub(super) const MOST_TEXT: usize = 64 * 1024 * 1024;

impl Guest {
    /// What is in a directory of the workspace, with `recursive` also in those below it, in order; and whether there
    /// is more than may be told (100,000 entries). Paths are as the guest says them: good for showing, not for use here.
    pub async fn file_list(
        &self,
        path: &[u8],
        recursive: bool,
    ) -> Result<(Vec<FileEntry>, bool), GuestError> {
        let request = Request::FileList { path: path.into(), recursive };
        let (mut call, _write) = self.begin("a listing", &request).await?;
        let (mut all, mut text) = (Vec::new(), 0);
        loop {
            match call.reply().await? {
                Reply::Entries(entries) => {
                    text += entries
                        .iter()
                        .map(|entry| entry.path.0.len() + entry.target.as_ref().map_or(0, |to| to.0.len()))
                        .sum::<usize>();
                    all.extend(entries);
                    if all.len() as u64 > MAX_ENTRIES || text > MOST_TEXT {
                        return Err(call.unexpected("it lists more than may be"));
                    }
                }
                Reply::Listed { truncated } => return Ok((all, truncated)),
                _ => return Err(call.unexpected(ELSE)),
            }
        }
    }

    /// What a path of the workspace is; a link at its end is not followed.
    pub async fn file_stat(&self, path: &[u8]) -> Result<FileEntry, GuestError> {
        stat(
            "a look at a file",
            self.call("a look at a file", &Request::FileStat { path: path.into() }).await?,
        )
    }

    /// The content of a regular file, from byte `offset` on, at most `limit` bytes.
    pub async fn file_read(&self, path: &[u8], offset: u64, limit: u64) -> Result<FileContent, GuestError> {
        let what = "a file's content";
        let request = Request::FileRead { path: path.into(), offset, limit };
        let (mut call, write) = self.begin(what, &request).await?;
        let entry = stat(what, call.reply().await?)?;
        Ok(FileContent { entry, bytes: Download::new(call, write, limit) })
    }

    /// Makes a file, or replaces its content at once, by all of `source`. Without `mode` it keeps the permissions that
    /// it has, or gets 0644; with `parents` missing directories above it are made.
    pub async fn file_write(
        &self,
        path: &[u8],
        mode: Option<u32>,
        parents: bool,
        source: impl AsyncRead + Unpin,
    ) -> Result<FileEntry, GuestError> {
        let what = "a file to be written";
        let request = Request::FileWrite { path: path.into(), mode, parents };
        stat(what, self.upload(what, &request, source, |_| {}).await?)
    }

    /// Makes all changes of `batch` or none. `contents` are those of its writes, one after the other.
    pub async fn file_batch(
        &self,
        batch: FileBatch,
        contents: impl AsyncRead + Unpin,
    ) -> Result<(), GuestError> {
        let what = "a change of several files";
        match self.upload(what, &Request::FileBatch(batch), contents, |_| {}).await? {
            Reply::Done => Ok(()),
            _ => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }

    /// Keeps a secret in the guest's memory, as `/run/pyro-secrets/NAME`.
    pub async fn secret_put(&self, name: &str, bytes: &[u8]) -> Result<(), GuestError> {
        let request = Request::SecretPut { name: name.to_owned(), bytes: Bytes::from(bytes) };
        self.done("a secret", &request).await
    }

    /// A call that may take as long as its guest is alive.
    pub(super) async fn finished(&self, what: &'static str, request: &Request) -> Result<(), GuestError> {
        let (mut call, _write) = self.begin(what, request).await?;
        match call.reply().await? {
            Reply::Done => Ok(()),
            _ => Err(call.unexpected(ELSE)),
        }
    }
}

fn stat(what: &'static str, reply: Reply) -> Result<FileEntry, GuestError> {
    match reply {
        Reply::Stat(entry) => Ok(entry),
        _ => Err(GuestError::Unexpected { what, why: ELSE }),
    }
}

/// A file's content on its way.
pub struct FileContent {
    /// What it is, as the guest says: its size need not be what comes.
    pub entry: FileEntry,
    /// The content.
    pub bytes: Download,
}
