//! A machine's life without a jail: start, console, pause, the guest's stream, and every way to end.

use std::time::Duration;

use crate::events::disturbed;
use crate::guest::{self, end_of, kernel, said};
use pyro_vmm::{
    Accelerator, Backend, DeathReason, Firecracker, FirecrackerDefect, FirecrackerVersion, GuestMemory,
    MachineSpec, MachineStart, ProcessExit, Shape, VmmError,
};

#[tokio::test]
async fn a_machine_starts_speaks_and_stops() {
    let place = guest::place();
    let machine = place.firecracker.launch(place.spec()).await.unwrap();
    assert_eq!((machine.backend(), machine.accelerator()), (Backend::Firecracker, Accelerator::Kvm));
    said(&machine, "here").await;
    let program = std::fs::read_link(format!("/proc/{}/exe", machine.pid())).unwrap();
    assert_eq!(program, place.firecracker.binary.canonicalize().unwrap());
    let watch = machine.watch();
    machine.stop().await.unwrap();
    let death = watch.ended().await;
    assert_eq!((death.reason, death.exit), (DeathReason::Stopped, ProcessExit::Signal(9)));
    place.assert_clean();
}

#[tokio::test]
async fn a_guest_that_resets_ends_it() {
    for (text, reason) in [
        ("bye\\r\\n", DeathReason::GuestReset),
        ("[ 0.1] Kernel panic - not syncing: no init\\r\\n", DeathReason::GuestPanic),
    ] {
        let place = guest::place();
        let mut spec = place.spec();
        spec.parts.kernel = kernel(text, true);
        match place.firecracker.launch(spec).await {
            Ok(machine) => {
                let death = end_of(&machine).await;
                assert_eq!((death.reason, death.exit), (reason, ProcessExit::Code(0)), "{death:?}");
            }
            // The guest ended before the first request.
            Err(VmmError::Died { death, .. }) => assert_eq!(death.reason, reason, "{death:?}"),
            Err(error) => panic!("{error:?}"),
        }
        place.assert_clean();
    }
}

#[tokio::test]
async fn pause_and_resume_can_be_repeated() {
    let place = guest::place();
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    for _ in 0..3 {
        machine.pause().await.unwrap();
        machine.pause().await.unwrap();
        machine.resume().await.unwrap();
        machine.resume().await.unwrap();
    }
    machine.stop().await.unwrap();
    place.assert_clean();
}

#[tokio::test]
async fn a_guest_that_never_listens_is_a_deadline_and_the_machine_lives() {
    let place = guest::place();
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    for _ in 0..2 {
        let within = Duration::from_millis(300);
        let error = machine.connect(within).await.unwrap_err();
        assert!(matches!(error, VmmError::Deadline { after, .. } if after == within), "{error:?}");
    }
    assert!(machine.watch().try_ended().is_none());
    machine.pause().await.unwrap();
    machine.stop().await.unwrap();
    place.assert_clean();
}

#[tokio::test]
async fn the_socket_of_the_stream_lives_as_long_as_the_machine() {
    let place = guest::place();
    let machine = place.firecracker.launch(place.spec()).await.unwrap();
    let root = place.only_root();
    let names: std::collections::BTreeSet<_> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let expected = ["api.sock", "base.ext4", "disk.ext4", "initramfs", "kernel", "log", "v.sock"];
    assert!(names.iter().eq(expected), "{names:?}");
    machine.stop().await.unwrap();
    assert!(!root.exists());
}

#[tokio::test]
async fn a_connection_ends_with_its_machine() {
    let place = guest::place();
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    let pid = machine.pid();
    let connecting = machine.connect(guest::DEADLINE);
    let error = disturbed(connecting, || guest::signal(pid, libc::SIGKILL)).await.unwrap_err();
    let VmmError::Died { death, .. } = error else { panic!("{error:?}") };
    assert_eq!(death.reason, DeathReason::Killed);
    place.assert_clean();
}

#[tokio::test]
async fn what_this_vmm_cannot_do_is_refused_before_anything_starts() {
    let place = guest::place();
    let file = || place.file("memory", &[0; 10]);
    let with = |shape: (u8, u32), memory, start| {
        let shape = Shape { vcpus: shape.0, mem_mib: shape.1 };
        MachineSpec { shape, memory, start, ..place.spec() }
    };
    let fits = (1, 64);
    for spec in [
        with((0, 64), GuestMemory::Private, MachineStart::Cold),
        with((33, 64), GuestMemory::Private, MachineStart::Cold),
        with((1, 63), GuestMemory::Private, MachineStart::Cold),
        with(fits, GuestMemory::Owned(file()), MachineStart::Cold),
        with(fits, GuestMemory::From(file()), MachineStart::Cold),
        with(fits, GuestMemory::Private, MachineStart::Restore { state: file() }),
        with(fits, GuestMemory::From(file()), MachineStart::Restore { state: file() }),
    ] {
        let error = place.firecracker.launch(spec).await.unwrap_err();
        assert!(matches!(error, VmmError::Spec(_)), "{error:?}");
    }
    assert!(!place.firecracker.run_dir.exists());
}

#[tokio::test]
async fn known_bad_versions_are_refused_by_name() {
    let place = guest::place();
    let old = FirecrackerVersion { major: 1, minor: 11, patch: 0 };
    let adapter = Firecracker { version: old, ..place.firecracker.clone() };
    let error = adapter.launch(place.spec()).await.unwrap_err();
    assert!(matches!(&error, VmmError::KnownBad { defect: FirecrackerDefect::TooOld, .. }), "{error:?}");
    let deaf = FirecrackerVersion { major: 1, minor: 16, patch: 0 };
    let adapter = Firecracker { version: deaf, ..place.firecracker.clone() };
    let start = MachineStart::Restore { state: place.file("state", b"") };
    let memory = place.file("memory", b"");
    memory.set_len(64 << 20).unwrap();
    let spec = MachineSpec { memory: GuestMemory::From(memory), start, ..place.spec() };
    let error = adapter.launch(spec).await.unwrap_err();
    assert!(
        matches!(&error, VmmError::KnownBad { defect: FirecrackerDefect::DeadAfterRestore, .. }),
        "{error:?}"
    );
    // A binary with another version than at first was replaced.
    let newer = FirecrackerVersion { major: 1, minor: 15, patch: 1 };
    let adapter = Firecracker { version: newer, ..place.firecracker.clone() };
    let error = adapter.launch(place.spec()).await.unwrap_err();
    assert!(matches!(&error, VmmError::Refused { command: "GET /version", .. }), "{error:?}");
    place.assert_clean();
}

#[tokio::test]
async fn the_binary_says_its_version_and_format() {
    let place = guest::place();
    let binary = &place.firecracker.binary;
    assert_eq!(FirecrackerVersion::of(binary).await.unwrap(), place.firecracker.version);
    assert_eq!(FirecrackerVersion::snapshot_format(binary).await.unwrap(), "6.0.0");
    let error = FirecrackerVersion::of("/bin/echo".as_ref()).await.unwrap_err();
    assert!(matches!(error, VmmError::Version { .. }), "{error:?}");
    let error = FirecrackerVersion::of("/nonexistent/firecracker".as_ref()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/firecracker does not exist (it comes with the runtime bundle)"
    );
}
