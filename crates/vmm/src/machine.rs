//! The seam: what a machine is made of and what can be asked of a running one, whichever VMM runs it.
//!
//! An adapter's `launch` gives a [`Machine`]; nothing above this file names the adapter again. It must not hold
//! policy: deadlines of whole boots, choice of backend and fallbacks belong to the caller.

use std::fmt;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::VmmError;
use crate::death::Watch;
use crate::qemu;

/// The size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Virtual CPUs, 1 to 64.
    pub vcpus: u8,
    /// Guest memory in MiB, 64 to 1 MiB of MiB (1 TiB).
    pub mem_mib: u32,
}

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator, in software. Runs everywhere, several times slower, and is no security boundary that its
    /// makers promise.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        })
    }
}

/// Which VMM runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Firecracker.
    Firecracker,
    /// QEMU's `microvm` machine.
    Qemu,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Firecracker => "firecracker",
            Backend::Qemu => "qemu",
        })
    }
}

/// What a machine is made of. The VMM inherits these descriptors; their names, if they have any, do not matter.
#[derive(Debug)]
pub struct Parts {
    /// An uncompressed ELF kernel with a PVH entry.
    pub kernel: File,
    /// A newc archive with `/init`.
    pub initramfs: File,
    /// The root image, opened for reading; shared by any number of machines. `None` for a probe boot.
    pub base: Option<File>,
    /// The writable disk, opened for reading and writing, of this machine alone.
    ///
    /// The guest's flushes are not passed on to the host's storage: a disk survives the death of its VMM, not that
    /// of the host.
    pub disk: Option<File>,
    /// Words added at the end of the kernel's command line.
    pub kernel_args: Vec<String>,
}

/// Where guest memory lives.
#[derive(Debug)]
pub enum Memory {
    /// Private anonymous pages. A saved state then holds all of guest memory.
    Private,
    /// This file (a memfd, as a rule), mapped shared and sized by launch. A saved state then holds the devices
    /// alone, and the file is the other half of it.
    Owned(File),
    /// The file that an `Owned` machine left, mapped private: it is only read, and must not change while any machine
    /// started from it lives. It must have been opened for reading and be openable for writing by this user.
    From(File),
}

/// How a machine starts.
#[derive(Debug)]
pub enum Start {
    /// The kernel boots.
    Cold,
    /// The state that [`Machine::save`] wrote is loaded; the machine is paused then.
    Restore {
        /// The saved state. It is read from its beginning, whatever this descriptor's position; several machines
        /// may be started from one at once.
        state: File,
    },
}

/// All that a machine is started from. A restore needs the same shape and the same kinds of parts that were saved.
#[derive(Debug)]
pub struct Spec {
    /// The size.
    pub shape: Shape,
    /// The files.
    pub parts: Parts,
    /// Where guest memory lives.
    pub memory: Memory,
    /// Cold, or from a saved state.
    pub start: Start,
}

/// When a launch got how far.
#[derive(Debug, Clone, Copy)]
pub struct Launched {
    /// The VMM answered its first command.
    pub answered: Instant,
    /// It had loaded its state, if there was one to load; the launch was over.
    pub ready: Instant,
}

/// A running VMM process and its guest. Dropping it kills both.
#[derive(Debug)]
pub struct Machine {
    adapter: Adapter,
}

/// One variant for each VMM; the only place that knows them all.
#[derive(Debug)]
enum Adapter {
    Qemu(qemu::Handle),
}

impl Machine {
    pub(crate) fn from_qemu(handle: qemu::Handle) -> Machine {
        Machine { adapter: Adapter::Qemu(handle) }
    }

    /// Which VMM runs this machine.
    pub fn backend(&self) -> Backend {
        match &self.adapter {
            Adapter::Qemu(_) => Backend::Qemu,
        }
    }

    /// What executes its instructions.
    pub fn accelerator(&self) -> Accelerator {
        match &self.adapter {
            Adapter::Qemu(handle) => handle.accelerator(),
        }
    }

    /// When its launch got how far.
    pub fn launched(&self) -> Launched {
        match &self.adapter {
            Adapter::Qemu(handle) => handle.launched,
        }
    }

    /// The VMM's process id. It stays reserved until the process was reaped, which may be before this machine is
    /// dropped: good for display and for `/proc`, not for signals.
    pub fn pid(&self) -> u32 {
        match &self.adapter {
            Adapter::Qemu(handle) => handle.pid(),
        }
    }

    /// The guest's byte stream, non-blocking; `None` after the first call. Closing it is the guest's end-of-file.
    pub fn take_stream(&mut self) -> Option<UnixStream> {
        match &mut self.adapter {
            Adapter::Qemu(handle) => handle.take_stream(),
        }
    }

    /// Stops the virtual CPUs. Pausing a paused machine does nothing.
    ///
    /// # Errors
    /// When the VMM died, refused, or did not answer in time.
    pub async fn pause(&mut self) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Qemu(handle) => handle.pause().await,
        }
    }

    /// Lets the virtual CPUs run. Resuming a running machine does nothing.
    ///
    /// # Errors
    /// When the VMM died, refused, or did not answer in time.
    pub async fn resume(&mut self) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Qemu(handle) => handle.resume().await,
        }
    }

    /// Writes the paused machine's state to `state` from that descriptor's position: devices, and all of guest
    /// memory unless the machine's memory is [`Memory::Owned`]. The machine stays paused.
    ///
    /// # Errors
    /// [`VmmError::NotPaused`]; otherwise when the VMM died, could not write, or did not finish in time. What is in
    /// the file then is of no use.
    pub async fn save(&mut self, state: File) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Qemu(handle) => handle.save(state).await,
        }
    }

    /// A watch for this machine's end.
    pub fn watch(&self) -> Watch {
        match &self.adapter {
            Adapter::Qemu(handle) => handle.watch(),
        }
    }

    /// The last of the guest's console: bounded, lossy UTF-8, control characters removed.
    pub fn console_tail(&self) -> String {
        match &self.adapter {
            Adapter::Qemu(handle) => handle.console_tail(),
        }
    }

    /// Kills the VMM and waits until it is reaped and its memory is the host's again.
    ///
    /// # Errors
    /// [`VmmError::Deadline`] when the kernel did not end the process within 10 s of SIGKILL.
    pub async fn stop(self) -> Result<(), VmmError> {
        match self.adapter {
            Adapter::Qemu(handle) => handle.stop().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_send<T: Send + 'static>(_: impl Fn() -> T) {}

    /// Callers drive machines from tasks that a runtime moves between threads. Never runs anything.
    #[test]
    fn machines_and_their_futures_can_be_sent() {
        fn machine() -> Machine {
            unreachable!()
        }
        assert_send(machine);
        assert_send(|| async {
            let mut machine = machine();
            machine.pause().await?;
            machine.save(File::open("/")?).await?;
            machine.resume().await?;
            machine.watch().ended().await;
            machine.stop().await?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
}
