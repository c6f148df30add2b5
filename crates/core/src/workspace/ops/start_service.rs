//! Starts a service and waits until it is ready.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LONG, Operation};
use crate::workspace::error::WorkspaceError;
use crate::workspace::frames::ProtocolError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::jobs_view::Service;
use crate::workspace::store::service_spec::ServiceSpec;
use crate::workspace::wire::{Call, Words};

/// Start a service and wait until it is ready. One that is not ready yet when the front end goes is stopped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartService {
    /// Name, directory and readiness of the service.
    pub spec: ServiceSpec,
    /// Command that the service runs.
    pub command: Words,
}

impl Call for StartService {
    const NAME: &'static str = "start_service";
    type Answer = Service;
}

impl Operation for StartService {
    const PATIENCE: Duration = LONG;

    async fn in_keeper(self, keeper: &Arc<Keeper>, caller: &mut Caller) -> Result<Service, WorkspaceError> {
        let _using = keeper.use_guest().await?;
        self.spec.check()?;
        let command = self.command.command().ok_or(ProtocolError::Ended)?;
        keeper.start_service(self.spec, &command, caller).await
    }
}
