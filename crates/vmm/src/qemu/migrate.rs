//! Saves and loads machines: QEMU's migration, into and out of a descriptor.
//!
//! ```text
//!   memory    mapped     what the state holds
//!   Private   private    devices and all of RAM
//!   Owned     shared     devices; RAM is in its file            (x-ignore-shared on)
//!   From      private    loaded: devices; saved again: devices and all of RAM, or, with a file beside it, devices
//! ```
//!
//! No migration can leave out memory that is mapped private. A command made for Xen saves a machine's devices alone:
//! it writes the last part of a migration, without the section that names the machine, so all our states omit that
//! section (`send-configuration=off`).
//!
//! `x-ignore-shared` changes the state's format, so load and save must agree: on when the saved machine owned its
//! memory file, off otherwise. The restored machine gets that file as `Owned` or `From`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::changes;
use super::control::MigrationStatus;
use super::handle::QemuHandle;
use crate::VmmError;

/// Longest save or load: 30 s, and the time to move all of RAM at 20 MiB/s.
fn deadline(mem_mib: u32) -> Duration {
    Duration::from_secs(30 + u64::from(mem_mib) / 20)
}

fn capability(name: &str, on: bool) -> Value {
    json!({ "capability": name, "state": on })
}

impl QemuHandle {
    /// Sends the first commands of every QEMU: turns on migration events, and says whether a state to load leaves
    /// memory out.
    pub(super) async fn negotiate(&self, memory_in_file: bool) -> Result<(), VmmError> {
        self.command("qmp_capabilities", Value::Null).await?;
        let capabilities = [capability("events", true), capability("x-ignore-shared", memory_in_file)];
        self.command("migrate-set-capabilities", json!({ "capabilities": capabilities })).await?;
        Ok(())
    }

    /// Loads `state` into a QEMU that was started with `-incoming defer`; the machine is paused afterwards.
    pub(super) async fn load(&mut self, state: File) -> Result<(), VmmError> {
        // Opened anew, because machines that load the same state at once would move each other's file position.
        let own = File::open(format!("/proc/self/fd/{}", state.as_raw_fd()))
            .map_err(|source| VmmError::Host { doing: "open the saved state", source })?;
        self.command_with("getfd", json!({ "fdname": "state" }), Some(own.into())).await?;
        self.migrate("migrate-incoming").await?;
        self.paused = true;
        Ok(())
    }

    pub(crate) async fn save(&mut self, state: File, memory: Option<File>) -> Result<(), VmmError> {
        if !self.paused {
            return Err(VmmError::NotPaused);
        }
        if let Some(memory) = memory {
            let Some(inode) = self.mapped else {
                return Err(VmmError::Spec(
                    "a machine that was started from no memory file saves into none".into(),
                ));
            };
            return self.save_changes(state, memory, inode).await;
        }
        let capabilities = [capability("x-ignore-shared", self.shares_memory)];
        self.command("migrate-set-capabilities", json!({ "capabilities": capabilities })).await?;
        // max-bandwidth 0 is unlimited; the default is meant for a network.
        self.command("migrate-set-parameters", json!({ "max-bandwidth": 0 })).await?;
        self.command_with("getfd", json!({ "fdname": "state" }), Some(state.into())).await?;
        self.migrate("migrate").await?;
        self.wait_until_saved().await
    }

    /// Saves the devices to `state`, and the changed pages of the memory file `inode` over `memory`.
    async fn save_changes(&mut self, state: File, memory: File, inode: u64) -> Result<(), VmmError> {
        // QEMU takes a descriptor out of a set only when its access is exactly the one asked for, here writing.
        let own = File::options().write(true).open(format!("/proc/self/fd/{}", state.as_raw_fd()));
        let own = own.map_err(|source| VmmError::Host { doing: "open the file for the state", source })?;
        let set = self.command_with("add-fd", Value::Null, Some(own.into())).await?;
        let Some(id) = set.get("fdset-id").and_then(Value::as_u64) else {
            return Err(VmmError::Refused { command: "add-fd", detail: "it names no set".into() });
        };
        let name = format!("/dev/fdset/{id}");
        let saved = self.command("xen-save-devices-state", json!({ "filename": name, "live": false })).await;
        self.command("remove-fd", json!({ "fdset-id": id })).await?;
        saved?;
        let (pid, length) = (self.pid(), self.shape.memory_bytes());
        let copied = tokio::task::spawn_blocking(move || changes::copy(pid, inode, length, &memory));
        let copied = copied.await.map_err(std::io::Error::other).flatten();
        copied.map(drop).map_err(|source| VmmError::Host { doing: "copy the guest's memory", source })
    }

    /// Waits until a machine whose save is complete may be resumed, which QEMU allows only a moment after it reports
    /// completion. No event tells, so the status is asked every millisecond.
    async fn wait_until_saved(&self) -> Result<(), VmmError> {
        let allowed = async {
            loop {
                let status = self.command("query-status", Value::Null).await?;
                if status.get("status").and_then(Value::as_str) != Some("finish-migrate") {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        self.bounded("migrate", deadline(self.shape.mem_mib), allowed).await
    }

    /// Runs one migration, out or in, to its end.
    async fn migrate(&self, command: &'static str) -> Result<(), VmmError> {
        let mut status = self.migration();
        status.mark_unchanged();
        self.command(command, json!({ "uri": "fd:state" })).await?;
        let over = async {
            while status.changed().await.is_ok() {
                let now = *status.borrow_and_update();
                match now {
                    MigrationStatus::Going => {}
                    MigrationStatus::Completed => return Ok(()),
                    MigrationStatus::Failed => return Err(self.migration_error(command).await),
                }
            }
            // The control task ended with the process; `bounded` reports the death.
            std::future::pending().await
        };
        self.bounded(command, deadline(self.shape.mem_mib), over).await
    }

    async fn migration_error(&self, command: &'static str) -> VmmError {
        match self.command("query-migrate", Value::Null).await {
            Ok(status) => {
                let detail =
                    status.get("error-desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
                VmmError::Refused { command, detail }
            }
            Err(error) => error,
        }
    }
}
