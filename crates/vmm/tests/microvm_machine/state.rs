//! Pause, save and restore under QEMU and TCG: one saved guest continued many times, with its memory in a file of its
//! own or in the state.

use std::fs::File;
use std::time::{Duration, Instant};

use crate::guest::{self, LineClient};
use pyro_vmm::{GuestMemory, Machine, MachineSpec, MachineStart, MemoryFileUse, VmmError};

/// Boots a guest that counts to two, pauses and saves it; gives memory (if it is a file) and state.
async fn saved(memory: Option<&File>) -> (Machine, File) {
    let memory = memory.map_or(GuestMemory::Private, |file| GuestMemory::Owned(guest::again(file)));
    let mut machine = guest::qemu().launch(MachineSpec { memory, ..guest::cold() }).await.unwrap();
    let mut client = LineClient::with(&mut machine).await;
    assert_eq!(client.ask("count").await, "1");
    assert_eq!(client.ask("count").await, "2");
    drop(client);
    let state = tempfile::tempfile().unwrap();
    assert!(matches!(machine.save(state.try_clone().unwrap(), None).await, Err(VmmError::NotPaused)));
    machine.pause().await.unwrap();
    machine.pause().await.unwrap();
    machine.save(state.try_clone().unwrap(), None).await.unwrap();
    (machine, state)
}

async fn restored(memory: GuestMemory, state: &File) -> (Machine, LineClient) {
    let start = MachineStart::Restore { state: state.try_clone().unwrap() };
    let mut machine = guest::qemu().launch(MachineSpec { memory, start, ..guest::cold() }).await.unwrap();
    let client = LineClient::with(&mut machine).await;
    (machine, client)
}

#[tokio::test]
async fn a_paused_guest_answers_only_after_resume() {
    let mut machine = guest::qemu().launch(guest::cold()).await.unwrap();
    let mut client = LineClient::with(&mut machine).await;
    assert_eq!(client.ask("count").await, "1");
    machine.pause().await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), client.ask("count")).await;
    assert!(early.is_err(), "a paused guest answered {early:?}");
    machine.resume().await.unwrap();
    machine.resume().await.unwrap();
    assert_eq!(client.ask("count").await, "2", "the question asked while paused was answered first");
    machine.stop().await.unwrap();
}

#[tokio::test]
async fn one_saved_guest_continues_in_four_machines_at_once() {
    let memory = guest::memfd();
    let (machine, state) = saved(Some(&memory)).await;
    machine.stop().await.unwrap();
    let length = state.metadata().unwrap().len();
    assert!(length < 4 << 20, "the state leaves memory out and has {length} bytes");

    let mut all = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (memory, state) = (guest::again(&memory), state.try_clone().unwrap());
        all.spawn(async move {
            let begin = Instant::now();
            let (mut machine, mut client) = restored(GuestMemory::From(memory), &state).await;
            assert!(machine.watch().try_ended().is_none());
            machine.resume().await.unwrap();
            // Each restored guest continues the same count in pages of its own.
            assert_eq!(client.ask("count").await, "3");
            println!("restored and answered after {:?}", begin.elapsed());
            assert_eq!(client.ask("count").await, "4");
            machine.stop().await.unwrap();
        });
    }
    all.join_all().await;
}

#[tokio::test]
async fn a_guest_with_private_memory_is_saved_whole() {
    let (mut machine, state) = saved(None).await;
    // The saved machine itself goes on, and can be saved again.
    machine.resume().await.unwrap();
    machine.pause().await.unwrap();
    machine.save(tempfile::tempfile().unwrap(), None).await.unwrap();
    machine.stop().await.unwrap();
    let (mut machine, mut client) = restored(GuestMemory::Private, &state).await;
    machine.resume().await.unwrap();
    assert_eq!(client.ask("count").await, "3");
    machine.stop().await.unwrap();
}

#[tokio::test]
async fn a_restored_guest_is_saved_whole_too() {
    let memory = guest::memfd();
    let (machine, state) = saved(Some(&memory)).await;
    machine.stop().await.unwrap();
    let (mut machine, mut client) = restored(GuestMemory::From(guest::again(&memory)), &state).await;
    machine.resume().await.unwrap();
    assert_eq!(client.ask("count").await, "3");
    machine.pause().await.unwrap();
    let second = tempfile::tempfile().unwrap();
    machine.save(second.try_clone().unwrap(), None).await.unwrap();
    machine.stop().await.unwrap();
    let (mut machine, mut client) = restored(GuestMemory::Private, &second).await;
    machine.resume().await.unwrap();
    assert_eq!(client.ask("count").await, "4");
    machine.stop().await.unwrap();
}

