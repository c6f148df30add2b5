//! Order of calls that must not overtake each other. Calls run at once, but a call sees every change of its workspace
//! that was asked for before it, and none of its files' that was asked for after it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::{CancellationToken, DropGuard};

/// A call's place among those of the same workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A look, which sees the changes that were asked for before it.
    After,
    /// A use of files, which sees those changes too, and for whose end edits wait that are asked for after it.
    Holds,
    /// A change of files.
    Edit,
    /// A change that does not wait for a command's end, so that one that hangs can be dealt with.
    Change,
}

impl Place {
    fn waits_for(self, earlier: Self) -> bool {
        match earlier {
            Self::After => false,
            Self::Holds => self == Self::Edit,
            Self::Edit | Self::Change => true,
        }
    }
}

/// The calls under way that others wait for, by workspace.
#[derive(Debug, Default)]
pub struct CallOrder {
    calls: Mutex<HashMap<String, Vec<(Place, CancellationToken)>>>,
}

/// A call's turn.
pub struct Turn {
    before: Vec<CancellationToken>,
    /// Others wait until this is dropped.
    _own: Option<DropGuard>,
}

impl CallOrder {
    /// Takes the place of a call that comes now: call this before anything is awaited.
    pub fn enter(&self, workspace: String, place: Place) -> Turn {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, under_way| {
            under_way.retain(|(_, call)| !call.is_cancelled());
            !under_way.is_empty()
        });
        let earlier = all.get(&workspace).map(Vec::as_slice).unwrap_or_default().iter();
        let before = earlier.filter(|(earlier, _)| place.waits_for(*earlier)).map(|(_, call)| call.clone());
        let before = before.collect();
        let own = (place != Place::After).then(|| {
            let own = CancellationToken::new();
            all.entry(workspace).or_default().push((place, own.clone()));
            own.drop_guard()
        });
        Turn { before, _own: own }
    }
}

impl Turn {
    /// Waits until what is before it is done, or was given up.
    pub async fn come(&self) {
        for call in &self.before {
            call.cancelled().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn free(turn: &Turn) -> bool {
        turn.come().now_or_never().is_some()
    }

    #[test]
    fn a_call_waits_for_all_earlier_changes_and_for_nothing_else() {
        let order = CallOrder::default();
        let enter = |place| order.enter("a".into(), place);
        let read = enter(Place::After);
        let first = enter(Place::Change);
        let second = enter(Place::Edit);
        let exec = enter(Place::Holds);
        assert!(free(&read) && free(&first) && !free(&second) && !free(&exec));
        assert!(free(&order.enter("b".into(), Place::Edit)));
        // One that gives up does not let others pass what it waited for.
        drop(second);
        assert!(!free(&exec) && !free(&enter(Place::Change)));
        drop(first);
        assert!(free(&exec) && free(&enter(Place::Change)));
        drop(exec);
        assert!(free(&enter(Place::After)) && free(&enter(Place::Edit)));
        enter(Place::After);
        assert!(order.calls.lock().unwrap().is_empty());
    }

    #[test]
    fn a_command_keeps_edits_back_and_nothing_else() {
        let order = CallOrder::default();
        let enter = |place| order.enter("a".into(), place);
        let exec = enter(Place::Holds);
        let another = enter(Place::Holds);
        assert!(free(&another) && free(&enter(Place::After)) && free(&enter(Place::Change)));
        let edit = enter(Place::Edit);
        drop(exec);
        assert!(!free(&edit));
        drop(another);
        assert!(free(&edit));
    }
}
