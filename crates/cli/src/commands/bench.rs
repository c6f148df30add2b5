//! `pyro bench`: what starts, commands, memory and disk cost on this host, beside a floor without any of our code.

use std::path::{Path, PathBuf};

use pyro_bench::{self as bench, Amount, BenchError, BenchPlan, Event, Measure, Report, Row};
use serde_json::Value;

use crate::error::{CliError, print_json};
use crate::hint;
use crate::output::{self, errln};
use crate::places;
use crate::progress::Pull;

/// Measure starts, commands, memory and disk on this host
#[derive(clap::Args)]
#[command(
    after_help = "docs/benchmark.md says what each row is and how to read it.\n\nExamples:\n  pyro bench\n  \
                        pyro bench --only warm_start,parallel\n  pyro bench --quick --json"
)]
pub struct Args {
    /// The environment
    #[arg(default_value = "debian:12")]
    environment: String,
    /// Print one JSON object, raw samples included, instead of a table
    #[arg(long)]
    json: bool,
    /// Write that object to a file as well
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Samples of each start, and in proportion of all else [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: Option<u32>,
    /// Starts at once
    #[arg(long, value_name = "N", default_value_t = Amount::PARALLEL as u32, value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,
    /// How long 20 idle workspaces are watched by `--only idle`
    #[arg(long, value_name = "N", default_value_t = Amount::MINUTES as u32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    minutes: u32,
    /// Workspaces that `--only cycles` makes, uses and deletes
    #[arg(long, value_name = "N", default_value_t = Amount::CYCLES as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    cycles: u32,
    /// Measure only these, separated by commas; idle and cycles only when named
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    /// Only look whether it works: 2 samples, and less of what takes long
    #[arg(long)]
    quick: bool,
    /// What runs the guests: auto, firecracker or qemu [env: PYRO_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

fn names() -> clap::builder::PossibleValuesParser {
    Measure::ALL.map(Measure::name).into()
}

impl Args {
    /// Measures and reports; exits 1 when a sample failed.
    pub async fn execute(self) -> Result<u8, CliError> {
        let factory = places::factory(self.backend.as_deref())?;
        let pyro = std::env::current_exe()
            .map_err(|error| CliError::new(format!("cannot tell where this program is: {error}"), None))?;
        if let Some(path) = &self.output {
            check_writable(path)?;
        }
        let plan = self.plan(pyro);
        let pull = Pull::new(&plan.environment);
        let report =
            bench::run(factory, &plan, &mut |event| tell(&event), move |event| pull.show(&event)).await?;
        let value = serde_json::to_value(&report).unwrap_or_default();
        if let Some(path) = &self.output {
            write(path, &value)?;
        }
        if self.json {
            print_json(&value);
        } else {
            output::print(table(&report).as_bytes());
        }
        errln!("[bench] took {}", clock(report.seconds));
        Ok(u8::from(report.failed() > 0))
    }

    fn plan(&self, pyro: PathBuf) -> BenchPlan {
        let runs = match (self.runs, self.quick) {
            (Some(runs), _) => runs as usize,
            (None, true) => Amount::QUICK_RUNS,
            (None, false) => Amount::RUNS,
        };
        let wanted = |measure: &Measure| match self.only.is_empty() {
            true => !measure.is_long(),
            false => self.only.iter().any(|name| name == measure.name()),
        };
        BenchPlan {
            pyro,
            environment: self.environment.clone(),
            measures: Measure::ALL.into_iter().filter(wanted).collect(),
            amount: Amount {
                runs,
                parallel: self.parallel as usize,
                minutes: self.minutes as usize,
                cycles: self.cycles as usize,
                quick: self.quick,
            },
        }
    }
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Vm(error) => error.into(),
            other => Self::new(pyro_core::cause::chain(&other), other.hint().as_ref().map(hint::for_people)),
        }
    }
}

fn tell(event: &Event) {
    match event {
        Event::Preparing(what) => errln!("[bench] preparing {what}"),
        Event::NoFloor(why) => errln!("[bench] there is no floor, so there are no ratios: {why}"),
        Event::Estimate(duration) => {
            errln!("[bench] this will take about {}", clock(duration.as_secs_f64()));
        }
        Event::Measuring(measure) => errln!("[bench] measuring {measure}"),
        Event::Failed(measure, why) => errln!("[bench] {measure}: a sample failed: {why}"),
    }
}

/// Minutes of measuring are not to be lost to a path that was mistyped.
fn check_writable(path: &Path) -> Result<(), CliError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let target = if path.exists() { path } else { parent };
    rustix::fs::access(target, rustix::fs::Access::WRITE_OK)
        .map_err(|error| CliError::new(format!("{} cannot be written: {error}", path.display()), None))
}

