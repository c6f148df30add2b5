//! Standard input, terminals, signals, and what happens when nobody reads.

use crate::support::*;
use futures::io::AsyncWriteExt;
use pyro_proto::frame::{self, Channel};
use pyro_proto::message::*;

fn piped(line: &str) -> ExecRequest {
    ExecRequest { stdio: ExecStdio::Piped, ..sh(line) }
}

fn terminal(line: &str, rows: u16, cols: u16) -> ExecRequest {
    ExecRequest { stdio: ExecStdio::Terminal(TerminalSize { rows, cols }), ..sh(line) }
}

#[test]
fn stdin_arrives_and_ends() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut call = client.exec(piped("cat; echo over")).await;
        call.feed(b"one\n").await;
        call.until("one\n").await;
        call.feed(b"\xff\0two\n").await;
        call.say(&ExecInput::Eof).await;
        assert_eq!(call.finish().await.stdout, b"\xff\0two\nover\n");
        // Without stdin there is an end at once.
        assert_eq!(client.sh("cat; echo over").await.text(), "over\n");
    });
}

#[test]
fn credit_comes_back_as_the_command_reads() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let total = 4 * STDIN_WINDOW;
        let mut call = client.exec(piped("wc -c")).await;
        let (mut sent, mut credit) = (0, STDIN_WINDOW);
        while sent < total {
            let n = credit.min(total - sent);
            call.feed(&vec![b'x'; n]).await;
            sent += n;
            credit -= n;
            if sent < total {
                match call.next().await {
                    Said::Event(ExecEvent::StdinConsumed { bytes }) => credit += bytes as usize,
                    Said::Event(ExecEvent::Started { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        call.say(&ExecInput::Eof).await;
        let outcome = call.finish().await;
        assert_eq!(outcome.text().trim(), total.to_string());
    });
}

#[test]
fn more_than_the_window_ends_the_call() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut call = client.exec(piped("sleep 1000")).await;
        call.started().await;
        // The pipe itself takes up to a window and gives the credit back; no more than two fit in all.
        let chunk = [&frame::header(Channel::Stdin, 32_768)[..], &[0; 32_768]].concat();
        for _ in 0..3 * STDIN_WINDOW / 32_768 {
            // The agent may have ended the call already.
            if call.write.write_all(&chunk).await.is_err() {
                break;
            }
        }
        assert_eq!(call.finish().await.failure().kind, FailureKind::BadRequest);
        agent.is_childless().await;
    });
}

#[test]
fn input_that_nobody_takes_is_dropped_and_credited() {
    run(async {
        let mut agent = Agent::on_socket();
        let client = agent.client().await;
        let mut call = client
            .exec(piped("exec 0<&-; echo closed; sleep 0.3; read -r go < /dev/null; echo on; sleep 1000"))
            .await;
        call.until("closed\n").await;
        let mut credit = STDIN_WINDOW as isize;
        for _ in 0..20 {
            while credit < 60_000 {
                if let Said::Event(ExecEvent::StdinConsumed { bytes }) = call.next().await {
                    credit += bytes as isize;
                }
            }
            call.feed(&vec![0; 60_000]).await;
            credit -= 60_000;
        }
        call.say(&ExecInput::Signal(15)).await;
        assert_eq!(call.finish().await.exit().status, ExitStatus::Signal(15));
        assert!(agent.is_alive());
    });
}

#[test]
fn signals_reach_the_whole_group() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut call = client
            .exec(sh("trap 'wait; echo parent; exit 7' USR1; sh -c 'trap \"echo child; exit\" USR1; echo ready; while :; do sleep 0.05; done' & wait; wait"))
            .await;
        call.until("ready\n").await;
        call.say(&ExecInput::Signal(10)).await;
        let outcome = call.finish().await;
        assert!(
            outcome.text().contains("child\n") && outcome.text().contains("parent\n"),
            "{}",
            outcome.text()
        );
        assert_eq!(outcome.code(), 7);
    });
}

