//! `workspace exec` from a front end's side: one call, its output as it comes.

use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::Workspaces;
use super::reach::{Reached, answer_of};
use crate::capture::{Capture, Captured};
use crate::command::{CommandError, CommandLine};
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::{self, Channel, ProtocolError};
use crate::workspace::store::record::WORKSPACE_PATH;
use crate::workspace::store::secrets::SecretEnv;
use crate::workspace::store::view::{EXECUTION_MODE, ExecReport};
use crate::workspace::wire::{Exec, Exited, Outcome, Words};

/// How much longer than the command's own timeout the keeper may say nothing.
const GRACE: Duration = Duration::from_secs(60);

impl Workspaces {
    /// Runs one command in `/workspace`, its output passed on as it comes, with secrets as variables. Dropping the future
    /// kills it.
    ///
    /// # Errors
    /// When the workspace does not run, its guest ends, or the output cannot be passed on.
    pub async fn exec(
        &self,
        given: &str,
        command: &CommandLine,
        timeout: Option<Duration>,
        secret_env: &[SecretEnv],
        stdout: &mut (dyn AsyncWrite + Send + Unpin),
        stderr: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<ExecReport, WorkspaceError> {
        let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let call = Exec { command: Words::new(command), timeout_ms, secret_env: secret_env.to_vec() };
        let mut reached = self.reach(given, &call).await?;
        let again = reached.again;
        let Reached { home, stream, .. } = &mut reached;
        let (mut out, mut err) = (Capture::default(), Capture::default());
        let mut body = Vec::new();
        let hear = async {
            loop {
                match frames::receive_frame(stream, &mut body).await? {
                    Some(Channel::Stdout) => {
                        out.push(&body);
                        pass_on(stdout, &body).await?;
                    }
                    Some(Channel::Stderr) => {
                        err.push(&body);
                        pass_on(stderr, &body).await?;
                    }
                    Some(Channel::Message) => {
                        return Ok(serde_json::from_slice::<Outcome<Exited>>(&body)
                            .map_err(ProtocolError::Message)?);
                    }
                    None => return Err(WorkspaceError::Protocol(ProtocolError::Ended)),
                }
            }
        };
        let limited = async {
            let mut hear = std::pin::pin!(hear);
            let Some(timeout) = timeout else { return Ok(hear.await) };
            if let Ok(heard) = tokio::time::timeout(timeout + GRACE, &mut hear).await {
                return Ok(heard);
            }
            // Its time begins in the guest, when there is a place for it: a keeper that still greets comes to that.
            tokio::select! {
                biased;
                heard = &mut hear => Ok(heard),
                () = self.until_it_hangs(home) => Err(()),
            }
        };
        let hangs = async {
            // Only a greeting says that a keeper lives, and on a connection that was used before there is none.
            if !again || !self.hangs(home).await {
                std::future::pending().await
            }
        };
        let answer = tokio::select! {
            biased;
            answer = limited => answer,
            () = hangs => return Err(WorkspaceError::Silent),
        };
        let answer = match answer {
            Ok(Err(WorkspaceError::Protocol(_))) => {
                let what = match again {
                    false => "ended while the command ran",
                    true => "ended before the command did, or before it heard of it",
                };
                return Err(WorkspaceError::KeeperLost { what, log: None });
            }
            Ok(answer) => answer?,
            Err(()) => return Err(WorkspaceError::Silent),
        };
        let exited = answer_of(answer)?;
        let duration =
            exited.duration_us.map_or(Duration::from_millis(exited.duration_ms), Duration::from_micros);
        self.answered(reached);
        let text = |captured: Captured| {
            (String::from_utf8_lossy(&captured.bytes).into_owned(), captured.total, captured.truncated)
        };
        let (stdout, stdout_bytes, stdout_truncated) = text(out.finish());
        let (stderr, stderr_bytes, stderr_truncated) = text(err.finish());
        Ok(ExecReport {
            workspace_id: exited.place.workspace_id,
            environment: exited.place.environment,
            environment_version: Some(exited.place.environment_version),
            command: exited.command,
            cwd: WORKSPACE_PATH.into(),
            sequence: exited.sequence,
            stdout,
            stdout_bytes,
            stdout_truncated,
            stderr,
            stderr_bytes,
            stderr_truncated,
            exit_code: exited.exit_code,
            timed_out: exited.timed_out,
            duration_ms: crate::vm::millis(duration),
            duration,
            execution_mode: EXECUTION_MODE.into(),
            backend: exited.place.backend,
            accelerator: exited.place.accelerator,
            unrecorded: exited.unrecorded,
        })
    }
}

pub(super) async fn pass_on(
    to: &mut (dyn AsyncWrite + Send + Unpin),
    bytes: &[u8],
) -> Result<(), WorkspaceError> {
    let write = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    write.await.map_err(|error| CommandError::Output(error).into())
}
