//! Stopping work that blocks: a flag for code that loops, and a call for whatever waits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Action = Box<dyn Fn() + Send>;

/// Cancels what was given a clone of it. Once cancelled it stays so.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    actions: Mutex<(u64, BTreeMap<u64, Action>)>,
}

impl CancelToken {
    /// A token nobody has cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels: kills the processes of the work and wakes waiting threads. Returns at once; the work then cleans up and
    /// ends with an error such as [`super::HostFsError::Cancelled`].
    pub fn cancel(&self) {
        // Under the lock, so that an action being added is either called here or sees the flag.
        let actions = self.actions();
        self.0.cancelled.store(true, Ordering::Release);
        actions.1.values().for_each(|action| action());
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Calls `action` on cancellation, at once if that was before. Until the guard is dropped.
    ///
    /// The action runs under a lock: it must be short and must not use the token.
    pub(crate) fn on_cancel(&self, action: impl Fn() + Send + 'static) -> OnCancel<'_> {
        let mut actions = self.actions();
        if self.is_cancelled() {
            action();
        }
        actions.0 += 1;
        let id = actions.0;
        actions.1.insert(id, Box::new(action));
        OnCancel { token: self, id }
    }

    fn actions(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Action>)> {
        self.0.actions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

/// Keeps an action registered.
pub(crate) struct OnCancel<'a> {
    token: &'a CancelToken,
    id: u64,
}

impl Drop for OnCancel<'_> {
    fn drop(&mut self) {
        self.token.actions().1.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn actions_run_once_registered_and_not_after() {
        let (token, calls) = (CancelToken::new(), Arc::new(AtomicU32::new(0)));
        let count = || {
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        drop(token.on_cancel(count()));
        let kept = token.on_cancel(count());
        token.clone().cancel();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        drop(kept);
        let _late = token.on_cancel(count());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert!(token.is_cancelled());
    }
}
