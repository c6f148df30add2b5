//! Command lines of QEMU and of the guest's kernel.
//!
//! The device model is as close to Firecracker's as QEMU comes: `microvm`, virtio over MMIO, no PCI, no NIC, no
//! display. No process is started here.
//!
//! No file is passed by name: disks are descriptor sets (`-add-fd`), sockets are numbers, and files that QEMU opens
//! by path alone (kernel, initramfs, RAM file) are `/proc/self/fd/N`, which opens the inherited descriptor's file
//! anew.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::SealFlags;

use crate::VmmError;
use crate::machine::{Accelerator, DiskCache, GuestMemory, MachineParts, Shape};
use crate::warden::FileAccess;

/// Kernel arguments for the whole kernel log, from the first line on, to find out why an earlier boot hung or died.
/// At the end of [`MachineParts::kernel_args`] they overrule `quiet`; a boot takes 5 to 10 % longer.
pub const VERBOSE_KERNEL_ARGS: &[&str] = &["earlyprintk=ttyS0", "ignore_loglevel"];

/// Number of QEMU's device model, raised with any change that makes older saved states unusable. A test compares the
/// whole command line with the one stored under this number.
pub const DEVICE_MODEL: u32 = 4;

/// Inputs of one QEMU process's command line.
#[derive(Debug)]
pub(super) struct QemuCommandLine {
    pub(super) accelerator: Accelerator,
    pub(super) shape: Shape,
    /// Rate of the host's time-stamp counter in kHz; 0 when unknown or when the guest is restored.
    pub(super) tsc_khz: u64,
    pub(super) parts: MachineParts,
    pub(super) memory: GuestMemory,
    pub(super) restores: bool,
    pub(super) qmp: OwnedFd,
    pub(super) port: OwnedFd,
    pub(super) console: OwnedFd,
}

/// Checks the shape, and sizes or checks the memory file.
pub(super) fn check(shape: Shape, memory: &GuestMemory) -> Result<(), VmmError> {
    shape.check()?;
    match memory {
        GuestMemory::Private => Ok(()),
        GuestMemory::Owned(file) => {
            file.set_len(shape.memory_bytes())
                .map_err(|source| VmmError::Host { doing: "size the guest's memory file", source })?;
            // Seals keep the VMM from growing a memfd, which no memory limit of a process counts. A file on disk, or
            // a memfd without seals, is bounded by the limit on file sizes alone.
            let _no_seals = rustix::fs::fcntl_add_seals(file, SealFlags::GROW | SealFlags::SHRINK);
            Ok(())
        }
        GuestMemory::From(file) => shape.check_memory_file(file),
    }
}

impl QemuCommandLine {
    /// Writes the arguments, and collects the descriptors whose numbers are in them.
    pub(super) fn build(self) -> Result<QemuArguments, VmmError> {
        let mut out = QemuArguments::default();
        let kernel_line = self.kernel_line()?;
        let mem_mib = self.shape.mem_mib;

        out.words(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // Not every save writes the section that names the machine, so no load expects it.
        out.words(["-global", "migration.send-configuration=off"]);
        // All four switches of QEMU 7.2: `spawn` denies fork and exec, `elevateprivileges` setuid and the like,
        // `resourcecontrol` scheduling and priorities, `obsolete` dead system calls.
        out.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
        );
        let (accelerator, cpu) = match self.accelerator {
            // thread=multi: with one thread the guest cannot calibrate its clock and hangs. tb-size (MiB) bounds the
            // translation cache, which otherwise passes 1 GiB after a few hundred commands. 180 commands, Python
            // among them, took 14.2 s with 64, 14.5 with 56, 15 to 17 with 48, 12.5 with 128. With 56, QEMU's own
            // memory was at times above the promised 120 MiB. -erms: with it the guest copies by `rep movsb`, a byte
            // at a time under TCG.
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=52", "max,-erms"),
            Accelerator::Kvm => ("kvm", "host"),
        };
        out.option("-accel", accelerator.to_owned());
        out.option("-cpu", cpu.to_owned());
        out.option("-smp", self.shape.vcpus.to_string());
        out.option("-m", format!("{mem_mib}M"));
        match self.memory {
            GuestMemory::Private => {
                out.option("-object", format!("memory-backend-ram,id=ram,size={mem_mib}M"))
            }
            GuestMemory::Owned(file) => {
                let path = out.reopened_path(file, FileAccess::Write);
                out.option("-object", ram_file(mem_mib, &path, "on"));
            }
            GuestMemory::From(file) => {
                let path = out.reopened_path(file, FileAccess::Write);
                out.option("-object", ram_file(mem_mib, &path, "off"));
            }
        }
        // A guest that knows its counter's rate leaves the PIT as it was reset, and QEMU toggles its unused output 36
        // times a second: half the cost of an idle machine.
        let pit = match self.accelerator {
            Accelerator::Tcg => "off",
            Accelerator::Kvm => "on",
        };
        out.option("-machine", format!("microvm,rtc=on,pit={pit},pic=on,acpi=on,pcie=off,usb=off,graphics=off,isa-serial=on,memory-backend=ram"));

        let kernel = out.reopened_path(self.parts.kernel, FileAccess::Read);
        out.option("-kernel", kernel);
        let initramfs = out.reopened_path(self.parts.initramfs, FileAccess::Read);
        out.option("-initrd", initramfs);
        out.option("-append", kernel_line);

        let console = out.inherit(self.console);
        out.option("-chardev", format!("socket,id=console,fd={console}"));
        out.option("-serial", "chardev:console".to_owned());
        let qmp = out.inherit(self.qmp);
        out.option("-chardev", format!("socket,id=qmp,fd={qmp}"));
        out.option("-mon", "chardev=qmp,mode=control".to_owned());

        // max_ports=2, because port 0 is reserved for a console.
        out.option("-device", "virtio-serial-device,max_ports=2".to_owned());
        let port = out.inherit(self.port);
        out.option("-chardev", format!("socket,id=port,fd={port}"));
        out.option("-device", "virtserialport,chardev=port,nr=1,name=pyro".to_owned());
        if let Some(base) = self.parts.base {
            out.drive("base", base, DriveAccess::Read);
        }
        if let Some(disk) = self.parts.disk {
            out.drive("disk", disk, DriveAccess::Write(self.parts.cache));
        }
        if self.restores {
            // -S: a loaded machine stays paused until `cont`.
            out.words(["-incoming", "defer", "-S"]);
        }
        Ok(out)
    }

