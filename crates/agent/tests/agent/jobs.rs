//! Jobs: commands that outlive sessions, and what is asked of them.

use crate::support::*;
use futures::io::AsyncReadExt;
use pyro_proto::frame::{self, Channel, FrameReader, MAX_MESSAGE};
use pyro_proto::message::*;
use pyro_proto::mux::Stream;

const ID: JobId = JobId([1; 6]);

fn terminal(line: &str) -> ExecRequest {
    ExecRequest { stdio: ExecStdio::Terminal(TerminalSize { rows: 24, cols: 80 }), ..sh(line) }
}

async fn start(client: &Client, id: JobId, exec: ExecRequest) -> u32 {
    match client.call(&Request::JobStart(JobStart { id, exec })).await {
        Reply::Started { pid } => pid,
        other => panic!("not started: {other:?}"),
    }
}

async fn refused(client: &Client, request: Request) -> FailureKind {
    match client.call(&request).await {
        Reply::Failed(failure) => failure.kind,
        other => panic!("not refused: {other:?}"),
    }
}

async fn info(client: &Client, id: JobId) -> JobInfo {
    match client.call(&Request::JobList).await {
        Reply::Jobs(jobs) => *jobs.iter().find(|job| job.id == id).expect("the job is listed"),
        other => panic!("no list: {other:?}"),
    }
}

async fn input(client: &Client, bytes: &[u8]) -> u32 {
    match client.call(&Request::JobInput { id: ID, bytes: bytes.into() }).await {
        Reply::Taken { bytes } => bytes,
        other => panic!("not taken: {other:?}"),
    }
}

/// Follower of a job.
struct Follower {
    frames: FrameReader<futures::io::ReadHalf<Stream>>,
    _write: futures::io::WriteHalf<Stream>,
    at: u64,
    seen: Vec<u8>,
    exit: Option<CommandExit>,
}

impl Follower {
    async fn new(client: &Client, cursor: u64) -> Self {
        let mut stream = client.open().await;
        frame::send(&mut stream, &Request::JobAttach { id: ID, cursor }).await.unwrap();
        let (read, write) = stream.split();
        let mut follower =
            Self { frames: FrameReader::new(read), _write: write, at: 0, seen: Vec::new(), exit: None };
        let (channel, body) = follower.frames.next(MAX_MESSAGE).await.unwrap().expect("an answer");
        assert_eq!(channel, Channel::Message);
        match frame::decode(body).unwrap() {
            Reply::Attached { from } => follower.at = from,
            other => panic!("not attached: {other:?}"),
        }
        follower
    }

    /// Reads another piece, or the end; says whether there is more to come.
    async fn step(&mut self) -> bool {
        match self.frames.next(MAX_MESSAGE).await.unwrap() {
            Some((Channel::Stdout | Channel::Stderr, bytes)) => {
                self.at += bytes.len() as u64;
                self.seen.extend(bytes);
                true
            }
            Some((Channel::Message, body)) => match frame::decode(body).unwrap() {
                Reply::Ended(exit) => {
                    self.exit = Some(exit);
                    false
                }
                other => panic!("not the end: {other:?}"),
            },
            other => panic!("not output: {other:?}"),
        }
    }

    async fn until(&mut self, text: &str) {
        while !self.seen.windows(text.len()).any(|window| window == text.as_bytes()) {
            let more = self.step().await;
            assert!(more, "no {text:?} in {:?}", String::from_utf8_lossy(&self.seen));
        }
    }

    async fn finish(&mut self) -> CommandExit {
        while self.step().await {}
        self.exit.unwrap()
    }
}

