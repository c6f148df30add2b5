//! Ends a service.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AtRest, Operation};
use crate::identity::unix_now;
use crate::workspace::error::WorkspaceError;
use crate::workspace::keeper::{Caller, Keeper};
use crate::workspace::store::jobs::{self, Job as _};
use crate::workspace::store::jobs_view::Service;
use crate::workspace::wire::Call;

/// How long a keeper may take to stop a service.
const PATIENCE: Duration = Duration::from_secs(60);

/// End a service: TERM to all of it, KILL after five seconds. One that does not run stays as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopService {
    /// Name of the service.
    pub name: String,
}

impl Call for StopService {
    const NAME: &'static str = "stop_service";
    type Answer = Service;
}

impl Operation for StopService {
    const PATIENCE: Duration = PATIENCE;

    async fn in_keeper(self, keeper: &Arc<Keeper>, _: &mut Caller) -> Result<Service, WorkspaceError> {
        let _using = keeper.use_guest().await?;
        keeper.stop_service(&self.name).await
    }

    fn at_rest(self, rest: &AtRest) -> Result<Service, WorkspaceError> {
        let service = jobs::find_service(rest.state.jobs()?, &self.name)?;
        Ok(Service::new(rest.home.id(), service.without_guest(unix_now())))
    }
}
