//! Trees of the workspace, as tar archives.

use pyro_proto::message::{Reply, Request, TreePut, TreeTotals};
use tokio::io::AsyncRead;

use super::call::Download;
use super::{Guest, GuestError};

const ELSE: &str = "the reply belongs to another call";

impl Guest {
    /// Unpacks `archive`, an uncompressed tar, below a directory of the workspace: all of it, or nothing. `progress`
    /// gets the totals unpacked so far, about every MiB.
    pub async fn tree_put(
        &self,
        put: TreePut,
        archive: impl AsyncRead + Unpin,
        progress: impl FnMut(TreeTotals),
    ) -> Result<TreeTotals, GuestError> {
        let what = "a tree to be unpacked";
        match self.upload(what, &Request::TreePut(put), archive, progress).await? {
            Reply::Put(amount) => Ok(amount),
            _ => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }

    /// Packs a file or directory of the workspace as an uncompressed tar archive, at most `most` bytes of it. The first
    /// entry has the last name of `path`; the archive of the workspace itself has only its content. The bytes come from
    /// the guest: they must be checked like any other archive of a stranger.
    pub async fn tree_get(&self, path: &[u8], most: u64) -> Result<Download, GuestError> {
        let (call, write) = self.begin("a tree", &Request::TreeGet { path: path.into() }).await?;
        Ok(Download::new(call, write, most))
    }
}

impl Download {
    /// Totals of a tree that has come to its end, and the number of sockets, pipes and devices left out.
    pub fn tree(&self) -> Option<(TreeTotals, u64)> {
        match self.last() {
            Some(Reply::Got { sent, skipped }) => Some((*sent, *skipped)),
            _ => None,
        }
    }

    /// Whether a file's content has come to its end.
    pub fn is_whole(&self) -> bool {
        matches!(self.last(), Some(Reply::Done | Reply::Got { .. }))
    }
}