fn write(path: &Path, value: &Value) -> Result<(), CliError> {
    // Compact: thousands of samples, a line each, are no easier to read.
    std::fs::write(path, format!("{value}\n"))
        .map_err(|error| CliError::new(format!("{} cannot be written: {error}", path.display()), None))
}

/// For people: the rows, what each is, and what they were measured on.
fn table(report: &Report) -> String {
    let name = report.rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    let mut lines = vec![format!(
        "{:name$}  {:>5} {:>9} {:>9} {:5} {:>9} {:>6}  {:>6}",
        "", "n", "median", "p95", "", "floor", "ratio", "others"
    )];
    for row in &report.rows {
        let floor = row.floor.as_ref().and_then(|floor| floor.summary.median);
        let failed = match (row.failed(), &row.pending) {
            (0, None) => String::new(),
            (0, Some(_)) => "  pending".to_owned(),
            (failed, _) => format!("  {failed} FAILED"),
        };
        let line = format!(
            "{:name$}  {:>5} {:>9} {:>9} {:5} {:>9} {:>6}  {:>6}{failed}",
            row.name,
            row.summary.n,
            number(row.summary.median),
            number(row.summary.p95),
            row.unit,
            number(floor),
            row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            row.other_work.map(|cores| format!("{cores:.1}")).unwrap_or_default(),
        );
        lines.push(line.trim_end().to_owned());
    }
    lines.push(String::new());
    lines.extend(report.rows.iter().map(|row| format!("{:name$}  {}", row.name, legend(row))));
    lines.push(format!("{:name$}  cores that other processes used meanwhile", "others"));
    lines.push(String::new());
    let print = &report.fingerprint;
    let (version, load) = (print.vmm_version.as_deref().unwrap_or("unknown"), print.load.unwrap_or_default());
    lines.push(format!(
        "{} cores of {}, Linux {}, load {:.2} before",
        print.cores, print.cpu, print.host_kernel, load[0]
    ));
    lines.push(format!(
        "{} {version} with {}, {} vCPU, {} MiB, {} {}, pyro {}",
        print.backend,
        print.accelerator,
        print.vcpu_count,
        print.mem_mib,
        print.environment,
        print.environment_version,
        print.pyro_version
    ));
    if let Some(why) = &report.floor.missing {
        lines.push(format!("no floor: {why}"));
    }
    if print.debug_build {
        lines.push("this pyro was compiled without optimisation: its figures mean nothing".into());
    }
    if report.quick {
        lines.push("--quick only shows that it works: its figures mean little".into());
    }
    lines.join("\n") + "\n"
}

fn legend(row: &Row) -> String {
    match (&row.floor, &row.pending) {
        (Some(floor), _) => format!("{}; floor: {}", row.what, floor.what),
        (None, Some(why)) => format!("{}; pending: {why}", row.what),
        (None, None) => row.what.clone(),
    }
}

/// Three digits that matter, or about that.
fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    if seconds < 90 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(words: &[&str]) -> BenchPlan {
        let line = Line::try_parse_from(std::iter::once("bench").chain(words.iter().copied()));
        line.unwrap_or_else(|error| panic!("{error}")).args.plan("pyro".into())
    }

    #[test]
    fn the_default_is_everything_that_takes_minutes_at_most() {
        let all = plan(&[]);
        let default: Vec<_> = Measure::ALL.into_iter().filter(|measure| !measure.is_long()).collect();
        assert_eq!((all.environment.as_str(), all.measures), ("debian:12", default));
        let amount = |runs, parallel, quick| Amount { runs, parallel, minutes: 10, cycles: 1000, quick };
        assert_eq!(all.amount, amount(20, 8, false));
        assert_eq!(plan(&["--quick"]).amount, amount(2, 8, true));
        let some = plan(&["--quick", "--runs", "5", "--parallel", "3", "debian:12-base"]);
        assert_eq!(some.amount, amount(5, 3, true));
        assert_eq!(some.environment, "debian:12-base");
    }

    #[test]
    fn only_some_in_the_order_of_all() {
        let long = plan(&["--only", "cycles,idle", "--cycles", "30", "--minutes", "2"]);
        assert_eq!(long.measures, [Measure::Idle, Measure::Cycles]);
        assert_eq!((long.amount.minutes, long.amount.cycles), (2, 30));
        let wanted = [Measure::WarmStart, Measure::Disk];
        for words in [&["--only", "disk,warm_start"][..], &["--only", "disk", "--only", "warm_start"]] {
            assert_eq!(plan(words).measures, wanted);
        }
    }

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!([None, Some(0.123), Some(12.34), Some(695.4)].map(number), ["", "0.12", "12.3", "695"]);
        assert_eq!([12.4, 89.6, 125.0].map(clock), ["12 s", "1 min 30 s", "2 min 05 s"]);
    }
}
