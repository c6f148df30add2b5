//! Whole starts: `pyro run ENVIRONMENT -- true` as a process, from exec to exit.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use pyro_core::backend::Preference;

use super::measure::Speed;
use super::{Bench, Measure, Row, Series};

/// A start takes a second at most; one that takes so much longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// How `pyro run` is asked to start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StartState {
    Cold,
    Warm,
}

impl Bench<'_> {
    /// `pyro run` with these words, killed when its handle is dropped; a VM never outlives it.
    pub(super) fn pyro_run(&self, preference: Preference, flags: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(&self.plan.pyro);
        command.args(["run", "--backend", preference.name()]).args(flags);
        command.arg(&self.plan.environment).arg("--").args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// One run, ms from exec to exit.
    async fn run_true(&self, kind: StartState) -> Result<f64, String> {
        let flags: &[&str] = if kind == StartState::Cold { &["--cold"] } else { &[] };
        let mut command = self.pyro_run(self.factory.preference, flags, &["true"]);
        let begin = Instant::now();
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", self.plan.pyro.display()))?;
        let mut talk = child.stderr.take().ok_or("it has no standard error")?;
        let waiting = async { child.wait().await.map(|status| (status, begin.elapsed())) };
        let mut said = String::new();
        let both = async { tokio::join!(waiting, talk.read_to_string(&mut said)) };
        let Ok((ended, _)) = tokio::time::timeout(DEADLINE, both).await else {
            return Err(format!("it did not end within {} s", DEADLINE.as_secs()));
        };
        let (status, took) = ended.map_err(|error| error.to_string())?;
        if !status.success() {
            let why = said.lines().rfind(|line| line.starts_with("[error]")).unwrap_or("no reason given");
            return Err(format!("{status}: {why}"));
        }
        // What pyro remarks on a start is why it was no plain restore.
        if kind == StartState::Warm
            && let Some(why) = said.lines().find_map(|line| line.strip_prefix("[run] template="))
        {
            return Err(format!("it was not restored: {why}"));
        }
        Ok(took.as_secs_f64() * 1e3)
    }

    /// One restored run, ms from exec to exit.
    pub(super) async fn run_warm(&self) -> Result<f64, String> {
        self.run_true(StartState::Warm).await
    }

    fn command_line(&self, flags: &str) -> String {
        format!("pyro run {flags}{} -- true", self.plan.environment)
    }
}

/// Sees to it that there is a template and that files are in memory; what starts take, ours and the floor's together.
pub(super) async fn first(bench: &Bench<'_>) -> Result<Speed, String> {
    let mut cold = bench.run_true(StartState::Cold).await?;
    // Either this or an earlier start left the template behind.
    let _ = bench.factory.warm(&bench.environment, &mut |_| ()).await;
    let mut warm = bench.run_true(StartState::Warm).await?;
    if let Some(floor) = &bench.floor {
        cold += floor.cold().await?;
        warm += floor.restore().await?;
    }
    Ok(Speed { cold: cold / 1e3, warm: warm / 1e3 })
}

pub(super) async fn cold(bench: &mut Bench<'_>) -> Vec<Row> {
    let measure = Measure::ColdStart;
    let (mut ours, mut floor) = (Series::default(), Series::default());
    for _ in 0..bench.plan.amount.runs {
        bench.floor_sample(measure, &mut floor, async |floor| floor.cold().await).await;
        let sample = bench.run_true(StartState::Cold).await;
        bench.keep(measure, &mut ours, sample);
    }
    let what = format!("{}, exec to exit", bench.command_line("--cold "));
    vec![
        Row::new("cold_start", "ms", what, ours)
            .against("a boot of the bare VMM, spawn to first answer", floor),
    ]
}

pub(super) async fn warm(bench: &mut Bench<'_>) -> Vec<Row> {
    let measure = Measure::WarmStart;
    let (mut ours, mut floor) = (Series::default(), Series::default());
    for _ in 0..bench.plan.amount.runs {
        bench.floor_sample(measure, &mut floor, async |floor| floor.restore().await).await;
        let sample = bench.run_true(StartState::Warm).await;
        bench.keep(measure, &mut ours, sample);
    }
    let what = format!("{}, exec to exit", bench.command_line(""));
    vec![
        Row::new("warm_start", "ms", what, ours)
            .against("a restore of the bare VMM, spawn to first answer", floor),
    ]
}

/// Batches of warm starts at once. A batch with a failed start has no wall time.
pub(super) async fn parallel(bench: &mut Bench<'_>) -> Vec<Row> {
    let measure = Measure::Parallel;
    let n = bench.plan.amount.parallel;
    let (mut batches, mut each, mut floor) = (Series::default(), Series::default(), Series::default());
    for _ in 0..bench.plan.amount.runs {
        bench.floor_sample(measure, &mut floor, async |floor| floor.restore_many(n).await).await;
        let begin = Instant::now();
        let starts = join_all((0..n).map(|_| bench.run_true(StartState::Warm))).await;
        let wall = begin.elapsed().as_secs_f64() * 1e3;
        let failed = starts.iter().filter(|start| start.is_err()).count();
        for start in starts {
            bench.keep(measure, &mut each, start);
        }
        batches.push(if failed == 0 { Ok(wall) } else { Err(format!("{failed} of {n} starts failed")) });
    }
    let line = bench.command_line("");
    vec![
        Row::new("parallel_batch", "ms", format!("{n} at once: {line}, first exec to last exit"), batches)
            .against(format!("{n} restores of the bare VMM at once, first spawn to last answer"), floor),
        Row::new("parallel_each", "ms", format!("each of {n} at once: {line}, exec to exit"), each),
    ]
}

/// Keeps every core busy until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Boots beside other work: that they succeed is the point.
pub(super) async fn busy(bench: &mut Bench<'_>) -> Vec<Row> {
    let mut ours = Series::default();
    let _busy = Busy::new();
    for _ in 0..bench.plan.amount.runs {
        let sample = bench.run_true(StartState::Cold).await;
        bench.keep(Measure::BusyStart, &mut ours, sample);
    }
    let what = format!("{} while every core is kept busy, exec to exit", bench.command_line("--cold "));
    vec![Row::new("busy_start", "ms", what, ours)]
}
