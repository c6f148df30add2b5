//! Shells: terminal sessions in the guest that stay, written to and read by anybody, joined by a person.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_formats::plain::replay;
use pyro_proto::message::{ExecRequest, ExecStdio, TerminalSize};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::Caller;
use crate::identity::{new_id, unix_now};
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::{self, Channel, MAX_CHUNK, ProtocolError};
use crate::workspace::keeper::Keeper;
use crate::workspace::keeper::jobs::{JobEnding, JobKey, LiveJob, Output, variables};
use crate::workspace::life::{LifeAction, Phase};
use crate::workspace::store::jobs::{
    Job as _, JobLife, JobState, OUT, ShellRecord, ShellSize, find_shell, forget_shell,
};
use crate::workspace::store::jobs_view::Shell;
use crate::workspace::store::secrets::SecretEnv;
use crate::workspace::store::spool::{self, Spool, SpoolSize};
use crate::workspace::wire::jobs::{AttachShell, TerminalEvent};

/// Program of a shell: `bash` where there is one.
const PROGRAM: [&str; 3] =
    ["/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi"];
/// Terminal type of a shell that nobody has joined yet.
const TERM: &str = "xterm-256color";
/// Most shells that are remembered, those that ended included; the oldest of these go.
const REMEMBERED: usize = 64;
/// How long a shell may take to end when it is closed, before it is killed.
const CLOSE: Duration = Duration::from_secs(2);
/// How long a keeper may take over what is asked of a shell: the longest wait for a pause, and more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How long input waits for a shell that takes none.
const INPUT_PATIENCE: Duration = Duration::from_secs(10);
/// How long it is between two offers of input to a shell that takes none: no event tells.
const OFFER: Duration = Duration::from_millis(20);
/// Longest wait for output to pause.
const PAUSE: Duration = Duration::from_secs(60);
/// Bytes kept of a shell's output, and a little more.
const KEPT: usize = 2 << 20;
/// Drained for so long after its end.
const DRAIN_MS: u64 = 100;
/// Number of `SIGWINCH`.
const WINDOW_CHANGED: i32 = 28;

impl Keeper {
    /// Looks at a shell, once it has written nothing for `pause`, or the front end is gone.
    pub(crate) async fn look_at_shell(
        &self,
        id: &str,
        pause: Option<Duration>,
        caller: &mut Caller,
    ) -> Result<Shell, WorkspaceError> {
        if let (Some(pause), Some(live)) = (pause, self.live(&JobKey::Shell(id.to_owned()))) {
            tokio::select! {
                _ = tokio::time::timeout(PAUSE, idle(&live, pause)) => {}
                () = caller.gone() => {}
            }
        }
        self.shown_shell(id)
    }

    /// Types all of `input` into a shell that runs.
    pub(crate) async fn write_shell(&self, id: &str, input: &str) -> Result<Shell, WorkspaceError> {
        let live = self.running_shell(id)?;
        let guest = self.guest()?;
        let mut left = input.as_bytes();
        let mut since = Instant::now();
        while !left.is_empty() {
            let taken = guest.job_input(live.id, left).await;
            let taken = taken.map_err(|source| self.input_failed(&live, id, source))?;
            left = &left[taken..];
            if taken > 0 {
                since = Instant::now();
            } else if since.elapsed() > INPUT_PATIENCE {
                let taken = input.len() - left.len();
                return Err(WorkspaceError::ShellBusy { taken, left: left.len() });
            } else {
                tokio::time::sleep(OFFER).await;
            }
        }
        self.shown_shell(id)
    }

    /// Sends a signal to what runs in the foreground of a shell.
    pub(crate) async fn signal_shell(&self, id: &str, number: i32) -> Result<Shell, WorkspaceError> {
        let live = self.running_shell(id)?;
        let sent = self.guest()?.job_signal(live.id, number).await;
        sent.map_err(|source| WorkspaceError::Job { what: "the signal cannot be sent", source })?;
        self.shown_shell(id)
    }

    /// Ends a shell and forgets it, also where the workspace is stopped.
    pub(crate) async fn close_shell(self: &Arc<Self>, id: &str) -> Result<Shell, WorkspaceError> {
        if self.phase() == Phase::Stopped {
            let _admitted = self.admit(LifeAction::Describe)?;
            let shell = self.shown_shell(id)?;
            self.forget_shell(id)?;
            return Ok(shell);
        }
        let _using = self.use_guest().await?;
        let mut shell = self.shown_shell(id)?;
        if let Some(live) = self.live(&JobKey::Shell(id.to_owned())) {
            let ending = JobEnding { state: JobState::Stopped, reason: Some("closed".into()) };
            self.stop_job(&live, CLOSE, ending).await?;
            shell = self.shown_shell(id)?;
        }
        self.forget_shell(id)?;
        Ok(shell)
    }

