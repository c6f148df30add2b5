//! Services: commands that go on, and the wait until one is ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_formats::plain::plain;
use pyro_proto::message::{Bytes, ExecRequest, ExecStdio, ProbeResult, ServiceProbe};

use super::Caller;
use crate::command::{self, CommandLine, CommandOptions, Outcome, Streams};
use crate::identity::unix_now;
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::Keeper;
use crate::workspace::keeper::jobs::{JobEnding, JobKey, LiveJob, Output, exit_code, variables};
use crate::workspace::store::jobs::{
    Job as _, JobLife, JobState, STREAMS, ServiceRecord, find_service, last_lines,
};
use crate::workspace::store::jobs_view::Service;
use crate::workspace::store::service_spec::{ReadinessProbe, ReadyWait, ServiceSpec};
use crate::workspace::store::spool::{self, Spool, SpoolSize};

/// How long a service may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long a command may take that tells whether a service is ready, and the least that it is given.
const LONGEST_LOOK: Duration = Duration::from_secs(30);
const LEAST_LOOK: Duration = Duration::from_secs(2);
/// How much longer that command may take, its end and the wait for a place included.
const PLACE: Duration = Duration::from_secs(20);
/// Most services that are remembered, those that ended included.
const REMEMBERED: usize = 64;
/// Drained for so long after its end.
const DRAIN_MS: u64 = 100;
/// Lines of its log that are shown with a service that does not become ready, and the most bytes of them.
const TAIL: usize = 20;
const TAIL_BYTES: u64 = 8192;

impl Keeper {
    /// Starts a service and waits until it is ready; one that is not ready yet when the front end goes is stopped.
    pub(crate) async fn start_service(
        self: &Arc<Self>,
        spec: ServiceSpec,
        command: &CommandLine,
        caller: &mut Caller,
    ) -> Result<Service, WorkspaceError> {
        let ServiceSpec { name, cwd, readiness, wait, secret_env } = spec;
        let _starting = self.starting_service(&name)?;
        let key = JobKey::Service(name.clone());
        let all = self.database().state.jobs::<ServiceRecord>()?;
        if let Some(before) = all.iter().find(|each| each.service_name == name) {
            if before.is_running() {
                return Err(WorkspaceError::ServiceTaken(name));
            }
            if self.live(&key).is_some() {
                // The service ended and left a process running, which the new start replaces.
                self.stop_service(&name).await?;
            }
        } else if all.len() >= REMEMBERED {
            let Some(old) = all.iter().find(|each| !each.is_running()) else {
                return Err(WorkspaceError::ServicesFull(REMEMBERED));
            };
            self.stop_service(&old.service_name).await?;
            self.database().state.remove_job::<ServiceRecord>(&old.service_name)?;
            let dir = self.home.service(&old.service_name);
            spool::remove(&dir).map_err(|error| WorkspaceError::file(&dir, "removed", error))?;
        }
        let dir = self.home.service(&name);
        let spool = |stream| {
            Spool::create(&dir, stream, SpoolSize::SERVICE)
                .map_err(|error| WorkspaceError::file(&dir, "written", error))
        };
        let [out, err] = STREAMS;
        let redactor = self.secrets.redactor();
        let output = Output::new(spool(out)?, Some(spool(err)?), redactor);
        let argv = command.argv().into_iter();
        let exec = ExecRequest {
            argv: argv.map(|word| Bytes(std::os::unix::ffi::OsStringExt::into_vec(word))).collect(),
            env: variables(self.secrets.env(&secret_env)?),
            cwd: Some(cwd.as_bytes().into()),
            user: None,
            stdio: ExecStdio::Output,
            timeout_ms: None,
            drain_ms: DRAIN_MS,
        };
        let record = |pid| ServiceRecord {
            service_name: name.clone(),
            command: redactor.text(&command.redacted(redactor).to_string()),
            cwd: cwd.clone(),
            pid: Some(pid),
            readiness: readiness.clone(),
            ready_at: None,
            life: JobLife::begun(unix_now()),
        };
        let started = self.start_job(key.clone(), exec, output, record).await;
        if started.is_err() {
            // Of an earlier one of this name the log is gone already.
            self.database().state.remove_job::<ServiceRecord>(&name)?;
            let _ = spool::remove(&dir);
        }
        let (live, service) = started?;
        let Some(readiness) = readiness else { return Ok(Service::new(self.home.id(), service)) };
        let why = tokio::select! {
            ready = self.ready(&live, &readiness, &cwd, wait) => match ready? {
                None => return self.note_ready(&name),
                Some(why) => why,
            },
            () = caller.gone() => "nobody waits for it any more".to_owned(),
        };
        let ending = JobEnding { state: JobState::Failed, reason: Some(why.clone()) };
        self.stop_job(&live, GRACE, ending.clone()).await?;
        self.forget_job(&key, &live).await;
        // A service that ended by itself has an end on record, which is kept.
        let database = self.database();
        if let Some(mut service) = database.state.job::<ServiceRecord>(&name)? {
            let (ended_at, code) = (service.life.ended_at.unwrap_or_else(unix_now), service.life.exit_code);
            service.end(ending.state, ended_at, code, Some(why.clone()));
            database.state.save_job(&service)?;
        }
        Err(WorkspaceError::ServiceNotReady { name, why, log: tail(&dir) })
    }

