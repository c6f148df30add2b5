//! Shells: terminal sessions in the guest that stay, written to and read by anybody, joined by a person.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_proto::message::{ExecRequest, ExecStdio, TerminalSize};
use serde::{Deserialize, Serialize};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use super::jobs::{Ending, Key, Live, Output, variables};
use super::life::Ask;
use super::protocol::{self, Answer, Channel, MAX_CHUNK, ProtocolError};
use super::{Keeper, Phase};
use crate::identity::{new_id, unix_now};
use crate::workspace::jobs::{Job as _, OUT, Shell};
use crate::workspace::spool::{self, Room, Spool};
use crate::workspace::{SecretEnv, ShellSize, WorkspaceError};
use pyro_formats::plain::replay;

/// What runs in one: the shell that people expect, where there is one.
const PROGRAM: [&str; 3] =
    ["/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi"];
/// What a terminal that nobody sees is.
const TERM: &str = "xterm-256color";
/// Most shells that are remembered, those that ended included; the oldest of these go.
const REMEMBERED: usize = 64;
/// How long a shell may take to end when it is closed, before it is killed.
const CLOSE: Duration = Duration::from_secs(2);
/// How long input waits for a shell that takes none.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is between two offers of input to a shell that takes none: no event tells.
const OFFER: Duration = Duration::from_millis(20);
/// Longest wait for output to pause.
const PAUSE: Duration = Duration::from_secs(60);
/// What is kept of a shell, and a little more.
const KEPT: usize = 2 << 20;
/// Drained for so long after its end.
const DRAIN_MS: u64 = 100;
/// `SIGWINCH`.
const WINDOW_CHANGED: i32 = 28;

/// What is asked of a shell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum ShellAsk {
    /// Begin one.
    Open {
        /// Where.
        cwd: String,
        /// Its terminal.
        size: ShellSize,
        /// Secrets that it gets as variables.
        #[serde(default)]
        secret_env: Vec<SecretEnv>,
    },
    /// Look at one, when it has written nothing for so many milliseconds.
    Look {
        /// Which.
        shell_id: String,
        /// `None` for at once.
        idle_ms: Option<u64>,
    },
    /// Type something.
    Write {
        /// Which.
        shell_id: String,
        /// What, the line's end included.
        input: String,
    },
    /// Send a signal to what runs in the foreground.
    Signal {
        /// Which.
        shell_id: String,
        /// Linux's number.
        number: i32,
    },
    /// End it and forget it.
    Close {
        /// Which.
        shell_id: String,
    },
}

/// What is said to a shell that is joined, between bytes that are typed (on [`Channel::Stdout`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Joined {
    /// The person's terminal has another size.
    Resize(ShellSize),
}

fn answer(shell: Shell) -> Answer {
    Answer::Shell { shell: Box::new(shell) }
}

impl Keeper {
    /// Does what is asked of a shell; waiting ends when `gone` does.
    pub(super) async fn shell(
        self: &Arc<Self>,
        ask: ShellAsk,
        gone: oneshot::Receiver<()>,
    ) -> Result<Answer, WorkspaceError> {
        let phase = self.life().phase();
        if let (ShellAsk::Close { shell_id }, Phase::Stopped) = (&ask, phase) {
            self.admit(Ask::Describe)?;
            let closed = self.find_shell(shell_id).and_then(|shell| {
                self.forget_shell(shell_id)?;
                Ok(answer(shell))
            });
            self.done(Ask::Describe, false);
            return closed;
        }
        let _using = self.using()?;
        match ask {
            ShellAsk::Open { cwd, size, secret_env } => {
                self.open_shell(cwd, size, &secret_env).await.map(answer)
            }
            ShellAsk::Look { shell_id, idle_ms } => {
                if let (Some(ms), Some(live)) = (idle_ms, self.live(&Key::Shell(shell_id.clone()))) {
                    tokio::select! {
                        _ = tokio::time::timeout(PAUSE, idle(&live, Duration::from_millis(ms))) => {}
                        _ = gone => {}
                    }
                }
                self.find_shell(&shell_id).map(answer)
            }
            ShellAsk::Write { shell_id, input } => {
                let live = self.running_shell(&shell_id)?;
                let guest = self.guest()?;
                let mut left = input.as_bytes();
                let mut since = Instant::now();
                while !left.is_empty() {
                    let taken = guest.job_input(live.id, left).await;
                    let taken = taken.map_err(|source| self.input_failed(&live, &shell_id, source))?;
                    left = &left[taken..];
                    if taken > 0 {
                        since = Instant::now();
                    } else if since.elapsed() > PATIENCE {
                        let taken = input.len() - left.len();
                        return Err(WorkspaceError::ShellBusy { taken, left: left.len() });
                    } else {
                        tokio::time::sleep(OFFER).await;
                    }
                }
                self.find_shell(&shell_id).map(answer)
            }
            ShellAsk::Signal { shell_id, number } => {
                let live = self.running_shell(&shell_id)?;
                let sent = self.guest()?.job_signal(live.id, number).await;
                let what = "the signal cannot be sent";
                sent.map_err(|source| WorkspaceError::Job { what, source })?;
                self.find_shell(&shell_id).map(answer)
            }
            ShellAsk::Close { shell_id } => {
                let mut shell = self.find_shell(&shell_id)?;
                if let Some(live) = self.live(&Key::Shell(shell_id.clone())) {
                    let ending = Ending { state: "stopped", reason: Some("closed".into()) };
                    self.stop_job(&live, CLOSE, ending).await?;
                    shell = self.find_shell(&shell_id)?;
                }
                self.forget_shell(&shell_id)?;
                Ok(answer(shell))
            }
        }
    }

