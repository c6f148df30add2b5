//! Measurements of starts, commands, memory and disk, beside a floor that has none of our code: `pyro bench`.
//!
//! ```text
//!   measure      what can be measured, its names, how many samples it takes
//!   floor        a bare VMM with the same kernel and memory, and a guest that only answers lines
//!   starts       whole processes: cold, warm, beside other work, many at once
//!   guest        one guest from within this process: round trips, bytes, the VMM's memory, the disk
//!   idle         memory of one more VM
//!   workspace    workspaces as a person has them     workspace_files  many files in one
//!   fork         workspaces whose memory is kept and shared
//!   reflink      the same where copies share what they have in common
//!   quiet        what many idle workspaces cost, minute by minute
//!   cpu          processor time of processes
//!   cycles       many workspaces one after the other, and what is left of them
//!   mcp          the MCP server as a client has it
//!   launch       Firecracker until it has loaded a saved machine, beside the same by hand
//!   firecracker  what Firecracker is promised to do
//!   building     making a template
//!   series, report     samples, and what becomes of them
//!   fingerprint, noise what they were taken on, and beside what
//! ```
//!
//! Ours and the floor alternate, sample by sample, so that other work on the host hits both.
//!
//! Invariant: a sample that failed is counted and its reason kept; it is neither hidden nor taken again.
//! Invariant: nothing is left of a measurement that ends early, when its future is dropped.
#![forbid(unsafe_code)]

mod building;
mod cpu;
mod cycles;
mod fingerprint;
mod firecracker;
mod floor;
mod fork;
mod guest;
mod idle;
mod launch;
mod mcp;
mod measure;
mod memory;
mod noise;
mod quiet;
mod reflink;
mod report;
mod scratch;
mod series;
mod starts;
mod workspace;
mod workspace_files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_core::backend::{self, ProbePolicy};
use pyro_core::cause;
use pyro_core::environment::{Installed, PullEvent};
use pyro_core::hint::Hint;
use pyro_core::identity;
use pyro_core::runtime::{Bundle, FLOOR, KERNEL};
use pyro_core::vm::{Factory, VmError, VmRequest};

use floor::Floor;
use noise::Noise;
use scratch::Scratch;
use series::Series;

pub use fingerprint::Fingerprint;
pub use measure::{Amount, Measure};
pub use report::{FloorReport, Report, SCHEMA};
pub use series::{Against, Row, Summary};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct BenchPlan {
    /// The `pyro` that is started for whole processes. It must come to the same places as this process's
    /// [`pyro_core::config::Config`] by itself.
    pub pyro: PathBuf,
    /// The environment.
    pub environment: String,
    /// What to measure.
    pub measures: Vec<Measure>,
    /// How much of it.
    pub amount: Amount,
}

/// How far it has come.
#[derive(Clone, Debug)]
pub enum Event {
    /// What is made ready before anything is timed.
    Preparing(&'static str),
    /// There is no floor to compare with, and why.
    NoFloor(String),
    /// How long all of it will take, about.
    Estimate(Duration),
    /// A measurement begins.
    Measuring(Measure),
    /// A sample of a row failed, and why.
    Failed(Measure, String),
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No guest can be started, or its environment not be had.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// There is no place for the files of the measurement.
    #[error("{} cannot be used for the files of a measurement", .path.display())]
    Scratch {
        /// Where they were to be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The very first run of all failed.
    #[error("`pyro run` does not work here, so there is nothing to measure: {0}")]
    FirstRun(String),
}

impl BenchError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Vm(error) => error.hint(),
            Self::Scratch { .. } => Some(Hint::CheckDirectory),
            Self::FirstRun(_) => Some(Hint::Diagnose),
        }
    }
}

/// All that a measurement needs at hand.
struct Bench<'a> {
    plan: &'a BenchPlan,
    factory: Factory,
    environment: Installed,
    floor: Option<Floor>,
    scratch: Scratch,
    tell: &'a mut (dyn FnMut(Event) + Send),
}

