//! The seam: what a machine is made of and what can be asked of a running one, whichever VMM runs it.
//!
//! An adapter's `launch` gives a [`Machine`]; nothing above this file names the adapter again. It must not hold
//! policy: deadlines of whole boots, choice of backend and fallbacks belong to the caller.

use std::fmt;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::VmmError;
use crate::death::Watch;
use crate::sandbox::Confinement;
use crate::{firecracker, qemu};

/// The size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Virtual CPUs, 1 to 64.
    pub vcpus: u8,
    /// Guest memory in MiB, 64 to 1 MiB of MiB (1 TiB).
    pub mem_mib: u32,
}

/// What the kernel keeps of its command line (x86 COMMAND_LINE_SIZE, with the final NUL); it drops the rest silently.
const KERNEL_LINE_LIMIT: usize = 2047;

/// The words as one line, if the kernel would keep it whole.
pub(crate) fn kernel_line(words: &[String]) -> Result<String, VmmError> {
    let line = words.join(" ");
    if line.len() > KERNEL_LINE_LIMIT {
        return Err(VmmError::Spec(format!(
            "a kernel command line of {} bytes ({KERNEL_LINE_LIMIT} are possible)",
            line.len()
        )));
    }
    Ok(line)
}

impl Shape {
    /// Refuses what no host can run.
    pub(crate) fn check(self) -> Result<(), VmmError> {
        if !(1..=64).contains(&self.vcpus) {
            return Err(VmmError::Spec(format!("{} vCPUs (1 to 64 are possible)", self.vcpus)));
        }
        if !(64..=1_048_576).contains(&self.mem_mib) {
            return Err(VmmError::Spec(format!(
                "{} MiB of memory (64 to 1048576 are possible)",
                self.mem_mib
            )));
        }
        Ok(())
    }

    pub(crate) fn memory_bytes(self) -> u64 {
        u64::from(self.mem_mib) << 20
    }

    /// Refuses a saved memory that is not this shape's.
    pub(crate) fn check_memory_file(self, file: &File) -> Result<(), VmmError> {
        let metadata = file.metadata();
        let length = metadata
            .map_err(|source| VmmError::Host { doing: "look at the guest's memory file", source })?
            .len();
        let wanted = self.memory_bytes();
        if length != wanted {
            return Err(VmmError::Spec(format!(
                "the memory file holds {length} bytes and the machine has {wanted}"
            )));
        }
        Ok(())
    }
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

impl Backend {
    /// Whether the guest's stream is a port of the machine: there before the guest is, one only, and not lost by a save.
    /// Otherwise it is a connection, which the guest accepts.
    pub fn has_port(self) -> bool {
        self == Backend::Qemu
    }

    /// Whether a saved machine says what flushes of its disk mean; elsewhere who restores it says that.
    pub fn saves_cache(self) -> bool {
        self == Backend::Firecracker
    }

    /// Whether a machine can run in a memory file of its caller ([`GuestMemory::Owned`]).
    pub fn owns_memory(self) -> bool {
        self == Backend::Qemu
    }
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
pub struct MachineParts {
    /// An uncompressed ELF kernel with a PVH entry.
    pub kernel: File,
    /// A newc archive with `/init`.
    pub initramfs: File,
    /// The root image, opened for reading; shared by any number of machines. `None` for a probe boot.
    pub base: Option<File>,
    /// The writable disk, opened for reading and writing, of this machine alone.
    pub disk: Option<File>,
    /// What the guest's flushes of that disk mean.
    pub cache: DiskCache,
    /// Words added at the end of the kernel's command line.
    pub kernel_args: Vec<String>,
}

/// What [`Machine::save`] does with a file for guest memory, beside the one for the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryFileUse {
    /// It takes none: memory is in the state, or in the machine's own file ([`GuestMemory::Owned`]).
    Nothing,
    /// It needs one, and writes all of memory to it.
    All,
    /// If it is given one, it writes over it what the machine changed. It must hold what the file held that the machine
    /// was started from ([`GuestMemory::From`]). Without one memory is in the state.
    Changes,
}

/// What a guest's flush of its disk means on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DiskCache {
    /// Nothing: a disk survives the death of its VMM, not that of the host. For what is thrown away.
    #[default]
    Unsafe,
    /// The host's storage has it: what the guest synced survives a power failure.
    Writeback,
}