    async fn open_shell(
        self: &Arc<Self>,
        cwd: String,
        size: ShellSize,
        secret_env: &[SecretEnv],
    ) -> Result<Shell, WorkspaceError> {
        let mut env = variables(self.secrets.env(secret_env)?);
        env.push(("TERM".into(), TERM.into()));
        let id = new_id()?;
        let dir = self.home.shell(&id);
        let out = Spool::create(&dir, OUT, Room::SHELL)
            .map_err(|error| WorkspaceError::file(&dir, "written", error))?;
        let exec = ExecRequest {
            argv: PROGRAM.iter().map(|word| word.into()).collect(),
            env,
            cwd: Some(cwd.as_bytes().into()),
            user: None,
            stdio: ExecStdio::Terminal(size.into()),
            timeout_ms: None,
            drain_ms: DRAIN_MS,
        };
        let workspace = self.books().record.id.clone();
        let shell = Shell::new(&workspace, &id, cwd, (size.cols, size.rows), unix_now());
        let output = Output::new(out, None, self.secrets.redactor());
        let started = self.start_job(Key::Shell(id), exec, output, |_| shell).await;
        let (_, shell) = started.inspect_err(|_| drop(spool::remove(&dir)))?;
        let all = self.books().state.jobs::<Shell>()?;
        let over = all.len().saturating_sub(REMEMBERED);
        for old in all.iter().filter(|each| !each.is_running()).take(over) {
            self.forget_shell(&old.shell_id)?;
        }
        Ok(shell)
    }

    fn find_shell(&self, id: &str) -> Result<Shell, WorkspaceError> {
        let shells = self.books().state.jobs::<Shell>()?;
        crate::workspace::find_shell(shells, id)
    }

    fn running_shell(&self, id: &str) -> Result<Live, WorkspaceError> {
        let shell = self.find_shell(id)?;
        let live = self.live(&Key::Shell(shell.shell_id.clone())).filter(|_| shell.is_running());
        live.ok_or(WorkspaceError::ShellEnded { id: shell.shell_id, exit_code: shell.exit_code })
    }

    fn input_failed(&self, live: &Live, id: &str, source: crate::guest::GuestError) -> WorkspaceError {
        match live.progress.borrow().exit {
            Some(exit) => {
                let exit_code = Some(super::jobs::exit_code(exit));
                WorkspaceError::ShellEnded { id: id.to_owned(), exit_code }
            }
            None => WorkspaceError::Job { what: "the shell takes no input", source },
        }
    }

    fn forget_shell(&self, id: &str) -> Result<(), WorkspaceError> {
        crate::workspace::forget_shell(&self.home, &self.books().state, id)
    }

