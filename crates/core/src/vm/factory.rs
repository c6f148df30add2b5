//! Where VMs come from on this host: the places, the wish for a backend, environments and templates.

use std::sync::Arc;

use pyro_vmm::{Cache, Shape};
use serde::Serialize;

use super::{VmError, VmRequest};
use crate::backend::{self, Choice, Preference, Probe};
use crate::bug::blocking;
use crate::config::Config;
use crate::environment::{self, CancelToken, EnvironmentError, Installed, PullEvent, Status, Store};
use crate::runtime::{Bundle, KERNEL};
use crate::start::{self, Disk, Order, Remark, Use};
use crate::template::Templates;
use crate::timeline::{Observer, Timeline};
use crate::workspace;

/// Where VMs come from on this host: the places, the wish for a backend, the installed environments.
#[derive(Clone, Debug)]
pub struct Factory {
    /// Where things are.
    pub config: Arc<Config>,
    /// What the person asked for.
    pub preference: Preference,
    /// Whether starts may use templates.
    pub templates: Use,
    /// Told of every step of every start, as `pyro bench` and tests want it.
    pub observer: Option<Observer>,
}

impl Factory {
    /// One that uses templates and tells nobody.
    pub fn new(config: Config, preference: Preference) -> Self {
        Self { config: config.into(), preference, templates: Use::default(), observer: None }
    }

    /// The store of installed environments.
    pub fn store(&self) -> Store {
        Store::new(self.config.environment_dir.clone())
    }

    /// The runtime bundle.
    pub fn bundle(&self) -> Result<Bundle, VmError> {
        Ok(Bundle::open(&self.config.bundle_dir, &self.config.cache_dir)?)
    }

    /// The templates.
    pub fn template_store(&self) -> Templates {
        Templates::new(self.config.template_dir.clone())
    }

    /// Makes the template that a VM of this environment and otherwise default shape is restored from, unless it is
    /// there. Says whether it was made.
    ///
    /// # Errors
    /// When the guest cannot even be booted.
    pub async fn warm(
        &self,
        environment: &Installed,
        tell: &mut (dyn FnMut(Remark) + Send),
    ) -> Result<bool, VmError> {
        let bundle = self.bundle()?;
        let choice = backend::choose(&self.config, &bundle, self.preference, Probe::IfNeeded).await?;
        let request = VmRequest::new(&environment.manifest().name);
        let shape = Shape { vcpus: request.vcpu_count as u8, mem_mib: request.mem_mib };
        let timeline = Timeline::begin(self.observer.clone());
        let order = self.order(&bundle, environment, &choice, shape, "pyro-template".into(), &timeline);
        start::warm(order, tell).await
    }

    pub(super) fn order<'a>(
        &'a self,
        bundle: &'a Bundle,
        environment: &'a Installed,
        choice: &'a Choice,
        shape: Shape,
        hostname: String,
        timeline: &'a Timeline,
    ) -> Order<'a> {
        Order {
            config: &self.config,
            bundle,
            environment,
            vmm: &choice.vmm,
            shape,
            hostname,
            oneshot: true,
            disk: Disk::Blank,
            cache: Cache::Unsafe,
            templates: self.templates,
            timeline,
        }
    }

    /// One environment, with what this host keeps for it: its kernel and its templates.
    ///
    /// # Errors
    /// When it is unknown or the cache cannot be read.
    pub fn inspect(&self, name: &str) -> Result<Status, VmError> {
        let mut status = self.store().inspect(name)?;
        if let Some(installed) = self.store().installed(name)? {
            // Without a runtime there is no kernel to name.
            let kernel = self.bundle().ok().and_then(|bundle| bundle.artifact_path(KERNEL));
            status.kernel_image = kernel.map(|path| path.display().to_string());
            let templates = self.template_store().of_base(&installed.manifest().rootfs.sha256);
            status.template_bytes = Some(templates.iter().map(|template| template.bytes).sum());
            status.templates = Some(templates);
        }
        Ok(status)
    }

    /// Removes what nobody needs: versions of environments that are neither current nor in use, leftovers of
    /// interrupted work, and all templates, which the next start of each kind makes anew.
    ///
    /// # Errors
    /// When something cannot be read or removed; what was removed until then is.
    pub fn prune(&self) -> Result<Pruned, VmError> {
        let (deleted_template_dirs, freed_template_bytes) = self.template_store().prune()?;
        let in_use = workspace::versions_in_use(&self.config.workspaces_dir);
        Ok(Pruned { environments: self.store().prune(&in_use)?, deleted_template_dirs, freed_template_bytes })
    }

    /// The environment, installed now if it was not, or not as it should be.
    ///
    /// # Errors
    /// When it is unknown, or cannot be installed.
    pub async fn environment(
        &self,
        name: &str,
        events: impl FnMut(PullEvent) + Send + 'static,
    ) -> Result<Installed, VmError> {
        let store = self.store();
        if let Some(installed) = store.installed(name)? {
            match installed.open_base() {
                // What is damaged is installed anew, never booted.
                Err(EnvironmentError::Corrupt { .. }) => {}
                opened => return opened.map(|_| installed).map_err(Into::into),
            }
        }
        self.pull(name, events).await
    }

    /// Installs the environment. Dropping the future cancels the work, and blocks until nothing is left of it.
    pub async fn pull(
        &self,
        name: &str,
        mut events: impl FnMut(PullEvent) + Send + 'static,
    ) -> Result<Installed, VmError> {
        let (store, name) = (self.store(), name.to_owned());
        let cancel = CancelToken::new();
        let (done, finished) = std::sync::mpsc::channel::<()>();
        let guard = CancelOnDrop(cancel.clone(), finished);
        let pulled = blocking(move || {
            // Dropped with the closure's last action, also when that is a panic.
            let _done = done;
            Ok(store.pull(&name, &mut events, &cancel)?)
        })
        .await;
        drop(guard);
        pulled
    }
}

/// What was removed.
#[derive(Clone, Debug, Serialize)]
pub struct Pruned {
    /// Of the environments.
    #[serde(flatten)]
    pub environments: environment::Pruned,
    /// The templates.
    pub deleted_template_dirs: Vec<String>,
    /// What they took, bytes.
    pub freed_template_bytes: u64,
}

/// A cancelled installation removes a chroot of some hundred MiB: that is worth waiting for, and not for ever.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(30);

struct CancelOnDrop(CancelToken, std::sync::mpsc::Receiver<()>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
        // The sender is dropped, never used: any answer is the end.
        let _ = self.1.recv_timeout(CLEAN_UP);
    }
}
