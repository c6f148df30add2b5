//! A guest with a user space: the real kernel, booted and restored, answering through its vsock. On a host whose KVM
//! never gets that far this says so, which is the only thing here that is announced instead of tested.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::guest::{self, Place, output};
use pyro_vmm::{DeathReason, GuestMemory, Machine, MachineSpec, MachineStart, Shape, VmmError};

/// Longest boot; a host that runs guests takes a fraction of a second.
const BOOT_DEADLINE: Duration = Duration::from_secs(15);

fn spec(place: &Place) -> MachineSpec {
    let kernel = std::env::var_os("PYRO_TEST_KERNEL")
        .unwrap_or_else(|| panic!("PYRO_TEST_KERNEL is not set: it is what `cargo xtask kernel` prints"));
    let kernel = place.file("vmlinux", &std::fs::read(kernel).unwrap());
    let program = place.dir.path().join("init");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/firecracker/guest/init.c");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-Os", source, "-o"]).arg(&program);
    assert!(cc.status().expect("cc runs: install gcc and libc6-dev").success());
    let initramfs = place.file("initramfs", &archive(&std::fs::read(program).unwrap()));
    let mut spec = place.spec();
    spec.shape = Shape { vcpus: 1, mem_mib: 256 };
    (spec.parts.kernel, spec.parts.initramfs) = (kernel, initramfs);
    spec
}

/// Writes a newc archive of one file, `/init`.
fn archive(program: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, data) in [("init", 0o100_755, program), ("TRAILER!!!", 0, &[])] {
        // magic, inode, mode, uid, gid, nlink, mtime, size, device (2), rdevice (2), name length, checksum
        let (size, length) = (data.len(), name.len() + 1);
        write!(out, "070701{0:08X}{mode:08X}{0:08X}{0:08X}{1:08X}{0:08X}{size:08X}", 0, 1).unwrap();
        write!(out, "{0:08X}{0:08X}{0:08X}{0:08X}{length:08X}{0:08X}{name}\0", 0).unwrap();
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// Asks the guest for its next number.
fn count(stream: &UnixStream) -> String {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(guest::DEADLINE)).unwrap();
    (&mut &*stream).write_all(b"?\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

async fn a_guest(place: Place) {
    let mut machine = place.firecracker.launch(spec(&place)).await.unwrap();
    let stream = match machine.connect(BOOT_DEADLINE).await {
        Ok(stream) => stream,
        Err(error) => {
            let (never_ran, console) = match &error {
                VmmError::Deadline { .. } => (true, machine.console_tail()),
                VmmError::Died { death, .. } => {
                    (death.reason == DeathReason::InternalError, death.console_tail.clone())
                }
                _ => (false, String::new()),
            };
            assert!(
                !console.contains("init runs"),
                "the guest runs and cannot be reached: {error:?}\n{console}"
            );
            assert!(never_ran, "{error:?}");
            let mut out = std::io::stderr();
            writeln!(out, "NOT TESTED on this host, whose KVM runs no guest user space: {error}").unwrap();
            machine.stop().await.unwrap();
            place.assert_clean();
            return;
        }
    };
    assert_eq!(count(&stream), "1");
    drop(stream);
    machine.pause().await.unwrap();
    machine.resume().await.unwrap();
    let stream = machine.connect(guest::DEADLINE).await.unwrap();
    assert_eq!(count(&stream), "2");
    drop(stream);
    machine.pause().await.unwrap();
    let (state, memory) = (output(place.dir.path(), "state"), output(place.dir.path(), "memory"));
    machine.save(state.try_clone().unwrap(), Some(memory.try_clone().unwrap())).await.unwrap();
    machine.stop().await.unwrap();
    let mut all = [restored(&place, &state, &memory).await, restored(&place, &state, &memory).await];
    for machine in &mut all {
        machine.resume().await.unwrap();
        // Each restored guest goes on in pages of its own.
        for expected in ["3", "4"] {
            let stream = machine.connect(guest::DEADLINE).await.unwrap();
            assert_eq!(count(&stream), expected);
        }
    }
    for machine in all {
        machine.stop().await.unwrap();
    }
    place.assert_clean();
}

async fn restored(place: &Place, state: &File, memory: &File) -> Machine {
    let start = MachineStart::Restore { state: state.try_clone().unwrap() };
    let memory = GuestMemory::From(memory.try_clone().unwrap());
    place.firecracker.launch(MachineSpec { memory, start, ..spec(place) }).await.unwrap()
}

#[tokio::test]
async fn a_guest_answers_and_goes_on_where_it_was_saved() {
    a_guest(guest::place()).await;
}

#[tokio::test]
async fn a_jailed_guest_answers_and_goes_on_where_it_was_saved() {
    a_guest(guest::jailed()).await;
}
