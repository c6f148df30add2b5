//! Booting a guest that becomes a template, and going on with it.

use std::fs::File;
use std::time::{Duration, Instant};

use pyro_vmm::{GuestMemory, MachineStart};

use super::{Remark, StartDisk, StartError, StartMethod, StartPlan, Started, first_line};
use crate::bug::Bug;
use crate::cause;
use crate::environment::DISK_BYTES;
use crate::hostfs::{CancelToken, free};
use crate::launch::{self, BootRequest, Booted, RootState};
use crate::template::{Maker, Saved, TemplateKind, TemplateLookup};
use crate::timeline::Step;

/// How long another start may at least take over the template before this one boots by itself. It takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that must be free before a template of a guest of this size is written: several times the template's size.
fn least_free(mem_mib: u32) -> u64 {
    (256 << 20) + (u64::from(mem_mib) << 20) / 16
}

impl StartPlan<'_> {
    /// Becomes the one who makes the template, or says why there cannot be one.
    pub(super) async fn maker(&self, tell: &mut (dyn FnMut(Remark) + Send)) -> Result<Maker, String> {
        let root = &self.config.template_dir;
        let (free, least) = (free(root), least_free(self.shape.mem_mib));
        if free < least {
            let (free, least) = (free >> 20, least >> 20);
            return Err(format!("{free} MiB are free on {}, and {least} MiB should be", root.display()));
        }
        let (store, key) = (self.store.clone(), self.key.clone());
        let cancel = CancelToken::new();
        let on_drop = CancelOnDrop(cancel.clone());
        let (waits, mut waiting) = tokio::sync::oneshot::channel();
        let mut waits = Some(waits);
        #[expect(
            clippy::disallowed_methods,
            reason = "waited for beside another event; a bug in it costs the template"
        )]
        let mut made = tokio::task::spawn_blocking(move || {
            Maker::new(store, key, &cancel, &mut || {
                let _ = waits.take().map(|waits| waits.send(()));
            })
        });
        let made = tokio::select! {
            biased;
            made = &mut made => made,
            // A closed channel is no wait.
            Ok(()) = &mut waiting => {
                tell(Remark::Waiting);
                // As long as the maker's guest may take to boot, and to be saved; then this one boots by itself.
                let patience = self.boot_deadline().max(PATIENCE);
                match tokio::time::timeout(patience, &mut made).await {
                    Ok(made) => made,
                    Err(_) => {
                        return Err(format!(
                            "another start has been making it for {} s, and may be stopped",
                            patience.as_secs()
                        ));
                    }
                }
            }
        };
        drop(on_drop);
        match made {
            Ok(Ok(maker)) => Ok(maker),
            Ok(Err(error)) => Err(cause::chain(&error)),
            Err(ended) => Err(Bug::from(ended).to_string()),
        }
    }

    /// Boots a guest to be saved: its disk, and itself.
    async fn boot_for(&self, maker: &Maker) -> Result<(File, Booted), StartError> {
        let disk = match self.key.kind {
            TemplateKind::Fresh => self.environments.new_disk(&self.config.scratch_dir)?,
            // Nothing but holes: whatever a guest shows later cannot be from here.
            TemplateKind::Bare => {
                let disk = tempfile::tempfile_in(&self.config.scratch_dir).map_err(StartError::Disk)?;
                disk.set_len(DISK_BYTES).map_err(StartError::Disk)?;
                disk
            }
        };
        let kept = disk.try_clone().map_err(StartError::Disk)?;
        // Owned memory is faster to fault in than a file on a disk, where the VMM can run in it.
        let memory = if self.vmm.backend().owns_memory() {
            GuestMemory::Owned(maker.memory().map_err(StartError::Disk)?)
        } else {
            GuestMemory::Private
        };
        let deadline = self.boot_deadline();
        let root = if self.bare() { RootState::Later } else { RootState::Ready };
        let spec = self.spec(disk, memory, MachineStart::Cold, &[])?;
        let booted = match launch::boot(
            self.vmm,
            spec,
            &BootRequest { oneshot: false, ..self.wish(deadline, root) },
            self.timeline,
        )
        .await
        {
            Ok(booted) => booted,
            Err(error) => return Err(self.diagnose(error, deadline).await),
        };
        self.timeline.mark(Step::BuildBooted);
        Ok((kept, booted))
    }

    /// Boots a guest and saves it. What keeps the template from being made is told; without a guest to go on with there is
    /// nothing.
    pub(super) async fn boot_saved(
        &self,
        maker: Maker,
        tell: &mut (dyn FnMut(Remark) + Send),
    ) -> Result<Option<Saved>, StartError> {
        let (disk, booted) = self.boot_for(&maker).await?;
        let saved = maker.save(booted, disk, self.timeline).await;
        if let Err(error) = saved.as_ref().and_then(|saved| saved.outcome.as_ref()) {
            tell(Remark::NotSaved(cause::chain(error)));
        }
        Ok(saved.ok())
    }

    /// Boots, saves what has booted, and goes on with it.
    pub(super) async fn boot_and_save(
        &self,
        maker: Maker,
        tell: &mut (dyn FnMut(Remark) + Send),
    ) -> Result<Started, StartError> {
        let Some(saved) = self.boot_saved(maker, tell).await? else { return self.boot().await };
        if !matches!(self.request.disk, StartDisk::Blank) {
            // The saved machine's disk has no name and cannot be given the requested one.
            let _ = saved.machine.stop().await;
            if let TemplateLookup::Found(template) = self.store.find(&self.key)
                && let Ok(started) = self.restore(template).await?
            {
                return Ok(Started { how: StartMethod::Booted, ..started });
            }
            return self.boot().await;
        }
        let wish = self.wish(self.boot_deadline(), RootState::Ready);
        let again = launch::meet(saved.machine, saved.port, true, &wish, Instant::now(), self.timeline).await;
        match again {
            Ok(booted) => Ok(self.started(booted, StartMethod::Booted, pyro_vmm::tsc_khz())),
            Err(error) => {
                tell(Remark::NotSaved(format!(
                    "the guest did not go on after it was saved: {}",
                    first_line(&cause::chain(&error))
                )));
                self.boot().await
            }
        }
    }
}

struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
