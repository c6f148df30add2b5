//! Choice of the VMM and accelerator that a guest runs under, with the reason; `firecracker` finds that VMM's binaries.
//!
//! `/dev/kvm` existing proves nothing: there are hosts where it opens, creates VMs, and never runs a guest's user
//! space. So `auto` boots the real kernel once under every candidate, side by side, with a short deadline, and
//! remembers the answer for as long as host kernel, CPU, VMM and runtime stay the same.

mod firecracker;

pub use firecracker::find as find_firecracker;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use pyro_vmm::{
    CgroupVersion, DiskCache, GuestMemory, MachineParts, MachineSpec, MachineStart, Shape, VmmUsers,
};

pub use pyro_vmm::{Accelerator, Backend, Qemu, Vmm};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Config;
use crate::hint::Hint;
use crate::host;
use crate::launch::{self, BootError, BootRequest, RootState};
use crate::runtime::{Bundle, INITRAMFS, KERNEL, RuntimeError};
use crate::timeline::Timeline;

/// A person's choice of backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The best that really boots.
    #[default]
    Auto,
    /// Firecracker or nothing.
    Firecracker,
    /// QEMU, with KVM where that boots.
    Qemu,
}

impl Preference {
    /// As people ask for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }

    /// Where its answer is remembered. One for each: what was not wanted was not tried.
    fn file(self) -> &'static str {
        match self {
            Self::Auto => "backend.json",
            Self::Firecracker => "backend-firecracker.json",
            Self::Qemu => "backend-qemu.json",
        }
    }
}

impl std::str::FromStr for Preference {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Firecracker, Self::Qemu]
            .into_iter()
            .find(|preference| preference.name() == text)
            .ok_or_else(|| format!("{text:?} is no backend: auto, firecracker or qemu"))
    }
}

/// Result for one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The real kernel booted and its agent answered.
    Works {
        /// From starting the VMM to the agent's answer, milliseconds.
        boot_ms: u64,
        /// Whether the VMM had namespaces and a root directory of its own.
        namespaces: bool,
        /// All that confined the VMM, as `pyro doctor` shows it.
        confined: String,
    },
    /// The guest did not boot.
    Fails {
        /// Why, in one line.
        why: String,
    },
    /// The candidate was not tried.
    Untried {
        /// Why not, in one line.
        why: String,
    },
}

/// A way in which a guest could run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// `firecracker` or `qemu`.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The VMM's version, where that decides what can be asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Result of the trial.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Candidate {
    fn is(&self, backend: Backend, accelerator: Accelerator) -> bool {
        self.backend == backend.to_string() && self.accelerator == accelerator.to_string()
    }
}

/// The backend to use, and how that was decided.
#[derive(Clone, Debug)]
pub struct Choice {
    /// How guests are started.
    pub vmm: Vmm,
    /// Why this one, in one line.
    pub why: String,
    /// All that were considered, best first; empty when nothing had to be tried.
    pub candidates: Vec<Candidate>,
    /// Whether the answer is an earlier one.
    pub remembered: bool,
}

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Firecracker was demanded, and cannot run guests here.
    #[error("the firecracker backend cannot be used: {0}")]
    NoFirecracker(String),
    /// No QEMU on this host.
    #[error("no QEMU on this host: {} was not found", .0.display())]
    NoQemu(PathBuf),
    /// The confinement of a VMM cannot be found out.
    #[error("no VMM can be confined here: {0}")]
    Host(String),
    /// Nothing boots the kernel.
    #[error("no backend on this host boots the guest: {}", .0.iter().map(describe).collect::<Vec<_>>().join("; "))]
    NoneWorks(Vec<Candidate>),
    /// The runtime bundle cannot be used.
    #[error("the runtime bundle cannot be used")]
    Runtime(#[from] RuntimeError),
}

impl BackendError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::NoFirecracker(_) => Some(Hint::AnotherBackend),
            Self::NoQemu(_) => Some(Hint::InstallQemu),
            Self::NoneWorks(_) => Some(Hint::BootCandidates),
            Self::Host(_) => None,
            Self::Runtime(error) => Some(error.hint()),
        }
    }
}

