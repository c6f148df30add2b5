//! The history of commands from a front end's side.

use super::Workspaces;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::store::history::LogReader;
use crate::workspace::store::view::Logs;

impl Workspaces {
    /// The history, or only its last `tail` commands, to be read one by one: however long it is, one is in memory.
    ///
    /// # Errors
    /// When there is no such workspace, or it cannot be read.
    pub async fn read_logs(&self, given: &str, tail: Option<u64>) -> Result<LogReader, WorkspaceError> {
        let home = self.find(given).await?;
        blocking(move || LogReader::new(home, tail)).await
    }

    /// The history, or only its last `tail` commands, with what was kept of each one's output; at most
    /// [`crate::workspace::Bounds::ALL`].
    ///
    /// # Errors
    /// As [`Self::read_logs`].
    pub async fn logs(&self, given: &str, tail: Option<u64>) -> Result<Logs, WorkspaceError> {
        let mut reader = self.read_logs(given, tail).await?;
        blocking(move || {
            let mut entries = Vec::new();
            while let Some(entry) = reader.next_entry()? {
                entries.push(entry);
            }
            Ok(Logs { head: reader.head().clone(), entries })
        })
        .await
    }
}
