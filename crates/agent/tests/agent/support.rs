//! The agent as a process, and a small host for it, built on the protocol crate alone.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use pyro_proto::frame::{self, Channel, FrameReader, MAX_CHUNK, MAX_MESSAGE};
use pyro_proto::link::Link;
use pyro_proto::message::*;
use pyro_proto::mux::{self, Opener, Stream};
use tokio::net::UnixStream;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Nothing here takes so long, however busy the machine is: only against hangs.
pub const HANG: Duration = Duration::from_secs(600);

/// Runs a test's future to its end, on one thread, with a guard against hangs.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(HANG, test).await.expect("the test hangs") })
}

pub fn nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut nonce).unwrap();
    nonce
}

/// An agent process; ended, with all that it started, when dropped.
pub struct Agent {
    pub process: Child,
    pub socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Agent {
    /// Starts an agent that listens on a socket.
    pub fn on_socket() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let process =
            Command::new(env!("CARGO_BIN_EXE_pyro-agent")).arg("--socket").arg(&socket).spawn().unwrap();
        Self { process, socket, _folder: folder }
    }

    /// Starts an agent that listens on a socket and has a disk with a workspace.
    pub fn with_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        std::fs::create_dir_all(folder.path().join("disk/workspace")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pyro-agent"));
        command.arg("--socket").arg(&socket).arg("--disk").arg(folder.path().join("disk"));
        Self { process: command.spawn().unwrap(), socket, _folder: folder }
    }

    /// Another one on the same disk, in place of this one.
    pub fn again(mut self) -> Self {
        let _ = self.process.kill();
        self.process.wait().unwrap();
        let _ = std::fs::remove_file(&self.socket);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pyro-agent"));
        command.arg("--socket").arg(&self.socket).arg("--disk").arg(self.disk(""));
        self.process = command.spawn().unwrap();
        self
    }

    /// A path on its disk.
    pub fn disk(&self, path: &str) -> PathBuf {
        self._folder.path().join("disk").join(path)
    }

    /// A path in its workspace.
    pub fn workspace(&self, path: &str) -> PathBuf {
        self.disk("workspace").join(path)
    }

    /// Names of the files left in the stage.
    pub fn staged(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.disk(".pyro/stage"));
        entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Starts an agent on a stream without boundaries, whose other end is returned.
    pub fn on_stream() -> (Self, StdUnixStream) {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let folder = tempfile::tempdir().unwrap();
        // A shell hands the descriptor on under a number of its own choice, which needs no unsafe code here.
        let process = Command::new("/bin/sh")
            .args(["-c", "exec 3<&0 0</dev/null; exec \"$0\" --fd 3", env!("CARGO_BIN_EXE_pyro-agent")])
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        (Self { process, socket: PathBuf::new(), _folder: folder }, ours)
    }