fn describe(candidate: &Candidate) -> String {
    let how = format!("{} with {}", candidate.backend, candidate.accelerator);
    match &candidate.verdict {
        Verdict::Works { boot_ms, .. } => format!("{how} works ({boot_ms} ms)"),
        Verdict::Fails { why } => format!("{how}: {why}"),
        Verdict::Untried { why } => format!("{how} was not tried: {why}"),
    }
}

/// When `/dev/kvm` works a guest is up within a second; a host that only pretends never gets there.
const KVM_DEADLINE: Duration = Duration::from_secs(6);
/// So much longer than software emulation took twice, hardware may take.
const KVM_GRACE: Duration = Duration::from_millis(500);
const TCG_DEADLINE: Duration = Duration::from_secs(60);
const REMEMBERED_LIMIT: u64 = 64 * 1024;

/// Whether an earlier answer will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbePolicy {
    /// Use what is remembered; boot only what cannot be decided otherwise.
    IfNeeded,
    /// Boot every candidate again.
    Always,
}

/// Decides which backend runs guests here.
///
/// Software emulation needs no proof to be worth trying, so with `ProbePolicy::IfNeeded` a host whose `/dev/kvm` cannot
/// even be opened boots nothing here.
pub async fn choose(
    config: &Config,
    bundle: &Bundle,
    preference: Preference,
    probe: ProbePolicy,
) -> Result<Choice, BackendError> {
    let kvm = host::access("/dev/kvm");
    let no_kvm = if !kvm.exists {
        Some("this host has no /dev/kvm")
    } else if !(kvm.readable && kvm.writable) {
        Some("/dev/kvm may not be opened by this user")
    } else {
        None
    };
    let qemu = fs::metadata(&config.qemu_binary).is_ok().then(|| config.qemu_binary.clone());
    if qemu.is_none() && (preference == Preference::Qemu || no_kvm.is_some()) {
        return Err(BackendError::NoQemu(config.qemu_binary.clone()));
    }
    if let Some(why) = no_kvm {
        if preference == Preference::Firecracker {
            return Err(BackendError::NoFirecracker(why.into()));
        }
        if probe == ProbePolicy::IfNeeded
            && let Some(binary) = qemu
        {
            let vmm = Vmm::Qemu(made_qemu(config, binary, Accelerator::Tcg)?);
            let why = format!("software emulation, because {why}");
            return Ok(Choice { vmm, why, candidates: Vec::new(), remembered: false });
        }
    }
    let key = ChoiceKey {
        host_kernel: host::kernel_release(),
        cpu: host::cpu_model(),
        qemu: host::program_identity(&config.qemu_binary),
        firecracker: config.firecracker_binary.as_deref().map(host::program_identity).unwrap_or_default(),
        runtime: bundle.digest(),
        kvm: format!("{kvm:?}"),
        root: rustix::process::geteuid().is_root(),
    };
    let path = config.cache_dir.join(preference.file());
    let remembered = if probe == ProbePolicy::IfNeeded { recall(&path, &key) } else { None };
    let was_remembered = remembered.is_some();
    let candidates = match remembered {
        Some(candidates) => candidates,
        None => {
            let candidates = try_all(config, bundle, preference, qemu.as_deref(), no_kvm).await?;
            // Forgetting costs only another probe: a cache that cannot be written is no failure.
            let _ = remember(&path, &Remembered { key, candidates: candidates.clone() });
            candidates
        }
    };
    let wanted = |candidate: &&Candidate| match preference {
        Preference::Auto => true,
        Preference::Firecracker => candidate.is(Backend::Firecracker, Accelerator::Kvm),
        Preference::Qemu => candidate.backend == Backend::Qemu.to_string(),
    };
    let works = |candidate: &&Candidate| matches!(candidate.verdict, Verdict::Works { .. });
    let Some(chosen) = candidates.iter().filter(wanted).find(works) else {
        return Err(match candidates.iter().find(|one| one.is(Backend::Firecracker, Accelerator::Kvm)) {
            Some(candidate) if preference == Preference::Firecracker => {
                BackendError::NoFirecracker(describe(candidate))
            }
            _ => BackendError::NoneWorks(candidates),
        });
    };
    let better: Vec<_> =
        candidates.iter().filter(wanted).take_while(|one| !works(one)).map(describe).collect();
    let why = if better.is_empty() {
        "the guest boots under it here".to_owned()
    } else {
        format!("because {}", better.join("; "))
    };
    let why =
        if chosen.is(Backend::Qemu, Accelerator::Tcg) { format!("software emulation, {why}") } else { why };
    let vmm = if chosen.is(Backend::Firecracker, Accelerator::Kvm) {
        let version = chosen.version.as_deref().unwrap_or_default();
        Vmm::Firecracker(firecracker::recalled(config, bundle, version).map_err(BackendError::NoFirecracker)?)
    } else {
        let kvm = chosen.is(Backend::Qemu, Accelerator::Kvm);
        let accelerator = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
        Vmm::Qemu(made_qemu(config, config.qemu_binary.clone(), accelerator)?)
    };
    Ok(Choice { vmm, why, candidates, remembered: was_remembered })
}

