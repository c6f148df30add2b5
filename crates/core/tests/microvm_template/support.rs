//! A host with templates of its own, and guests started on it.

use std::fs::File;
use std::path::PathBuf;

use pyro_core::backend::{self, Choice, Preference, ProbePolicy};
use pyro_core::command::{self, CommandLine, CommandOptions, Streams};
use pyro_core::config::Config;
use pyro_core::environment::Installed;
use pyro_core::start::{
    self, Remark, StartDisk, StartError, StartMethod, StartRequest, Started, TemplateUse,
};
use pyro_core::timeline::{Observer, Timeline};
use pyro_core::vm::Factory;
use pyro_vmm::Shape;

use crate::backends::prepared;

/// Small and quick to boot.
pub const BASE: &str = "debian:12-base";
pub const SHAPE: Shape = Shape { vcpus: 1, mem_mib: 256 };

/// The prepared runtime and environments, and everything else below one directory.
pub fn config(dir: &std::path::Path) -> Config {
    Config {
        bundle_dir: prepared("PYRO_RUNTIME_BUNDLE_DIR"),
        environment_dir: prepared("PYRO_ENVIRONMENT_CACHE_DIR"),
        template_dir: dir.join("templates"),
        cache_dir: dir.join("host"),
        scratch_dir: dir.join("scratch"),
        qemu_binary: "/usr/bin/qemu-system-x86_64".into(),
        firecracker_binary: None,
        run_dir: dir.join("run"),
        workspaces_dir: dir.join("workspaces"),
        executable: "pyro".into(),
        boot_deadline: None,
    }
}

/// A host of a test's own.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub factory: Factory,
    pub environment: Installed,
    pub choice: Choice,
}

impl Host {
    pub async fn on(backend: Preference, environment: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        Self::with(dir, config, backend, environment).await
    }

    pub async fn with(
        dir: tempfile::TempDir,
        config: Config,
        backend: Preference,
        environment: &str,
    ) -> Self {
        std::fs::create_dir_all(&config.scratch_dir).unwrap();
        let factory = Factory::new(config, backend);
        let environment = factory.environment(environment, |_| ()).await.unwrap();
        let bundle = factory.bundle().unwrap();
        let choice = backend::choose(&factory.config, &bundle, factory.preference, ProbePolicy::IfNeeded)
            .await
            .unwrap();
        Self { dir, factory, environment, choice }
    }

    /// Starts a guest; what there was to say about it.
    pub async fn start(&self, shape: Shape, disk: StartDisk) -> (Started, Vec<Remark>) {
        let (started, remarks) = self.try_start(shape, disk, None).await;
        (started.unwrap(), remarks)
    }

    pub async fn try_start(
        &self,
        shape: Shape,
        disk: StartDisk,
        observer: Option<Observer>,
    ) -> (Result<Started, StartError>, Vec<Remark>) {
        let bundle = self.factory.bundle().unwrap();
        let timeline = Timeline::begin(observer);
        let request = StartRequest {
            config: &self.factory.config,
            bundle: &bundle,
            environment: &self.environment,
            vmm: &self.choice.vmm,
            shape,
            hostname: format!("test-{}", pyro_core::identity::new_id().unwrap()),
            oneshot: true,
            disk,
            cache: pyro_core::start::DiskCache::Unsafe,
            templates: TemplateUse::Templates,
            timeline: &timeline,
        };
        let mut remarks = Vec::new();
        let started = start::start(request, &mut |remark| remarks.push(remark)).await;
        (started, remarks)
    }

    /// A blank disk that can be given to several guests, one after the other: with a name, without which a file gets into
    /// one jail and no other.
    pub fn new_disk(&self) -> File {
        let blank = self.factory.store().new_disk(&self.factory.config.scratch_dir).unwrap();
        let (disk, _path) = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap().keep().unwrap();
        pyro_formats::hostfs::copy_sparse(&blank, &disk).unwrap();
        disk
    }

    /// The directory of the one template that there is.
    pub fn template(&self) -> PathBuf {
        let mut all: Vec<_> = std::fs::read_dir(&self.factory.config.template_dir).unwrap().collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).unwrap().path().join("template")
    }

    /// Files that are neither a whole template nor its lock, and directories of machines.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let dirs = std::fs::read_dir(&self.factory.config.template_dir).into_iter().flatten().flatten();
        for dir in dirs {
            let entries = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path());
            found.extend(entries.filter(|path| !path.ends_with("template") && !path.ends_with(".lock")));
        }
        let config = &self.factory.config;
        for dir in [config.scratch_dir.clone(), config.run_dir.join("firecracker")] {
            found.extend(std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        found
    }
}

/// Runs a shell line; its output. It must succeed.
pub async fn shell(started: &Started, line: &str) -> String {
    let options =
        CommandOptions { timeout: Some(std::time::Duration::from_secs(60)), ..CommandOptions::default() };
    let watch = started.booted.machine.watch();
    let command = CommandLine::Shell(line.into());
    let outcome =
        command::execute(&started.booted.guest, &watch, &command, &options, &mut Streams::captured())
            .await
            .unwrap();
    let stderr = String::from_utf8_lossy(&outcome.stderr.unwrap().bytes).into_owned();
    assert_eq!(outcome.exit_code, 0, "{line}: {stderr}");
    String::from_utf8(outcome.stdout.unwrap().bytes).unwrap()
}

pub async fn stop(started: Started) {
    started.booted.machine.stop().await.unwrap();
}

/// A guest that was started twice in this shape: the second time it was restored.
pub async fn restored(host: &Host, shape: Shape) -> Started {
    let (started, remarks) = host.start(shape, StartDisk::Blank).await;
    assert_eq!((started.how, remarks.as_slice()), (StartMethod::Restored, &[][..]));
    started
}
