//! Life of a VM: created, started, given a command, deleted.
//!
//! ```text
//!   created --start--> started --stop--> stopped
//!      |                  |                 |
//!      +------------------+-----------------+--> deleted (dropped)
//! ```
//!
//! Dropping a [`Vm`] at any point takes its VMM, its session and its disk with it: the disk is a file that never
//! had a name. Several VMs in one process are kept by [`registry`].

mod error;
mod factory;
pub(crate) mod limits;
pub mod registry;
mod report;

use pyro_vmm::Shape;
use schemars::JsonSchema;
use serde::Serialize;

use crate::backend::{self, ProbePolicy};
use crate::cause;
use crate::command::{self, CommandLine, CommandOptions, Outcome, Streams};
use crate::environment::{Installed, PullEvent};
use crate::host;
use crate::host_compat;
use crate::identity;
use crate::launch::Booted;
use crate::start::{self, Remark, StartMethod, Started};
use crate::timeline::{Step, Timeline};

pub use error::VmError;
pub use factory::{EnvironmentInfo, Factory, Pruned};
pub use limits::{LimitError, MEMORY_MIB, TTL_SECONDS, VCPUS, VmRequest, timeout};
pub(crate) use report::millis;
pub use report::{Cleanup, RunReport};

/// Whether a guest, or in its stead the host, ran something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionMode {
    /// Nothing ran yet.
    Pending,
    /// A guest ran it.
    GuestVsock,
    /// The host, without any isolation.
    HostCompat,
}

impl std::fmt::Display for ExecutionMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::GuestVsock => "guest_vsock",
            Self::HostCompat => "host_compat",
        })
    }
}

/// State of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Nothing of it runs yet.
    Created,
    /// Guest, or the host in its place, runs commands.
    Started,
    /// Guest has ended.
    Stopped,
}

impl std::fmt::Display for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Stopped => "stopped",
        })
    }
}

/// A VM as payloads describe it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct VmInfo {
    /// 12 hexadecimal digits.
    pub vm_id: String,
    /// The environment's name.
    pub environment: String,
    /// The environment's version, once it is known.
    pub environment_version: Option<String>,
    /// Number of virtual CPUs.
    pub vcpu_count: u32,
    /// Guest memory, MiB.
    pub mem_mib: u32,
    /// Time to live, seconds; 0 for none.
    pub ttl_seconds: u64,
    /// Time of creation, Unix seconds.
    pub created_at: f64,
    /// Unix seconds; when it may be reaped if nothing more happens. Absent without a time to live.
    pub expires_at: Option<f64>,
    /// State of the VM.
    pub state: VmState,
    /// Whether it has outbound access.
    pub network_enabled: bool,
    /// Whether the host may stand in.
    pub allow_host_compat: bool,
    /// Always absent: a VM has no address of its own.
    pub guest_ip: Option<String>,
    /// Always absent: a VM has no network interface on the host.
    pub tap_name: Option<String>,
    /// Runner of its commands.
    pub execution_mode: ExecutionMode,
    /// `qemu` or `firecracker`, `host`, or `none` while nothing runs.
    pub backend: String,
    /// `kvm`, `tcg`, or `none`.
    pub accelerator: String,
    /// Free-form; what the VM's start had to say.
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// Runner of a VM's commands.
enum Engine {
    None,
    Guest(Box<Booted>, String),
    Host,
}

/// A VM of this process.
pub struct Vm {
    id: String,
    request: VmRequest,
    factory: Factory,
    environment: Option<Installed>,
    created_at: f64,
    last_activity: f64,
    state: VmState,
    engine: Engine,
    /// Why the host stands in for a guest.
    host_reason: Option<String>,
    timeline: Timeline,
    how: Option<StartMethod>,
}

impl Vm {
    /// Checks the request and installs the environment where that is missing.
    ///
    /// With `allow_host_compat` an environment that cannot be installed is no error: the host will stand in.
    pub async fn create(
        factory: Factory,
        request: VmRequest,
        events: impl FnMut(PullEvent) + Send + 'static,
    ) -> Result<Self, VmError> {
        let timeline = Timeline::begin(factory.observer.clone());
        limits::check(&request, host::available_memory_mib())?;
        let (environment, host_reason) = match factory.environment(&request.environment, events).await {
            Ok(installed) => (Some(installed), None),
            Err(error) if request.allow_host_compat && error.no_guest_can_run() => {
                (None, Some(cause::chain(&error)))
            }
            Err(error) => return Err(error),
        };
        let now = identity::unix_now();
        Ok(Self {
            id: identity::new_id()?,
            request,
            factory,
            environment,
            created_at: now,
            last_activity: now,
            state: VmState::Created,
            engine: Engine::None,
            host_reason,
            timeline,
            how: None,
        })
    }

    /// 12 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The VMM's process id while a guest runs: for `/proc`, not for signals.
    pub fn vmm_pid(&self) -> Option<u32> {
        match &self.engine {
            Engine::Guest(booted, _) => Some(booted.machine.pid()),
            Engine::None | Engine::Host => None,
        }
    }