/// Users of confined VMMs: numbers that nobody else uses, above those that systems give to containers.
const USER_IDS: std::ops::Range<u32> = 0x7870_0000..0x7871_0000;

/// Confinement that only root can give a VMM.
fn users() -> Result<Option<VmmUsers>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let cgroups =
        CgroupVersion::of_host().map_err(|error| format!("the host's cgroups cannot be read: {error}"))?;
    Ok(Some(VmmUsers { ids: USER_IDS, cgroups }))
}

/// QEMU, confined as far as this user can.
pub(crate) fn made_qemu(
    config: &Config,
    binary: PathBuf,
    accelerator: Accelerator,
) -> Result<Qemu, BackendError> {
    let users = users().map_err(BackendError::Host)?;
    Ok(Qemu { binary, accelerator, run_dir: config.run_dir.clone(), users })
}

/// Boots the guest under every candidate, side by side; best first.
async fn try_all(
    config: &Config,
    bundle: &Bundle,
    preference: Preference,
    qemu: Option<&Path>,
    no_kvm: Option<&str>,
) -> Result<Vec<Candidate>, BackendError> {
    let not_tried = |why: &str| Verdict::Untried { why: why.into() };
    const UNWANTED: &str = "another backend was asked for";
    let with_firecracker = async {
        if preference == Preference::Qemu {
            return (None, Err(not_tried(UNWANTED)));
        }
        match (no_kvm, firecracker::find(config, bundle).await) {
            (_, Err(why)) => (None, Err(not_tried(&why))),
            (Some(why), Ok(found)) => (Some(found.version.to_string()), Err(not_tried(why))),
            (None, Ok(found)) => (Some(found.version.to_string()), Ok(Vmm::Firecracker(found))),
        }
    };
    let with_qemu = async |accelerator, deadline| match (qemu, no_kvm) {
        _ if preference == Preference::Firecracker => Ok(not_tried(UNWANTED)),
        (None, _) => Ok(not_tried("there is no qemu-system-x86_64 on this host")),
        (_, Some(why)) if accelerator == Accelerator::Kvm => Ok(not_tried(why)),
        (Some(binary), _) => {
            let vmm = Vmm::Qemu(made_qemu(config, binary.to_owned(), accelerator)?);
            try_boot(&vmm, bundle, deadline).await
        }
    };
    let (late, is_late) = watch::channel(false);
    let firecracker = async {
        let (version, vmm) = with_firecracker.await;
        let verdict = match vmm {
            Ok(vmm) => in_time(try_boot(&vmm, bundle, KVM_DEADLINE), is_late.clone()).await,
            Err(verdict) => Ok(verdict),
        };
        (version, verdict)
    };
    let kvm = in_time(with_qemu(Accelerator::Kvm, KVM_DEADLINE), is_late.clone());
    let hardware = async { tokio::join!(firecracker, kvm) };
    let software = with_qemu(Accelerator::Tcg, config.boot_deadline.unwrap_or(TCG_DEADLINE));
    let (((version, firecracker), kvm), tcg) = side_by_side(hardware, software, &late).await;
    let candidate = |backend: Backend, accelerator: Accelerator, version, verdict| Candidate {
        backend: backend.to_string(),
        accelerator: accelerator.to_string(),
        version,
        verdict,
    };
    Ok(vec![
        candidate(Backend::Firecracker, Accelerator::Kvm, version, firecracker?),
        candidate(Backend::Qemu, Accelerator::Kvm, None, kvm?),
        candidate(Backend::Qemu, Accelerator::Tcg, None, tcg?),
    ])
}

