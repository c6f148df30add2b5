//! Report on the host: what runs here, why, and what would make it better; every line with its remedy.
//!
//! Nothing here is remembered from an earlier look: each candidate backend is booted again.

mod kvm;
mod traps;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pyro_vmm::{Accelerator, QemuVersion};
use serde::Serialize;
use serde_json::{Value, json};

use crate::backend::{self, Candidate, Choice, Preference, ProbePolicy, Verdict};
use crate::cause::chain;
use crate::config::Config;
use crate::environment::{Store, catalog_version};
use crate::hint::Hint;
use crate::host;
use crate::runtime::{AGENT, Bundle, FIRECRACKER, INITRAMFS, JAILER, KERNEL, MANIFEST};

pub use crate::runtime::PLATFORM;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Usable, and could be better.
    Warn,
    /// Something will not work.
    Fail,
}

/// Line of the report.
#[derive(Clone, Debug)]
pub struct Check {
    /// Subject of the check, in a word or two.
    pub name: &'static str,
    /// How it is.
    pub status: CheckStatus,
    /// The finding, in one sentence.
    pub detail: String,
    /// Remedy, where the line is not well.
    pub remedy: Option<Hint>,
}

/// The whole report.
#[derive(Clone, Debug)]
pub struct DoctorReport {
    /// Every check, in the order in which a person would fix them.
    pub checks: Vec<Check>,
    /// All that needs no words about what to do.
    facts: Value,
}

impl DoctorReport {
    /// Whether a guest can run.
    pub fn runtime_ok(&self) -> bool {
        self.checks.iter().all(|check| check.status != CheckStatus::Fail)
    }

    /// The report as one object, remedies in the `words` of a surface.
    pub fn payload(&self, words: impl Fn(&Hint) -> String) -> Value {
        let failed = self.checks.iter().filter(|check| check.status == CheckStatus::Fail);
        let issues: Vec<_> = failed
            .map(|check| match &check.remedy {
                Some(remedy) => format!("{}: {} ({})", check.name, check.detail, words(remedy)),
                None => format!("{}: {}", check.name, check.detail),
            })
            .collect();
        let each = |check: &Check| {
            json!({
                "name": check.name,
                "status": check.status,
                "detail": check.detail,
                "remedy": check.remedy.as_ref().map(&words),
            })
        };
        let mut payload = self.facts.clone();
        payload["runtime_ok"] = issues.is_empty().into();
        payload["issues"] = issues.into();
        payload["checks"] = self.checks.iter().map(each).collect();
        payload
    }
}

/// Less free space than this is worth a word: one environment and a few disks need it, MiB.
const LITTLE_SPACE_MIB: u64 = 2048;
/// Looks at everything. `search_path` is where the front end looks for programs.
pub async fn examine(config: &Config, preference: Preference, search_path: &[PathBuf]) -> DoctorReport {
    let mut checks = Vec::new();
    let store = Store::new(config.environment_dir.clone());
    let bundle = Bundle::open(&config.bundle_dir, &config.cache_dir).and_then(|bundle| {
        bundle.verify_all()?;
        Ok(bundle)
    });
    checks.push(match &bundle {
        Ok(bundle) => {
            let versions = &bundle.manifest().component_versions;
            let versions: Vec<_> = ["kernel", "agent"]
                .iter()
                .filter_map(|name| Some(format!("{name} {}", versions.get(*name)?)))
                .collect();
            check(
                "runtime",
                CheckStatus::Ok,
                format!(
                    "{} ({}), sha256 {}",
                    bundle.manifest().bundle_version,
                    versions.join(", "),
                    short(&bundle.digest())
                ),
                None,
            )
        }
        Err(error) => check("runtime", CheckStatus::Fail, chain(error), Some(error.hint())),
    });
    let qemu_version = QemuVersion::of(&config.qemu_binary).await;
    checks.push(match &qemu_version {
        Ok(version) => check(
            "qemu",
            CheckStatus::Ok,
            format!("{} at {}", version.text, config.qemu_binary.display()),
            None,
        ),
        Err(error) => check("qemu", CheckStatus::Fail, chain(error), Some(Hint::InstallQemu)),
    });
    let choice = match &bundle {
        Ok(bundle) => Some(backend::choose(config, bundle, preference, ProbePolicy::Always).await),
        Err(_) => None,
    };
    checks.extend(backend_checks(choice.as_ref()));
    if let Some(Ok(choice)) = &choice {
        checks.push(confinement(choice));
    }
    checks.extend(traps::checks());
    checks.push(cache_check(&config.environment_dir));
    checks.push(builder_check(search_path));
    checks.push(check(
        "network",
        CheckStatus::Warn,
        "guests have no network in this version; who asks for one is refused".into(),
        Some(Hint::BringFilesIn),
    ));
    let facts = facts(
        config,
        &store,
        bundle.as_ref().ok(),
        choice.as_ref(),
        search_path,
        qemu_version.ok().map(|version| version.text),
    );
    DoctorReport { checks, facts }
}