/// Where guest memory lives.
#[derive(Debug)]
pub enum GuestMemory {
    /// Private anonymous pages. A saved state then holds all of guest memory, or a file beside it does
    /// ([`MemoryFileUse::All`]).
    Private,
    /// This file (a memfd, as a rule), mapped shared and sized by launch. A saved state then holds the devices
    /// alone, and the file is the other half of it. Not every VMM can ([`Backend::owns_memory`]).
    Owned(File),
    /// The file that an `Owned` machine left, or that a save wrote beside its state, mapped private: it is only read,
    /// and must not change while any machine started from it lives. It must have been opened for reading and, under
    /// QEMU, be openable for writing by this user.
    From(File),
}

/// How a machine starts.
#[derive(Debug)]
pub enum MachineStart {
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
pub struct MachineSpec {
    /// The size.
    pub shape: Shape,
    /// The files.
    pub parts: MachineParts,
    /// Where guest memory lives.
    pub memory: GuestMemory,
    /// Cold, or from a saved state.
    pub start: MachineStart,
}

/// How machines are started: a VMM and how it is to be used.
#[derive(Debug, Clone)]
pub enum Vmm {
    /// Firecracker.
    Firecracker(firecracker::Firecracker),
    /// QEMU.
    Qemu(qemu::Qemu),
}

impl Vmm {
    /// Starts a machine. Returns when the VMM answers; a cold guest is then booting, a restored one is loaded and
    /// paused.
    ///
    /// # Errors
    /// When the specification is impossible, the host lacks something, or the VMM ended or refused. Nothing is left
    /// running then.
    pub async fn launch(&self, spec: MachineSpec) -> Result<Machine, VmmError> {
        match self {
            Vmm::Firecracker(firecracker) => firecracker.launch(spec).await,
            Vmm::Qemu(qemu) => qemu.launch(spec).await,
        }
    }

    /// Which one it is.
    pub fn backend(&self) -> Backend {
        match self {
            Vmm::Firecracker(_) => Backend::Firecracker,
            Vmm::Qemu(_) => Backend::Qemu,
        }
    }

    /// What executes guest instructions.
    pub fn accelerator(&self) -> Accelerator {
        match self {
            Vmm::Firecracker(_) => Accelerator::Kvm,
            Vmm::Qemu(qemu) => qemu.accelerator,
        }
    }

    /// Its program.
    pub fn binary(&self) -> &Path {
        match self {
            Vmm::Firecracker(firecracker) => &firecracker.binary,
            Vmm::Qemu(qemu) => &qemu.binary,
        }
    }

    /// Which machine it is told to be: a number that is raised with any change of what a saved state depends on.
    pub fn device_model(&self) -> u32 {
        match self {
            Vmm::Firecracker(_) => firecracker::DEVICE_MODEL,
            Vmm::Qemu(_) => qemu::DEVICE_MODEL,
        }
    }
}

/// When a launch got how far.
#[derive(Debug, Clone, Copy)]
pub struct LaunchTimes {
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
    Firecracker(Box<firecracker::Handle>),
    Qemu(qemu::Handle),
}

impl Machine {
    pub(crate) fn from_firecracker(handle: firecracker::Handle) -> Machine {
        Machine { adapter: Adapter::Firecracker(Box::new(handle)) }
    }

    pub(crate) fn from_qemu(handle: qemu::Handle) -> Machine {
        Machine { adapter: Adapter::Qemu(handle) }
    }

    /// Which VMM runs this machine.
    pub fn backend(&self) -> Backend {
        match &self.adapter {
            Adapter::Firecracker(_) => Backend::Firecracker,
            Adapter::Qemu(_) => Backend::Qemu,
        }
    }

    /// What executes its instructions.
    pub fn accelerator(&self) -> Accelerator {
        match &self.adapter {
            Adapter::Firecracker(_) => Accelerator::Kvm,
            Adapter::Qemu(handle) => handle.accelerator(),
        }
    }

