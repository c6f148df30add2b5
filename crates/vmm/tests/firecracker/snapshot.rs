//! Save and load with the real binary, without and within a jail: a running machine, loaded many times.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use crate::guest::{self, Place, output, said};
use pyro_vmm::{GuestMemory, Machine, MachineSpec, MachineStart, MemoryFileUse, VmmError};

/// Starts, pauses and saves a machine; gives it with its memory and state files.
async fn saved(place: &Place) -> (Machine, File, File) {
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    said(&machine, "here").await;
    assert_eq!(machine.memory_file_use(), MemoryFileUse::All);
    let (state, memory) = (output(place.dir.path(), "state"), output(place.dir.path(), "memory"));
    let save = machine.save(state.try_clone().unwrap(), Some(memory.try_clone().unwrap())).await;
    assert!(matches!(save, Err(VmmError::NotPaused)), "{save:?}");
    machine.pause().await.unwrap();
    let save = machine.save(state.try_clone().unwrap(), None).await;
    assert!(matches!(save, Err(VmmError::Spec(_))), "{save:?}");
    machine.save(state.try_clone().unwrap(), Some(memory.try_clone().unwrap())).await.unwrap();
    assert_eq!(memory.metadata().unwrap().len(), 64 << 20);
    assert!(state.metadata().unwrap().len() > 1000);
    (machine, memory, state)
}

fn restore(place: &Place, memory: &File, state: &File) -> MachineSpec {
    let start = MachineStart::Restore { state: state.try_clone().unwrap() };
    MachineSpec { memory: GuestMemory::From(memory.try_clone().unwrap()), start, ..place.spec() }
}

async fn a_saved_machine_is_loaded(place: Place) {
    let (mut machine, memory, state) = saved(&place).await;
    // The saved machine itself goes on, and can be saved again over the same files.
    machine.resume().await.unwrap();
    machine.pause().await.unwrap();
    machine.save(state.try_clone().unwrap(), Some(memory.try_clone().unwrap())).await.unwrap();
    machine.stop().await.unwrap();
    place.assert_clean();
    let mut text = vec![0; 16];
    memory.read_exact_at(&mut text, 0x10_0000).unwrap();
    assert!(text.iter().any(|&byte| byte != 0), "the kernel is in the saved memory");

    let mut all = Vec::new();
    for _ in 0..3 {
        let mut machine = place.firecracker.launch(restore(&place, &memory, &state)).await.unwrap();
        machine.resume().await.unwrap();
        all.push(machine);
    }
    assert_eq!(place.homes().len(), 3);
    // A restored machine can be saved again.
    let mut machine = all.pop().unwrap();
    machine.pause().await.unwrap();
    let (state, memory) = (output(place.dir.path(), "state2"), output(place.dir.path(), "memory2"));
    machine.save(state.try_clone().unwrap(), Some(memory.try_clone().unwrap())).await.unwrap();
    machine.stop().await.unwrap();
    let again = place.firecracker.launch(restore(&place, &memory, &state)).await.unwrap();
    again.stop().await.unwrap();
    for machine in all {
        assert!(machine.watch().try_ended().is_none());
        machine.stop().await.unwrap();
    }
    place.assert_clean();
}

#[tokio::test]
async fn a_saved_machine_is_loaded_many_times() {
    a_saved_machine_is_loaded(guest::place()).await;
}

#[tokio::test]
async fn a_saved_machine_is_loaded_many_times_in_jails() {
    a_saved_machine_is_loaded(guest::jailed()).await;
}

#[tokio::test]
async fn a_template_made_without_a_jail_is_loaded_in_one() {
    let (open, shut) = (guest::place(), guest::jailed());
    let (machine, memory, state) = saved(&open).await;
    machine.stop().await.unwrap();
    let mut machine = shut.firecracker.launch(restore(&shut, &memory, &state)).await.unwrap();
    machine.resume().await.unwrap();
    machine.stop().await.unwrap();
    shut.assert_clean();
}

