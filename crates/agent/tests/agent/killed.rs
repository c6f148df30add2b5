//! Agents and helpers that are killed while they put a tree in place: all of it is there, or nothing.

use std::fs;
use std::process::Command;
use std::thread::JoinHandle;

use crate::batches::tree;
use crate::support::*;
use pyro_proto::message::*;
use tar::{Builder, Header};

/// What is put over [`prepare`]'s: every second file is there already.
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

/// Kills whom `whom` names of agent and helper, some time after the helper has begun to put its tree in place.
fn kill_when_it_places(
    agent: &Agent,
    after: std::time::Duration,
    whom: fn(u32, u32) -> u32,
) -> JoinHandle<()> {
    let (stages, agent) = (agent.disk(".pyro/stage"), agent.process.id());
    std::thread::spawn(move || {
        let helper = loop {
            let found = fs::read_dir(&stages).into_iter().flatten().flatten();
            let journal = found.map(|entry| entry.path()).find(|path| path.join("journal").exists());
            if let Some(path) = journal {
                break path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
            }
        };
        std::thread::sleep(after);
        let _ = Command::new("kill").args(["-KILL", &whom(agent, helper).to_string()]).status();
        // Killed with its agent it still ends what the kernel does for it.
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
    for ms in [0, 1, 2, 3, 5, 8, 12, 20] {
        let moment = std::time::Duration::from_millis(ms);
        prepare(&agent);
        let killer = kill_when_it_places(&agent, moment, |_, helper| helper);
        let reply = run(async { agent.client().await.last(&put(), &archive).await });
        killer.join().unwrap();
        let found = tree(&agent.workspace(""));
        match &reply {
            Reply::Put(_) => assert!(found == after, "after {ms} ms: {reply:?}"),
            Reply::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::Exhausted);
                assert!(found == before || found == after, "after {ms} ms: {reply:?}");
            }
            _ => panic!("{reply:?}"),
        }
        assert!(agent.staged().is_empty(), "after {ms} ms");

        prepare(&agent);
        let killer = kill_when_it_places(&agent, moment, |agent, _| agent);
        run(async { agent.client().await.ask(&put(), &archive).await });
        killer.join().unwrap();
        agent = agent.again();
        run(async { drop(agent.client().await) });
        let found = tree(&agent.workspace(""));
        assert!(found == before || found == after, "after {ms} ms");
        assert!(agent.staged().is_empty(), "after {ms} ms");
    }
}
