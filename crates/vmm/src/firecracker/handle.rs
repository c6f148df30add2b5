//! Handle of a running Firecracker behind a [`Machine`](crate::Machine): the connection to its API, and channels to
//! the task that owns the process.
//!
//! Every request has a deadline, and a process that dies under a request ends the wait with its death.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{ApiClient, ApiError};
use super::config;
use super::control::ControlChannels;
use super::save::SaveFile;
use super::version::{FirecrackerVersion, VersionedStep};
use super::vsock;
use crate::VmmError;
use crate::death::{Death, Watch};
use crate::machine::{LaunchTimes, Shape};
use crate::sandbox::Confinement;
use crate::spawn::ProcessPidfd;

/// Longest request but a save; most take milliseconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Longest wait for a process's end after its API connection broke.
const DEATH_GRACE: Duration = Duration::from_secs(2);

/// Longest save: 30 s, and the time to write all of memory at 20 MiB/s.
fn save_deadline(mem_mib: u32) -> Duration {
    Duration::from_secs(30 + u64::from(mem_mib) / 20)
}

/// A running Firecracker. Dropping the handle kills the process, and the control task reaps it and removes its
/// directory.
#[derive(Debug)]
pub(crate) struct FirecrackerHandle {
    pub(super) channels: ControlChannels,
    pub(super) pidfd: ProcessPidfd,
    pub(super) pid: u32,
    /// Descriptor of the VMM's working directory.
    pub(super) root: Arc<OwnedFd>,
    /// API connection, taken out while a request is under way: a request that is cancelled drops it, so its answer
    /// cannot reach the next.
    pub(super) api: Option<ApiClient>,
    pub(super) version: FirecrackerVersion,
    pub(super) shape: Shape,
    /// User id of a jailed VMM.
    pub(super) user: Option<u32>,
    pub(crate) confinement: Confinement,
    pub(super) paused: bool,
    pub(crate) launch_times: LaunchTimes,
    /// Whether the machine was saved since its pause, or loaded and not resumed since.
    pub(super) saved: bool,
}

impl Drop for FirecrackerHandle {
    fn drop(&mut self) {
        self.channels.stop_sender = None;
        self.pidfd.kill();
    }
}