    /// Why the host stands in for a guest, where it does.
    pub fn host_reason(&self) -> Option<&str> {
        self.host_reason.as_deref()
    }

    /// The steps of its life so far.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Where its guest came from, once it has one.
    pub fn how(&self) -> Option<StartMethod> {
        self.how
    }

    /// Describes the VM as it is now.
    pub fn info(&self) -> VmInfo {
        let (execution_mode, backend, accelerator) = match &self.engine {
            Engine::None => (ExecutionMode::Pending, "none".to_owned(), "none".to_owned()),
            Engine::Guest(booted, _) => (
                ExecutionMode::GuestVsock,
                booted.machine.backend().to_string(),
                booted.machine.accelerator().to_string(),
            ),
            Engine::Host => (ExecutionMode::HostCompat, "host".to_owned(), "none".to_owned()),
        };
        let mut metadata = std::collections::BTreeMap::new();
        if let Engine::Guest(_, why) = &self.engine {
            metadata.insert("backend_reason".into(), why.clone());
        }
        if let Some(why) = &self.host_reason {
            metadata.insert("host_compat_reason".into(), why.clone());
        }
        VmInfo {
            vm_id: self.id.clone(),
            environment: self.request.environment.clone(),
            environment_version: self.environment.as_ref().map(|e| e.manifest().version.clone()),
            vcpu_count: self.request.vcpu_count,
            mem_mib: self.request.mem_mib,
            ttl_seconds: self.request.ttl_seconds,
            created_at: self.created_at,
            expires_at: self.expires_at(),
            state: self.state,
            network_enabled: self.request.network,
            allow_host_compat: self.request.allow_host_compat,
            guest_ip: None,
            tap_name: None,
            execution_mode,
            backend,
            accelerator,
            metadata,
        }
    }

    fn expires_at(&self) -> Option<f64> {
        (self.request.ttl_seconds > 0).then_some(self.last_activity + self.request.ttl_seconds as f64)
    }

    /// Whether its time to live has run out by `now`, in Unix seconds.
    pub fn expired_by(&self, now: f64) -> bool {
        self.expires_at().is_some_and(|at| now > at)
    }

    /// Starts the guest, restored or booted; `tell` hears why it was not simply restored.
    ///
    /// With `allow_host_compat`, a guest that cannot run is no error: the host stands in, and
    /// [`Vm::host_reason`] says why.
    pub async fn start(&mut self, tell: &mut (dyn FnMut(Remark) + Send)) -> Result<(), VmError> {
        if self.state != VmState::Created {
            return Err(VmError::State { vm_id: self.id.clone(), state: self.state, wanted: "started" });
        }
        self.last_activity = identity::unix_now();
        let started = match &self.environment {
            Some(environment) => self.bring_up(environment, tell).await.map(Some),
            None => Ok(None),
        };
        self.engine = match started {
            Ok(Some((started, why))) => {
                self.how = Some(started.how);
                Engine::Guest(Box::new(started.booted), why)
            }
            Ok(None) => Engine::Host,
            Err(error) if self.request.allow_host_compat && error.no_guest_can_run() => {
                self.host_reason = Some(cause::chain(&error));
                Engine::Host
            }
            Err(error) => return Err(error),
        };
        self.state = VmState::Started;
        Ok(())
    }

    async fn bring_up(
        &self,
        environment: &Installed,
        tell: &mut (dyn FnMut(Remark) + Send),
    ) -> Result<(Started, String), VmError> {
        let bundle = self.factory.bundle()?;
        let choice =
            backend::choose(&self.factory.config, &bundle, self.factory.preference, ProbePolicy::IfNeeded)
                .await?;
        let shape = Shape { vcpus: self.request.vcpu_count as u8, mem_mib: self.request.mem_mib };
        let hostname = format!("pyro-{}", self.id);
        let request =
            self.factory.start_request(&bundle, environment, &choice, shape, hostname, &self.timeline);
        self.timeline.mark(Step::Prepared);
        Ok((start::start(request, tell).await?, choice.why))
    }

    /// Runs one command. Dropping the future kills it.
    pub async fn exec(
        &mut self,
        command: &CommandLine,
        options: &CommandOptions,
        streams: &mut Streams,
    ) -> Result<Outcome, VmError> {
        let outcome = match &self.engine {
            Engine::Guest(booted, _) => {
                let watch = booted.machine.watch();
                command::execute(&booted.guest, &watch, command, options, streams).await?
            }
            Engine::Host => host_compat::execute(command, options, streams).await?,
            Engine::None => {
                return Err(VmError::State { vm_id: self.id.clone(), state: self.state, wanted: "used" });
            }
        };
        self.timeline.mark(Step::Executed);
        self.last_activity = identity::unix_now();
        Ok(outcome)
    }

    /// Ends the guest. The VM can then only be looked at and deleted.
    pub async fn stop(&mut self) -> Result<(), VmError> {
        if let Engine::Guest(booted, _) = std::mem::replace(&mut self.engine, Engine::None) {
            booted.machine.stop().await.map_err(VmError::Stop)?;
            self.timeline.mark(Step::Stopped);
        }
        self.state = VmState::Stopped;
        Ok(())
    }
}
