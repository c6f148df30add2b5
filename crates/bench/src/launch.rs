//! Firecracker's starts until a saved machine is loaded, without and with a jail, beside the same by hand. Needs no guest
//! whose programs run: the machine that is saved has barely begun to boot, and nobody resumes it.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use pyro_vmm::{
    CgroupVersion, DiskCache, Firecracker, GuestMemory, MachineParts, MachineSpec, MachineStart, Shape,
};

use super::floor::firecracker::Hand;
use super::floor::on_thread;
use super::{Bench, Measure, Row, Series, absolute};
use pyro_core::backend;
use pyro_core::cause;
use pyro_core::environment::DISK_BYTES;
use pyro_core::host;
use pyro_core::runtime::{Bundle, INITRAMFS, KERNEL};
use pyro_core::vm::VmRequest;
use pyro_formats::hostfs::dig_holes;

/// Size of the root image that nobody reads, bytes.
const BASE_BYTES: u64 = 1 << 20;

const WHAT: &str = "our start of a Firecracker, from its order until it has loaded a saved machine";
const WHAT_JAILED: &str = "the same in a jail";

/// A saved machine and what it is started from.
struct Saved {
    bundle: Bundle,
    shape: Shape,
    dir: PathBuf,
    cgroups: Option<CgroupVersion>,
    unjailed: Firecracker,
    jailed: Option<Firecracker>,
}

pub(super) async fn launch(bench: &mut Bench<'_>) -> Vec<Row> {
    let names = ["launch", "launch_added", "launch_jailed", "launch_jailed_added"];
    let saved = match Saved::make(bench).await {
        Ok(Ok(saved)) => saved,
        Ok(Err(why)) => return names.map(|name| Row::pending(name, "ms", WHAT, why.clone())).into(),
        Err(why) => {
            let mut failed = Series::default();
            bench.keep(Measure::Launch, &mut failed, Err(why));
            return names.map(|name| Row::new(name, "ms", WHAT, failed.clone())).into();
        }
    };
    let mut pairs = [Pair::default(), Pair::default()];
    for _ in 0..bench.plan.amount.runs {
        for (pair, firecracker) in pairs.iter_mut().zip([Some(&saved.unjailed), saved.jailed.as_ref()]) {
            let Some(firecracker) = firecracker else { continue };
            let by_hand = saved.by_hand(firecracker).await.map_err(|why| format!("by hand: {why}"));
            let ours = saved.ours(firecracker).await;
            pair.keep(bench, ours, by_hand);
        }
    }
    let [unjailed, jailed] = pairs;
    let mut rows = unjailed.rows("launch", "launch_added", WHAT);
    if saved.jailed.is_some() {
        rows.extend(jailed.rows("launch_jailed", "launch_jailed_added", WHAT_JAILED));
    } else {
        let why = "only root can make a jail".to_owned();
        rows.extend(names[2..].iter().map(|name| Row::pending(name, "ms", WHAT_JAILED, why.clone())));
    }
    rows
}

/// Ours, by hand, and the difference of each two that were taken one after the other.
#[derive(Default)]
struct Pair {
    ours: Series,
    by_hand: Series,
    added: Series,
}

impl Pair {
    fn keep(&mut self, bench: &mut Bench<'_>, ours: Result<f64, String>, by_hand: Result<f64, String>) {
        if let (Ok(ours), Ok(by_hand)) = (&ours, &by_hand) {
            self.added.push(Ok(ours - by_hand));
        }
        bench.keep(Measure::Launch, &mut self.by_hand, by_hand);
        bench.keep(Measure::Launch, &mut self.ours, ours);
    }

    fn rows(self, name: &'static str, added: &'static str, what: &str) -> Vec<Row> {
        let hand = "the same calls by hand: a directory, links, spawn, socket, PUT /snapshot/load";
        vec![
            Row::new(name, "ms", what, self.ours).against(hand, self.by_hand),
            Row::new(added, "ms", format!("of {name}: beyond the sample by hand just before"), self.added),
        ]
    }
}

