//! Where VMs come from on this host: the places, the wish for a backend, environments and templates.

use std::sync::Arc;

use pyro_vmm::{DiskCache, Shape};
use serde::Serialize;

use super::{VmError, VmRequest};
use crate::backend::{self, Choice, Preference, ProbePolicy};
use crate::bug::blocking;
use crate::config::Config;
use crate::environment::{self, EnvironmentError, EnvironmentStatus, Installed, PullEvent, Store};
use crate::hostfs::CancelToken;
use crate::runtime::{Bundle, KERNEL};
use crate::start::{self, Remark, StartDisk, StartRequest, TemplateUse};
use crate::template::{StoredTemplate, Templates};
use crate::timeline::{Observer, Timeline};

/// Where VMs come from on this host: the places, the wish for a backend, the installed environments.
#[derive(Clone, Debug)]
pub struct Factory {
    /// Where things are.
    pub config: Arc<Config>,
    /// The person's choice of backend.
    pub preference: Preference,
    /// Whether starts may use templates.
    pub templates: TemplateUse,
    /// Told of every step of every start, as `pyro bench` and tests want it.
    pub observer: Option<Observer>,
}

impl Factory {
    /// A factory that uses templates and has no observer.
    pub fn new(config: Config, preference: Preference) -> Self {
        Self { config: config.into(), preference, templates: TemplateUse::default(), observer: None }
    }

    /// The store of installed environments.
    pub fn store(&self) -> Store {
        Store::new(self.config.environment_dir.clone())
    }

    /// The runtime bundle.
    pub fn bundle(&self) -> Result<Bundle, VmError> {
        Ok(Bundle::open(&self.config.bundle_dir, &self.config.cache_dir)?)
    }

    /// The store of templates.
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
        let choice = backend::choose(&self.config, &bundle, self.preference, ProbePolicy::IfNeeded).await?;
        let request = VmRequest::new(&environment.manifest().name);
        let shape = Shape { vcpus: request.vcpu_count as u8, mem_mib: request.mem_mib };
        let timeline = Timeline::begin(self.observer.clone());
        let request =
            self.start_request(&bundle, environment, &choice, shape, "pyro-template".into(), &timeline);
        Ok(start::warm(request, tell).await?)
    }

    pub(super) fn start_request<'a>(
        &'a self,
        bundle: &'a Bundle,
        environment: &'a Installed,
        choice: &'a Choice,
        shape: Shape,
        hostname: String,
        timeline: &'a Timeline,
    ) -> StartRequest<'a> {
        StartRequest {
            config: &self.config,
            bundle,
            environment,
            vmm: &choice.vmm,
            shape,
            hostname,
            oneshot: true,
            disk: StartDisk::Blank,
            cache: DiskCache::Unsafe,
            templates: self.templates,
            timeline,
        }
    }

    /// Describes an environment, with the kernel and the templates that this host has for it.
    ///
    /// # Errors
    /// When it is unknown or the cache cannot be read.
    pub fn inspect(&self, name: &str) -> Result<EnvironmentInfo, VmError> {
        let mut info = EnvironmentInfo {
            status: self.store().inspect(name)?,
            kernel_image: None,
            templates: None,
            template_bytes: None,
        };
        if let Some(installed) = self.store().installed(name)? {
            // Without a runtime there is no kernel to name.
            let kernel = self.bundle().ok().and_then(|bundle| bundle.artifact_path(KERNEL));
            info.kernel_image = kernel.map(|path| path.display().to_string());
            let templates = self.template_store().of_base(&installed.manifest().rootfs.sha256);
            info.template_bytes = Some(templates.iter().map(|template| template.bytes).sum());
            info.templates = Some(templates);
        }
        Ok(info)
    }

    /// Removes versions of environments that are neither current nor `in_use` (their version ids), leftovers of
    /// interrupted work, and all templates, which the next start of each kind makes anew.
    ///
    /// # Errors
    /// When something cannot be read or removed; the rest is removed by then or not.
    pub fn prune(&self, in_use: &[String]) -> Result<Pruned, VmError> {
        let (deleted_template_dirs, freed_template_bytes) = self.template_store().prune()?;
        Ok(Pruned { environments: self.store().prune(in_use)?, deleted_template_dirs, freed_template_bytes })
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
                // A damaged environment is installed anew, never booted.
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

/// An environment, with the kernel and the templates that this host has for it.
#[derive(Clone, Debug, Serialize)]
pub struct EnvironmentInfo {
    /// The environment by itself.
    #[serde(flatten)]
    pub status: EnvironmentStatus,
    /// Path of the runtime's kernel, with which the environment is started; absent without a runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_image: Option<String>,
    /// Saved guests that starts are restored from; absent while the environment is not installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<StoredTemplate>>,
    /// Bytes of disk that the templates take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_bytes: Option<u64>,
}

/// Directories that a prune removed.
#[derive(Clone, Debug, Serialize)]
pub struct Pruned {
    /// Of the environments.
    #[serde(flatten)]
    pub environments: environment::Pruned,
    /// The store of templates.
    pub deleted_template_dirs: Vec<String>,
    /// Bytes that the templates took.
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