#[test]
fn a_job_outlives_sessions_and_no_byte_is_lost_or_repeated() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let line = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; exit 7";
        start(&client, ID, sh(line)).await;
        let (mut all, mut cursor, mut client) = (Vec::new(), 0, client);
        let exit = loop {
            let mut follower = Follower::new(&client, cursor).await;
            assert_eq!(follower.at, cursor);
            // A few pieces, and then the connection is cut in the middle of whatever comes.
            let mut more = true;
            for _ in 0..3 {
                more = more && follower.step().await;
            }
            all.append(&mut follower.seen);
            cursor = follower.at;
            if let Some(exit) = follower.exit {
                break exit;
            }
            drop(client);
            client = agent.client().await;
        };
        assert_eq!(exit.status, ExitStatus::Code(7));
        let wanted: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
        assert!(String::from_utf8(all).unwrap() == wanted);
        let job = info(&client, ID).await;
        assert_eq!((job.written, job.kept_from, job.exit), (wanted.len() as u64, 0, Some(exit)));
        // The output can be read again, from anywhere and by several, until the job is forgotten.
        let mut again = Follower::new(&client, 17).await;
        let mut other = Follower::new(&client, u64::MAX).await;
        assert_eq!((again.finish().await, other.finish().await), (exit, exit));
        assert!(again.seen == wanted.as_bytes()[17..] && other.seen.is_empty());
        assert_eq!(client.call(&Request::JobForget { id: ID }).await, Reply::Done);
        assert_eq!(client.call(&Request::JobList).await, Reply::Jobs(Vec::new()));
    });
}

#[test]
fn streams_are_told_apart_and_in_order() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let folder = tempfile::tempdir().unwrap();
        let go = [folder.path().join("1"), folder.path().join("2"), folder.path().join("3")];
        let line = format!("echo out; {}; echo err >&2; {}; echo more", wait_for(&go[0]), wait_for(&go[1]));
        start(&client, ID, sh(&line)).await;
        let mut follower = Follower::new(&client, 0).await;
        let mut streams = Vec::new();
        while let Some((channel, body)) = follower.frames.next(MAX_MESSAGE).await.unwrap() {
            if channel == Channel::Message {
                break;
            }
            streams.push((channel, body.to_vec()));
            // The next line is written once this one was read.
            std::fs::write(&go[streams.len() - 1], "").unwrap();
        }
        let wanted = [(Channel::Stdout, "out\n"), (Channel::Stderr, "err\n"), (Channel::Stdout, "more\n")];
        assert_eq!(streams, wanted.map(|(channel, text)| (channel, text.as_bytes().to_vec())));
    });
}

#[test]
fn what_nobody_follows_goes_on_and_loses_the_oldest() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        start(&client, ID, sh("seq 1 400000; sleep 1000")).await;
        let all: String = (1..=400_000).map(|i| format!("{i}\n")).collect();
        while info(&client, ID).await.written < all.len() as u64 {
            // A follower would be told, but this job must have none.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let kept = all.len() - JOB_KEPT;
        assert_eq!(info(&client, ID).await.kept_from, kept as u64);
        let mut follower = Follower::new(&client, 5).await;
        assert_eq!(follower.at, kept as u64);
        while follower.at < all.len() as u64 {
            follower.step().await;
        }
        assert!(follower.seen == all.as_bytes()[kept..]);
        assert!(agent.resident_kib() < 40_000);
    });
}

#[test]
fn a_slow_follower_loses_nothing() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        start(&client, ID, sh("seq 1 900000")).await;
        let mut follower = Follower::new(&client, 0).await;
        // Others are answered while it does not read.
        for _ in 0..20 {
            assert_eq!(client.sh("echo ok").await.text(), "ok\n");
        }
        assert_eq!(follower.finish().await.status, ExitStatus::Code(0));
        let all: String = (1..=900_000).map(|i| format!("{i}\n")).collect();
        assert!(follower.seen == all.as_bytes());
    });
}

