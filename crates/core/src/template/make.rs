//! From a booted guest to a template: warm it, end the session, pause it, save it, write it down, give it its name.
//!
//! The guest is whole afterwards: whoever had it booted may resume it and go on.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use pyro_vmm::{Machine, MemoryFileUse, VmmError};
use rustix::fs::MemfdFlags;

use super::store::{DISK, Draft, MEMORY, STATE};
use super::{TemplateKey, TemplateKind, Templates};
use crate::bug::{Bug, blocking};
use crate::command::{self, CommandError, CommandLine, CommandOptions, Streams};
use crate::guest::GuestError;
use crate::hostfs::lock::Lock;
use crate::hostfs::{CancelToken, HostFsError, publish};
use crate::launch::Booted;
use crate::timeline::{Step, Timeline};
use pyro_formats::hostfs::{copy_sparse, dig_holes};

/// How long the shell that warms a guest may take. What it would say does not matter.
const WARM_DEADLINE: Duration = Duration::from_secs(20);
/// How long a guest gets to be back at listening once it has ended its session, before it is paused: what is left to
/// do then is done anew by every guest that is restored.
const SETTLE: Duration = Duration::from_millis(30);

/// Why a booted guest is no template. It may still be of use itself.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Files of the template cannot be made.
    #[error(transparent)]
    Files(#[from] HostFsError),
    /// Writing them failed.
    #[error("it cannot be written")]
    Write(#[source] io::Error),
    /// The shell in it failed.
    #[error("its shell cannot be run")]
    Warm(#[source] CommandError),
    /// The guest would not end its session.
    #[error("its guest does not listen")]
    Detach(#[source] GuestError),
    /// A fault of pyro itself.
    #[error(transparent)]
    Bug(#[from] Bug),
    /// The VMM would not pause or save it.
    #[error("the virtual machine monitor does not save it")]
    Vmm(#[source] VmmError),
}

/// Whoever makes the template of one key: alone, for as long as this lives.
pub(crate) struct Maker {
    templates: Templates,
    key: TemplateKey,
    _lock: Lock,
    /// Guest memory while the guest boots: a file without a name, faster to fault in than one on a disk.
    memory: File,
}

/// A guest that was saved, or not: paused, its session ended.
pub(crate) struct Saved {
    /// The paused VMM.
    pub machine: Machine,
    /// The port on which its agent listens, if it has one.
    pub port: Option<UnixStream>,
    /// Whether the template is there now.
    pub outcome: Result<(), SaveError>,
}

/// Removes a directory when it is dropped before the work in it is over.
struct Abandoned(Option<PathBuf>);

impl Abandoned {
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            // Under another name first: who still writes finds nothing there any more, and nothing to publish. What cannot be
            // removed now is swept by the next maker.
            if publish::discard(dir).is_err() {
                // No room for another name, or gone already.
                let _ = std::fs::remove_dir_all(dir);
            }
        }
    }
}

impl Maker {
    /// Waits for whoever makes it already, calling `waiting` once. Blocks; the token ends the wait.
    pub(crate) fn new(
        templates: Templates,
        key: TemplateKey,
        cancel: &CancelToken,
        waiting: &mut dyn FnMut(),
    ) -> Result<Self, SaveError> {
        let lock = templates.lock(&key, cancel, waiting)?;
        let memory = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|errno| SaveError::Write(errno.into()))?;
        Ok(Self { templates, key, _lock: lock, memory: File::from(memory) })
    }

    /// Removes what was found to be of no use; not what somebody else made since.
    pub(crate) fn discard(&self, inode: Option<u64>) {
        self.templates.discard(&self.key, inode);
    }

    /// The file to boot the guest's memory in.
    pub(crate) fn memory(&self) -> io::Result<File> {
        self.memory.try_clone()
    }

    /// Saves the guest, whose memory is [`Maker::memory`] and whose disk is `disk`.
    ///
    /// # Errors
    /// When it did not come to that, and the VMM is gone or of no use; see [`Saved::outcome`] for the rest.
    pub(crate) async fn save(
        self,
        booted: Booted,
        disk: File,
        timeline: &Timeline,
    ) -> Result<Saved, SaveError> {
        let Booted { mut machine, guest, port, .. } = booted;
        if self.key.kind == TemplateKind::Fresh {
            let shell = CommandLine::Shell("true".into());
            let options = CommandOptions { timeout: Some(WARM_DEADLINE), ..CommandOptions::default() };
            let watch = machine.watch();
            command::execute(&guest, &watch, &shell, &options, &mut Streams::discarded())
                .await
                .map_err(SaveError::Warm)?;
        }
        timeline.mark(Step::BuildWarmed);
        guest.detach().await.map_err(SaveError::Detach)?;
        tokio::time::sleep(SETTLE).await;
        machine.pause().await.map_err(SaveError::Vmm)?;
        timeline.mark(Step::BuildPaused);
        let outcome = self.write(&mut machine, disk, timeline).await;
        Ok(Saved { machine, port, outcome })
    }

    async fn write(self, machine: &mut Machine, disk: File, timeline: &Timeline) -> Result<(), SaveError> {
        let draft = self.templates.draft(&self.key)?;
        // Whoever gives up meanwhile, as by Ctrl-C, leaves nothing behind: the writer then finds no directory to go on in.
        let abandoned = Abandoned(Some(draft.path().to_owned()));
        let state = draft.create(STATE).map_err(SaveError::Write)?;
        let memory = draft.create(MEMORY).map_err(SaveError::Write)?;
        let own = |file: &File| file.try_clone().map_err(SaveError::Write);
        let beside = (machine.memory_file_use() == MemoryFileUse::All).then(|| own(&memory)).transpose()?;
        let saved = beside.is_some();
        machine.save(own(&state)?, beside).await.map_err(SaveError::Vmm)?;
        timeline.mark(Step::BuildStateSaved);
        let timeline = timeline.clone();
        let written =
            blocking(move || self.write_files(&draft, &state, &memory, saved, &disk, &timeline)).await;
        abandoned.over();
        written
    }

    fn write_files(
        &self,
        draft: &Draft,
        state: &File,
        memory: &File,
        memory_is_saved: bool,
        disk: &File,
        timeline: &Timeline,
    ) -> Result<(), SaveError> {
        let write = || -> io::Result<()> {
            if memory_is_saved {
                dig_holes(memory)?;
            } else {
                copy_sparse(&self.memory, memory)?;
            }
            timeline.mark(Step::BuildMemoryWritten);
            let disk = match self.key.kind {
                TemplateKind::Fresh => {
                    let copy = draft.create(DISK)?;
                    copy_sparse(disk, &copy)?;
                    Some(copy)
                }
                TemplateKind::Bare => None,
            };
            timeline.mark(Step::BuildDiskWritten);
            draft.complete(&self.key, memory, state, disk.as_ref())
        };
        write().map_err(SaveError::Write)?;
        timeline.mark(Step::BuildSynced);
        self.templates.publish(&self.key, draft)?;
        self.templates.thin_out();
        timeline.mark(Step::BuildPublished);
        Ok(())
    }
}
