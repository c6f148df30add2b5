//! What must not overtake what. Calls run at once, but a call sees every change of its workspace that was asked for
//! before it, and changes come one after the other.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::{CancellationToken, DropGuard};

/// The changes under way, by workspace.
#[derive(Debug, Default)]
pub struct Order {
    changes: Mutex<HashMap<String, Vec<CancellationToken>>>,
}

/// A call's place.
pub struct Turn {
    before: Vec<CancellationToken>,
    /// Others wait until this is dropped.
    _own: Option<DropGuard>,
}

impl Order {
    /// Takes the place of a call that comes now: call this before anything is awaited.
    pub fn enter(&self, workspace: String, changes: bool) -> Turn {
        let mut all = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, under_way| {
            under_way.retain(|change| !change.is_cancelled());
            !under_way.is_empty()
        });
        let before = all.get(&workspace).cloned().unwrap_or_default();
        let own = changes.then(|| {
            let own = CancellationToken::new();
            all.entry(workspace).or_default().push(own.clone());
            own.drop_guard()
        });
        Turn { before, _own: own }
    }
}

impl Turn {
    /// Waits until the changes before it are done, or were given up.
    pub async fn come(&self) {
        for change in &self.before {
            change.cancelled().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_call_waits_for_all_earlier_changes_and_for_nothing_else() {
        let order = Order::default();
        let enter = |changes| order.enter("a".into(), changes);
        let free = |turn: &Turn| turn.come().now_or_never().is_some();
        let read = enter(false);
        let first = enter(true);
        let second = enter(true);
        let exec = enter(false);
        assert!(free(&read) && free(&first) && !free(&second) && !free(&exec));
        assert!(free(&order.enter("b".into(), true)));
        // One that gives up does not let others pass what it waited for.
        drop(second);
        assert!(!free(&exec) && !free(&enter(true)));
        drop(first);
        assert!(free(&exec) && free(&enter(false)));
        assert!(order.changes.lock().unwrap().is_empty());
    }
}
