//! A machine's life under QEMU and TCG: boot, byte stream, disks, pause, and every way to end.

use std::time::Duration;

use crate::guest::{self, LineClient};
use pyro_vmm::{DeathReason, ProcessExit, VmmError};

#[tokio::test]
async fn a_guest_boots_and_answers() {
    let mut machine = guest::qemu().launch(guest::cold()).await.unwrap();
    let mut client = LineClient::with(&mut machine).await;
    assert_eq!(client.ask("hello").await, "hello");
    assert_eq!(client.ask("count").await, "1");
    assert!(matches!(machine.connect(guest::BOOT_DEADLINE).await, Err(VmmError::StreamTaken)));
    assert!(machine.watch().try_ended().is_none());
    let watch = machine.watch();
    machine.stop().await.unwrap();
    let death = watch.ended().await;
    assert_eq!((death.reason, death.exit), (DeathReason::Stopped, ProcessExit::Signal(9)));
}

/// Boots a guest, sends it the line `last`, and gives its end.
async fn end_by(last: &str) -> pyro_vmm::Death {
    let mut machine = guest::qemu().launch(guest::cold()).await.unwrap();
    let mut client = LineClient::with(&mut machine).await;
    assert_eq!(client.ask("hello").await, "hello");
    client.say(last).await;
    tokio::time::timeout(Duration::from_secs(30), machine.watch().ended()).await.expect("the machine ends")
}

#[tokio::test]
async fn power_off_ends_it() {
    let death = end_by("poweroff").await;
    assert_eq!((death.reason, death.exit), (DeathReason::GuestShutdown, ProcessExit::Code(0)), "{death:?}");
}

#[tokio::test]
async fn sysrq_power_off_ends_it() {
    let death = end_by("sysrq").await;
    assert_eq!((death.reason, death.exit), (DeathReason::GuestShutdown, ProcessExit::Code(0)), "{death:?}");
}

#[tokio::test]
async fn reboot_ends_it() {
    let death = end_by("reboot").await;
    assert_eq!((death.reason, death.exit), (DeathReason::GuestReset, ProcessExit::Code(0)), "{death:?}");
}

#[tokio::test]
async fn a_panic_ends_it_and_says_why() {
    let death = end_by("panic").await;
    assert_eq!((death.reason, death.exit), (DeathReason::GuestPanic, ProcessExit::Code(0)), "{death:?}");
    assert!(death.to_string().contains("Attempted to kill init! exitcode=0x00000300"), "{death}");
}