/// Both, `late` being set when `software` has booted and `hardware` not so long after it. A software boot that failed or
/// was not tried says nothing about how long hardware may take.
async fn side_by_side<T>(
    hardware: impl Future<Output = T>,
    software: impl Future<Output = Result<Verdict, BackendError>>,
    late: &watch::Sender<bool>,
) -> (T, Result<Verdict, BackendError>) {
    let begin = Instant::now();
    let (mut hardware, mut software) = (pin!(hardware), pin!(software));
    tokio::select! {
        hardware = &mut hardware => (hardware, software.await),
        tcg = &mut software => {
            if !matches!(tcg, Ok(Verdict::Works { .. })) {
                return (hardware.await, tcg);
            }
            // Hardware is several times faster, on a busy host too: what is so late will not come.
            let hardware = tokio::select! {
                hardware = &mut hardware => hardware,
                () = tokio::time::sleep(begin.elapsed() + KVM_GRACE) => {
                    late.send_replace(true);
                    hardware.await
                }
            };
            (hardware, tcg)
        }
    }
}

/// Result of `boot`, unless it is late.
async fn in_time(
    boot: impl Future<Output = Result<Verdict, BackendError>>,
    mut is_late: watch::Receiver<bool>,
) -> Result<Verdict, BackendError> {
    tokio::select! {
        biased;
        verdict = boot => verdict,
        _ = is_late.wait_for(|late| *late) => Ok(Verdict::Fails {
            why: "it had not booted the guest when software emulation had done so long before".into(),
        }),
    }
}

/// Boots kernel and agent without disks.
async fn try_boot(vmm: &Vmm, bundle: &Bundle, deadline: Duration) -> Result<Verdict, BackendError> {
    // On the heap: it is large, and those who wait for three of them would each hold them, and move them about.
    match Box::pin(probe_boot(vmm, bundle, deadline)).await {
        Ok(booted) => {
            let boot_ms = u64::try_from(booted.took.as_millis()).unwrap_or(u64::MAX);
            let confined = booted.machine.confinement();
            let _ = booted.machine.stop().await;
            Ok(Verdict::Works { boot_ms, namespaces: confined.namespaces, confined: confined.to_string() })
        }
        Err(ProbeError::Runtime(error)) => Err(error.into()),
        Err(ProbeError::Boot(error)) => Ok(Verdict::Fails { why: one_line(&error) }),
    }
}