fn check(name: &'static str, status: CheckStatus, detail: String, remedy: Option<Hint>) -> Check {
    Check { name, status, detail, remedy }
}

fn backend_checks(choice: Option<&Result<Choice, backend::BackendError>>) -> Vec<Check> {
    let candidates: &[Candidate] = match choice {
        None => {
            return vec![check(
                "backend",
                CheckStatus::Fail,
                "not tried: there is no runtime to boot".into(),
                None,
            )];
        }
        Some(Ok(choice)) => &choice.candidates,
        Some(Err(backend::BackendError::NoneWorks(candidates))) => candidates,
        Some(Err(error)) => return vec![check("backend", CheckStatus::Fail, chain(error), error.hint())],
    };
    let mut checks: Vec<Check> = candidates
        .iter()
        .map(|candidate| {
            let how = format!("{} with {}", candidate.backend, candidate.accelerator);
            match &candidate.verdict {
                Verdict::Works { boot_ms, .. } => {
                    check("candidate", CheckStatus::Ok, format!("{how}: boots in {boot_ms} ms"), None)
                }
                Verdict::Fails { why } => {
                    check("candidate", CheckStatus::Warn, format!("{how}: {why}"), kvm_remedy(candidate))
                }
                Verdict::Untried { why } => check(
                    "candidate",
                    CheckStatus::Warn,
                    format!("{how}: not tried, {why}"),
                    kvm_remedy(candidate),
                ),
            }
        })
        .collect();
    checks.push(match choice {
        Some(Ok(choice)) => check(
            "backend",
            CheckStatus::Ok,
            format!("{} with {} is used: {}", choice.vmm.backend(), choice.vmm.accelerator(), choice.why),
            None,
        ),
        _ => check("backend", CheckStatus::Fail, "none of the candidates boots the guest".into(), None),
    });
    checks
}

/// Layers between a guest and this host, beside the guest's own kernel: as the probe boot had them. SECURITY.md has
/// it in full.
fn confinement(choice: &backend::Choice) -> Check {
    let verdicts = choice.candidates.iter().map(|candidate| &candidate.verdict);
    let used = verdicts.filter_map(|verdict| match verdict {
        Verdict::Works { namespaces, confined, .. } => Some((*namespaces, confined.as_str())),
        _ => None,
    });
    let (namespaces, confined) = used.into_iter().next().unwrap_or((false, "nothing that was seen"));
    let emulated = choice.vmm.accelerator() == Accelerator::Tcg;
    let wall = if emulated {
        "software emulation, which isolates from accidents and is no boundary that its makers promise"
    } else {
        "hardware virtualisation"
    };
    let as_whom = match rustix::process::geteuid().is_root() {
        true => "",
        false => "; the VMM runs as this user (root could give it one of its own)",
    };
    let remedy = if !namespaces {
        Some(
            "this host lets nobody (or not this user) make namespaces: sysctl kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0, or a container with CAP_SYS_ADMIN",
        )
    } else if emulated {
        Some("against code that means to get out, use a host whose KVM runs guests")
    } else {
        None
    };
    let status = if remedy.is_none() { CheckStatus::Ok } else { CheckStatus::Warn };
    let detail = format!("{wall}; around the VMM: {confined}{as_whom}");
    check("confinement", status, detail, remedy.map(Hint::plain))
}

fn kvm_remedy(candidate: &Candidate) -> Option<Hint> {
    if candidate.accelerator != Accelerator::Kvm.to_string() {
        return None;
    }
    let access = host::access(kvm::DEVICE);
    Some(Hint::plain(if !access.exists {
        "on a physical machine enable virtualisation in its firmware and load kvm_intel or kvm_amd; on a cloud VM choose a type with nested virtualisation".into()
    } else if kvm::is_locked(access) {
        kvm::remedy()
    } else {
        "this host offers /dev/kvm without being able to run a guest on it, as some nested or page-table-virtualised hosts do; a host with hardware virtualisation boots several times faster".into()
    }))
}

