//! Save and load: QEMU's migration, into and out of a descriptor.
//!
//! ```text
//!   memory    mapped     what the state holds
//!   Private   private    devices and all of RAM
//!   Owned     shared     devices; RAM is in its file            (x-ignore-shared on)
//!   Filled    shared     loaded: devices and all of RAM; saved again: as Owned
//!   From      private    loaded: devices; saved again: devices and all of RAM
//! ```
//!
//! `x-ignore-shared` changes the state's format, so it must be the same at the load as it was at the save: on when the
//! saved machine owned its memory file, off otherwise. A machine is given back its file as `Owned` or `From`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::control::Migration;
use super::handle::Handle;
use crate::VmmError;

/// How long a save or load may take: 30 s, and what it takes to move all of RAM at 20 MiB/s.
fn deadline(mem_mib: u32) -> Duration {
    Duration::from_secs(30 + u64::from(mem_mib) / 20)
}

fn capability(name: &str, on: bool) -> Value {
    json!({ "capability": name, "state": on })
}

impl Handle {
    /// The first commands of every QEMU: what it may tell us, and what it leaves out when it loads.
    pub(super) async fn negotiate(&self, memory_in_file: bool) -> Result<(), VmmError> {
        self.command("qmp_capabilities", Value::Null).await?;
        let capabilities = [capability("events", true), capability("x-ignore-shared", memory_in_file)];
        self.command("migrate-set-capabilities", json!({ "capabilities": capabilities })).await?;
        Ok(())
    }

    /// Loads a state into a QEMU that was started to be given one.
    pub(super) async fn load(&mut self, state: File) -> Result<(), VmmError> {
        // A description of its own: machines that load the same state at once would move each other's position.
        let own = File::open(format!("/proc/self/fd/{}", state.as_raw_fd()))
            .map_err(|source| VmmError::Host { doing: "open the saved state", source })?;
        self.command_with("getfd", json!({ "fdname": "state" }), Some(own.into())).await?;
        self.migrate("migrate-incoming").await?;
        self.paused = true;
        Ok(())
    }

    pub(crate) async fn save(&mut self, state: File, memory: Option<File>) -> Result<(), VmmError> {
        if memory.is_some() {
            return Err(VmmError::Spec(
                "this VMM saves memory into the state or leaves it in its file".into(),
            ));
        }
        if !self.paused {
            return Err(VmmError::NotPaused);
        }
        let capabilities = [capability("x-ignore-shared", self.shares_memory)];
        self.command("migrate-set-capabilities", json!({ "capabilities": capabilities })).await?;
        // Unlimited: the default is what a network would bear.
        self.command("migrate-set-parameters", json!({ "max-bandwidth": 0 })).await?;
        self.command_with("getfd", json!({ "fdname": "state" }), Some(state.into())).await?;
        self.migrate("migrate").await?;
        self.saved_for_good().await
    }

    /// Waits until a machine whose migration is complete may go on: QEMU says the one a moment before it allows the other.
    async fn saved_for_good(&self) -> Result<(), VmmError> {
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

    /// Runs one migration to its end.
    async fn migrate(&self, command: &'static str) -> Result<(), VmmError> {
        let mut status = self.migration();
        status.mark_unchanged();
        self.command(command, json!({ "uri": "fd:state" })).await?;
        let over = async {
            while status.changed().await.is_ok() {
                let now = *status.borrow_and_update();
                match now {
                    Migration::Going => {}
                    Migration::Completed => return Ok(()),
                    Migration::Failed => return Err(self.why_failed(command).await),
                }
            }
            // The task ended: so did the process, and the bound around this says how.
            std::future::pending().await
        };
        self.bounded(command, deadline(self.shape.mem_mib), over).await
    }

    async fn why_failed(&self, command: &'static str) -> VmmError {
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