    fn kernel_line(&self) -> Result<String, VmmError> {
        // quiet: the full log costs a boot some 5 %; the console itself costs nothing measurable. panic=-1: a panic
        // resets at once, and -no-reboot makes a reset the end of QEMU.
        let mut words = vec!["console=ttyS0".to_owned(), "quiet".to_owned(), "panic=-1".to_owned()];
        if self.accelerator == Accelerator::Tcg {
            if self.tsc_khz > 0 {
                words.push(format!("tsc_early_khz={}", self.tsc_khz));
                // The rate is right, but on a busy host the timer by which the kernel checks it is late: the guest,
                // and all restored from it, would be left with a clock of 10 ms and a tick that never stops.
                words.push("tsc=reliable".to_owned());
            }
            // Rewriting code costs the translator dear: a kernel with one processor would patch every lock prefix out
            // of itself, some 80 ms of a boot. (`nolapic_timer` would save the 100 ms in which the kernel measures the
            // local APIC's timer, but a guest on the PIT hangs after most restores.)
            words.push("noreplace-smp".to_owned());
            // The translator keeps code by its address: with each process at addresses of its own, each would have
            // the same libraries translated anew, which is four fifths of what a short process costs.
            words.push("norandmaps".to_owned());
        }
        words.extend(self.parts.kernel_args.iter().cloned());
        crate::machine::kernel_line(&words)
    }
}

fn ram_file(mem_mib: u32, path: &str, share: &str) -> String {
    format!("memory-backend-file,id=ram,size={mem_mib}M,mem-path={path},share={share}")
}

/// Access of the guest to a drive; writes with the meaning of their flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DriveAccess {
    Read,
    Write(DiskCache),
}

/// Arguments of QEMU, with the descriptors they mention.
#[derive(Debug, Default)]
pub(super) struct QemuArguments {
    pub(super) args: Vec<OsString>,
    pub(super) inherit: Vec<OwnedFd>,
    /// Inherited descriptors that QEMU opens anew by `/proc/self/fd/N`, with the access it asks for.
    pub(super) reopened: Vec<(RawFd, FileAccess)>,
    sets: u32,
}

impl QemuArguments {
    fn words<const N: usize>(&mut self, words: [&str; N]) {
        self.args.extend(words.map(OsString::from));
    }

    fn option(&mut self, option: &str, value: String) {
        self.args.push(option.into());
        self.args.push(value.into());
    }

    /// Adds a descriptor to inherit; gives its number.
    fn inherit(&mut self, descriptor: OwnedFd) -> i32 {
        let number = descriptor.as_raw_fd();
        self.inherit.push(descriptor);
        number
    }

    /// Adds a file to inherit; gives the path by which QEMU opens it anew.
    fn reopened_path(&mut self, file: File, access: FileAccess) -> String {
        let number = self.inherit(file.into());
        self.reopened.push((number, access));
        format!("/proc/self/fd/{number}")
    }