#[tokio::test]
async fn a_save_goes_into_files_that_have_no_name() {
    let place = guest::place();
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    machine.pause().await.unwrap();
    let (state, memory) = (guest::memfd(), guest::memfd());
    machine.save(state.try_clone().unwrap(), Some(memory.try_clone().unwrap())).await.unwrap();
    machine.stop().await.unwrap();
    let machine = place.firecracker.launch(restore(&place, &memory, &state)).await.unwrap();
    machine.stop().await.unwrap();
    place.assert_clean();
}

#[tokio::test]
async fn a_save_that_cannot_be_written_is_an_error_and_the_machine_lives() {
    let place = guest::place();
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    machine.pause().await.unwrap();
    let read_only = File::open("/proc/version").unwrap();
    let error = machine.save(read_only, Some(guest::memfd())).await.unwrap_err();
    assert!(matches!(error, VmmError::Host { .. }), "{error:?}");
    machine.resume().await.unwrap();
    machine.stop().await.unwrap();
    place.assert_clean();
}

#[tokio::test]
async fn a_state_that_is_none_is_refused_with_its_words() {
    let place = guest::place();
    let memory = guest::memfd();
    memory.set_len(64 << 20).unwrap();
    for bytes in [&b""[..], b"not a state", &[0; 100_000]] {
        let state = place.file("state", bytes);
        let error = place.firecracker.launch(restore(&place, &memory, &state)).await.unwrap_err();
        let VmmError::Api { request, status, fault } = &error else { panic!("{error:?}") };
        assert_eq!((*request, *status), ("PUT /snapshot/load", 400));
        assert!(fault.starts_with("Load snapshot error: "), "{fault}");
        place.assert_clean();
    }
}

#[tokio::test]
async fn a_damaged_state_is_refused() {
    let place = guest::place();
    let (machine, memory, state) = saved(&place).await;
    machine.stop().await.unwrap();
    let middle = state.metadata().unwrap().len() / 2;
    let mut byte = [0];
    state.read_exact_at(&mut byte, middle).unwrap();
    state.write_all_at(&[!byte[0]], middle).unwrap();
    let error = place.firecracker.launch(restore(&place, &memory, &state)).await.unwrap_err();
    let VmmError::Api { fault, .. } = &error else { panic!("{error:?}") };
    assert!(fault.contains("CRC"), "{fault}");
    place.assert_clean();
}

#[tokio::test]
async fn a_drive_that_the_saved_machine_had_and_this_one_lacks_is_named() {
    let place = guest::place();
    let (machine, memory, state) = saved(&place).await;
    machine.stop().await.unwrap();
    let mut spec = restore(&place, &memory, &state);
    spec.parts.disk = None;
    let error = place.firecracker.launch(spec).await.unwrap_err();
    let VmmError::Api { fault, .. } = &error else { panic!("{error:?}") };
    assert!(fault.contains("disk.ext4"), "{fault}");
    place.assert_clean();
}

#[tokio::test]
async fn a_checkpoint_stays_its_owners_and_is_loaded_while_it_is_open_to_all() {
    let place = guest::jailed();
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    said(&machine, "here").await;
    machine.pause().await.unwrap();
    let (state, memory) = (output(place.dir.path(), "b.memory"), output(place.dir.path(), "b.ram"));
    let set_mode = |mode| {
        for file in [&state, &memory] {
            file.set_permissions(Permissions::from_mode(mode)).unwrap();
        }
    };
    set_mode(0o600);
    machine.save(state.try_clone().unwrap(), Some(memory.try_clone().unwrap())).await.unwrap();
    // The machine goes on, and neither file belongs to the jail's user any more.
    machine.resume().await.unwrap();
    for file in [&state, &memory] {
        let metadata = file.metadata().unwrap();
        let owner = rustix::process::geteuid().as_raw();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (owner, 0o600));
    }
    let error = place.firecracker.launch(restore(&place, &memory, &state)).await.unwrap_err();
    assert!(matches!(error, VmmError::Spec(_)), "{error:?}");
    set_mode(0o666);
    let other = place.firecracker.launch(restore(&place, &memory, &state)).await.unwrap();
    set_mode(0o600);
    let third = place.firecracker.launch(restore(&place, &memory, &state)).await;
    assert!(third.is_err(), "it is shut again");
    for machine in [machine, other] {
        assert!(machine.watch().try_ended().is_none());
        machine.stop().await.unwrap();
    }
    place.assert_clean();
}
