//! The low-level life cycle in real microVMs: create, start, exec, stop, delete, status, network info, reap.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backends;

use std::time::Duration;

use pyro_core::backend::Preference;
use pyro_core::command::{CommandLine, CommandOptions, Streams};
use pyro_core::config::Config;
use pyro_core::vm::registry::Registry;
use pyro_core::vm::{Factory, VmError, VmRequest, VmState};

use backends::{on_each_backend, prepared};

on_each_backend! {
    async
    a_vm_lives_from_create_to_exec
    a_vm_can_be_stopped_looked_at_and_deleted
    reaping_takes_only_what_has_expired
    dropping_a_running_command_kills_its_vm
}

fn registry(backend: Preference) -> (Registry, tempfile::TempDir) {
    let cache = tempfile::tempdir().unwrap();
    let config = Config {
        bundle_dir: prepared("PYRO_RUNTIME_BUNDLE_DIR"),
        environment_dir: prepared("PYRO_ENVIRONMENT_CACHE_DIR"),
        template_dir: prepared("PYRO_ENVIRONMENT_CACHE_DIR").join(".templates"),
        cache_dir: cache.path().join("host"),
        scratch_dir: cache.path().to_owned(),
        qemu_binary: "/usr/bin/qemu-system-x86_64".into(),
        firecracker_binary: None,
        run_dir: cache.path().join("host/run"),
        workspaces_dir: cache.path().join("workspaces"),
        executable: "pyro".into(),
        boot_deadline: None,
    };
    (Registry::new(Factory::new(config, backend)), cache)
}

fn request() -> VmRequest {
    VmRequest { mem_mib: 256, ..VmRequest::new("debian:12-base") }
}

fn line(text: &str) -> CommandLine {
    CommandLine::from_words(vec![text.into()]).unwrap()
}

async fn a_vm_lives_from_create_to_exec(backend: Preference) {
    let (vms, _cache) = registry(backend);
    let created = vms.create(request(), |_| {}).await.unwrap();
    assert_eq!((created.state, created.execution_mode.to_string()), (VmState::Created, "pending".to_owned()));
    assert!(created.expires_at.unwrap() > created.created_at);
    let id = created.vm_id;
    let early = vms.exec(&id, &line("true"), &CommandOptions::default(), &mut Streams::captured()).await;
    assert!(matches!(early, Err(VmError::State { .. })));
    let started = vms.start(&id).await.unwrap();
    assert_eq!(
        (started.state, started.execution_mode.to_string()),
        (VmState::Started, "guest_vsock".to_owned())
    );
    assert_eq!(started.backend, backend.name());
    assert!(matches!(vms.start(&id).await, Err(VmError::State { .. })));
    assert!(!vms.network_info(&id).await.unwrap().network_enabled);
    let options = CommandOptions {
        env: vec![("COLOUR".into(), "blue".into())],
        cwd: Some("/tmp".into()),
        user: Some("nobody".into()),
        ..CommandOptions::default()
    };
    let report =
        vms.exec(&id, &line("echo $COLOUR; pwd; id -un"), &options, &mut Streams::captured()).await.unwrap();
    assert_eq!(report.stdout, "blue\n/tmp\nnobody\n");
    assert!(report.cleanup.deleted);
    assert!(matches!(vms.status(&id).await, Err(VmError::Unknown(_))));
}

async fn a_vm_can_be_stopped_looked_at_and_deleted(backend: Preference) {
    let (vms, cache) = registry(backend);
    let id = vms.create(request(), |_| {}).await.unwrap().vm_id;
    vms.start(&id).await.unwrap();
    assert_eq!(vms.stop(&id).await.unwrap().state, VmState::Stopped);
    assert_eq!(vms.status(&id).await.unwrap().state, VmState::Stopped);
    let late = vms.exec(&id, &line("true"), &CommandOptions::default(), &mut Streams::captured()).await;
    assert!(matches!(late, Err(VmError::State { .. })));
    let cleanup = vms.delete(&id).await.unwrap();
    assert_eq!((cleanup.deleted, &cleanup.reason[..]), (true, "explicit_delete"));
    assert!(matches!(vms.delete(&id).await, Err(VmError::Unknown(_))));
    let left: Vec<_> =
        std::fs::read_dir(cache.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["host"]);
    let machines = std::fs::read_dir(cache.path().join("host/run/firecracker"));
    assert_eq!(machines.into_iter().flatten().count(), 0);
}

async fn reaping_takes_only_what_has_expired(backend: Preference) {
    let (vms, _cache) = registry(backend);
    let mortal = vms.create(VmRequest { ttl_seconds: 60, ..request() }, |_| {}).await.unwrap().vm_id;
    let eternal = vms.create(VmRequest { ttl_seconds: 0, ..request() }, |_| {}).await.unwrap();
    assert_eq!(eternal.expires_at, None);
    let reaped = vms.reap_expired().await.unwrap();
    assert_eq!((reaped.count, reaped.deleted_vm_ids.len()), (0, 0));
    assert!(vms.status(&mortal).await.is_ok());
    let later = eternal.created_at + 1e6;
    assert_eq!(vms.reap_expired_by(later).await.unwrap().deleted_vm_ids, [mortal]);
    assert!(vms.status(&eternal.vm_id).await.is_ok());
}

async fn dropping_a_running_command_kills_its_vm(backend: Preference) {
    let (vms, _cache) = registry(backend);
    let id = vms.create(request(), |_| {}).await.unwrap().vm_id;
    vms.start(&id).await.unwrap();
    let mut streams = Streams::captured();
    let command = line("sleep 1000");
    let options = CommandOptions::default();
    let exec = vms.exec(&id, &command, &options, &mut streams);
    assert!(tokio::time::timeout(Duration::from_millis(500), exec).await.is_err());
    // The command is gone with its call; the VM is still there to be used or deleted.
    let report = vms.exec(&id, &line("ps -e -o comm="), &options, &mut Streams::captured()).await.unwrap();
    assert!(!report.stdout.contains("sleep"), "{}", report.stdout);
}