#[test]
fn a_terminal_takes_input_sizes_and_signals() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let pid = start(&client, ID, terminal("stty -echo; echo ready; exec /bin/sh -i")).await;
        let mut follower = Follower::new(&client, 0).await;
        follower.until("ready").await;
        assert_eq!(input(&client, b"stty size; tty; echo pid $$\n").await, 28);
        follower.until("24 80\r\n").await;
        follower.until(&format!("pid {pid}\r\n")).await;
        let size = TerminalSize { rows: 50, cols: 132 };
        assert_eq!(client.call(&Request::JobResize { id: ID, size }).await, Reply::Done);
        // Across a lost connection: the shell is the same.
        let cursor = follower.at;
        drop((follower, client));
        let client = agent.client().await;
        let mut follower = Follower::new(&client, cursor).await;
        input(&client, b"stty size; echo still $$\n").await;
        follower.until("50 132\r\n").await;
        follower.until(&format!("still {pid}\r\n")).await;
        // To the program in the foreground, not to the shell.
        input(&client, b"sh -c 'echo be''gin; exec sleep 1000'\n").await;
        follower.until("begin").await;
        let signal = Request::JobSignal { id: ID, signal: 2 };
        assert_eq!(client.call(&signal).await, Reply::Done);
        input(&client, b"echo code $?\n").await;
        follower.until("code 130").await;
        input(&client, b"exit 5\n").await;
        assert_eq!(follower.finish().await.status, ExitStatus::Code(5));
        assert_eq!(refused(&client, Request::JobInput { id: ID, bytes: "x".into() }).await, BAD);
        assert_eq!(refused(&client, Request::JobResize { id: ID, size }).await, BAD);
        assert_eq!(client.call(&signal).await, Reply::Done);
    });
}

const BAD: FailureKind = FailureKind::BadRequest;

#[test]
fn input_that_nobody_reads_is_bounded_and_blocks_nobody() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let folder = tempfile::tempdir().unwrap();
        let read = folder.path().join("read");
        let line = format!("stty raw -echo; echo ready; {}; exec head -c 400000", wait_for(&read));
        start(&client, ID, terminal(&line)).await;
        let mut follower = Follower::new(&client, 0).await;
        follower.until("ready").await;
        let mut taken = 0;
        loop {
            let n = input(&client, &[b'x'; JOB_INPUT]).await as usize;
            taken += n;
            if n < JOB_INPUT {
                break;
            }
        }
        assert!((STDIN_WINDOW..STDIN_WINDOW + 2 * JOB_INPUT).contains(&taken), "{taken}");
        assert_eq!(client.sh("echo ok").await.text(), "ok\n");
        std::fs::write(&read, "").unwrap();
        // Once it is read there is room again; bytes that were taken arrive, once.
        while taken < 400_000 {
            let n = input(&client, &vec![b'x'; JOB_INPUT.min(400_000 - taken)]).await as usize;
            taken += n;
            if n == 0 {
                // The agent does not tell when there is room again: the host asks.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        assert_eq!(follower.finish().await.status, ExitStatus::Code(0));
        assert_eq!(follower.seen.iter().filter(|byte| **byte == b'x').count(), 400_000);
        let long = Request::JobInput { id: ID, bytes: Bytes(vec![b'x'; JOB_INPUT + 1]) };
        assert_eq!(refused(&client, long).await, BAD);
    });
}

