//! Services from a front end's side.

use std::time::Duration;

use super::shells::directory;
use super::{Workspaces, reach};
use crate::command::CommandLine;
use crate::identity::unix_now;
use crate::workspace::error::{WorkspaceError, blocking};
use crate::workspace::life::Phase;
use crate::workspace::ops;
use crate::workspace::store::jobs::{Job as _, STREAMS, ServiceRecord, find_service, last_lines};
use crate::workspace::store::jobs_view::{Service, ServiceList, ServiceLogs};
use crate::workspace::store::layout::Home;
use crate::workspace::store::service_spec::ServiceSpec;
use crate::workspace::store::spool;
use crate::workspace::wire::Words;

/// How much longer than a service may take to become ready its keeper may take to say so.
const GRACE: Duration = Duration::from_secs(60);
/// All that is kept of a stream, bytes.
const ALL: usize = 32 << 20;

impl Workspaces {
    /// Starts a service and waits until it is ready. Dropping the future ends it while it is not.
    ///
    /// # Errors
    /// When one of its name runs, it cannot be started, or does not become ready: with the end of its log.
    pub async fn start_service(
        &self,
        given: &str,
        spec: ServiceSpec,
        command: &CommandLine,
    ) -> Result<Service, WorkspaceError> {
        spec.check()?;
        let spec = ServiceSpec { cwd: directory(&spec.cwd), ..spec };
        let home = self.find(given).await?;
        let within = Duration::from_secs(spec.wait.timeout_seconds) + GRACE;
        let start = ops::StartService { spec, command: Words::new(command) };
        self.ask(&home, &start, within).await?.ok_or(WorkspaceError::Stopped)
    }

    /// Services as they are now, the oldest first.
    async fn services_now(&self, home: &Home) -> Result<Vec<ServiceRecord>, WorkspaceError> {
        let runs = reach::phase(home).await?.is_some_and(|phase| phase != Phase::Stopped);
        let services = super::read(home, |state| state.jobs::<ServiceRecord>()).await?;
        let derive = |service: ServiceRecord| if runs { service } else { service.without_guest(unix_now()) };
        Ok(services.into_iter().map(derive).collect())
    }

    async fn service_now(&self, home: &Home, name: &str) -> Result<Service, WorkspaceError> {
        let service = find_service(self.services_now(home).await?, name)?;
        Ok(Service::new(home.id(), service))
    }

    /// The services, the oldest first.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn services(&self, given: &str) -> Result<ServiceList, WorkspaceError> {
        let home = self.find(given).await?;
        let services = self.services_now(&home).await?;
        Ok(ServiceList {
            workspace_id: home.id(),
            count: services.len(),
            running_count: services.iter().filter(|service| service.is_running()).count(),
            services: services.into_iter().map(|service| Service::new(home.id(), service)).collect(),
        })
    }

    /// Finds a service by name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn service(&self, given: &str, name: &str) -> Result<Service, WorkspaceError> {
        let home = self.find(given).await?;
        self.service_now(&home, name).await
    }

    /// Output of a service: the last `tail_lines` of each stream, or all that is kept.
    ///
    /// # Errors
    /// When there is none of this name, or its log cannot be read.
    pub async fn service_logs(
        &self,
        given: &str,
        name: &str,
        tail_lines: Option<u64>,
    ) -> Result<ServiceLogs, WorkspaceError> {
        let home = self.find(given).await?;
        let service = self.service_now(&home, name).await?;
        let dir = home.service(name);
        let most = tail_lines.map_or(usize::MAX, |lines| usize::try_from(lines).unwrap_or(usize::MAX));
        let (stdout, stderr, truncated) = blocking(move || {
            let mut truncated = false;
            let mut read = |stream| {
                let kept = spool::read(&dir, stream, 0, ALL)
                    .map_err(|error| WorkspaceError::file(&dir, "read", error))?;
                let (text, cut) = last_lines(&kept.bytes, most, kept.from > 0);
                truncated |= cut || kept.from > 0;
                Ok::<_, WorkspaceError>(text)
            };
            let [out, err] = STREAMS;
            let (stdout, stderr) = (read(out)?, read(err)?);
            Ok::<_, WorkspaceError>((stdout, stderr, truncated))
        })
        .await?;
        Ok(ServiceLogs { service, stdout, stderr, tail_lines, truncated })
    }

    /// Ends a service: TERM to all of it, KILL after five seconds. One that does not run stays as it is.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be ended.
    pub async fn stop_service(&self, given: &str, name: &str) -> Result<Service, WorkspaceError> {
        let home = self.find(given).await?;
        if reach::phase(&home).await?.is_none_or(|phase| phase == Phase::Stopped) {
            return self.service_now(&home, name).await;
        }
        self.perform_in(&home, ops::StopService { name: name.to_owned() }).await
    }
}