fn cache_check(dir: &Path) -> Check {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let free_mib =
        rustix::fs::statvfs(existing).map(|fs| fs.f_bavail * fs.f_frsize / (1024 * 1024)).unwrap_or_default();
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
    let detail = format!("{}: {free_mib} MiB free", dir.display());
    if !writable {
        check(
            "environment cache",
            CheckStatus::Warn,
            format!("{detail}, not writable: only environments that are installed there already can be used"),
            Some(Hint::WritableCache),
        )
    } else if free_mib < LITTLE_SPACE_MIB {
        check("environment cache", CheckStatus::Warn, detail, Some(Hint::PruneEnvironments))
    } else {
        check("environment cache", CheckStatus::Ok, detail, None)
    }
}

fn builder_check(search_path: &[PathBuf]) -> Check {
    let missing: Vec<_> = [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")]
        .into_iter()
        .filter(|(program, _)| find(search_path, program).is_none())
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        check("environment builder", CheckStatus::Ok, "mmdebstrap and mke2fs are installed".into(), None)
    } else {
        check(
            "environment builder",
            CheckStatus::Warn,
            format!("missing: {}; no environment can be built", missing.join(", ")),
            Some(Hint::InstallPackages { packages: missing.into_iter().map(str::to_owned).collect() }),
        )
    }
}

/// An executable file of this name on the search path.
pub fn find(search_path: &[PathBuf], program: &str) -> Option<PathBuf> {
    search_path.iter().map(|dir| dir.join(program)).find(|path| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn facts(
    config: &Config,
    store: &Store,
    bundle: Option<&Bundle>,
    choice: Option<&Result<Choice, backend::BackendError>>,
    search_path: &[PathBuf],
    qemu_version: Option<String>,
) -> Value {
    let kvm = host::access(kvm::DEVICE);
    let path_of = |name: &str| Some(bundle?.artifact_path(name)?.display().to_string());
    let capabilities = bundle.map(|bundle| bundle.manifest().capabilities.clone());
    let mut versions: serde_json::Map<String, Value> = bundle
        .map(|bundle| {
            bundle.manifest().component_versions.iter().map(|(k, v)| (k.clone(), json!(v))).collect()
        })
        .unwrap_or_default();
    if let Some(version) = qemu_version {
        versions.insert("qemu".into(), json!(version));
    }
    let environments = store.list().ok();
    let ip_forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1");
    let program = |name: &str| find(search_path, name).map(|path| path.display().to_string());
    let (selected, why, candidates) = match choice {
        Some(Ok(choice)) => (
            Some(json!({
                "backend": choice.vmm.backend().to_string(),
                "accelerator": choice.vmm.accelerator().to_string(),
            })),
            choice.why.clone(),
            choice.candidates.clone(),
        ),
        Some(Err(backend::BackendError::NoneWorks(candidates))) => {
            (None, "none of the candidates boots the guest".to_owned(), candidates.clone())
        }
        Some(Err(error)) => (None, chain(error), Vec::new()),
        None => (None, "there is no runtime to boot".to_owned(), Vec::new()),
    };
    json!({
        "platform": PLATFORM,
        "kvm": {"exists": kvm.exists, "readable": kvm.readable, "writable": kvm.writable},
        "backend": {"selected": selected, "why": why, "candidates": candidates},
        "host": {
            "kernel": host::kernel_release(),
            "cpu": host::cpu_model(),
            "memory_available_mib": host::available_memory_mib(),
        },
        "networking": {
            "enabled_by_default": false,
            "tun_available": host::access("/dev/net/tun").exists,
            "ip_binary": program("ip"),
            "nft_binary": program("nft"),
            "iptables_binary": program("iptables"),
            "ip_forward_enabled": ip_forward,
        },
        "runtime": {
            "bundle_root": config.bundle_dir.display().to_string(),
            "manifest_path": config.bundle_dir.join(MANIFEST).display().to_string(),
            "firecracker_bin": path_of(FIRECRACKER),
            "jailer_bin": path_of(JAILER),
            "guest_agent_path": path_of(AGENT),
            "guest_init_path": path_of(INITRAMFS),
            "kernel_path": path_of(KERNEL),
            "artifacts_dir": config.bundle_dir.display().to_string(),
            "artifacts_present": bundle.is_some(),
            "bundle_version": bundle.map(|bundle| bundle.manifest().bundle_version.clone()),
            "bundle_digest": bundle.map(Bundle::digest),
            "component_versions": versions,
            "capabilities": {
                "supports_vm_boot": capabilities.as_ref().is_some_and(|c| c.vm_boot),
                "supports_guest_exec": capabilities.as_ref().is_some_and(|c| c.guest_exec),
                "supports_guest_network": capabilities.as_ref().is_some_and(|c| c.guest_network),
                "reason": capabilities.and_then(|c| c.reason),
            },
            "catalog_version": catalog_version(),
            "cache_dir": config.environment_dir.display().to_string(),
            "environments": environments,
        },
    })
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
