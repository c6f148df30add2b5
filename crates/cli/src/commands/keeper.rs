//! `pyro keeper run DIR`: the process that owns one workspace. Started by pyro itself, or by hand in the foreground.
//!
//! As PID 1 of a container it is two processes: one that passes signals on and reaps whatever is orphaned, and the keeper,
//! which is then free to mind its own child only.

use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use pyro_core::workspace::ops::run_keeper;
use pyro_core::workspace::{KeeperExpiry, KeeperReport, KeeperRequest, KeeperTask, Log, Workspaces};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;
use crate::output::errln;
use crate::places;

/// Longest order, bytes: secrets have 256 KiB at most, which JSON may say in six times as many.
const ORDER: u64 = 4 << 20;
/// A log that is longer than this, bytes, is begun anew by the next keeper.
const LOG: u64 = 1 << 20;

/// Open files of a keeper: thousands of front ends wait at once, with a connection each.
const FILES: u64 = 8192;

/// Raises the limit of open files as far as the host allows. One that stays low is no error: front ends wait then.
fn allow_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES, |most| most.min(FILES));
    if limit.current.is_some_and(|now| now < wanted) {
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
}

/// Be the process that owns a workspace
#[derive(Subcommand)]
pub enum Keeper {
    /// Start the stopped workspace in DIR and own it, in the foreground, until it is stopped
    Run(Args),
}

/// Start the stopped workspace in DIR and own it, in the foreground, until it is stopped
#[derive(clap::Args)]
pub struct Args {
    /// The workspace's directory
    dir: PathBuf,
    /// Read an order from standard input, report on standard output, and then let go of both
    #[arg(long, hide = true)]
    ordered: bool,
    /// Another time to live than the workspace's own, for tests
    #[arg(long, hide = true, requires = "test_kept_seconds")]
    test_ttl_seconds: Option<f64>,
    /// How long it is kept then
    #[arg(long, hide = true)]
    test_kept_seconds: Option<f64>,
}

impl Keeper {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let Self::Run(args) = self;
        if std::process::id() == 1 { be_init().await } else { args.execute().await }
    }
}

impl Args {
    async fn execute(self) -> Result<u8, CliError> {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        allow_files();
        let mut term = watch(SignalKind::terminate())?;
        let mut int = watch(SignalKind::interrupt())?;
        // A terminal that closes is none of its business.
        let _hangup = watch(SignalKind::hangup())?;
        let quit = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        let log: Log = Arc::new(|line: &str| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            errln!("{:.3} {line}", now.as_secs_f64());
        });
        if self.ordered {
            // A session of its own, away from the terminal of whoever started it.
            let _ = rustix::process::setsid();
            let order = read_order()?;
            let dir = self.dir.clone();
            let mut report = move |report: KeeperReport| {
                say(&report);
                if matches!(report, KeeperReport::Ready { .. }) {
                    let_go(&dir);
                }
            };
            let abandoned = async {
                let mut stdin = tokio::io::stdin();
                let mut byte = [0];
                while matches!(stdin.read(&mut byte).await, Ok(1..)) {}
            };
            // Why it failed is said in the report.
            let run = run_keeper(self.dir, order, &mut report, log, abandoned, quit).await;
            return Ok(u8::from(run.is_err()));
        }
        let dir = std::fs::canonicalize(&self.dir).map_err(|error| {
            CliError::new(format!("{} cannot be used: {error}", self.dir.display()), None)
        })?;
        let factory = places::factory(None)?;
        let expiry = self.test_ttl_seconds.zip(self.test_kept_seconds);
        let order = KeeperRequest {
            config: (*factory.config).clone(),
            backend: factory.preference.name().to_owned(),
            task: KeeperTask::Start,
            expiry: expiry.map(|(ttl_seconds, kept_seconds)| KeeperExpiry { ttl_seconds, kept_seconds }),
        };
        Workspaces::new(factory).release(&dir).await?;
        let mut report = |report| {
            if let KeeperReport::Remark { text } = report {
                errln!("[workspace] {text}");
            }
        };
        run_keeper(dir, order, &mut report, log, std::future::pending(), quit).await?;
        Ok(0)
    }
}

fn watch(kind: SignalKind) -> Result<tokio::signal::unix::Signal, CliError> {
    signal(kind).map_err(|error| CliError::new(format!("cannot watch for signals: {error}"), None))
}

fn read_order() -> Result<KeeperRequest, CliError> {
    let mut line = String::new();
    let read = std::io::stdin().lock().take(ORDER).read_line(&mut line);
    read.map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_str(&line).map_err(|error| error.to_string()))
        .map_err(|why| CliError::new(format!("the keeper's order cannot be read: {why}"), None))
}

fn say(report: &KeeperReport) {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    // A starter that is gone is noticed at the other end of the conversation.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// Lets go of whoever started it: nothing comes from there any more, and what is said goes to the log.
fn let_go(dir: &Path) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join("keeper.log");
    let long = std::fs::metadata(&path).is_ok_and(|stat| stat.len() > LOG);
    let mut options = std::fs::File::options();
    options.create(true).mode(0o600);
    let log = if long { options.write(true).truncate(true) } else { options.append(true) }.open(&path);
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(log.as_ref().unwrap_or(&null));
    }
}

/// Runs the keeper as a child, passes signals on to it, reaps everything, and ends with it.
async fn be_init() -> Result<u8, CliError> {
    let failed =
        |error: std::io::Error| CliError::new(format!("the keeper cannot be started: {error}"), None);
    let mut ended = watch(SignalKind::child())?;
    let mut term = watch(SignalKind::terminate())?;
    let mut int = watch(SignalKind::interrupt())?;
    let program = std::env::current_exe().map_err(failed)?;
    let child =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).spawn().map_err(failed)?;
    let Some(keeper) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return Ok(1) };
    loop {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == keeper {
                let code = status.exit_status().or_else(|| status.terminating_signal().map(|n| 128 + n));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
        }
        tokio::select! {
            _ = ended.recv() => {}
            _ = term.recv() => pass_on(keeper),
            _ = int.recv() => pass_on(keeper),
        }
    }
}

fn pass_on(keeper: Pid) {
    // It is there: nobody else reaps it.
    let _ = rustix::process::kill_process(keeper, Signal::TERM);
}
