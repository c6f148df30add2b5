//! The seam between callers and VMM adapters: the parts of a machine, and the operations on a running one.
//!
//! An adapter's `launch` gives a [`Machine`]; nothing above this file names the adapter again. No policy belongs
//! here: the caller decides on deadlines of whole boots, on the backend and on fallbacks.

use std::fmt;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::VmmError;
use crate::death::Watch;
use crate::sandbox::Confinement;
use crate::{firecracker, qemu};

/// Size of a machine: virtual CPUs and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Virtual CPUs, 1 to 64.
    pub vcpus: u8,
    /// Guest memory in MiB, 64 to 1048576 (1 TiB).
    pub mem_mib: u32,
}

/// Longest kernel command line in bytes: x86 COMMAND_LINE_SIZE less the final NUL. The kernel drops the rest
/// silently.
const KERNEL_LINE_LIMIT: usize = 2047;

/// Joins `words` into a kernel command line. [`VmmError::Spec`] when the kernel would cut it.
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
    /// Checks the ranges of both fields; [`VmmError::Spec`] when one is outside.
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

    /// Checks that `file` is exactly as long as this shape's memory; [`VmmError::Spec`] when it is not.
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

/// Executor of guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// The host's processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's software translator (TCG): runs on every host, several times slower than KVM, and is not promised to be
    /// a security boundary by its authors.
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

/// VMM program that runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Firecracker's machine model.
    Firecracker,
    /// QEMU's `microvm` machine.
    Qemu,
}

impl Backend {
    /// Whether the guest's stream is a port of the machine: usable before the guest runs, only one, and kept by a
    /// save. Otherwise the stream is a connection that the guest accepts.
    pub fn has_port(self) -> bool {
        self == Backend::Qemu
    }

    /// Whether a saved state holds the machine's [`DiskCache`]; otherwise the restore chooses it.
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

/// Files and kernel arguments of a machine. The VMM inherits the descriptors; names of the files do not matter.
#[derive(Debug)]
pub struct MachineParts {
    /// Guest kernel: an uncompressed ELF with a PVH entry.
    pub kernel: File,
    /// Initramfs: a newc cpio archive with `/init`.
    pub initramfs: File,
    /// Root image, opened for reading; any number of machines may share it. `None` for a probe boot.
    pub base: Option<File>,
    /// Writable disk, opened for reading and writing, used by this machine alone.
    pub disk: Option<File>,
    /// Meaning of the guest's flushes of `disk`.
    pub cache: DiskCache,
    /// Arguments appended to the kernel's command line.
    pub kernel_args: Vec<String>,
}

/// Use that [`Machine::save`] makes of its second file, the one for guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryFileUse {
    /// No memory file is taken: memory goes into the state, or is in the machine's own file ([`GuestMemory::Owned`]).
    Nothing,
    /// A memory file is required, and all of memory is written to it.
    All,
    /// A memory file is optional. One that is given must hold a copy of the file that the machine was started from
    /// ([`GuestMemory::From`]), and the changed pages are written over it. Without one, memory goes into the state.
    Changes,
}

/// Meaning of a guest's disk flush on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DiskCache {
    /// Flushes are ignored: the disk survives the end of its VMM, not a crash of the host. For disks that are thrown
    /// away.
    #[default]
    Unsafe,
    /// Flushes reach the host's storage: data that the guest synced survives a power failure.
    Writeback,
}

/// Backing of guest memory.
#[derive(Debug)]
pub enum GuestMemory {
    /// Private anonymous pages. A saved state then holds all of guest memory, or a second file does
    /// ([`MemoryFileUse::All`]).
    Private,
    /// A file, usually a memfd, that launch sizes and maps shared. A saved state then holds the devices alone and
    /// belongs together with this file. Only for a VMM with [`Backend::owns_memory`].
    Owned(File),
    /// Memory file of an `Owned` machine, or one written by a save, mapped private. The file is only read, must not
    /// change while any machine started from it lives, and must be opened for reading and, under QEMU, be openable
    /// for writing by this user.
    From(File),
}

/// Origin of a machine: a kernel boot or a saved state.
#[derive(Debug)]
pub enum MachineStart {
    /// The guest kernel boots.
    Cold,
    /// A state that [`Machine::save`] wrote is loaded; the machine is paused afterwards.
    Restore {
        /// Saved state, read from its beginning whatever this descriptor's position. Several machines may be started
        /// from one at once.
        state: File,
    },
}

/// Everything that a launch needs. A restore needs the shape and the kinds of parts of the saved machine.
#[derive(Debug)]
pub struct MachineSpec {
    /// Number of vCPUs and amount of memory.
    pub shape: Shape,
    /// Kernel, initramfs, images and kernel arguments.
    pub parts: MachineParts,
    /// Backing of guest memory.
    pub memory: GuestMemory,
    /// Kernel boot or saved state.
    pub start: MachineStart,
}

/// A VMM installation with its settings; starts machines.
#[derive(Debug, Clone)]
pub enum Vmm {
    /// A Firecracker installation, jailed or not.
    Firecracker(firecracker::Firecracker),
    /// A QEMU installation with its accelerator.
    Qemu(qemu::Qemu),
}

impl Vmm {
    /// Starts a machine and returns when the VMM answers: a cold guest is then booting, a restored one is loaded and
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

    /// VMM program that this installation runs.
    pub fn backend(&self) -> Backend {
        match self {
            Vmm::Firecracker(_) => Backend::Firecracker,
            Vmm::Qemu(_) => Backend::Qemu,
        }
    }