    /// Joins a shell to the terminal at the other end of a connection, until one of them ends.
    pub(super) async fn attach(
        self: &Arc<Self>,
        shell_id: &str,
        size: ShellSize,
        reader: &mut OwnedReadHalf,
        writer: &mut OwnedWriteHalf,
    ) -> Option<Result<Answer, WorkspaceError>> {
        let live = match self.using().and_then(|using| Ok((using, self.running_shell(shell_id)?))) {
            Ok(live) => live,
            Err(error) => return Some(Err(error)),
        };
        let (_using, live) = live;
        let resized = self.resize(&live, shell_id, size).await;
        if let Err(error) = resized {
            return Some(Err(error));
        }
        let showing = self.show(&live, shell_id, writer);
        let hearing = self.hear(&live, shell_id, reader);
        tokio::select! {
            biased;
            shown = showing => match shown {
                Ok(()) => Some(self.find_shell(shell_id).map(answer)),
                Err(error) => Some(Err(error)),
            },
            // He is gone, or said what nobody should.
            heard = hearing => heard.err().map(Err),
        }
    }

    async fn resize(&self, live: &Live, id: &str, size: ShellSize) -> Result<(), WorkspaceError> {
        let guest = self.guest()?;
        let resized = async {
            guest.job_resize(live.id, size.into()).await?;
            // Also where the size is the same: who draws on all of it draws it anew for who joined.
            guest.job_signal(live.id, WINDOW_CHANGED).await
        };
        if let Err(source) = resized.await {
            return Err(self.input_failed(live, id, source));
        }
        let books = self.books();
        if let Some(mut shell) = books.state.job::<Shell>(id)? {
            (shell.cols, shell.rows) = (size.cols, size.rows);
            books.state.save_job(&shell)?;
        }
        Ok(())
    }

    /// Passes on what a shell writes, until its end.
    async fn show(&self, live: &Live, id: &str, writer: &mut OwnedWriteHalf) -> Result<(), WorkspaceError> {
        let dir = self.home.shell(id);
        let read = |cursor, most| {
            spool::read(&dir, OUT, cursor, most).map_err(|error| WorkspaceError::file(&dir, "read", error))
        };
        let mut progress = live.progress.clone();
        let kept = read(0, KEPT)?;
        let mut cursor = kept.from + kept.bytes.len() as u64;
        for piece in replay(&kept.bytes).chunks(MAX_CHUNK) {
            protocol::send_frame(writer, Channel::Stdout, piece).await?;
        }
        loop {
            let over = progress.borrow_and_update().over;
            loop {
                let kept = read(cursor, MAX_CHUNK)?;
                cursor = kept.from + kept.bytes.len() as u64;
                if kept.bytes.is_empty() {
                    break;
                }
                protocol::send_frame(writer, Channel::Stdout, &kept.bytes).await?;
            }
            if over || progress.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Takes what is typed; `Ok` when nothing more comes.
    async fn hear(&self, live: &Live, id: &str, reader: &mut OwnedReadHalf) -> Result<(), WorkspaceError> {
        let mut body = Vec::new();
        loop {
            match protocol::receive_frame(reader, &mut body).await {
                Ok(Some(Channel::Stdout)) => {
                    let guest = self.guest()?;
                    let mut left = &body[..];
                    while !left.is_empty() {
                        match guest.job_input(live.id, left).await {
                            Ok(0) => tokio::time::sleep(OFFER).await,
                            Ok(taken) => left = &left[taken..],
                            // Where it ended, the other half says so.
                            Err(source) => match tokio::time::timeout(CLOSE, live.over()).await {
                                Ok(_) => return std::future::pending().await,
                                Err(_) => return Err(self.input_failed(live, id, source)),
                            },
                        }
                    }
                }
                Ok(Some(Channel::Message)) => {
                    let Joined::Resize(size) =
                        serde_json::from_slice(&body).map_err(ProtocolError::Message)?;
                    self.resize(live, id, size.checked()?).await?;
                }
                Ok(Some(Channel::Stderr)) => return Err(ProtocolError::Channel(2).into()),
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }
}

impl From<ShellSize> for TerminalSize {
    fn from(size: ShellSize) -> Self {
        Self { rows: size.rows, cols: size.cols }
    }
}

/// Waits until a shell has written nothing for so long, counted from now at the earliest, or has ended.
async fn idle(live: &Live, pause: Duration) {
    let begin = Instant::now();
    let mut progress = live.progress.clone();
    loop {
        let now = *progress.borrow_and_update();
        let quiet = now.wrote.max(begin) + pause;
        if now.over || quiet <= Instant::now() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(quiet.into()) => {}
            changed = progress.changed() => if changed.is_err() { return },
        }
    }
}
