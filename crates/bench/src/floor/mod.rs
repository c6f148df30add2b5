//! The floor under every figure: what a VMM costs by itself, with the same kernel and memory and none of our code.
//!
//! It blocks; here it is put on threads, which end with the future that waits for them.
//!
//! Invariant: nothing below uses pyro's VMM, protocol or guest. A floor that shared code with what stands on it would
//! move with it.

pub(super) mod firecracker;
pub(super) mod qemu;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::cpu::IdlePlan;
use qemu::Bare;

/// What starts are compared with: one for each VMM.
pub(super) enum Floor {
    /// A bare QEMU.
    Qemu(Arc<Bare>),
}

/// Ending one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

impl Floor {
    /// What it is, in words.
    pub(super) fn description(&self) -> String {
        match self {
            Self::Qemu(bare) => format!(
                "a bare QEMU ({}, microvm, {} MiB) with this runtime's kernel and a static init that answers a line",
                if bare.kvm { "KVM" } else { "TCG" },
                bare.mem_mib
            ),
        }
    }

    /// Saves a guest to be restored, once, before anything else is asked of it but [`Floor::cold`].
    pub(super) async fn save(&self) -> Result<(), String> {
        let Self::Qemu(bare) = self;
        on_thread(bare, Bare::save).await
    }

    /// Spawn to first answer of a boot, ms.
    pub(super) async fn cold(&self) -> Result<f64, String> {
        let Self::Qemu(bare) = self;
        on_thread(bare, Bare::cold).await
    }

    /// Spawn to first answer of a restore, ms.
    pub(super) async fn restore(&self) -> Result<f64, String> {
        let Self::Qemu(bare) = self;
        on_thread(bare, Bare::restore).await
    }

    /// `n` restores at once: from the first spawn to the last answer, ms.
    pub(super) async fn restore_many(&self, n: usize) -> Result<f64, String> {
        let Self::Qemu(bare) = self;
        on_thread(bare, move |bare, given_up| bare.restore_many(n, given_up)).await
    }

    /// Memory of restored ones that have run `commands` programs and wait, MiB: of the first, and what another adds.
    pub(super) async fn idle_memory(&self, commands: usize) -> Result<(f64, f64), String> {
        let Self::Qemu(bare) = self;
        on_thread(bare, move |bare, given_up| bare.idle_memory(commands, given_up)).await
    }

    /// What restored ones take of one core that wait, percent, a sample each round.
    pub(super) async fn idle_cpu(&self, plan: IdlePlan) -> Result<Vec<f64>, String> {
        let Self::Qemu(bare) = self;
        on_thread(bare, move |bare, given_up| bare.idle_cpu(plan, given_up)).await
    }
}

/// Gives up when dropped, and waits until the thread has ended what it started.
struct GiveUp(Arc<AtomicBool>, mpsc::Receiver<()>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        // Nothing is sent: the sender goes with the thread's work.
        let _ = self.1.recv_timeout(PATIENCE);
    }
}

pub(super) async fn on_thread<B: Send + Sync + 'static, T: Send + 'static>(
    bare: &Arc<B>,
    work: impl FnOnce(&B, &AtomicBool) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let given_up = Arc::new(AtomicBool::new(false));
    let (done, ended) = mpsc::channel();
    let guard = GiveUp(Arc::clone(&given_up), ended);
    let bare = Arc::clone(bare);
    let worked = tokio::task::spawn_blocking(move || {
        let _done: mpsc::Sender<()> = done;
        work(&bare, &given_up)
    });
    let worked = worked.await.unwrap_or_else(|error| Err(format!("its thread ended: {error}")));
    drop(guard);
    worked
}
