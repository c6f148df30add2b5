//! Order of calls that must not overtake each other. Calls run at once, but a call sees every change of its workspace
//! that was asked for before it, and none of its files' that was asked for after it.
//!
//! A workspace goes by its id and by a name, and a call may give it a name that a later one uses. So a call has several keys:
//! the word by which it names its workspace, the id which that means now, and that which it will mean after the calls under
//! way. Calls with a key in common are ordered.

use std::sync::{Mutex, PoisonError};

use pyro_core::workspace::is_id;
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

/// What a call has to do with workspaces, in the words of its client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uses<'a> {
    /// Workspace that it acts on.
    pub workspace: Option<&'a str>,
    /// Name that it gives: to that workspace, or to one that it makes.
    pub gives: Option<&'a str>,
    /// Whether the name is for a workspace that it makes.
    pub makes: bool,
}

/// The calls under way that others wait for, in the order in which they came.
#[derive(Debug, Default)]
pub struct CallOrder {
    calls: Mutex<Vec<UnderWay>>,
}

#[derive(Debug)]
struct UnderWay {
    keys: Vec<(String, Place)>,
    /// Name that the call gives, and an id of the workspace that has it then, where that is known.
    gives: Option<(String, Option<String>)>,
    over: CancellationToken,
}

/// A call's turn.
pub struct Turn {
    before: Vec<CancellationToken>,
    /// Others wait until this is dropped.
    _own: Option<DropGuard>,
}

impl CallOrder {
    /// Takes the place of a call that comes now: call this before anything is awaited. `resolve` gives the id that a name means
    /// now, or the name itself.
    pub fn enter(&self, uses: Uses<'_>, place: Place, resolve: impl Fn(&str) -> String) -> Turn {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.retain(|call| !call.over.is_cancelled());
        let mut keys = Vec::new();
        if let Some(workspace) = uses.workspace {
            add(&mut keys, workspace, place, &calls, &resolve);
        }
        // The workspace that has the name now may be about to lose it, and whoever uses it next waits for that.
        if let Some(name) = uses.gives {
            add(&mut keys, name, Place::Change, &calls, &resolve);
        }
        let before = calls.iter().filter(|call| {
            call.keys.iter().any(|(key, earlier)| {
                let waits =
                    |key: &str| keys.iter().any(|(own, place)| own == key && place.waits_for(*earlier));
                // One that named a workspace before it had the name.
                waits(key) || (!is_id(key) && waits(&resolve(key)))
            })
        });
        let before = before.map(|call| call.over.clone()).collect();
        let own = keys.iter().any(|(_, place)| *place != Place::After).then(|| {
            let over = CancellationToken::new();
            let gives = uses.gives.map(|name| {
                let workspace = uses.workspace.filter(|_| !uses.makes);
                (name.to_owned(), workspace.map(&resolve))
            });
            calls.push(UnderWay { keys, gives, over: over.clone() });
            over.drop_guard()
        });
        Turn { before, _own: own }
    }
}

