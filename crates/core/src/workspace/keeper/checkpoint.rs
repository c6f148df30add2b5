//! Checkpoints: a guest's memory, kept with its disk of the same moment.
//!
//! ```text
//!   its stream is a port     pause -> copy the disk, save -> resume               nobody else notices
//!   it is a connection       nobody may use it -> detach -> the same -> connect   a save breaks connections: shells
//!                                                                                 and services are followed on after
//! ```
//!
//! Nothing is frozen: memory and disk are of one moment, also where the guest was about to write.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_formats::hostfs::dig_holes;
use pyro_vmm::{Machine, MemoryFileUse};

use crate::cause;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::keeper::Keeper;
use crate::workspace::keeper::machine::Engine;
use crate::workspace::keeper::snapshot::{vmm, within};
use crate::workspace::store::disk::Draft;

/// How long a guest may take to end its session.
const SESSION: Duration = Duration::from_secs(15);

impl Keeper {
    /// Copies memory and disk of one moment. How long the guest stood still for that.
    pub(super) async fn copy_with_memory(
        self: &Arc<Self>,
        name: &str,
        passing: bool,
    ) -> Result<Duration, WorkspaceError> {
        let mut slot = self.engine.lock().await;
        let engine = slot.as_mut().ok_or(WorkspaceError::Stopped)?;
        let origin = serde_json::to_vec(&engine.origin).unwrap_or_default();
        let draft = |path: PathBuf| Draft::new(&path).map(|draft| draft.passing(passing));
        let (key, jobs) = (draft(self.home.memory_key(name))?, draft(self.home.memory_jobs(name))?);
        let (memory, ram) = (draft(self.home.memory(name))?, || draft(self.home.ram(name)));
        let mut saving = prepare_memory(engine, memory, ram).await?;
        let running = self.jobs_to_keep()?;
        let (copy, paused) = if engine.machine.backend().has_port() {
            self.stand_still(name, engine, &mut saving).await?
        } else {
            let alone = self.connection.try_write().map_err(|_| WorkspaceError::Used)?;
            let done = match self.part(engine).await {
                Ok(()) => self.stand_still(name, engine, &mut saving).await,
                Err(error) => Err(error),
            };
            if let Err(error) = self.meet_again(engine, SESSION).await {
                // Nobody can reach it any more.
                self.lose_guest(&mut slot, &cause::chain(&error));
                return Err(done.err().unwrap_or(error));
            }
            drop(alone);
            done?
        };
        blocking(move || {
            key.file().write_all(&origin).map_err(WorkspaceError::Copy)?;
            jobs.file().write_all(&running).map_err(WorkspaceError::Copy)?;
            let Saving { memory, ram, beside } = saving;
            if let (Some(ram), MemoryFileUse::All) = (&ram, beside) {
                dig_holes(ram.file()).map_err(WorkspaceError::Copy)?;
            }
            let all = [Some(key), Some(jobs), ram, Some(memory), Some(copy)];
            all.into_iter().flatten().try_for_each(Draft::finish)?;
            Ok(paused)
        })
        .await
    }

    /// Saves and copies while the guest does nothing.
    async fn stand_still(
        &self,
        name: &str,
        engine: &mut Engine,
        saving: &mut Saving,
    ) -> Result<(Draft, Duration), WorkspaceError> {
        let begin = Instant::now();
        engine.machine.pause().await.map_err(vmm)?;
        let (saved, copy) = tokio::join!(saving.save(&mut engine.machine), self.fill(name));
        engine.machine.resume().await.map_err(vmm)?;
        let paused = begin.elapsed();
        if let Some(why) = saved? {
            (self.log)(&format!("all of memory was written: {why}"));
        }
        Ok((copy?, paused))
    }

    /// Ends the session, so that the guest, here and wherever else it goes on, listens for another.
    async fn part(&self, engine: &Engine) -> Result<(), WorkspaceError> {
        self.unfollow_jobs();
        let handle = &engine.handle;
        within(handle, "end its session", SESSION, handle.guest.clone().detach()).await
    }
}

/// The files for a guest's memory, with all in them that can be there while it still runs.
async fn prepare_memory(
    engine: &Engine,
    memory: Draft,
    ram: impl FnOnce() -> Result<Draft, WorkspaceError>,
) -> Result<Saving, WorkspaceError> {
    let beside = engine.machine.memory_file_use();
    let mapped = engine.memory.as_ref().map(own).transpose()?;
    match (beside, mapped) {
        (MemoryFileUse::Nothing, _) | (MemoryFileUse::Changes, None) => {
            Ok(Saving { memory, ram: None, beside })
        }
        (MemoryFileUse::All, _) => Ok(Saving { memory, ram: Some(ram()?), beside }),
        (MemoryFileUse::Changes, Some(mapped)) => {
            let ram = ram()?;
            blocking(move || {
                ram.fill(&mapped)?;
                Ok(Saving { memory, ram: Some(ram), beside })
            })
            .await
        }
    }
}

/// Where a guest's memory goes: with its devices, or beside them.
struct Saving {
    memory: Draft,
    ram: Option<Draft>,
    beside: MemoryFileUse,
}

impl Saving {
    /// Saves a machine that is paused. Where what it changed cannot be had, as on a host that lets nobody look at a
    /// process's memory, all of it goes with its devices, which takes a second for each GiB; says why then.
    async fn save(&mut self, machine: &mut Machine) -> Result<Option<String>, WorkspaceError> {
        let failed = |error| WorkspaceError::Save(Box::new(error));
        let mut why = None;
        if let Some(ram) = &self.ram {
            match machine.save(own(self.memory.file())?, Some(own(ram.file())?)).await {
                Ok(()) => return Ok(None),
                Err(error) if self.beside == MemoryFileUse::All => return Err(failed(error)),
                Err(error) => why = Some(cause::chain(&error)),
            }
            self.ram = None;
            self.memory.file().set_len(0).map_err(WorkspaceError::Copy)?;
        }
        machine.save(own(self.memory.file())?, None).await.map_err(failed)?;
        Ok(why)
    }
}

fn own(file: &File) -> Result<File, WorkspaceError> {
    file.try_clone().map_err(WorkspaceError::Copy)
}
