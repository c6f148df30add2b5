//! Trees without cgroups: by parent and child, as `/proc` shows them.
//!
//! Every command is the subreaper of its own descendants, so nothing escapes from below it while it lives. When it
//! ends, its orphans come to the agent, whose other children are all commands: a new child that is none was left
//! behind by the one that just ended.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use rustix::process::{Pid, Signal, kill_process};

use crate::reaper::Reaper;

/// Rounds in which a tree that does not get empty is walked before it is given up.
const ROUNDS: usize = 10_000;

/// Processes whose command ended and left them running.
#[derive(Default)]
pub struct Orphans(RefCell<HashSet<i32>>);

impl Orphans {
    /// Takes in the processes left behind by the command that was just reaped; says whether there are any.
    pub fn release(&self, reaper: &Reaper) -> bool {
        !self.take_fresh(reaper).is_empty()
    }

    /// Like [`Self::release`], and returns the process ids.
    pub fn take_fresh(&self, reaper: &Reaper) -> Vec<i32> {
        let fresh = self.fresh(reaper);
        self.0.borrow_mut().extend(&fresh);
        fresh
    }

    /// Processes of `left` that are still there. Only the agent reaps its children, so an id that is among them is
    /// still the same process.
    fn still(&self, left: &[i32]) -> Vec<i32> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let children = living().remove(&own).unwrap_or_default();
        let mut known = self.0.borrow_mut();
        known.retain(|pid| children.contains(pid));
        left.iter().copied().filter(|pid| known.contains(pid)).collect()
    }

    /// Whether any of `left` is still there.
    pub fn any(&self, left: &[i32]) -> bool {
        !left.is_empty() && !self.still(left).is_empty()
    }

    /// Kills the processes of `left` that are still there, and all below them.
    pub fn kill_left(&self, left: &[i32]) {
        if left.is_empty() {
            return;
        }
        for orphan in self.still(left) {
            kill_descendants(orphan);
            send(orphan, Signal::KILL);
        }
    }

    /// Sends `signal` to the tree of `main`, if that still runs, and to the processes of `left` that are still there.
    pub fn signal(&self, main: i32, reaper: &Reaper, left: &[i32], signal: Signal) {
        let mut found = self.still(left);
        if reaper.is_watched(main) {
            found.push(main);
        }
        with_descendants(found, &living()).into_iter().for_each(|pid| send(pid, signal));
    }

    /// Kills the tree of the command `main`, whether it still runs or not.
    pub fn kill(&self, main: i32, reaper: &Reaper) {
        if reaper.is_watched(main) {
            // Stopped it starts nothing new, and alive it keeps its descendants together.
            send(main, Signal::STOP);
            kill_descendants(main);
            send(main, Signal::KILL);
        }
        for orphan in self.fresh(reaper) {
            kill_descendants(orphan);
            send(orphan, Signal::KILL);
        }
    }

    /// The agent's living children that are neither commands nor known orphans.
    fn fresh(&self, reaper: &Reaper) -> Vec<i32> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let children = living().remove(&own).unwrap_or_default();
        let mut known = self.0.borrow_mut();
        known.retain(|pid| children.contains(pid));
        children.into_iter().filter(|pid| !reaper.is_watched(*pid) && !known.contains(pid)).collect()
    }
}

/// Kills everything below `root`, again and again until nothing is left.
pub fn kill_descendants(root: i32) {
    for _ in 0..ROUNDS {
        let found = with_descendants(vec![root], &living());
        if found.len() == 1 {
            return;
        }
        for pid in &found[1..] {
            send(*pid, Signal::KILL);
        }
        rustix::thread::sched_yield();
    }
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Most rounds in which a family that goes on making processes is looked for.
const FAMILY_ROUNDS: usize = 64;

/// Living processes that a command started, by descent from its first process `main` or by its session, in whatever cgroup
/// they are. One that has left both cannot be told from other commands'.
pub fn family(main: i32, reaper: &Reaper) -> Vec<i32> {
    let all = processes();
    let alive = reaper.is_watched(main);
    // The number of a process that was reaped may be another's by now, and so a new session's.
    let is_its_session = alive || !all.iter().any(|process| process.pid == main);
    let mut found: Vec<i32> = if alive { vec![main] } else { Vec::new() };
    let of_session = all.iter().filter(|process| is_its_session && process.session == main);
    found.extend(of_session.map(|process| process.pid).filter(|pid| *pid != main));
    with_descendants(found, &by_parent(&all))
}

/// Kills `found`, and what the command `main` makes meanwhile.
pub fn kill_family(main: i32, reaper: &Reaper, mut found: Vec<i32>) {
    for _ in 0..FAMILY_ROUNDS {
        if found.is_empty() {
            return;
        }
        found.iter().for_each(|pid| send(*pid, Signal::KILL));
        rustix::thread::sched_yield();
        // What was killed is alive for a moment, and alone in that.
        let next = family(main, reaper);
        let killed: HashSet<i32> = found.into_iter().collect();
        if next.iter().all(|pid| killed.contains(pid)) {
            return;
        }
        found = next;
    }
}

/// A living process.
struct Living {
    pid: i32,
    parent: i32,
    session: i32,
}

/// `found`, and all that descends from them, each once.
fn with_descendants(mut found: Vec<i32>, tree: &HashMap<i32, Vec<i32>>) -> Vec<i32> {
    let mut seen: HashSet<i32> = found.iter().copied().collect();
    let mut at = 0;
    while at < found.len() {
        found.extend(tree.get(&found[at]).into_iter().flatten().filter(|pid| seen.insert(**pid)));
        at += 1;
    }
    found
}

/// Living processes by their parent.
fn living() -> HashMap<i32, Vec<i32>> {
    by_parent(&processes())
}

fn by_parent(all: &[Living]) -> HashMap<i32, Vec<i32>> {
    let mut tree: HashMap<i32, Vec<i32>> = HashMap::new();
    for Living { pid, parent, .. } in all {
        tree.entry(*parent).or_default().push(*pid);
    }
    tree
}

fn processes() -> Vec<Living> {
    let mut all = Vec::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { continue };
        // The name, in parentheses, may contain anything; state and parent follow its last one.
        let Some(end) = stat.iter().rposition(|byte| *byte == b')') else { continue };
        let rest = String::from_utf8_lossy(&stat[end + 1..]);
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next();
        let mut number = || fields.next().and_then(|field| field.parse::<i32>().ok());
        let (Some(state), Some(parent), Some(_group), Some(session)) = (state, number(), number(), number())
        else {
            continue;
        };
        if !matches!(state, "Z" | "X") {
            all.push(Living { pid, parent, session });
        }
    }
    all
}
