//! Files of the workspace, one at a time or several as one change; secrets.

use pyro_proto::message::{Bytes, FileBatch, FileEntry, MAX_ENTRIES, Reply, Request};
use tokio::io::AsyncRead;

use super::call::Download;
use super::{Guest, GuestError};

const ELSE: &str = "the reply belongs to another call";
/// Most bytes that the paths of a listing may have together.
pub(super) const MOST_TEXT: usize = 64 * 1024 * 1024;

impl Guest {
    /// Lists a directory of the workspace, with `recursive` also those below it, in order; and whether there are more
    /// entries than may be listed (100,000). Paths come from the guest: good for showing, not for use on the host.
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

    /// Describes a path of the workspace; a link at its end is not followed.
    pub async fn file_stat(&self, path: &[u8]) -> Result<FileEntry, GuestError> {
        stat(
            "a look at a file",
            self.call("a look at a file", &Request::FileStat { path: path.into() }).await?,
        )
    }

    /// Reads the content of a regular file, from byte `offset` on, at most `limit` bytes.
    pub async fn file_read(&self, path: &[u8], offset: u64, limit: u64) -> Result<FileContent, GuestError> {
        let what = "a file's content";
        let request = Request::FileRead { path: path.into(), offset, limit };
        let (mut call, write) = self.begin(what, &request).await?;
        let entry = stat(what, call.reply().await?)?;
        Ok(FileContent { entry, bytes: Download::new(call, write, limit) })
    }

    /// Makes a file, or replaces its content in one step, by all of `source`. Without `mode` the file keeps its
    /// permissions, or gets 0644; with `parents` missing directories above it are made.
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

    /// Makes all changes of `batch` or none. `contents` are the contents of its writes, one after the other.
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

    /// Makes a call that may take as long as its guest is alive.
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

/// Download of a file's content.
pub struct FileContent {
    /// Description of the file, by the guest's word: its size need not be the length of the content.
    pub entry: FileEntry,
    /// Content of the file.
    pub bytes: Download,
}