/// Measures what `plan` asks for. Dropping the future ends every process of it and blocks until its files are gone.
///
/// `pulls` hears of the environment's installation, where that is needed.
///
/// # Errors
/// When nothing can be measured at all; single samples that fail are part of the report.
pub async fn run(
    factory: Factory,
    plan: &BenchPlan,
    tell: &mut (dyn FnMut(Event) + Send),
    pulls: impl FnMut(PullEvent) + Send + 'static,
) -> Result<Report, BenchError> {
    let (when, begin) = (identity::unix_now(), Instant::now());
    tell(Event::Preparing("environment, runtime and backend"));
    let environment = factory.environment(&plan.environment, pulls).await?;
    let bundle = factory.bundle()?;
    let choice = backend::choose(&factory.config, &bundle, factory.preference, ProbePolicy::IfNeeded).await;
    let choice = choice.map_err(VmError::from)?;
    // Before there is load of our own.
    let fingerprint = Fingerprint::take(&bundle, &choice, &environment).await;
    let scratch = Scratch::new(&factory.config.scratch_dir)
        .map_err(|source| BenchError::Scratch { path: factory.config.scratch_dir.clone(), source })?;
    tell(Event::Preparing("the floor"));
    let (floor, floor_report) = match floor(&factory, &bundle, &choice, &scratch).await {
        Ok(floor) => {
            let description = floor.description();
            (Some(floor), FloorReport { description: Some(description), missing: None })
        }
        Err(why) => {
            tell(Event::NoFloor(why.clone()));
            (None, FloorReport { description: None, missing: Some(why) })
        }
    };
    let mut bench = Bench { plan, factory, environment, floor, scratch, tell };
    bench.tell(Event::Preparing("the first starts, which are not counted"));
    let speed = starts::first(&bench).await.map_err(BenchError::FirstRun)?;
    bench.tell(Event::Estimate(measure::estimate(&plan.measures, &plan.amount, speed)));
    let mut rows = Vec::new();
    for measure in Measure::ALL.into_iter().filter(|measure| plan.measures.contains(measure)) {
        bench.tell(Event::Measuring(measure));
        let noise = Noise::begin();
        let mut measured = bench.measure(measure).await;
        let others = noise.and_then(|noise| noise.others());
        measured.iter_mut().for_each(|row| row.other_work = others);
        rows.extend(measured);
    }
    Ok(Report {
        schema: SCHEMA,
        when,
        seconds: begin.elapsed().as_secs_f64(),
        runs: plan.amount.runs,
        parallel: plan.amount.parallel,
        quick: plan.amount.quick,
        floor: floor_report,
        fingerprint,
        rows,
    })
}

/// A floor that has been saved and can be restored, or why there is none.
async fn floor(
    factory: &Factory,
    bundle: &Bundle,
    choice: &backend::Choice,
    scratch: &Scratch,
) -> Result<Floor, String> {
    if bundle.artifact_path(FLOOR).is_none() {
        return Err("this runtime was made without the floor's guest; `cargo xtask runtime` makes one".into());
    }
    // Opened to be verified; the floor itself goes by path, as somebody without pyro would.
    let path = |name: &str| -> Result<PathBuf, String> {
        bundle.open_artifact(name).map_err(|error| cause::chain(&error))?;
        absolute(&bundle.artifact_path(name).ok_or_else(|| format!("this runtime has no {name}"))?)
    };
    let dir = absolute(&scratch.path().join("floor"))?;
    std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let bare = floor::qemu::Bare {
        dir,
        binary: absolute(&factory.config.qemu_binary)?,
        kernel: path(KERNEL)?,
        initramfs: path(FLOOR)?,
        kvm: choice.vmm.accelerator() == backend::Accelerator::Kvm,
        mem_mib: VmRequest::new("").mem_mib,
        tsc_khz: pyro_vmm::tsc_khz(),
    };
    let floor = Floor::Qemu(Arc::new(bare));
    floor.save().await?;
    Ok(floor)
}

/// The floor works in a directory of its own.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

impl Bench<'_> {
    fn tell(&mut self, event: Event) {
        (self.tell)(event);
    }

    async fn measure(&mut self, measure: Measure) -> Vec<Row> {
        match measure {
            Measure::ColdStart => starts::cold(self).await,
            Measure::WarmStart => starts::warm(self).await,
            Measure::Parallel => starts::parallel(self).await,
            Measure::BusyStart => starts::busy(self).await,
            Measure::Exec => guest::round_trips(self).await,
            Measure::Bytes => guest::bytes(self).await,
            Measure::Template => building::template(self).await,
            Measure::IdleMemory => idle::memory(self).await,
            Measure::VmmMemory => guest::vmm_memory(self).await,
            Measure::Disk => guest::disk(self).await,
            Measure::Workspace => workspace::figures(self).await,
            Measure::Fork => fork::figures(self).await,
            Measure::Reflink => reflink::figures(self).await,
            Measure::WorkspaceFiles => workspace_files::figures(self).await,
            Measure::Mcp => mcp::figures(self).await,
            Measure::Launch => launch::launch(self).await,
            Measure::Firecracker => firecracker::figures(self).await,
            Measure::Idle => quiet::figures(self).await,
            Measure::Cycles => cycles::figures(self).await,
        }
    }

    /// Keeps a sample, or counts and tells its failure.
    fn keep(&mut self, measure: Measure, series: &mut Series, sample: Result<f64, String>) {
        if let Err(why) = &sample {
            self.tell(Event::Failed(measure, why.clone()));
        }
        series.push(sample);
    }

    /// A sample of the floor; `None` without one.
    async fn floor_sample(
        &mut self,
        measure: Measure,
        series: &mut Series,
        sample: impl AsyncFnOnce(&Floor) -> Result<f64, String>,
    ) {
        if let Some(floor) = &self.floor {
            let sample = sample(floor).await.map_err(|why| format!("the floor: {why}"));
            self.keep(measure, series, sample);
        }
    }
}