#[test]
fn a_terminal_is_one() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut call = client
            .exec(terminal("trap 'stty size' WINCH; stty -echo; tty; stty size; echo $TERM >&2; echo ready; while :; do read -r line && echo \"got $line\" && exit 4; done", 33, 101))
            .await;
        let text = String::from_utf8(call.until("ready\r\n").await).unwrap();
        assert!(
            text.contains("/dev/pts/") && text.contains("33 101") && text.contains("xterm-256color"),
            "{text}"
        );
        call.say(&ExecInput::Resize(TerminalSize { rows: 20, cols: 70 })).await;
        call.until("20 70\r\n").await;
        call.feed(b"hello\n").await;
        let outcome = call.finish().await;
        assert!(outcome.text().contains("got hello\r\n"), "{}", outcome.text());
        assert_eq!(outcome.code(), 4);
        // Control-C is the terminal's own business.
        let mut call = client.exec(terminal("echo ready; exec sleep 1000", 24, 80)).await;
        call.until("ready\r\n").await;
        call.feed(b"\x03").await;
        assert_eq!(call.finish().await.exit().status, ExitStatus::Signal(2));
        // The end of input is control-D.
        let mut call = client.exec(terminal("stty -echo; echo ready; cat", 24, 80)).await;
        call.until("ready\r\n").await;
        call.feed(b"last\n").await;
        call.say(&ExecInput::Eof).await;
        assert_eq!(call.finish().await.code(), 0);
    });
}

#[test]
fn a_terminals_output_is_complete() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let outcome = client.exec(terminal("seq 1 20000; echo over", 24, 80)).await.finish().await;
        assert!(outcome.text().ends_with("20000\r\nover\r\n"));
        assert_eq!(outcome.text().lines().count(), 20_001);
    });
}

#[test]
fn who_does_not_read_stops_the_command_and_costs_no_memory() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let folder = tempfile::tempdir().unwrap();
        let count = folder.path().join("count");
        let before = agent.resident_kib();
        let line = format!(
            "i=0; while [ $i -lt 4000 ]; do head -c 65536 /dev/zero; i=$((i+1)); echo $i > {0}.new; mv {0}.new {0}; done",
            count.display()
        );
        let mut call = client.exec(sh(&line)).await;
        call.started().await;
        // The producer stops: its count stays where it is, far from the end.
        let read = || std::fs::read_to_string(&count).ok().and_then(|text| text.trim().parse::<u32>().ok());
        let mut last = None;
        let mut same = 0;
        while same < 40 {
            // A producer that has stopped tells nobody: it has to stand still for a second.
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
            let now = read();
            same = if now.is_some() && now == last { same + 1 } else { 0 };
            last = now;
        }
        assert!(last.unwrap() < 200, "{last:?} chunks of 64 KiB are on their way");
        assert!(agent.resident_kib() < before + 16 * 1024);
        // Meanwhile others are answered, and a signal gets through.
        assert_eq!(client.call(&Request::Ping).await, Reply::Done);
        assert_eq!(client.sh("echo other").await.text(), "other\n");
        call.say(&ExecInput::Signal(9)).await;
        let outcome = call.finish().await;
        assert_eq!(outcome.exit().status, ExitStatus::Signal(9));
        // All that was written before the end arrives.
        assert!(outcome.stdout.len() >= 65_536 * last.unwrap() as usize);
    });
}

#[test]
fn much_output_passes_through_little_memory() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let before = agent.resident_kib();
        let mut call = client.exec(exec(&["head", "-c", "300000000", "/dev/zero"])).await;
        let mut total = 0;
        loop {
            match call.next().await {
                Said::Stdout(bytes) => total += bytes.len(),
                Said::Event(ExecEvent::Started { .. }) => {}
                Said::Event(ExecEvent::Exited(exit)) => break assert_eq!(exit.status, ExitStatus::Code(0)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(total, 300_000_000);
        assert!(agent.resident_kib() < before + 16 * 1024);
    });
}
