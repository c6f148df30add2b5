//! Jobs: commands that go on while nobody is connected, and probes of their readiness.

use std::time::Duration;

use futures::io::WriteHalf;
use pyro_proto::frame::Channel;
use pyro_proto::message::{
    Bytes, CommandExit, ExecRequest, JOB_INPUT, JobId, JobInfo, JobStart, MAX_JOBS, PROBE_MS, ProbeResult,
    Reply, Request, ServiceProbe, TerminalSize,
};

use super::call::{CallMessage, GuestCall};
use super::places::CallKind;
use super::source::CallStream;
use super::{CALL_DEADLINE, Guest, GuestError};

const ELSE: &str = "the reply belongs to another call";

impl Guest {
    /// Starts a job under an id that no other has had; returns its process id in the guest. `exec` must not ask for
    /// piped input.
    pub async fn job_start(&self, id: JobId, exec: ExecRequest) -> Result<u32, GuestError> {
        let what = "the start of a job";
        match self.call(what, &Request::JobStart(JobStart { id, exec })).await? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }

    /// Follows a job's output from byte `cursor` on. The guest keeps the last [`pyro_proto::message::JOB_KEPT`] bytes:
    /// [`JobOutput::at`] is the first byte that really comes.
    pub async fn job_attach(&self, id: JobId, cursor: u64) -> Result<JobOutput, GuestError> {
        let (mut call, write) =
            self.begin_as(CallKind::Job, "a job's output", &Request::JobAttach { id, cursor }).await?;
        let answer = tokio::time::timeout(CALL_DEADLINE, call.reply()).await;
        let silent = GuestError::Silent { what: "a job's output", after: CALL_DEADLINE };
        match answer.map_err(|_| silent)?? {
            Reply::Attached { from } => Ok(JobOutput { call, _write: write, at: from }),
            _ => Err(call.unexpected(ELSE)),
        }
    }

    /// Feeds a job's terminal with at most [`JOB_INPUT`] of `bytes`; returns the number taken, which may be zero.
    pub async fn job_input(&self, id: JobId, bytes: &[u8]) -> Result<usize, GuestError> {
        let what = "input for a job";
        let bytes = &bytes[..bytes.len().min(JOB_INPUT)];
        match self.call(what, &Request::JobInput { id, bytes: Bytes::from(bytes) }).await? {
            Reply::Taken { bytes: taken } if taken as usize <= bytes.len() => Ok(taken as usize),
            _ => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }

    /// Gives a job's terminal another size.
    pub async fn job_resize(&self, id: JobId, size: TerminalSize) -> Result<(), GuestError> {
        self.done("the size of a job's terminal", &Request::JobResize { id, size }).await
    }

    /// Sends a Linux signal number to a job's foreground process group.
    pub async fn job_signal(&self, id: JobId, signal: i32) -> Result<(), GuestError> {
        self.done("a signal for a job", &Request::JobSignal { id, signal }).await
    }

    /// Ends a job and all that it started: TERM, after `grace` KILL. Goes on in the guest when this is dropped.
    pub async fn job_stop(&self, id: JobId, grace: Duration) -> Result<CommandExit, GuestError> {
        let what = "the end of a job";
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let deadline = grace.saturating_add(CALL_DEADLINE);
        match self.call_within(what, &Request::JobStop { id, grace_ms }, deadline).await? {
            Reply::Ended(exit) => Ok(exit),
            _ => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }

    /// Lists all jobs of the guest, including those that have ended, sorted by id.
    pub async fn job_list(&self) -> Result<Vec<JobInfo>, GuestError> {
        let what = "the list of jobs";
        match self.call(what, &Request::JobList).await? {
            Reply::Jobs(jobs) if jobs.len() <= MAX_JOBS => Ok(jobs),
            _ => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }

    /// Drops a job that has ended, and its output. Processes that it left behind live on.
    pub async fn job_forget(&self, id: JobId) -> Result<(), GuestError> {
        self.done("the order to forget a job", &Request::JobForget { id }).await
    }

    /// Asks in the guest whether a service is ready; takes at most [`PROBE_MS`] there.
    pub async fn probe(&self, probe: ServiceProbe) -> Result<ProbeResult, GuestError> {
        let what = "a probe";
        let deadline = CALL_DEADLINE + Duration::from_millis(PROBE_MS);
        match self.call_within(what, &Request::Probe(probe), deadline).await? {
            Reply::Probed(readiness) => Ok(readiness),
            _ => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }
}

/// Follower of a job's output; dropping it does nothing to the job. While it is not read the job is held up, once a
/// megabyte waits: followed output is not lost.
pub struct JobOutput {
    call: GuestCall,
    /// Kept open: its end would end the call.
    _write: WriteHalf<CallStream>,
    at: u64,
}

/// Event of a followed job.
#[derive(Debug, PartialEq, Eq)]
pub enum JobEvent<'a> {
    /// Bytes of its standard output, or of its terminal.
    Stdout(&'a [u8]),
    /// Bytes of its standard error.
    Stderr(&'a [u8]),
    /// The job is over; nothing follows.
    Exited(CommandExit),
}

impl JobOutput {
    /// Cursor of the next byte: to attach at again after a lost connection.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Waits for the next event; after `Exited` an error. Waits as long as the job is silent and the guest alive. Not
    /// cancel-safe: a caller that stops waiting must drop the follower.
    pub async fn next(&mut self) -> Result<JobEvent<'_>, GuestError> {
        let what = "a job's output";
        match self.call.next().await? {
            CallMessage::Bytes(channel, bytes) => {
                self.at = self.at.saturating_add(bytes.len() as u64);
                Ok(if channel == Channel::Stderr { JobEvent::Stderr(bytes) } else { JobEvent::Stdout(bytes) })
            }
            CallMessage::Reply(Reply::Ended(exit)) => Ok(JobEvent::Exited(exit)),
            CallMessage::Reply(_) => Err(GuestError::Unexpected { what, why: ELSE }),
        }
    }
}