    /// Begins a shell and follows it.
    pub(crate) async fn open_shell(
        self: &Arc<Self>,
        cwd: String,
        size: ShellSize,
        secret_env: &[SecretEnv],
    ) -> Result<Shell, WorkspaceError> {
        let mut env = variables(self.secrets.env(secret_env)?);
        env.push(("TERM".into(), TERM.into()));
        let id = new_id()?;
        let dir = self.home.shell(&id);
        let out = Spool::create(&dir, OUT, SpoolSize::SHELL)
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
        let shell = ShellRecord { shell_id: id.clone(), cwd, size, life: JobLife::begun(unix_now()) };
        let output = Output::new(out, None, self.secrets.redactor());
        let started = self.start_job(JobKey::Shell(id), exec, output, |_| shell).await;
        let (_, shell) = started.inspect_err(|_| drop(spool::remove(&dir)))?;
        let all = self.database().state.jobs::<ShellRecord>()?;
        let over = all.len().saturating_sub(REMEMBERED);
        for old in all.iter().filter(|each| !each.is_running()).take(over) {
            self.forget_shell(&old.shell_id)?;
        }
        Ok(Shell::new(self.home.id(), shell))
    }

    fn shown_shell(&self, id: &str) -> Result<Shell, WorkspaceError> {
        Ok(Shell::new(self.home.id(), self.find_shell(id)?))
    }

    fn find_shell(&self, id: &str) -> Result<ShellRecord, WorkspaceError> {
        let shells = self.database().state.jobs::<ShellRecord>()?;
        find_shell(shells, id)
    }

    fn running_shell(&self, id: &str) -> Result<LiveJob, WorkspaceError> {
        let shell = self.find_shell(id)?;
        let live = self.live(&JobKey::Shell(shell.shell_id.clone())).filter(|_| shell.is_running());
        live.ok_or(WorkspaceError::ShellEnded { id: shell.shell_id, exit_code: shell.life.exit_code })
    }

    fn input_failed(&self, live: &LiveJob, id: &str, source: crate::guest::GuestError) -> WorkspaceError {
        match live.progress.borrow().exit {
            Some(exit) => {
                let exit_code = Some(crate::workspace::keeper::jobs::exit_code(exit));
                WorkspaceError::ShellEnded { id: id.to_owned(), exit_code }
            }
            None => WorkspaceError::Job { what: "the shell takes no input", source },
        }
    }

    fn forget_shell(&self, id: &str) -> Result<(), WorkspaceError> {
        forget_shell(&self.home, &self.database().state, id)
    }

    /// Joins a shell to the terminal at the other end of a connection, until one of them ends; `None` when the person let go.
    pub(super) async fn attach(
        self: &Arc<Self>,
        attach: AttachShell,
        reader: &mut OwnedReadHalf,
        writer: &mut OwnedWriteHalf,
    ) -> Option<Result<Shell, WorkspaceError>> {
        let shell_id = &attach.shell_id;
        let begun = async {
            let using = self.use_guest().await?;
            let live = self.running_shell(shell_id)?;
            self.resize(&live, shell_id, attach.size).await?;
            Ok((using, live))
        };
        let (_using, live) = match begun.await {
            Ok(begun) => begun,
            Err(error) => return Some(Err(error)),
        };
        let showing = self.show(&live, shell_id, writer);
        let hearing = self.hear(&live, shell_id, reader);
        tokio::select! {
            biased;
            shown = showing => Some(shown.and_then(|()| self.shown_shell(shell_id))),
            // The person is gone, or their front end said what it should not.
            heard = hearing => heard.err().map(Err),
        }
    }

    async fn resize(&self, live: &LiveJob, id: &str, size: ShellSize) -> Result<(), WorkspaceError> {
        let guest = self.guest()?;
        let resized = async {
            guest.job_resize(live.id, size.into()).await?;
            // Also where the size is the same: who draws on all of it draws it anew for who joined.
            guest.job_signal(live.id, WINDOW_CHANGED).await
        };
        if let Err(source) = resized.await {
            return Err(self.input_failed(live, id, source));
        }
        let database = self.database();
        if let Some(mut shell) = database.state.job::<ShellRecord>(id)? {
            shell.size = size;
            database.state.save_job(&shell)?;
        }
        Ok(())
    }

    /// Passes on what a shell writes, until its end.
    async fn show(
        &self,
        live: &LiveJob,
        id: &str,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), WorkspaceError> {
        let dir = self.home.shell(id);
        let read = |cursor, most| {
            spool::read(&dir, OUT, cursor, most).map_err(|error| WorkspaceError::file(&dir, "read", error))
        };
        let mut progress = live.progress.clone();
        let kept = read(0, KEPT)?;
        let mut cursor = kept.from + kept.bytes.len() as u64;
        for piece in replay(&kept.bytes).chunks(MAX_CHUNK) {
            frames::send_frame(writer, Channel::Stdout, piece).await?;
        }
        loop {
            let over = progress.borrow_and_update().over;
            loop {
                let kept = read(cursor, MAX_CHUNK)?;
                cursor = kept.from + kept.bytes.len() as u64;
                if kept.bytes.is_empty() {
                    break;
                }
                frames::send_frame(writer, Channel::Stdout, &kept.bytes).await?;
            }
            if over || progress.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Takes what is typed; `Ok` when nothing more comes.
    async fn hear(&self, live: &LiveJob, id: &str, reader: &mut OwnedReadHalf) -> Result<(), WorkspaceError> {
        let mut body = Vec::new();
        loop {
            match frames::receive_frame(reader, &mut body).await {
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
                    let TerminalEvent::Resize(size) =
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
async fn idle(live: &LiveJob, pause: Duration) {
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