/// Copies a file's contents into a new file.
fn copy(of: &File) -> File {
    let copy = guest::memfd();
    std::io::copy(&mut guest::again(of), &mut &copy).unwrap();
    copy
}

#[tokio::test]
async fn what_a_restored_guest_changed_is_saved_beside_its_devices_again_and_again() {
    let mut memory = guest::memfd();
    let (machine, mut state) = saved(Some(&memory)).await;
    assert_eq!(machine.memory_file_use(), MemoryFileUse::Nothing);
    machine.stop().await.unwrap();
    for count in 3..6 {
        let (mut machine, mut client) = restored(GuestMemory::From(guest::again(&memory)), &state).await;
        assert_eq!(machine.memory_file_use(), MemoryFileUse::Changes);
        machine.resume().await.unwrap();
        assert_eq!(client.ask("count").await, count.to_string());
        machine.pause().await.unwrap();
        let (devices, changed) = (tempfile::tempfile().unwrap(), copy(&memory));
        machine.save(devices.try_clone().unwrap(), Some(changed.try_clone().unwrap())).await.unwrap();
        // The saved machine goes on, and later changes are in neither file.
        machine.resume().await.unwrap();
        assert_eq!(client.ask("count").await, (count + 1).to_string());
        machine.stop().await.unwrap();
        (memory, state) = (changed, devices);
    }
    let length = state.metadata().unwrap().len();
    assert!(length < 1 << 20, "the state holds the devices alone and has {length} bytes");
}

#[tokio::test]
async fn a_machine_whose_changes_cannot_be_written_is_saved_whole() {
    let memory = guest::memfd();
    let (machine, state) = saved(Some(&memory)).await;
    machine.stop().await.unwrap();
    let (mut machine, mut client) = restored(GuestMemory::From(guest::again(&memory)), &state).await;
    machine.resume().await.unwrap();
    assert_eq!(client.ask("count").await, "3");
    machine.pause().await.unwrap();
    let whole = tempfile::tempfile().unwrap();
    let read_only = File::open("/proc/version").unwrap();
    let error = machine.save(whole.try_clone().unwrap(), Some(read_only)).await.unwrap_err();
    assert!(matches!(error, VmmError::Host { doing: "copy the guest's memory", .. }), "{error:?}");
    whole.set_len(0).unwrap();
    machine.save(whole.try_clone().unwrap(), None).await.unwrap();
    machine.stop().await.unwrap();
    let (mut machine, mut client) = restored(GuestMemory::Private, &whole).await;
    machine.resume().await.unwrap();
    assert_eq!(client.ask("count").await, "4");
    machine.stop().await.unwrap();
}

#[tokio::test]
async fn only_a_machine_from_a_memory_file_saves_into_one() {
    let (mut machine, _state) = saved(None).await;
    let error = machine.save(tempfile::tempfile().unwrap(), Some(guest::memfd())).await.unwrap_err();
    assert!(matches!(error, VmmError::Spec(_)), "{error:?}");
    machine.stop().await.unwrap();
}

#[tokio::test]
async fn a_state_that_is_none_is_refused() {
    for bytes in [&b""[..], b"not a state", &[0; 100_000]] {
        let mut state = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut state, bytes).unwrap();
        let start = MachineStart::Restore { state };
        let error = guest::qemu().launch(MachineSpec { start, ..guest::cold() }).await.unwrap_err();
        assert!(matches!(error, VmmError::Died { .. } | VmmError::Refused { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_memory_file_of_another_size_is_refused() {
    let memory = guest::memfd();
    memory.set_len(1 << 20).unwrap();
    let error = guest::qemu()
        .launch(MachineSpec { memory: GuestMemory::From(memory), ..guest::cold() })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("1048576 bytes and the machine has 268435456"), "{error}");
}

#[tokio::test]
async fn a_save_that_cannot_be_written_is_an_error_and_the_guest_lives() {
    let mut machine = guest::qemu().launch(guest::cold()).await.unwrap();
    let mut client = LineClient::with(&mut machine).await;
    assert_eq!(client.ask("count").await, "1");
    machine.pause().await.unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = machine.save(full, None).await.unwrap_err();
    assert!(matches!(&error, VmmError::Refused { .. }), "{error:?}");
    machine.resume().await.unwrap();
    assert_eq!(client.ask("count").await, "2");
    machine.stop().await.unwrap();
}