impl FirecrackerHandle {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch::new(self.channels.death.clone())
    }

    pub(crate) fn console_tail(&self) -> String {
        self.channels.console.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    pub(crate) async fn connect(&mut self, within: Duration) -> Result<UnixStream, VmmError> {
        const DURING: &str = "its connection to the guest";
        let watch = self.watch();
        let broken = |source| VmmError::Host { doing: "connect to the guest", source };
        let both = async {
            tokio::select! {
                biased;
                connected = vsock::connect(&self.root, config::VSOCK) => {
                    connected.and_then(tokio::net::UnixStream::into_std).map_err(broken)
                }
                death = watch.ended() => Err(died(DURING, death)),
            }
        };
        tokio::time::timeout(within, both)
            .await
            .unwrap_or(Err(VmmError::Deadline { command: DURING, after: within }))
    }

    pub(crate) async fn pause(&mut self) -> Result<(), VmmError> {
        if !self.paused {
            self.set_state("Paused").await?;
            (self.paused, self.saved) = (true, false);
        }
        Ok(())
    }

    pub(crate) async fn resume(&mut self) -> Result<(), VmmError> {
        if self.paused {
            if !self.saved {
                self.version.refuse(VersionedStep::BareResume)?;
            }
            self.set_state("Resumed").await?;
            self.paused = false;
        }
        Ok(())
    }

    async fn set_state(&mut self, state: &str) -> Result<(), VmmError> {
        self.request("PATCH /vm", Some(&json!({ "state": state })), REQUEST_DEADLINE).await?;
        Ok(())
    }

    pub(crate) async fn save(&mut self, state: File, memory: Option<File>) -> Result<(), VmmError> {
        if !self.paused {
            return Err(VmmError::NotPaused);
        }
        let Some(memory) = memory else {
            return Err(VmmError::Spec("this VMM needs a file to save guest memory to".into()));
        };
        let host = |source| VmmError::Host { doing: "prepare the files of a save", source };
        let state = SaveFile::offer(&self.root, config::SAVED_STATE, state, self.user).map_err(host)?;
        let memory = SaveFile::offer(&self.root, config::SAVED_MEMORY, memory, self.user).map_err(host)?;
        let limit = save_deadline(self.shape.mem_mib);
        self.request("PUT /snapshot/create", Some(&config::save()), limit).await?;
        self.saved = true;
        let finish = tokio::task::spawn_blocking(move || state.finish().and_then(|()| memory.finish()));
        finish
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|source| VmmError::Host { doing: "write what was saved", source })
    }

    pub(crate) async fn stop(self: Box<Self>) -> Result<(), VmmError> {
        let watch = self.watch();
        // Dropping the handle closes the stop channel, which marks the end as wanted, and kills.
        drop(self);
        match tokio::time::timeout(REQUEST_DEADLINE, watch.ended()).await {
            Ok(_death) => Ok(()),
            Err(_) => Err(VmmError::Deadline { command: "its stop", after: REQUEST_DEADLINE }),
        }
    }

    /// Checks the VMM's version, then configures and boots the machine by `requests`.
    pub(super) async fn boot(&mut self, requests: Vec<(&'static str, Value)>) -> Result<(), VmmError> {
        let answer = self.request("GET /version", None, REQUEST_DEADLINE).await?;
        let says = answer.get("firecracker_version").and_then(Value::as_str).unwrap_or_default();
        // Features were chosen by the version that was asked once; the binary may have been replaced since.
        if FirecrackerVersion::parse(&format!("Firecracker v{says}")) != Some(self.version) {
            let expected = self.version;
            let detail = format!("it is version {says:?}, and {expected} was expected");
            return Err(VmmError::Refused { command: "GET /version", detail });
        }
        for (request, body) in requests {
            self.request(request, Some(&body), REQUEST_DEADLINE).await?;
        }
        Ok(())
    }

    /// Loads the state and memory files of the machine's directory; the machine is paused afterwards.
    pub(super) async fn load(&mut self) -> Result<(), VmmError> {
        let body = config::load(self.version);
        self.request("PUT /snapshot/load", Some(&body), REQUEST_DEADLINE).await?;
        (self.paused, self.saved) = (true, true);
        Ok(())
    }

    /// Sends one request and waits for the answer, the process's end, or the deadline.
    async fn request(
        &mut self,
        request: &'static str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Value, VmmError> {
        let watch = self.watch();
        let exchange = async {
            let mut api = match self.api.take() {
                Some(api) => api,
                None => self.connect_api(request, &watch).await?,
            };
            match api.send(request, body).await {
                Ok(answer) => {
                    self.api = Some(api);
                    Ok(answer)
                }
                Err(ApiError::Refused { status, fault }) => {
                    self.api = Some(api);
                    Err(VmmError::Api { request, status, fault })
                }
                // Mostly the process is ending, and its death tells more.
                Err(ApiError::Broken(detail)) => match tokio::time::timeout(DEATH_GRACE, watch.ended()).await
                {
                    Ok(death) => Err(died(request, death)),
                    Err(_) => Err(VmmError::Refused { command: request, detail }),
                },
            }
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or(Err(VmmError::Deadline { command: request, after: limit }))
    }

    /// Connects to the API as soon as its socket listens, or fails with the process's end.
    async fn connect_api(&self, during: &'static str, watch: &Watch) -> Result<ApiClient, VmmError> {
        tokio::select! {
            biased;
            connected = ApiClient::connect(&self.root, config::API) => match connected {
                Ok(api) => Ok(api),
                // Mostly the process is ending, and its death tells more.
                Err(source) => match tokio::time::timeout(DEATH_GRACE, watch.ended()).await {
                    Ok(death) => Err(died(during, death)),
                    Err(_) => Err(VmmError::Host { doing: "connect to the VMM", source }),
                },
            },
            death = watch.ended() => Err(died(during, death)),
        }
    }

    /// Sets `pid` to the listener on the API's socket, because the child of a jailed start is the warden.
    pub(super) async fn find_vmm_pid(&mut self) -> Result<(), VmmError> {
        let watch = self.watch();
        let api = self.connect_api("its launch", &watch).await?;
        if let Some(pid) = api.peer() {
            self.pid = pid;
        }
        self.api = Some(api);
        Ok(())
    }
}

fn died(during: &'static str, death: Death) -> VmmError {
    VmmError::Died { during, death: Box::new(death) }
}