    /// Opens a connection, as soon as the agent listens.
    pub async fn dial(&self) -> UnixStream {
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return stream,
                // The agent is starting, and nothing tells of its socket.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Opens a session.
    pub async fn client(&self) -> Client {
        Client::on(self.dial().await).await
    }

    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits until the agent has no descendant that is alive.
    pub async fn is_childless(&self) {
        until(|| descendants(self.process.id()).is_empty()).await;
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The agent kills all that it started when it is asked to end.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

/// Waits until `met`. Files and processes are looked at again and again: nothing tells a test about them.
pub async fn until(mut met: impl FnMut() -> bool) {
    while !met() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A shell loop that waits until `path` exists: for a command that goes on when the test says so.
pub fn wait_for(path: &std::path::Path) -> String {
    format!("while ! [ -e '{}' ]; do sleep 0.01; done", path.display())
}

/// Living processes below `root`.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { continue };
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let mut fields = stat.rsplit(')').next().unwrap().split_whitespace();
        if let (Some(state), Some(parent)) = (fields.next(), fields.next())
            && !matches!(state, "Z" | "X")
        {
            parents.push((pid, parent.parse::<u32>().unwrap()));
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let root = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == root).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// A session with an agent.
pub struct Client {
    opener: Opener,
    driver: tokio::task::JoinHandle<()>,
}

impl Client {
    pub async fn on(stream: UnixStream) -> Self {
        // Pause before the greeting is repeated, as the protocol has it.
        let retry = || tokio::time::sleep(Duration::from_millis(40));
        let (link, _) = Link::connect(stream.compat(), nonce(), retry).await.unwrap();
        let (opener, driver) = mux::host(link);
        Self { opener, driver: tokio::spawn(async move { drop(driver.await) }) }
    }

    /// Waits until the connection has ended.
    pub async fn ended(mut self) {
        let _ = (&mut self.driver).await;
    }

    pub async fn open(&self) -> Stream {
        self.opener.clone().open().await.expect("the session is alive")
    }

    pub async fn call(&self, request: &Request) -> Reply {
        let mut stream = self.open().await;
        frame::send(&mut stream, request).await.unwrap();
        reply(stream).await
    }

    pub async fn exec(&self, exec: ExecRequest) -> Call {
        let mut stream = self.open().await;
        frame::send(&mut stream, &Request::Exec(exec)).await.unwrap();
        let (read, write) = stream.split();
        Call { frames: FrameReader::new(read), write }
    }

    /// A call with all of its input at once; gives what came back, bytes and messages.
    pub async fn ask(&self, request: &Request, input: &[u8]) -> (Vec<u8>, Vec<Reply>) {
        let mut stream = self.open().await;
        frame::send(&mut stream, request).await.unwrap();
        let (read, mut write) = stream.split();
        let feed = async {
            for chunk in input.chunks(MAX_CHUNK) {
                let head = frame::header(Channel::Stdin, chunk.len());
                if write.write_all(&head).await.is_err() || write.write_all(chunk).await.is_err() {
                    return write;
                }
            }
            let _ = frame::send(&mut write, &ExecInput::Eof).await;
            write
        };
        let listen = async {
            let (mut frames, mut bytes, mut replies) = (FrameReader::new(read), Vec::new(), Vec::new());
            while let Ok(Some((channel, body))) = frames.next(MAX_MESSAGE).await {
                match channel {
                    Channel::Stdout => bytes.extend(body),
                    Channel::Message => replies.push(frame::decode(body).unwrap()),
                    other => panic!("{other:?} from the agent"),
                }
            }
            (bytes, replies)
        };
        // The write half lives until the answer is there: its end would be the call's.
        let (_write, answer) = futures::join!(feed, listen);
        answer
    }

    /// The last word of a call with input.
    pub async fn last(&self, request: &Request, input: &[u8]) -> Reply {
        self.ask(request, input).await.1.pop().expect("an answer")
    }

    /// How a call is refused.
    pub async fn refused(&self, request: &Request, input: &[u8]) -> FailureKind {
        match self.last(request, input).await {
            Reply::Failed(failure) => failure.kind,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Runs a command with an empty stdin to its end.
    pub async fn run(&self, argv: &[&str]) -> Outcome {
        self.exec(exec(argv)).await.finish().await
    }

    /// Runs a shell line to its end.
    pub async fn sh(&self, line: &str) -> Outcome {
        self.run(&["/bin/sh", "-c", line]).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The one message that answers a call.
pub async fn reply(stream: Stream) -> Reply {
    let mut frames = FrameReader::new(stream);
    let (channel, body) = frames.next(MAX_MESSAGE).await.unwrap().expect("a reply");
    assert_eq!(channel, Channel::Message);
    frame::decode(body).unwrap()
}

/// A request for `argv` with nothing special.
pub fn exec(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        argv: argv.iter().map(|word| (*word).into()).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        stdio: ExecStdio::Output,
        timeout_ms: None,
        drain_ms: 100,
    }
}

pub fn sh(line: &str) -> ExecRequest {
    exec(&["/bin/sh", "-c", line])
}

/// A command that runs.
pub struct Call {
    pub frames: FrameReader<ReadHalf<Stream>>,
    pub write: WriteHalf<Stream>,
}

/// Message or bytes of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Event(ExecEvent),
    /// The stream is over.
    Nothing,
}

/// All that a command said.
#[derive(Debug, Default)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub consumed: usize,
    pub last: Option<ExecEvent>,
}

impl Outcome {
    pub fn exit(&self) -> CommandExit {
        match &self.last {
            Some(ExecEvent::Exited(exit)) => *exit,
            other => panic!("not an exit: {other:?}, stderr {:?}", String::from_utf8_lossy(&self.stderr)),
        }
    }

    pub fn code(&self) -> u8 {
        match self.exit().status {
            ExitStatus::Code(code) => code,
            other => panic!("not a code: {other:?}"),
        }
    }

    pub fn failure(&self) -> &Failure {
        match &self.last {
            Some(ExecEvent::Failed(failure)) => failure,
            other => panic!("not a failure: {other:?}"),
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

impl Call {
    pub async fn next(&mut self) -> Said {
        match self.frames.next(MAX_MESSAGE).await {
            Ok(Some((Channel::Stdout, bytes))) => Said::Stdout(bytes.to_vec()),
            Ok(Some((Channel::Stderr, bytes))) => Said::Stderr(bytes.to_vec()),
            Ok(Some((Channel::Message, body))) => Said::Event(frame::decode(body).unwrap()),
            Ok(Some((Channel::Stdin, _))) => panic!("stdin from the agent"),
            Ok(None) | Err(_) => Said::Nothing,
        }
    }

    pub async fn started(&mut self) -> u32 {
        match self.next().await {
            Said::Event(ExecEvent::Started { pid }) => pid,
            other => panic!("not a start: {other:?}"),
        }
    }

    /// Reads stdout until it holds `text`.
    pub async fn until(&mut self, text: &str) -> Vec<u8> {
        let mut seen = Vec::new();
        while !seen.windows(text.len()).any(|window| window == text.as_bytes()) {
            match self.next().await {
                Said::Stdout(bytes) => seen.extend(bytes),
                Said::Event(ExecEvent::Started { .. }) => {}
                other => panic!("no {text:?} in {:?}, but {other:?}", String::from_utf8_lossy(&seen)),
            }
        }
        seen
    }

    pub async fn finish(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.next().await {
                Said::Stdout(bytes) => outcome.stdout.extend(bytes),
                Said::Stderr(bytes) => outcome.stderr.extend(bytes),
                Said::Event(ExecEvent::Started { .. }) => {}
                Said::Event(ExecEvent::StdinConsumed { bytes }) => outcome.consumed += bytes as usize,
                Said::Event(last) => {
                    assert_eq!(outcome.last.replace(last), None, "two last words");
                }
                Said::Nothing => return outcome,
            }
        }
    }

    pub async fn say(&mut self, input: &ExecInput) {
        frame::send(&mut self.write, input).await.unwrap();
    }

    /// Sends stdin without asking for credit.
    pub async fn feed(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(MAX_CHUNK) {
            self.write.write_all(&frame::header(Channel::Stdin, chunk.len())).await.unwrap();
            self.write.write_all(chunk).await.unwrap();
        }
        self.write.flush().await.unwrap();
    }
}