/// Adds what `word` means: itself, what it means now, and what it will mean.
fn add(
    keys: &mut Vec<(String, Place)>,
    word: &str,
    place: Place,
    calls: &[UnderWay],
    resolve: impl Fn(&str) -> String,
) {
    let given = calls.iter().filter_map(|call| call.gives.as_ref());
    let soon = given.filter(|(name, _)| name == word).filter_map(|(_, id)| id.clone());
    for key in [word.to_owned(), resolve(word)].into_iter().chain(soon) {
        if !keys.contains(&(key.clone(), place)) {
            keys.push((key, place));
        }
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
    use std::cell::RefCell;
    use std::collections::HashMap;

    use futures::FutureExt as _;

    use super::*;

    const A: &str = "aaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbb";

    /// An order of calls, and the names that workspaces have.
    #[derive(Default)]
    struct World {
        order: CallOrder,
        names: RefCell<HashMap<String, String>>,
    }

    impl World {
        fn enter(&self, uses: Uses<'_>, place: Place) -> Turn {
            let names = self.names.borrow();
            self.order.enter(uses, place, |word| names.get(word).cloned().unwrap_or_else(|| word.to_owned()))
        }

        fn on(&self, workspace: &str, place: Place) -> Turn {
            self.enter(Uses { workspace: Some(workspace), ..Uses::default() }, place)
        }

        fn rename(&self, workspace: &str, name: &str) -> Turn {
            self.enter(Uses { workspace: Some(workspace), gives: Some(name), makes: false }, Place::Change)
        }

        fn create(&self, name: &str) -> Turn {
            self.enter(Uses { workspace: None, gives: Some(name), makes: true }, Place::Holds)
        }

        fn is(&self, name: &str, id: &str) {
            self.names.borrow_mut().insert(name.into(), id.into());
        }
    }

    fn free(turn: &Turn) -> bool {
        turn.come().now_or_never().is_some()
    }

    #[test]
    fn a_call_waits_for_all_earlier_changes_and_for_nothing_else() {
        let world = World::default();
        let enter = |place| world.on(A, place);
        let read = enter(Place::After);
        let first = enter(Place::Change);
        let second = enter(Place::Edit);
        let exec = enter(Place::Holds);
        assert!(free(&read) && free(&first) && !free(&second) && !free(&exec));
        assert!(free(&world.on(B, Place::Edit)));
        // One that gives up does not let others pass what it waited for.
        drop(second);
        assert!(!free(&exec) && !free(&enter(Place::Change)));
        drop(first);
        assert!(free(&exec) && free(&enter(Place::Change)));
        drop(exec);
        assert!(free(&enter(Place::After)) && free(&enter(Place::Edit)));
        enter(Place::After);
        assert!(world.order.calls.lock().unwrap().is_empty());
    }

    #[test]
    fn a_command_keeps_edits_back_and_nothing_else() {
        let world = World::default();
        let enter = |place| world.on(A, place);
        let exec = enter(Place::Holds);
        let another = enter(Place::Holds);
        assert!(free(&another) && free(&enter(Place::After)) && free(&enter(Place::Change)));
        let edit = enter(Place::Edit);
        drop(exec);
        assert!(!free(&edit));
        drop(another);
        assert!(free(&edit));
    }

    #[test]
    fn a_name_that_is_being_given_is_waited_for() {
        let world = World::default();
        let update = world.rename(A, "x");
        let named = world.on("x", Place::Edit);
        let by_id = world.on(A, Place::After);
        let other = world.on("y", Place::Edit);
        assert!(free(&update) && !free(&named) && !free(&by_id) && free(&other));
        world.is("x", A);
        drop(update);
        assert!(free(&named) && !free(&by_id), "whoever has the id waits for whoever has the name");
        drop(named);
        assert!(free(&by_id));
    }

    #[test]
    fn a_workspace_that_is_being_made_is_waited_for() {
        let world = World::default();
        let create = world.create("x");
        let named = world.on("x", Place::Edit);
        assert!(!free(&named) && free(&world.on(A, Place::After)));
        world.is("x", A);
        drop(create);
        // Its id is known now, while a call by its name is under way.
        let by_id = world.on(A, Place::After);
        assert!(free(&named) && !free(&by_id));
        drop(named);
        assert!(free(&by_id));
    }

    #[test]
    fn a_name_that_goes_from_one_to_another_is_waited_for() {
        let world = World::default();
        world.is("x", A);
        let away = world.rename(A, "y");
        let here = world.rename(B, "x");
        let named = world.on("x", Place::After);
        assert!(free(&away) && !free(&here) && !free(&named));
        drop(away);
        assert!(free(&here) && !free(&named));
        drop(here);
        assert!(free(&named));
        // And one that is free once a workspace is deleted.
        let delete = world.on("x", Place::Change);
        let again = world.create("x");
        assert!(free(&delete) && !free(&again));
    }
}