    /// Executor of guest instructions.
    pub fn accelerator(&self) -> Accelerator {
        match self {
            Vmm::Firecracker(_) => Accelerator::Kvm,
            Vmm::Qemu(qemu) => qemu.accelerator,
        }
    }

    /// Path of the VMM's program.
    pub fn binary(&self) -> &Path {
        match self {
            Vmm::Firecracker(firecracker) => &firecracker.binary,
            Vmm::Qemu(qemu) => &qemu.binary,
        }
    }

    /// Number of the device model, raised with any change that makes older saved states unusable.
    pub fn device_model(&self) -> u32 {
        match self {
            Vmm::Firecracker(_) => firecracker::DEVICE_MODEL,
            Vmm::Qemu(_) => qemu::DEVICE_MODEL,
        }
    }
}

/// Instants at which a launch reached its steps.
#[derive(Debug, Clone, Copy)]
pub struct LaunchTimes {
    /// Answer of the VMM to its first command.
    pub answered: Instant,
    /// End of the launch: the state, if any, was loaded.
    pub ready: Instant,
}

/// A running VMM process and its guest. Dropping the machine kills both.
#[derive(Debug)]
pub struct Machine {
    adapter: Adapter,
}

/// Adapter behind a machine, one variant for each VMM.
#[derive(Debug)]
enum Adapter {
    Firecracker(Box<firecracker::FirecrackerHandle>),
    Qemu(qemu::QemuHandle),
}

impl Machine {
    pub(crate) fn from_firecracker(handle: firecracker::FirecrackerHandle) -> Machine {
        Machine { adapter: Adapter::Firecracker(Box::new(handle)) }
    }

    pub(crate) fn from_qemu(handle: qemu::QemuHandle) -> Machine {
        Machine { adapter: Adapter::Qemu(handle) }
    }

    /// VMM program that runs this machine.
    pub fn backend(&self) -> Backend {
        match &self.adapter {
            Adapter::Firecracker(_) => Backend::Firecracker,
            Adapter::Qemu(_) => Backend::Qemu,
        }
    }

    /// Executor of this machine's instructions.
    pub fn accelerator(&self) -> Accelerator {
        match &self.adapter {
            Adapter::Firecracker(_) => Accelerator::Kvm,
            Adapter::Qemu(handle) => handle.accelerator(),
        }
    }

    /// Instants at which this machine's launch reached its steps.
    pub fn launch_times(&self) -> LaunchTimes {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.launch_times,
            Adapter::Qemu(handle) => handle.launch_times,
        }
    }

    /// Use that [`Machine::save`] makes of a memory file.
    pub fn memory_file_use(&self) -> MemoryFileUse {
        match &self.adapter {
            Adapter::Firecracker(_) => MemoryFileUse::All,
            Adapter::Qemu(handle) => handle.mapped.map_or(MemoryFileUse::Nothing, |_| MemoryFileUse::Changes),
        }
    }

    /// Process id of the VMM, for display and `/proc`. The id may be reused once the process was reaped, which may
    /// happen before this machine is dropped, so signals must not be sent to it.
    pub fn pid(&self) -> u32 {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.pid(),
            Adapter::Qemu(handle) => handle.pid(),
        }
    }

    /// Confinement of the VMM, beside the seccomp filter that it installs itself.
    pub fn confinement(&self) -> Confinement {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.confinement,
            Adapter::Qemu(handle) => handle.confinement,
        }
    }

    /// Gives the guest's byte stream, non-blocking. Closing the stream is end-of-file in the guest.
    ///
    /// With [`Backend::has_port`] the stream exists at once, whatever the guest does, and only one can be taken.
    /// Otherwise each call makes a connection, waits at most `within` until the guest accepts it, and the connection
    /// is lost by a save.
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

    /// Stops the virtual CPUs; no effect on a paused machine.
    ///
    /// # Errors
    /// When the VMM died, refused, or did not answer in time.
    pub async fn pause(&mut self) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Firecracker(handle) => handle.pause().await,
            Adapter::Qemu(handle) => handle.pause().await,
        }
    }

    /// Lets the virtual CPUs run; no effect on a running machine.
    ///
    /// # Errors
    /// When the VMM died, refused, or did not answer in time.
    pub async fn resume(&mut self) -> Result<(), VmmError> {
        match &mut self.adapter {
            Adapter::Firecracker(handle) => handle.resume().await,
            Adapter::Qemu(handle) => handle.resume().await,
        }
    }

    /// Writes the paused machine's state to `state`, from that descriptor's position: devices, and all of guest
    /// memory unless that is [`GuestMemory::Owned`]. With `memory`, given as [`Machine::memory_file_use`] says, guest
    /// memory goes into that file instead, and both files, opened for reading and writing, are written from their
    /// beginnings. The machine stays paused.
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

    /// Gives a watch for this machine's end.
    pub fn watch(&self) -> Watch {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.watch(),
            Adapter::Qemu(handle) => handle.watch(),
        }
    }

    /// Last 16 KiB of the guest's console, as lossy UTF-8 without control characters but newline and tab.
    pub fn console_tail(&self) -> String {
        match &self.adapter {
            Adapter::Firecracker(handle) => handle.console_tail(),
            Adapter::Qemu(handle) => handle.console_tail(),
        }
    }

    /// Kills the VMM and waits until it is reaped and its memory is free on the host.
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