/// Why a probe boot failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The bundle's artifacts cannot be used.
    #[error("the runtime bundle cannot be used")]
    Runtime(#[from] RuntimeError),
    /// The guest did not come up.
    #[error("the guest kernel and agent do not boot")]
    Boot(#[from] BootError),
}

/// Boots the bundle's kernel and agent with no disks at all, which is the least that a working backend must do.
pub async fn probe_boot(
    vmm: &Vmm,
    bundle: &Bundle,
    deadline: Duration,
) -> Result<launch::Booted, ProbeError> {
    let parts = MachineParts {
        kernel: bundle.open_artifact(KERNEL)?,
        initramfs: bundle.open_artifact(INITRAMFS)?,
        base: None,
        disk: None,
        cache: DiskCache::Unsafe,
        kernel_args: launch::kernel_arg(vmm.backend()).map(str::to_owned).into_iter().collect(),
    };
    let spec = MachineSpec {
        shape: Shape { vcpus: 1, mem_mib: 256 },
        parts,
        memory: GuestMemory::Private,
        start: MachineStart::Cold,
    };
    let wish =
        BootRequest { hostname: "pyro-probe".into(), oneshot: true, root: RootState::Absent, deadline };
    Ok(launch::boot(vmm, spec, &wish, &Timeline::begin(None)).await?)
}

/// The first line of the innermost cause that says something of its own.
fn one_line(error: &BootError) -> String {
    let mut text = error.to_string().lines().next().unwrap_or_default().trim_end_matches(':').to_owned();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text}: {}", source.to_string().lines().next().unwrap_or_default());
        next = source.source();
    }
    text
}

/// Facts that the remembered choice depends on.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct ChoiceKey {
    host_kernel: String,
    cpu: String,
    qemu: String,
    firecracker: String,
    runtime: String,
    kvm: String,
    /// Only root can jail a VMM.
    root: bool,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    key: ChoiceKey,
    candidates: Vec<Candidate>,
}

fn recall(path: &Path, key: &ChoiceKey) -> Option<Vec<Candidate>> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(REMEMBERED_LIMIT).read_to_string(&mut text).ok()?;
    let remembered: Remembered = serde_json::from_str(&text).ok()?;
    let decides = remembered.candidates.iter().any(|c| matches!(c.verdict, Verdict::Works { .. }));
    (remembered.key == *key && decides).then_some(remembered.candidates)
}

fn remember(path: &Path, remembered: &Remembered) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(serde_json::to_string_pretty(remembered)?.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(runtime: &str) -> ChoiceKey {
        ChoiceKey {
            host_kernel: "6.1".into(),
            cpu: "c".into(),
            qemu: "q".into(),
            firecracker: String::new(),
            runtime: runtime.into(),
            kvm: "k".into(),
            root: false,
        }
    }

    #[test]
    fn an_answer_is_remembered_for_the_same_host_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/backend.json");
        let candidates = vec![Candidate {
            backend: "qemu".into(),
            accelerator: "tcg".into(),
            version: None,
            verdict: Verdict::Works { boot_ms: 900, namespaces: true, confined: "x".into() },
        }];
        remember(&path, &Remembered { key: key("a"), candidates: candidates.clone() }).unwrap();
        assert_eq!(recall(&path, &key("a")), Some(candidates));
        assert_eq!(recall(&path, &key("b")), None);
        fs::write(&path, "{").unwrap();
        assert_eq!(recall(&path, &key("a")), None);
    }

    /// Firecracker alone was given half a second to boot, because the software boot that nobody wanted was "over" at once.
    #[tokio::test]
    async fn hardware_is_late_only_beside_software_that_booted() {
        let (late, is_late) = watch::channel(false);
        let slow = async {
            tokio::time::sleep(KVM_GRACE * 2).await;
            *is_late.borrow()
        };
        let untried = async { Ok(Verdict::Untried { why: "another backend was asked for".into() }) };
        assert!(!side_by_side(slow, untried, &late).await.0);
        let hangs = async { is_late.clone().wait_for(|late| *late).await.is_ok() };
        let works = async { Ok(Verdict::Works { boot_ms: 1, namespaces: false, confined: String::new() }) };
        assert!(side_by_side(hangs, works, &late).await.0);
    }

    #[test]
    fn an_answer_that_decides_nothing_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.json");
        let candidates = vec![Candidate {
            backend: "qemu".into(),
            accelerator: "tcg".into(),
            version: None,
            verdict: Verdict::Fails { why: "busy".into() },
        }];
        remember(&path, &Remembered { key: key("a"), candidates }).unwrap();
        assert_eq!(recall(&path, &key("a")), None);
    }
}
