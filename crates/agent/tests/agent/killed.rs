//! Agents and helpers that are killed while they put a tree in place: all of it is there, or nothing.

use std::fs;
use std::process::Command;
use std::thread::JoinHandle;

use crate::batches::tree;
use crate::support::*;
use pyro_proto::message::*;
use tar::{Builder, Header};

/// Archive put over the files of [`prepare`]: every second file is there already.
fn archive() -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for n in 0..600 {
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(3);
        header.set_cksum();
        archive.append_data(&mut header, format!("d{}/{n}", n % 7), &b"new"[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

fn prepare(agent: &Agent) {
    let _ = fs::remove_dir_all(agent.workspace("to"));
    for n in (0..600).step_by(2) {
        fs::create_dir_all(agent.workspace(&format!("to/d{}", n % 7))).unwrap();
        fs::write(agent.workspace(&format!("to/d{}/{n}", n % 7)), format!("old {n}")).unwrap();
    }
}

/// The new files of [`archive`], in the order in which they are put in place.
fn placed() -> Vec<String> {
    let mut files: Vec<_> = (1..600).step_by(2).map(|n| format!("to/d{}/{n}", n % 7)).collect();
    files.sort_unstable();
    files
}

/// Kills whom `whom` names of agent and helper, once the helper has begun to put its tree in place and `file` is there.
fn kill_when_it_places(agent: &Agent, file: Option<&String>, whom: fn(u32, u32) -> u32) -> JoinHandle<()> {
    let file = file.map(|file| agent.workspace(file));
    let (stages, agent) = (agent.disk(".pyro/stage"), agent.process.id());
    std::thread::spawn(move || {
        let helper = loop {
            let found = fs::read_dir(&stages).into_iter().flatten().flatten();
            let journal = found.map(|entry| entry.path()).find(|path| path.join("journal").exists());
            if let Some(path) = journal {
                break path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
            }
            std::thread::yield_now();
        };
        while file.as_ref().is_some_and(|file| !file.exists()) {
            std::thread::yield_now();
        }
        let _ = Command::new("kill").args(["-KILL", &whom(agent, helper).to_string()]).status();
        // Killed with its agent the helper still ends the system call that it is in, and nothing tells when.
        while fs::read_to_string(format!("/proc/{helper}/stat")).is_ok_and(|stat| !stat.contains(") Z")) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    })
}

#[test]
fn a_tree_is_there_or_not_whoever_is_killed() {
    let archive = archive();
    let mut agent = Agent::with_disk();
    let put = || Request::TreePut(TreePut { dest: "to".into(), max_entries: 1000, max_bytes: 1 << 20 });
    prepare(&agent);
    let before = tree(&agent.workspace(""));
    run(async { assert!(matches!(agent.client().await.last(&put(), &archive).await, Reply::Put(_))) });
    let after = tree(&agent.workspace(""));
    let placed = placed();
    // From the journal alone to the last new file.
    for file in std::iter::once(None).chain(placed.iter().step_by(50).chain(placed.last()).map(Some)) {
        prepare(&agent);
        let killer = kill_when_it_places(&agent, file, |_, helper| helper);
        let reply = run(async { agent.client().await.last(&put(), &archive).await });
        killer.join().unwrap();
        let found = tree(&agent.workspace(""));
        match &reply {
            Reply::Put(_) => assert!(found == after, "at {file:?}: {reply:?}"),
            Reply::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::Exhausted);
                assert!(found == before || found == after, "at {file:?}: {reply:?}");
            }
            _ => panic!("{reply:?}"),
        }
        assert!(agent.staged().is_empty(), "at {file:?}");

        prepare(&agent);
        let killer = kill_when_it_places(&agent, file, |agent, _| agent);
        run(async { agent.client().await.ask(&put(), &archive).await });
        killer.join().unwrap();
        agent = agent.again();
        run(async { drop(agent.client().await) });
        let found = tree(&agent.workspace(""));
        assert!(found == before || found == after, "at {file:?}");
        assert!(agent.staged().is_empty(), "at {file:?}");
    }
}
