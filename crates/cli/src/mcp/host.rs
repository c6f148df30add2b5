//! Workspaces and VMs that tools act on, and what the person allowed.

use pyro_core::vm::Factory;
use pyro_core::vm::registry::Registry;
use pyro_core::workspace::Workspaces;

use super::failure::Failure;
use super::order::CallOrder;
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
    /// Output of the last VMs that are gone.
    pub runs: Runs,
    /// Host paths that may be named.
    pub roots: Roots,
    /// Calls that must not be overtaken.
    pub order: CallOrder,
    /// Whether commands may run on this host where no guest can.
    pub allow_host_compat: bool,
}

/// Remedy where commands may not run on the host.
pub(super) const ASK_FOR_HOST_COMPAT: &str =
    "leave allow_host_compat out; the person may allow it with `pyro mcp serve --allow-host-compat`";

impl Host {
    /// Host with these limits.
    pub fn new(factory: Factory, roots: Roots, allow_host_compat: bool) -> Self {
        Self {
            workspaces: Workspaces::new(factory.clone()),
            vms: Registry::new(factory.clone()),
            factory,
            runs: Runs::default(),
            roots,
            order: CallOrder::default(),
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
