//! What tools act on, and what the person allowed.

use pyro_core::vm::Factory;
use pyro_core::vm::registry::Registry;
use pyro_core::workspace::Workspaces;

use super::failure::Failure;
use super::order::Order;
use super::roots::Roots;
use super::runs::Runs;

/// The workspaces of this user, the VMs of this server, and what a model may do with them.
pub struct Host {
    /// Where VMs come from.
    pub factory: Factory,
    /// The workspaces, which outlive this server.
    pub workspaces: Workspaces,
    /// The VMs, which do not.
    pub vms: Registry,
    /// What the last of those wrote that are gone.
    pub runs: Runs,
    /// Which host paths may be named.
    pub roots: Roots,
    /// What must not overtake what.
    pub order: Order,
    /// Whether commands may run on this host where no guest can.
    pub allow_host_compat: bool,
}

/// What to do where commands may not run on the host.
pub(super) const ASK_FOR_HOST_COMPAT: &str =
    "leave allow_host_compat out; the person may allow it with `pyro mcp serve --allow-host-compat`";

impl Host {
    /// One with these limits.
    pub fn new(factory: Factory, roots: Roots, allow_host_compat: bool) -> Self {
        Self {
            workspaces: Workspaces::new(factory.clone()),
            vms: Registry::new(factory.clone()),
            factory,
            runs: Runs::default(),
            roots,
            order: Order::default(),
            allow_host_compat,
        }
    }

    /// Refuses what the person did not allow.
    pub fn check_host_compat(&self, wanted: bool) -> Result<(), Failure> {
        if wanted && !self.allow_host_compat {
            return Err(Failure::not_allowed(
                "allow_host_compat: commands may not run on the host",
                ASK_FOR_HOST_COMPAT,
            ));
        }
        Ok(())
    }
}
