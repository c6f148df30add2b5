//! Handle of a running QEMU behind a [`Machine`](crate::Machine): channels to the task that owns the process.
//!
//! Every command has a deadline, and a process that dies under a command ends the wait at once.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;

use super::control::{self, ControlChannels, QmpCommand};
use crate::VmmError;
use crate::death::{Death, Watch};
use crate::machine::{Accelerator, LaunchTimes, Shape};
use crate::sandbox::Confinement;
use crate::spawn::{ProcessPidfd, VmmProcess};

/// Longest command; most take milliseconds.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// A running QEMU. Dropping the handle kills the process, and the control task reaps it.
#[derive(Debug)]
pub(crate) struct QemuHandle {
    channels: ControlChannels,
    pidfd: ProcessPidfd,
    pid: u32,
    accelerator: Accelerator,
    pub(super) shape: Shape,
    /// Whether guest memory is a file mapped shared, which saves leave out.
    pub(super) shares_memory: bool,
    /// Inode of the file that guest memory is mapped from, private; `None` for other memory.
    pub(crate) mapped: Option<u64>,
    pub(crate) confinement: Confinement,
    pub(super) paused: bool,
    pub(crate) launch_times: LaunchTimes,
    stream: Option<UnixStream>,
}

impl Drop for QemuHandle {
    fn drop(&mut self) {
        self.channels.command_sender = None;
        self.pidfd.kill();
    }
}

impl QemuHandle {
    pub(super) fn new(
        mut process: VmmProcess,
        accelerator: Accelerator,
        shape: Shape,
        shares_memory: bool,
        qmp: OwnedFd,
        console: OwnedFd,
        port: OwnedFd,
    ) -> Result<QemuHandle, VmmError> {
        let host = |source| VmmError::Host { doing: "watch the VMM", source };
        let (pid, pidfd, confinement) = (process.pid(), process.pidfd(), process.confinement());
        let stream = |end: OwnedFd| {
            let end = UnixStream::from(end);
            end.set_nonblocking(true).map(|()| end)
        };
        let tokio_stream = |end| stream(end).and_then(tokio::net::UnixStream::from_std).map_err(host);
        let stderr = process.take_stderr().map(control::stderr).transpose().map_err(host)?;
        let channels =
            control::start(process, tokio_stream(qmp)?, tokio_stream(console)?, stderr).map_err(host)?;
        let stream = Some(stream(port).map_err(host)?);
        let now = Instant::now();
        let launch_times = LaunchTimes { answered: now, ready: now };
        Ok(QemuHandle {
            channels,
            pidfd,
            pid,
            accelerator,
            shape,
            shares_memory,
            mapped: None,
            confinement,
            paused: false,
            launch_times,
            stream,
        })
    }

    pub(crate) fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn connect(&mut self) -> Result<UnixStream, VmmError> {
        self.stream.take().ok_or(VmmError::StreamTaken)
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch::new(self.channels.death.clone())
    }

    pub(crate) fn console_tail(&self) -> String {
        self.channels.console.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    pub(crate) async fn pause(&mut self) -> Result<(), VmmError> {
        self.command("stop", Value::Null).await?;
        self.paused = true;
        Ok(())
    }

    pub(crate) async fn resume(&mut self) -> Result<(), VmmError> {
        self.command("cont", Value::Null).await?;
        self.paused = false;
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<(), VmmError> {
        let watch = self.watch();
        // Dropping the handle closes the command channel, which marks the end as wanted, and kills.
        drop(self);
        match tokio::time::timeout(COMMAND_DEADLINE, watch.ended()).await {
            Ok(_death) => Ok(()),
            Err(_) => Err(VmmError::Deadline { command: "its stop", after: COMMAND_DEADLINE }),
        }
    }

    pub(super) async fn command(&self, command: &'static str, arguments: Value) -> Result<Value, VmmError> {
        self.command_with(command, arguments, None).await
    }

    /// Sends one command and waits for the answer, the process's end, or the deadline.
    pub(super) async fn command_with(
        &self,
        command: &'static str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
    ) -> Result<Value, VmmError> {
        let (answer, answered) = oneshot::channel();
        let request = QmpCommand { command, arguments, descriptor, answer };
        let exchange = async {
            // A closed channel means that the process is ending, and its death has the cause.
            if let Some(command_sender) = &self.channels.command_sender
                && command_sender.send(request).await.is_ok()
                && let Ok(result) = answered.await
            {
                return result.map_err(|detail| VmmError::Refused { command, detail });
            }
            Err(VmmError::Died { during: command, death: Box::new(self.watch().ended().await) })
        };
        self.bounded(command, COMMAND_DEADLINE, exchange).await
    }

    /// Runs `work` until it is done, the process ends, or `limit` is over.
    pub(super) async fn bounded<T>(
        &self,
        during: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T, VmmError>>,
    ) -> Result<T, VmmError> {
        let watch = self.watch();
        let both = async {
            tokio::select! {
                biased;
                done = work => done,
                death = watch.ended() => Err(died(during, death)),
            }
        };
        tokio::time::timeout(limit, both)
            .await
            .unwrap_or(Err(VmmError::Deadline { command: during, after: limit }))
    }

    pub(super) fn migration(&self) -> tokio::sync::watch::Receiver<control::MigrationStatus> {
        self.channels.migration.clone()
    }
}

fn died(during: &'static str, death: Death) -> VmmError {
    VmmError::Died { during, death: Box::new(death) }
}