#[test]
fn stopping_ends_the_whole_tree() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        // A stop asks before it kills: a program that tidies up may do so.
        start(&client, ID, sh("trap 'echo tidy; exit 4' TERM; echo ready; while :; do sleep 0.05; done"))
            .await;
        let mut follower = Follower::new(&client, 0).await;
        follower.until("ready").await;
        match client.call(&Request::JobStop { id: ID, grace_ms: 60_000 }).await {
            Reply::Ended(exit) => assert_eq!(exit.status, ExitStatus::Code(4)),
            other => panic!("{other:?}"),
        }
        follower.until("tidy").await;
        client.call(&Request::JobForget { id: ID }).await;
        // Neither a deaf program nor one in a session of its own gets away.
        let deaf = "trap '' TERM HUP; setsid sleep 1000 & setsid sh -c 'trap \"\" TERM; sleep 1001; :' & \
                    echo ready; while :; do sleep 0.05; done";
        start(&client, ID, sh(deaf)).await;
        Follower::new(&client, 0).await.until("ready").await;
        match client.call(&Request::JobStop { id: ID, grace_ms: 50 }).await {
            Reply::Ended(exit) => assert_eq!(exit.status, ExitStatus::Signal(9)),
            other => panic!("{other:?}"),
        }
        agent.is_childless().await;
        client.call(&Request::JobForget { id: ID }).await;
        // Processes that its main process left behind belong to it as well.
        start(&client, ID, sh("sleep 1000 >/dev/null 2>&1 & exit 0")).await;
        let exit = Follower::new(&client, 0).await.finish().await;
        assert!(exit.left_running);
        assert!(!descendants(agent.process.id()).is_empty());
        assert_eq!(client.call(&Request::JobStop { id: ID, grace_ms: 60_000 }).await, Reply::Ended(exit));
        agent.is_childless().await;
    });
}

#[test]
fn a_stop_goes_on_without_the_session_and_forgetting_kills_nobody() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        start(&client, ID, terminal("trap '' TERM HUP; echo ready; while :; do sleep 0.05; done")).await;
        Follower::new(&client, 0).await.until("ready").await;
        let mut stream = client.open().await;
        frame::send(&mut stream, &Request::JobStop { id: ID, grace_ms: 300 }).await.unwrap();
        // Another call on the same session: the stop has reached the agent.
        assert_eq!(refused(&client, Request::JobForget { id: ID }).await, BAD);
        drop((stream, client));
        let client = agent.client().await;
        agent.is_childless().await;
        let exit = Follower::new(&client, 0).await.finish().await;
        assert_eq!(exit.status, ExitStatus::Signal(9));
        client.call(&Request::JobForget { id: ID }).await;
        start(&client, ID, sh("sleep 1000 >/dev/null 2>&1 & exit 0")).await;
        Follower::new(&client, 0).await.finish().await;
        client.call(&Request::JobForget { id: ID }).await;
        assert_eq!(descendants(agent.process.id()).len(), 1);
    });
}

#[test]
fn nonsense_is_refused_and_jobs_are_bounded() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        assert_eq!(refused(&client, Request::JobForget { id: ID }).await, FailureKind::NotFound);
        assert_eq!(refused(&client, Request::JobAttach { id: ID, cursor: 0 }).await, FailureKind::NotFound);
        let piped = JobStart { id: ID, exec: ExecRequest { stdio: ExecStdio::Piped, ..sh("cat") } };
        assert_eq!(refused(&client, Request::JobStart(piped)).await, BAD);
        let missing = JobStart { id: ID, exec: exec(&["no-such-program"]) };
        assert_eq!(refused(&client, Request::JobStart(missing)).await, FailureKind::NotFound);
        let timed = ExecRequest { timeout_ms: Some(1), ..sh("sleep 1000") };
        start(&client, ID, timed).await;
        assert!(Follower::new(&client, 0).await.finish().await.timed_out);
        let again = JobStart { id: ID, exec: sh("true") };
        assert_eq!(refused(&client, Request::JobStart(again)).await, FailureKind::Exists);
        let bad = Request::JobSignal { id: ID, signal: 4000 };
        assert_eq!(refused(&client, bad).await, BAD);
        for number in 2..=MAX_JOBS as u8 {
            start(&client, JobId([number; 6]), exec(&["sleep", "1000"])).await;
        }
        let more = JobStart { id: JobId([0xff; 6]), exec: sh("true") };
        assert_eq!(refused(&client, Request::JobStart(more)).await, FailureKind::Exhausted);
        assert_eq!(refused(&client, Request::JobForget { id: JobId([2; 6]) }).await, BAD);
    });
}
