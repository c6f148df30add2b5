//! Process trees of commands: kept together, killed together, or left behind on purpose.

use crate::support::*;
use pyro_proto::message::*;

/// A grandchild in a session of its own, in the background of its parent.
const ESCAPED: &str = "setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 </dev/null &";

#[test]
fn a_timeout_kills_the_whole_tree() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        // Double-forked as well: its parent is gone before the time is up.
        let mut request = sh(&format!(
            "({ESCAPED} sh -c \"{ESCAPED}\" &) ; trap '' TERM HUP INT; echo on; sleep 1000; sleep 1000"
        ));
        request.timeout_ms = Some(700);
        let outcome = client.exec(request).await.finish().await;
        assert!(outcome.exit().timed_out);
        assert_eq!(outcome.exit().status, ExitStatus::Signal(9));
        assert_eq!(outcome.text(), "on\n");
        assert!(!outcome.exit().left_running);
        assert!(outcome.exit().duration_us >= 700_000);
        agent.is_childless().await;
    });
}

#[test]
fn a_timeout_works_while_nobody_reads() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut request = exec(&["cat", "/dev/zero"]);
        request.timeout_ms = Some(300);
        let call = client.exec(request).await;
        agent_has_children(&agent).await;
        agent.is_childless().await;
        assert!(call.finish().await.exit().timed_out);
    });
}

async fn agent_has_children(agent: &Agent) {
    until(|| !descendants(agent.process.id()).is_empty()).await;
}

#[test]
fn an_end_in_time_is_no_timeout() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut request = sh("exit 5");
        request.timeout_ms = Some(u64::MAX);
        request.drain_ms = u64::MAX;
        let outcome = client.exec(request).await.finish().await;
        assert_eq!((outcome.code(), outcome.exit().timed_out), (5, false));
    });
}

#[test]
fn what_is_left_behind_lives_on_and_holds_nothing_up() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut request = sh("sleep 1000 & echo started");
        request.drain_ms = 50;
        let outcome = client.exec(request).await.finish().await;
        assert_eq!((outcome.text(), outcome.code()), ("started\n", 0));
        assert!(outcome.exit().left_running);
        assert!(!descendants(agent.process.id()).is_empty());
        // Processes left behind are not the next command's.
        assert!(!client.sh("true").await.exit().left_running);
        // Output that is written while draining, when the shell is gone, arrives.
        let mut request = sh("(while kill -0 $$ 2>/dev/null; do sleep 0.01; done; echo late) & echo early");
        request.drain_ms = 60_000;
        let outcome = client.exec(request).await.finish().await;
        assert_eq!(outcome.text(), "early\nlate\n");
        // A command that ends with nobody left does not wait for the drain.
        let mut request = sh("echo quick");
        request.drain_ms = 1_000_000;
        assert_eq!(client.exec(request).await.finish().await.text(), "quick\n");
    });
}

#[test]
fn a_babbling_background_child_is_cut_off() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut request = sh("head -c 300000 /dev/zero; cat /dev/zero & exit 9");
        request.drain_ms = 30;
        let outcome = client.exec(request).await.finish().await;
        assert_eq!(outcome.code(), 9);
        assert!(outcome.stdout.len() >= 300_000);
    });
}

#[test]
fn dropping_a_stream_kills_silently_running_trees() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut call = client.exec(sh(&format!("{ESCAPED} sleep 1000"))).await;
        call.started().await;
        agent_has_children(&agent).await;
        drop(call);
        agent.is_childless().await;
        // Also one that nobody reads from, and one in its drain.
        let call = client.exec(exec(&["cat", "/dev/zero"])).await;
        agent_has_children(&agent).await;
        drop(call);
        agent.is_childless().await;
        let mut request = sh("sleep 1000 & echo gone");
        request.drain_ms = 1_000_000;
        let mut call = client.exec(request).await;
        call.until("gone\n").await;
        drop(call);
        agent.is_childless().await;
        assert_eq!(client.call(&Request::Ping).await, Reply::Done);
    });
}

#[test]
fn dropping_the_session_kills_all_of_its_commands() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut calls = Vec::new();
        for _ in 0..5 {
            let mut call = client.exec(sh(&format!("{ESCAPED} sleep 1000"))).await;
            call.started().await;
            calls.push(call);
        }
        drop(client);
        drop(calls);
        agent.is_childless().await;
        assert_eq!(agent.client().await.sh("echo again").await.text(), "again\n");
    });
}

#[test]
fn a_hundred_and_more_at_once() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let calls = (0..pyro_proto::mux::MAX_STREAMS).map(|number| {
            let client = &client;
            async move {
                let mut request = ExecRequest {
                    stdio: ExecStdio::Piped,
                    ..sh("read -r line; echo \"$line\"; seq 1 1000; exit 6")
                };
                request.drain_ms = 60_000;
                let mut call = client.exec(request).await;
                call.feed(format!("number {number}\n").as_bytes()).await;
                let outcome = call.finish().await;
                assert!(outcome.text().starts_with(&format!("number {number}\n1\n2\n")));
                assert!(outcome.text().ends_with("\n1000\n"));
                assert_eq!(outcome.code(), 6);
            }
        });
        futures::future::join_all(calls).await;
        agent.is_childless().await;
    });
}

#[test]
fn orphans_are_reaped() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let outcome = client.sh("for i in 1 2 3 4 5; do (sleep 0.1 &); done").await;
        assert_eq!(outcome.code(), 0);
        let own = agent.process.id();
        // Zombies included: nothing has the agent as its parent in the end.
        until(|| {
            let mut list = std::process::Command::new("ps");
            list.args(["-o", "pid=", "--ppid", &own.to_string()]).output().unwrap().stdout.is_empty()
        })
        .await;
    });
}