impl Saved {
    /// Saves a machine. The inner error is what this host lacks for it.
    async fn make(bench: &Bench<'_>) -> Result<Result<Self, String>, String> {
        let access = host::access("/dev/kvm");
        if !(access.readable && access.writable) {
            return Ok(Err("/dev/kvm is not there or may not be opened".into()));
        }
        let bundle = bench.factory.bundle().map_err(|error| cause::chain(&error))?;
        let found = match backend::find_firecracker(&bench.factory.config, &bundle).await {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let dir = absolute(&bench.scratch.path().join("launch"))?;
        let said = |error: std::io::Error| format!("{}: {error}", dir.display());
        std::fs::create_dir(&dir).map_err(said)?;
        for (name, size) in [("base", BASE_BYTES), ("state", 0), ("memory", 0)] {
            let file = File::create_new(dir.join(name)).map_err(said)?;
            // A jailed VMM is one of the others.
            file.set_permissions(Permissions::from_mode(0o644)).map_err(said)?;
            file.set_len(size).map_err(said)?;
        }
        let request = VmRequest::new("");
        let shape = Shape { vcpus: request.vcpu_count as u8, mem_mib: request.mem_mib };
        let found = Firecracker { run_dir: dir.join("run"), binary: absolute(&found.binary)?, ..found };
        let cgroups = found.jail.as_ref().and_then(|jail| jail.users.cgroups);
        let unjailed = Firecracker { jail: None, ..found.clone() };
        let jailed = found.jail.is_some().then_some(found);
        let saved = Self { bundle, shape, dir: dir.clone(), cgroups, unjailed, jailed };
        saved.save().await?;
        Ok(Ok(saved))
    }

    async fn save(&self) -> Result<(), String> {
        let said = |error: std::io::Error| format!("{}: {error}", self.dir.display());
        let vmm = |error| format!("a machine to be loaded cannot be made: {}", cause::chain(&error));
        let open =
            |name: &str| File::options().read(true).write(true).open(self.dir.join(name)).map_err(said);
        let (state, memory) = (open("state")?, open("memory")?);
        let spec = self.spec(GuestMemory::Private, MachineStart::Cold)?;
        let mut machine = self.unjailed.launch(spec).await.map_err(vmm)?;
        machine.pause().await.map_err(vmm)?;
        let saved = memory.try_clone().map_err(said)?;
        machine.save(state, Some(saved)).await.map_err(vmm)?;
        machine.stop().await.map_err(vmm)?;
        dig_holes(&memory).map(drop).map_err(said)
    }

    /// As every start has its files: opened anew, those of the runtime verified, the disk made.
    fn spec(&self, memory: GuestMemory, start: MachineStart) -> Result<MachineSpec, String> {
        let part = |name: &str| self.bundle.open_artifact(name).map_err(|error| cause::chain(&error));
        let said = |error: std::io::Error| format!("{}: {error}", self.dir.display());
        let disk = tempfile::tempfile_in(&self.dir).map_err(said)?;
        disk.set_len(DISK_BYTES).map_err(said)?;
        let parts = MachineParts {
            kernel: part(KERNEL)?,
            initramfs: part(INITRAMFS)?,
            base: Some(File::open(self.dir.join("base")).map_err(said)?),
            disk: Some(disk),
            cache: DiskCache::Unsafe,
            kernel_args: Vec::new(),
        };
        Ok(MachineSpec { shape: self.shape, parts, memory, start })
    }

    async fn ours(&self, firecracker: &Firecracker) -> Result<f64, String> {
        let open = |name: &str| File::open(self.dir.join(name)).map_err(|error| format!("{name}: {error}"));
        let begin = Instant::now();
        let spec =
            self.spec(GuestMemory::From(open("memory")?), MachineStart::Restore { state: open("state")? })?;
        let machine = firecracker.launch(spec).await.map_err(|error| cause::chain(&error))?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        machine.stop().await.map_err(|error| cause::chain(&error))?;
        Ok(took)
    }

    async fn by_hand(&self, firecracker: &Firecracker) -> Result<f64, String> {
        let version = self.cgroups.map(|cgroups| match cgroups {
            CgroupVersion::V1 => 1,
            CgroupVersion::V2 => 2,
        });
        let jailer = |binary: &Path| Ok::<_, String>((absolute(binary)?, version));
        let hand = Hand {
            dir: self.dir.join("by-hand"),
            firecracker: firecracker.binary.clone(),
            jailer: firecracker.jail.as_ref().map(|jail| jailer(&jail.binary)).transpose()?,
            files: [("state", "state"), ("memory", "memory"), ("base.ext4", "base")]
                .map(|(name, file)| (name, self.dir.join(file))),
            disk: ("disk.ext4", DISK_BYTES),
            memory: u64::from(self.shape.mem_mib) << 20,
            vcpus: self.shape.vcpus,
        };
        on_thread(&Arc::new(hand), Hand::load).await
    }
}