    fn note_ready(&self, name: &str) -> Result<Service, WorkspaceError> {
        let database = self.database();
        let mut service = find_service(database.state.jobs()?, name)?;
        service.ready_at = Some(unix_now());
        database.state.save_job(&service)?;
        Ok(Service::new(self.home.id(), service))
    }

    /// Waits until a service is ready; otherwise why it is not.
    async fn ready(
        &self,
        live: &LiveJob,
        readiness: &ReadinessProbe,
        cwd: &str,
        wait: ReadyWait,
    ) -> Result<Option<String>, WorkspaceError> {
        let begin = Instant::now();
        let timeout = Duration::from_secs(wait.timeout_seconds);
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            let looked = tokio::select! {
                biased;
                exit = live.over() => Err(exit),
                looked = self.look(readiness, cwd, left) => Ok(looked?),
            };
            // Another one may have answered in the place of one that ended.
            let exit = live.progress.borrow().exit;
            let why = match (looked, exit) {
                (Err(exit), _) | (Ok(_), exit @ Some(_)) => {
                    let code = exit.map_or_else(|| "?".into(), |exit| exit_code(exit).to_string());
                    return Ok(Some(format!("it ended with exit code {code} before it was ready")));
                }
                (Ok(None), None) => return Ok(None),
                (Ok(Some(why)), None) => why,
            };
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(Some(format!("it was not ready within {} s: {why}", wait.timeout_seconds)));
            }
            let pause = Duration::from_millis(wait.interval_ms).min(left);
            // A service that ends meanwhile is noticed at once.
            let _ = tokio::time::timeout(pause, live.over()).await;
        }
    }

    /// Looks once whether a service is ready; otherwise why it is not.
    async fn look(
        &self,
        readiness: &ReadinessProbe,
        cwd: &str,
        left: Duration,
    ) -> Result<Option<String>, WorkspaceError> {
        let probe = match readiness {
            ReadinessProbe::File { path } => ServiceProbe::File { path: path.as_bytes().into() },
            ReadinessProbe::Http { url } => ServiceProbe::Http { url: url.clone() },
            ReadinessProbe::Tcp { .. } => ServiceProbe::Tcp { port: readiness.port()? },
            ReadinessProbe::Command { command } => return self.look_by_command(command, cwd, left).await,
        };
        let what = "the service cannot be looked at";
        match self.guest()?.probe(probe).await.map_err(|source| WorkspaceError::Job { what, source })? {
            ProbeResult::Ready => Ok(None),
            ProbeResult::NotReady(why) => Ok(Some(line(&why))),
        }
    }

    async fn look_by_command(
        &self,
        line: &str,
        cwd: &str,
        left: Duration,
    ) -> Result<Option<String>, WorkspaceError> {
        let Some(handle) = self.handle() else { return Err(WorkspaceError::Stopped) };
        let line = CommandLine::Shell(line.into());
        // The last look is a whole one: it tells why.
        let timeout = left.clamp(LEAST_LOOK, LONGEST_LOOK);
        let options =
            CommandOptions { timeout: Some(timeout), cwd: Some(cwd.into()), ..CommandOptions::default() };
        let mut streams = Streams::captured();
        let looked = command::execute(&handle.guest, &handle.watch, &line, &options, &mut streams);
        // A command that has no place is none that says yes.
        let Ok(looked) = tokio::time::timeout(timeout + PLACE, looked).await else {
            return Ok(Some("the command that looks has no place among the commands under way".into()));
        };
        let Outcome { exit_code, timed_out, stderr, .. } = looked?;
        if exit_code == 0 && !timed_out {
            return Ok(None);
        }
        let stderr = stderr.unwrap_or_default().bytes;
        let said = String::from_utf8_lossy(&stderr).trim().lines().last().unwrap_or_default().to_owned();
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        let what = if timed_out { "takes too long".into() } else { format!("exits with {exit_code}") };
        let colon = if said.is_empty() { "" } else { ": " };
        Ok(Some(format!("the command that looks {what}{colon}{said}")))
    }

    /// Ends a service; one that does not run stays as it is.
    pub(crate) async fn stop_service(&self, name: &str) -> Result<Service, WorkspaceError> {
        let all = self.database().state.jobs()?;
        let mut service = find_service(all, name)?;
        let key = JobKey::Service(name.to_owned());
        let Some(live) = self.live(&key) else { return Ok(Service::new(self.home.id(), service)) };
        let ran = service.is_running();
        self.stop_job(&live, GRACE, JobEnding { state: JobState::Stopped, reason: None }).await?;
        self.forget_job(&key, &live).await;
        let all = self.database().state.jobs()?;
        service = find_service(all, name)?;
        if !ran {
            // The service had ended by itself; the processes that it left behind are ended now.
            service.life.state = JobState::Stopped;
            service.life.stop_reason = Some("sigterm".into());
            self.database().state.save_job(&service)?;
        }
        Ok(Service::new(self.home.id(), service))
    }

    /// Marks a service as being started: refused while another start of it goes on.
    fn starting_service(self: &Arc<Self>, name: &str) -> Result<Starting, WorkspaceError> {
        let mut starting = self.starting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !starting.insert(name.to_owned()) {
            return Err(WorkspaceError::ServiceTaken(name.to_owned()));
        }
        Ok(Starting(Arc::clone(self), name.to_owned()))
    }
}

/// A service that is being started.
struct Starting(Arc<Keeper>, String);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.starting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.1);
    }
}

/// Guest's text, fit to be part of a line.
fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The last lines of a service's log, both streams.
fn tail(dir: &std::path::Path) -> Option<String> {
    let mut text = String::new();
    for stream in STREAMS {
        let written = spool::read(dir, stream, u64::MAX, 0).map_or(0, |kept| kept.written);
        let from = written.saturating_sub(TAIL_BYTES);
        let kept = spool::read(dir, stream, from, TAIL_BYTES as usize).unwrap_or_default();
        let said = last_lines(&kept.bytes, TAIL, from > 0).0;
        // The log is shown on the terminal of whoever waited for the service, as part of a message.
        let said = plain(said.replace('\n', "\r\n").as_bytes(), 200, 100);
        if !said.is_empty() && !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&said);
    }
    let text = text.trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}