    /// Adds a virtio block device `name` over `file`.
    fn drive(&mut self, name: &str, file: File, access: DriveAccess) {
        self.sets += 1;
        let set = self.sets;
        let number = self.inherit(file.into());
        self.option("-add-fd", format!("fd={number},set={set}"));
        // discard=unmap: blocks that the guest trims become holes. locking=off: the caller locks; a base is shared on
        // purpose, a disk belongs to one VM.
        let mode = match access {
            DriveAccess::Read => "read-only=on,auto-read-only=off",
            DriveAccess::Write(DiskCache::Unsafe) => {
                "read-only=off,auto-read-only=off,discard=unmap,cache.no-flush=on"
            }
            DriveAccess::Write(DiskCache::Writeback) => "read-only=off,auto-read-only=off,discard=unmap",
        };
        self.option(
            "-blockdev",
            format!("driver=raw,node-name={name},{mode},file.driver=file,file.filename=/dev/fdset/{set},file.aio=threads,file.locking=off"),
        );
        // werror=report: the guest sees a write error when the host's disk is full. QEMU's default would stop the
        // machine for good.
        let report = if access == DriveAccess::Read { "" } else { ",werror=report" };
        self.option("-device", format!("virtio-blk-device,drive={name}{report}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn arguments(accelerator: Accelerator, memory: GuestMemory, restores: bool) -> String {
        let line = QemuCommandLine {
            accelerator,
            shape: Shape { vcpus: 2, mem_mib: 512 },
            tsc_khz: if restores { 0 } else { 2_000_000 },
            parts: MachineParts {
                kernel: null().into(),
                initramfs: null().into(),
                base: Some(null().into()),
                disk: Some(null().into()),
                cache: DiskCache::Unsafe,
                kernel_args: vec!["word".to_owned()],
            },
            memory,
            restores,
            qmp: null(),
            port: null(),
            console: null(),
        };
        let QemuArguments { args, inherit, .. } = line.build().unwrap();
        let mut text = String::new();
        for arg in args {
            let mut arg = arg.into_string().unwrap();
            for (at, fd) in inherit.iter().enumerate() {
                let number = fd.as_raw_fd();
                arg = arg.replace(&format!("/fd/{number}"), &format!("/fd/<{at}>"));
                for end in [",", ""] {
                    let found = format!("fd={number}{end}");
                    if arg.ends_with(&found) || end == "," && arg.contains(&found) {
                        arg = arg.replace(&found, &format!("fd=<{at}>{end}"));
                    }
                }
            }
            let _ = writeln!(text, "{arg}");
        }
        text
    }

    #[test]
    fn a_memory_file_keeps_its_size() {
        use rustix::fs::{MemfdFlags, memfd_create};
        let shape = Shape { vcpus: 1, mem_mib: 64 };
        let made = |flags| File::from(memfd_create("guest", MemfdFlags::CLOEXEC | flags).unwrap());
        let (sealed, free) = (made(MemfdFlags::ALLOW_SEALING), made(MemfdFlags::empty()));
        for file in [&sealed, &free] {
            check(shape, &GuestMemory::Owned(file.try_clone().unwrap())).unwrap();
            assert_eq!(file.metadata().unwrap().len(), shape.memory_bytes());
        }
        assert!(sealed.set_len(1).is_err() && sealed.set_len(1 << 40).is_err());
        assert!(free.set_len(1).is_ok());
    }

    #[test]
    fn what_is_restored_is_the_machine_that_was_saved() {
        for accelerator in [Accelerator::Tcg, Accelerator::Kvm] {
            let machine = |restores| {
                let all = arguments(accelerator, GuestMemory::Private, restores);
                let (_, rest) = all.split_once("-machine\n").unwrap();
                rest.lines().next().unwrap().to_owned()
            };
            assert_eq!(machine(false), machine(true), "{accelerator}");
        }
    }

    /// The command line of a machine is frozen with its number: a saved state fits only the machine it was saved
    /// from.
    #[test]
    fn the_device_model_is_frozen() {
        let text = format!(
            "# QEMU device model {DEVICE_MODEL}\n## tcg, cold\n{}## kvm, restored\n{}",
            arguments(Accelerator::Tcg, GuestMemory::Private, false),
            arguments(Accelerator::Kvm, GuestMemory::From(null().into()), true),
        );
        let path = format!("{}/src/qemu/device-model.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("PYRO_FREEZE_DEVICE_MODEL").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(
            text,
            std::fs::read_to_string(&path).unwrap(),
            "raise DEVICE_MODEL, then PYRO_FREEZE_DEVICE_MODEL=1 writes {path}"
        );
    }
}