    /// When its launch got how far.
    pub fn launch_times(&self) -> LaunchTimes {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.launch_times,
            Adapter::Qemu(handle) => handle.launch_times,
        }
    }

    /// What a save does with a file for its memory.
    pub fn memory_file_use(&self) -> MemoryFileUse {
        match &self.adapter {
            Adapter::Firecracker(_) => MemoryFileUse::All,
            Adapter::Qemu(handle) => handle.mapped.map_or(MemoryFileUse::Nothing, |_| MemoryFileUse::Changes),
        }
    }

    /// The VMM's process id. It stays reserved until the process was reaped, which may be before this machine is
    /// dropped: good for display and for `/proc`, not for signals.
    pub fn pid(&self) -> u32 {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.pid(),
            Adapter::Qemu(handle) => handle.pid(),
        }
    }

    /// What its VMM is confined by, beside its own seccomp filter.
    pub fn confinement(&self) -> Confinement {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.confinement,
            Adapter::Qemu(handle) => handle.confinement,
        }
    }

    /// The guest's byte stream, non-blocking. Closing it is the guest's end-of-file.
    ///
    /// Where the stream is a port of the machine it is there at once, whatever the guest does, and there is only one.
    /// Where it is a connection this waits, for at most `within`, until the guest accepts it, and every call makes
    /// another; connections are lost by a save.
    ///
    /// # Errors
    /// [`VmmError::StreamTaken`]; [`VmmError::Deadline`] when the guest accepted none in time; otherwise when the VMM
    /// died or answered nonsense.
    pub async fn connect(&mut self, within: Duration) -> Result<UnixStream, VmmError> {
        match &mut self.adapter {
            Adapter::Firecracker(handle) => handle.connect(within).await,
            Adapter::Qemu(handle) => handle.connect(),
        }
    }

    /// Stops the virtual CPUs. Pausing a paused machine does nothing.
    ///
    /// # Errors
    /// When the VMM died, refused, or did not answer in time.
    pub async fn pause(&mut self) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Firecracker(handle) => handle.pause().await,
            Adapter::Qemu(handle) => handle.pause().await,
        }
    }

    /// Lets the virtual CPUs run. Resuming a running machine does nothing.
    ///
    /// # Errors
    /// When the VMM died, refused, or did not answer in time.
    pub async fn resume(&mut self) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Firecracker(handle) => handle.resume().await,
            Adapter::Qemu(handle) => handle.resume().await,
        }
    }

    /// Writes the paused machine's state to `state` from that descriptor's position: devices, and all of guest
    /// memory unless the machine's memory is [`GuestMemory::Owned`]. With a file `memory`, as [`Machine::memory_file_use`] says, memory
    /// goes there instead, and both files, opened for reading and writing, are written from their beginnings. The machine
    /// stays paused.
    ///
    /// # Errors
    /// [`VmmError::NotPaused`]; [`VmmError::Spec`] for a `memory` that is missing or not wanted; otherwise when the
    /// VMM died, could not write, or did not finish in time. What is in the files then is of no use.
    pub async fn save(&mut self, state: File, memory: Option<File>) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Firecracker(handle) => handle.save(state, memory).await,
            Adapter::Qemu(handle) => handle.save(state, memory).await,
        }
    }

    /// A watch for this machine's end.
    pub fn watch(&self) -> Watch {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.watch(),
            Adapter::Qemu(handle) => handle.watch(),
        }
    }

    /// The last of the guest's console: bounded, lossy UTF-8, control characters removed.
    pub fn console_tail(&self) -> String {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.console_tail(),
            Adapter::Qemu(handle) => handle.console_tail(),
        }
    }

    /// Kills the VMM and waits until it is reaped and its memory is the host's again.
    ///
    /// # Errors
    /// [`VmmError::Deadline`] when the kernel did not end the process within 10 s of SIGKILL.
    pub async fn stop(self) -> Result<(), VmmError> {
        match self.adapter {
            Adapter::Firecracker(handle) => handle.stop().await,
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
            machine.save(File::open("/")?, None).await?;
            machine.connect(Duration::ZERO).await?;
            machine.resume().await?;
            machine.watch().ended().await;
            machine.stop().await?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
}
